"""Counters and timers through Airflow's own interface, which sends them to StatsD or OpenTelemetry, or nowhere.

Phase, entity and fate are part of the name, for plain StatsD knows no tags, and tags as well, for those who do. They
come from the code, never from data; docs/operating.md lists them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk.observability import stats

from include.core.tracking import Fates
from plugins.hooks.tracking import fates_to_json

LOG = logging.getLogger("mdw_migration")
_PREFIX = "migration"


def count_batch(phase: str, entity: str, fates: Fates, seconds: float, deleted: int = 0) -> None:
    """A batch that the ledger has: its rows by fate, and its time."""
    tags = {"phase": phase, "entity": entity}
    counts = {**fates_to_json(vars(fates)), "deleted": deleted}
    for fate, count in counts.items():
        _count(f"rows.{phase}.{entity}.{fate}", count, {**tags, "fate": fate})
    _time(f"batch.duration.{phase}.{entity}", seconds, tags)


def count_step(phase: str, seconds: float, code: str | None) -> None:
    """A step that ended.

    Args:
        code: of the error it ended with; None where it succeeded.
    """
    outcome = "succeeded" if code is None else "failed"
    _count(f"steps.{phase}.{outcome}", 1, {"phase": phase, "outcome": outcome})
    _time(f"step.duration.{phase}", seconds, {"phase": phase})
    if code is not None:
        _count(f"errors.{code.lower()}", 1, {"phase": phase, "code": code})


def count_run(dag_id: str, report: Mapping[str, Any]) -> None:
    """A run that ended, as its report says: outcome, phases, checks, quarantine, embeddings."""
    tags = {"dag_id": dag_id, "mode": report["mode"].replace(" ", "_")}
    _count(f"runs.{report['status']}", 1, {**tags, "status": report["status"]})
    if report["seconds"] is not None:
        _time("run.duration", report["seconds"], tags)
    for phase in report["phases"]:
        _time(f"phase.duration.{phase['phase']}", phase["wall_seconds"], {**tags, "phase": phase["phase"]})
    for outcome in ("passed", "failed", "warned"):
        _count(f"checks.{outcome}", report["checks"][outcome], {**tags, "outcome": outcome})
    _in_quarantine(report)
    for entity in report["embeddings"]["entities"]:
        about = {**tags, "entity": entity["entity"]}
        _count(f"embedding.tokens.{entity['entity']}", entity["tokens"], about)
        _count(f"embedding.texts.{entity['entity']}", entity["texts"], about)
    if report["embeddings"]["entities"]:
        _gauge("embedding.dollars", float(report["embeddings"]["spent"]), tags)


def _in_quarantine(report: Mapping[str, Any]) -> None:
    """Of every entity of the run, so that an emptied quarantine is told as well."""
    rows = Counter({entity["entity"]: 0 for entity in report["entities"]})
    for line in report["findings"]:
        if line["kind"] == "quarantine":
            rows[line["entity"]] += line["rows"]
    for entity, count in rows.items():
        _gauge(f"quarantine.{entity}", count, {"entity": entity})


def _count(name: str, count: int, tags: Mapping[str, str]) -> None:
    if count:
        stats.incr(f"{_PREFIX}.{name}", count, tags={**tags})


def _time(name: str, seconds: float, tags: Mapping[str, str]) -> None:
    stats.timing(f"{_PREFIX}.{name}", timedelta(seconds=seconds), tags={**tags})


def _gauge(name: str, value: float, tags: Mapping[str, str]) -> None:
    stats.gauge(f"{_PREFIX}.{name}", value, tags={**tags})
