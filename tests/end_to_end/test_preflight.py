"""The preflight as people run it: a clean installation passes, a broken one fails with all of its reasons, nothing is
written either way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from include.core.errors import REGISTRY
from include.core.preflight import CATALOGUE
from tests.end_to_end.conftest import READER, MakeDatabases
from tests.end_to_end.runs import Airflow, Databases

DAG_ID = "mdw_preflight"
# Everything that could be written or created, as the server counts it.
STATE = """SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_namespace),
  (SELECT sum(c.relfilenode::bigint) FROM pg_class c), txid_snapshot_xmax(txid_current_snapshot())"""


@pytest.fixture(scope="module")
def databases(make_databases: MakeDatabases) -> Databases:
    return make_databases()


@contextmanager
def unchanged(databases: Databases) -> Iterator[None]:
    """Both databases refuse to write meanwhile, and nothing is created or rewritten in the target."""
    before = databases.read(STATE.rsplit(",", 1)[0])
    yield
    assert databases.read(STATE.rsplit(",", 1)[0]) == before


def result(airflow: Airflow, found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(check for check in found["checks"] if check["name"] == name)


def report(airflow: Airflow, before: set[Path]) -> dict[str, Any]:
    (path,) = set(airflow.state.reports.glob("*/preflight.json")) - before
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def test_a_clean_installation_has_nothing_that_fails(airflow: Airflow, databases: Databases) -> None:
    before = set(airflow.state.reports.glob("*/preflight.json"))
    with unchanged(databases):
        outcome = airflow.run(databases, dag_id=DAG_ID)
    assert outcome.state == "success", outcome.log[-4000:]
    found = report(airflow, before)
    assert [check["name"] for check in found["checks"]] == list(CATALOGUE)
    assert [check["name"] for check in found["checks"] if check["status"] == "fail"] == []
    skipped = {check["name"] for check in found["checks"] if check["status"] == "skipped"}
    assert skipped == {"settings.notifications", "storage.files", "storage.bucket"}
    for check in found["checks"]:
        assert check["why"]
        assert bool(check["fix"]) is (check["status"] == "warn"), check
    assert f"preflight: {found['headline']}" in outcome.log


def test_a_broken_one_is_told_everything_at_once(airflow: Airflow, databases: Databases) -> None:
    before = set(airflow.state.reports.glob("*/preflight.json"))
    with psycopg.connect(databases.source_admin) as admin:
        admin.execute(f"REVOKE SELECT ON dispatch_office FROM {READER}")
        admin.execute("ALTER TABLE dispatch_state RENAME changed_at TO at")
    with psycopg.connect(databases.target) as target:
        target.execute("CREATE TABLE public.patients (id int)")
    try:
        with unchanged(databases):
            outcome = airflow.run(databases, dag_id=DAG_ID, entities=[], enable_ai=False)
    finally:
        with psycopg.connect(databases.source_admin) as admin:
            admin.execute(f"GRANT SELECT ON dispatch_office TO {READER}")
            admin.execute("ALTER TABLE dispatch_state RENAME at TO changed_at")
        with psycopg.connect(databases.target) as target:
            target.execute("DROP TABLE public.patients")
    assert outcome.state == "failed"
    states = {task.partition("[")[0]: state for task, state in outcome.tasks.items()}
    assert states.pop("verdict") == "failed"
    assert set(states.values()) == {"success"}
    found = report(airflow, before)
    failed = [check for check in found["checks"] if check["status"] == "fail"]
    assert {check["name"] for check in failed} == {"source.select", "source.columns", "target.tables"}
    assert result(airflow, found, "source.select")["fix"] == f"GRANT SELECT ON dispatch_office TO {READER};"
    assert "dispatch_state.changed_at" in result(airflow, found, "source.columns")["why"]
    # What failed ends the table, and what to do about it ends the log.
    told = [line for line in outcome.log.splitlines() if "[migration] verdict" in line]
    first_failure = next(place for place, line in enumerate(told) if " fail " in line)
    assert not [line for line in told[first_failure:] if " pass " in line or " warn " in line][1:]
    assert f"next:  {REGISTRY['PREFLIGHT_FAILED'].next_step}" in outcome.log


def test_an_unreachable_end_does_not_keep_the_other_from_being_asked(
    airflow: Airflow, databases: Databases
) -> None:
    before = set(airflow.state.reports.glob("*/preflight.json"))
    nowhere = '{"conn_type": "postgres", "host": "127.0.0.1", "port": 9, "login": "x", "password": "y", "schema": "z"}'
    outcome = airflow.run(databases, dag_id=DAG_ID, environment={"AIRFLOW_CONN_LEGACY_MDW": nowhere})
    found = report(airflow, before)
    assert outcome.state == "failed"
    by_name = {check["name"]: check["status"] for check in found["checks"]}
    assert by_name["source.reachable"] == "fail"
    assert {status for name, status in by_name.items() if name.startswith("source.")} == {"fail", "skipped"}
    assert {by_name[name] for name in by_name if name.startswith("estimate.")} == {"skipped"}
    assert by_name["target.schema"] == "pass"


def test_refused_parameters_are_told_and_nothing_is_connected_to(
    airflow: Airflow, databases: Databases
) -> None:
    before = set(airflow.state.reports.glob("*/preflight.json"))
    outcome = airflow.run(databases, dag_id=DAG_ID, unknown_key=1)
    found = report(airflow, before)
    assert outcome.state == "failed"
    assert {check["name"]: check["status"] for check in found["checks"]} == {
        name: "fail" if name == "settings.parameters" else "skipped" for name in CATALOGUE
    }
