"""The JSON log of whole runs, against what the target recorded of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from plugins.hooks.run_log import ERRORS, EVERYTHING
from plugins.hooks.staging import run_folder
from tests.end_to_end.conftest import FirstRuns
from tests.end_to_end.runs import Airflow

Line = dict[str, Any]


@pytest.fixture(scope="module")
def recorded(first_runs: FirstRuns) -> dict[str, list[Line]]:
    """Run id → ledger rows of its batches."""
    query = """SELECT run_id, jsonb_build_object('phase', phase, 'entity', entity, 'batch', batch, 'rows', extracted)
        FROM migration.batches"""
    found: dict[str, list[Line]] = {}
    for run_id, batch in first_runs.databases.read(query):
        found.setdefault(run_id, []).append(batch)
    return found


@pytest.fixture(scope="module")
def logs(airflow: Airflow, recorded: dict[str, list[Line]]) -> dict[str, list[Line]]:
    """Run id → lines of its log."""
    return {run_id: lines(airflow, run_id, EVERYTHING) for run_id in recorded}


def lines(airflow: Airflow, run_id: str, name: str) -> list[Line]:
    """Of one file of a run."""
    root = Path(airflow.environment["AIRFLOW_HOME"]) / "migration" / "logs"
    file = Path(airflow.environment.get("MIGRATION_LOG_DIR", root)) / run_folder(run_id) / name
    return (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    )


def test_runs_that_succeed_have_no_errors(airflow: Airflow, recorded: dict[str, list[Line]]) -> None:
    assert [line for run_id in recorded for line in lines(airflow, run_id, ERRORS)] == []


def test_every_batch_of_the_ledger_is_a_line(
    logs: dict[str, list[Line]], recorded: dict[str, list[Line]]
) -> None:
    names = ("phase", "entity", "batch", "rows")
    for run_id, batches in recorded.items():
        said = [{name: line[name] for name in names} for line in logs[run_id] if "batch" in line]
        assert sorted(map(json.dumps, said)) == sorted(
            json.dumps({name: batch[name] for name in names}) for batch in batches
        )


def test_every_line_says_where_it_comes_from(logs: dict[str, list[Line]]) -> None:
    for run_id, said in logs.items():
        assert {line["run"] for line in said} == {run_id}
        assert all(
            {"time", "level", "dag", "task", "map_index", "attempt", "phase", "message"} <= line.keys()
            for line in said
        )
        assert {line["phase"] for line in said} >= {"preparation", "extraction", "loading", "completion"}


def test_the_log_names_the_head_that_the_audit_is_sealed_with(
    logs: dict[str, list[Line]], first_runs: FirstRuns
) -> None:
    heads = [line["audit"]["head"] for said in logs.values() for line in said if "audit" in line]
    assert [first_runs.dry.state, first_runs.real.state, first_runs.again.state] == ["success"] * 3
    assert len(heads) == len(set(heads)) == len(logs) == 3, {run: said[-3:] for run, said in logs.items()}
    with psycopg.connect(first_runs.databases.target) as connection:
        for head in heads:
            row = connection.execute("SELECT migration_api.verify_audit(%s)", [head]).fetchone()
            assert row is not None
            assert (row[0]["broken"], row[0]["unsealed"]) == ([], 0)


def test_the_ledger_is_as_audited(first_runs: FirstRuns) -> None:
    ((checks,),) = first_runs.databases.read("SELECT migration_api.check_ledger(NULL)")
    assert [(check["name"], check["found"]) for check in checks] == [
        ("ledger_as_audited", "0"),
        ("runs_as_audited", "0"),
    ]
