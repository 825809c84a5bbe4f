"""A run that is killed without warning leaves nothing half done, and the next one completes it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psycopg
import pytest

from tests.end_to_end.conftest import FirstRuns, MakeDatabases
from tests.end_to_end.content import EMBEDDINGS, SOURCE_KEYS, Content, content
from tests.end_to_end.runs import Airflow, Databases, Outcome, kill_group

MOST_SECONDS = 180
CASES = 356


@dataclass(frozen=True)
class Killed:
    databases: Databases
    cases_when_killed: int
    resumed: Outcome
    after: Content


def loaded_cases(databases: Databases) -> int:
    """Rows of cases that finished batches hold; 0 before the schema is deployed."""
    try:
        rows = databases.read(
            "SELECT coalesce(sum(extracted), 0)::int FROM migration.batches"
            " WHERE phase = 'loading' AND entity = 'cases'"
        )
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return 0
    return int(rows[0][0])


@pytest.fixture(scope="module")
def killed(airflow: Airflow, make_databases: MakeDatabases) -> Killed:
    """Killed amid the loading of cases, then run again with batches of another size."""
    databases = make_databases()
    process = airflow.command(databases, dry_run=False, batch_size=20)
    try:
        deadline = time.monotonic() + MOST_SECONDS
        while not loaded_cases(databases):
            assert process.poll() is None, (airflow.state.logs / "cli.log").read_text()[-4000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        kill_group(process)
    when_killed = loaded_cases(databases)
    resumed = airflow.run(
        databases, environment={"MIGRATION_PARTITION_ROWS": "200"}, dry_run=False, batch_size=100
    )
    return Killed(databases, when_killed, resumed, content(databases))


def test_it_was_killed_in_the_middle(killed: Killed) -> None:
    assert 0 < killed.cases_when_killed < CASES


def test_the_next_run_succeeds_and_finds_the_finished_batches(killed: Killed) -> None:
    assert killed.resumed.state == "success", killed.resumed.log[-4000:]
    fates = killed.resumed.fates()
    assert fates["patients"]["inserted"] == 0
    assert fates["cases"]["unchanged"] > 0
    assert fates["cases"]["inserted"] > 0


def test_the_content_is_that_of_an_uninterrupted_run(killed: Killed, first_runs: FirstRuns) -> None:
    assert killed.after.digests == first_runs.after_real.digests


def test_decisions_are_those_of_an_uninterrupted_run(killed: Killed, first_runs: FirstRuns) -> None:
    same = ("id_map", "quarantine", "findings", "merges", "duplicate_pairs", "planned_ids")
    assert {name: killed.after.decisions[name] for name in same} == {
        name: first_runs.after_real.decisions[name] for name in same
    }


def test_each_vector_is_made_once(killed: Killed) -> None:
    made = killed.databases.read(
        "SELECT sum(inserted)::int FROM migration.batches WHERE phase = 'ai_enhancement'"
    )
    assert made[0][0] == sum(killed.after.rows[table] for table in EMBEDDINGS)


def test_every_finished_batch_is_whole(killed: Killed) -> None:
    """What the ledger of the killed run calls done is in the target, entity by entity."""
    done = dict(
        killed.databases.read(
            "SELECT entity, sum(inserted + merged)::int FROM migration.batches b JOIN migration.runs r USING (run_id)"
            " WHERE b.phase = 'loading' AND r.status <> 'completed' GROUP BY entity"
        )
    )
    first = dict(
        killed.databases.read(
            "SELECT entity, count(*)::int FROM migration.id_map m JOIN migration.runs r ON r.run_id = m.first_run"
            " WHERE r.status <> 'completed' AND state IN ('live', 'merged') GROUP BY entity"
        )
    )
    assert done["patients"] > 0
    assert set(done) <= set(SOURCE_KEYS)
    assert {entity: rows for entity, rows in done.items() if rows} == first
