"""Metrics, as they arrive at a StatsD server and at an OpenTelemetry collector."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from include.core.tracking import Fates
from local.environment import PROJECT
from plugins.hooks.metrics import count_batch, count_run, count_step
from tests.sinks import statsd

REPORT = {
    "mode": "real run",
    "status": "completed",
    "seconds": 12.5,
    "phases": [{"phase": "loading", "wall_seconds": 2.0}],
    "checks": {"passed": 9, "failed": 0, "warned": 1},
    "entities": [{"entity": "patients"}, {"entity": "cases"}],
    "findings": [
        {"entity": "cases", "kind": "quarantine", "code": "parent_missing", "rows": 4},
        {"entity": "cases", "kind": "quarantine", "code": "key_missing", "rows": 1},
        {"entity": "cases", "kind": "finding", "code": "name_empty", "rows": 7},
    ],
    "embeddings": {"entities": [{"entity": "cases", "tokens": 300, "texts": 12}], "spent": "0.25"},
}
# A process of its own, as a task is: what it has counted must have left it when it ends.
_TASK = f"""
from airflow.sdk.configuration import conf
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics.stats_utils import get_stats_factory
from include.core.tracking import Fates
from plugins.hooks.metrics import count_batch, count_run, count_step
stats.initialize(factory=get_stats_factory(), export_legacy_names=conf.getboolean("metrics", "legacy_names_on"))
count_batch("loading", "patients", Fates(10, inserted=7, rejected=3), 0.5, deleted=2)
count_step("loading", 1.5, None)
count_step("loading", 1.5, "TARGET_INTERRUPTED")
count_run("mdw_full_migration", {REPORT!r})
"""
EXPECTED = {
    "rows.loading.patients.inserted": 7,
    "rows.loading.patients.rejected": 3,
    "rows.loading.patients.deleted": 2,
    "rows.loading.patients.extracted": 10,
    "batch.duration.loading.patients": 500,
    "steps.loading.succeeded": 1,
    "steps.loading.failed": 1,
    "errors.target_interrupted": 1,
    "step.duration.loading": 1_500,
    "runs.completed": 1,
    "run.duration": 12_500,
    "phase.duration.loading": 2_000,
    "checks.passed": 9,
    "checks.warned": 1,
    "quarantine.patients": 0,
    "quarantine.cases": 5,
    "embedding.tokens.cases": 300,
    "embedding.texts.cases": 12,
    "embedding.dollars": 0.25,
}


def run_task(**settings: str) -> None:
    subprocess.run(  # noqa: S603
        [sys.executable, "-c", _TASK],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **settings},
        check=True,
        timeout=60,
    )


def test_statsd_gets_every_counter_and_timer() -> None:
    with statsd() as (port, lines):
        run_task(
            AIRFLOW__METRICS__STATSD_ON="True",
            AIRFLOW__METRICS__STATSD_HOST="127.0.0.1",
            AIRFLOW__METRICS__STATSD_PORT=str(port),
        )
    pattern = re.compile(r"airflow\.migration\.(?P<name>[\w.-]+):(?P<value>[\d.]+)\|(?P<kind>c|ms|g)")
    found = [matched for line in lines if (matched := pattern.fullmatch(line))]
    assert {hit["name"]: float(hit["value"]) for hit in found} == EXPECTED
    kinds = {hit["name"].partition(".")[0]: hit["kind"] for hit in found}
    assert (kinds["rows"], kinds["phase"], kinds["quarantine"]) == ("c", "ms", "g")


def test_opentelemetry_gets_them_with_tags_before_the_process_ends() -> None:
    received: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    run_task(
        AIRFLOW__METRICS__OTEL_ON="True",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
    )
    server.shutdown()
    server.server_close()
    thread.join()
    points = {name: point for body in received for name, point in parsed(body).items()}
    values = {name: value for name, (value, _) in points.items()}
    assert values == {**EXPECTED, "step.duration.loading": 3_000}  # of two, a sum
    assert points["rows.loading.patients.inserted"][1] == {
        "phase": "loading",
        "entity": "patients",
        "fate": "inserted",
    }
    assert points["runs.completed"][1]["mode"] == "real_run"


def parsed(body: bytes) -> dict[str, tuple[float, dict[str, str]]]:
    """Name → value (of a histogram its sum) and attributes."""
    request = ExportMetricsServiceRequest.FromString(body)
    found: dict[str, tuple[float, dict[str, str]]] = {}
    for resource in request.resource_metrics:
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            points = getattr(metric, metric.WhichOneof("data")).data_points
            if metric.name.startswith("airflow.migration."):
                tags = {pair.key: pair.value.string_value for pair in points[-1].attributes}
                found[metric.name.removeprefix("airflow.migration.")] = (_value(points[-1]), tags)
    return found


def _value(point: Any) -> float:
    kinds = {field.name for field, _ in point.ListFields()}
    if "sum" in kinds:
        return float(point.sum)
    return float(point.as_double if "as_double" in kinds else point.as_int)


def test_where_nobody_listens_nothing_happens() -> None:
    count_batch("loading", "patients", Fates(1, inserted=1), 0.1)
    count_step("loading", 0.1, None)
    count_run("mdw_full_migration", json.loads(json.dumps(REPORT)))
