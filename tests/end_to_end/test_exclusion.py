"""Two runs never migrate at once, though they know nothing of each other's Airflow; a dead one is followed at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.end_to_end.airflow_worker import DAG_ID
from tests.end_to_end.conftest import MakeDatabases
from tests.end_to_end.runs import Airflow, Databases, Outcome, airflow_home, kill_group

MOST_SECONDS = 120
ENTITIES = ["practices", "profiles"]


@dataclass(frozen=True)
class Meeting:
    """A run that holds the lock and stands still, another one beside it, one more after the first was killed.

    Attributes:
        finished: one more, while a run that its Airflow calls failed still holds the lock.
    """

    databases: Databases
    first: str
    beside: Outcome
    rows_beside: int
    after: Outcome
    finished: Outcome


def holder(databases: Databases) -> str | None:
    """The run that holds the lock; None also before the schema is deployed."""
    try:
        rows = databases.read("SELECT run_id FROM migration.run_lock")
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return None
    return str(rows[0][0]) if rows else None


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, metadata_template: Path) -> Iterator[Airflow]:
    """Another Airflow, as on a laptop: its metadata knows no run of the first one."""
    with airflow_home(tmp_path_factory.mktemp("elsewhere"), metadata_template) as home:
        yield home


@pytest.fixture(scope="module")
def meeting(airflow: Airflow, elsewhere: Airflow, make_databases: MakeDatabases) -> Meeting:
    databases = make_databases()
    process = airflow.command(databases, dry_run=False, enable_ai=False, entities=ENTITIES)
    try:
        deadline = time.monotonic() + MOST_SECONDS
        while (first := holder(databases)) is None:
            assert process.poll() is None, (airflow.state.logs / "cli.log").read_text()[-4000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGSTOP)
        beside = elsewhere.run(databases, dry_run=True, enable_ai=False, entities=ENTITIES)
        rows_beside = int(databases.read("SELECT count(*) FROM migration.runs")[0][0])
    finally:
        kill_group(process)
    after = elsewhere.run(databases, dry_run=False, enable_ai=False, entities=ENTITIES)
    let_hold(databases, str(beside.run_id))
    finished = elsewhere.run(databases, dry_run=True, enable_ai=False, entities=ENTITIES)
    return Meeting(databases, first, beside, rows_beside, after, finished)


def let_hold(databases: Databases, run: str) -> None:
    """As if a run had been marked as failed in Airflow, with its last tasks, before it could free the lock."""
    with psycopg.connect(databases.target) as connection:
        connection.execute(
            "INSERT INTO migration.runs (run_id, dag_id, type, scope, dry_run, status, parameters, mapping_version,"
            " rules_version, code_version) VALUES (%s, %s, 'full', 'everything', false, 'running', '{}', '', '', '')",
            [run, DAG_ID],
        )
        connection.execute("INSERT INTO migration.run_lock (run_id, host) VALUES (%s, 'worker')", [run])


def test_the_second_run_fails_fast_and_names_the_first(meeting: Meeting) -> None:
    assert meeting.beside.state == "failed"
    assert "[RUN_LOCKED]" in meeting.beside.log
    assert f"The full run {meeting.first}, started by" in meeting.beside.log
    assert meeting.beside.report is not None
    assert meeting.beside.report["status"] == "failed"
    assert [task.split(".")[0] for task in meeting.beside.report["failed_tasks"]] == ["preparation"]
    extracted = {s for task, s in meeting.beside.tasks.items() if task.startswith("extraction.")}
    assert extracted == {"upstream_failed"}


def test_it_leaves_no_trace_in_tracking(meeting: Meeting) -> None:
    assert meeting.rows_beside == 1


def test_the_lock_of_a_killed_run_is_taken_over_at_once(meeting: Meeting) -> None:
    assert meeting.after.state == "success", meeting.after.log[-4000:]
    assert f"The lock of run {meeting.first} was taken over: its process" in meeting.after.log
    ended = meeting.databases.read(
        f"SELECT status, ended_at IS NOT NULL FROM migration.runs WHERE run_id = '{meeting.first}'"
    )
    assert ended == [("failed", True)]


def test_so_is_that_of_a_run_which_its_airflow_calls_failed(meeting: Meeting) -> None:
    assert meeting.finished.state == "success", meeting.finished.log[-4000:]
    assert (
        f"The lock of run {meeting.beside.run_id} was taken over: Airflow calls it finished"
        in meeting.finished.log
    )


def test_at_the_end_nobody_holds_it(meeting: Meeting) -> None:
    assert holder(meeting.databases) is None
