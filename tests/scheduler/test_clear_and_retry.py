"""What people do to a run in Airflow's pages (clear, mark as success), done over REST to a real scheduler."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.end_to_end.content import Content, content
from tests.end_to_end.runs import Databases
from tests.scheduler.conftest import CONF, FINISHED, Finished, Target
from tests.scheduler.scheduler import Place, Run, Scheduler, TaskInstance, await_true

ROWS_PER_PARTITION = 40
SEEDS = (1,)
CHUNKS = 2
GATE = 7
"""Key of the advisory lock that loads wait for."""
MOST_SECONDS = 60.0


def run_row(databases: Databases, run: Run) -> dict[str, Any]:
    """The run in the tracking tables."""
    query = f"SELECT to_jsonb(r) FROM migration.runs r WHERE run_id = '{run.run_id}'"
    row: dict[str, Any] = databases.read(query)[0][0]
    return row


def report(databases: Databases, run: Run) -> dict[str, Any]:
    """The newest report of the run."""
    folder = Path(urlsplit(run_row(databases, run)["report_uri"]).path)
    facts: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return facts


def tracking(databases: Databases) -> dict[str, str]:
    """Digests of what the migration decided about rows, without which run decided it."""
    queries = {
        "id_map": "SELECT entity, legacy_id, target_id, survivor_id, content_hash, state FROM migration.id_map",
        "quarantine": 'SELECT entity, legacy_id, code, "column", status FROM migration.quarantine',
        "findings": 'SELECT entity, legacy_id, code, "column" FROM migration.findings',
        "merges": "SELECT entity, survivor_id, merged_id, undone_at FROM migration.merges",
        "duplicate_pairs": "SELECT entity, left_legacy_id, right_legacy_id, score, status"
        " FROM migration.duplicate_pairs",
    }
    return {
        name: str(
            databases.read(f"SELECT md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM ({query}) t")[0][0]
        )
        for name, query in queries.items()
    }


def assert_closed_as_failed(databases: Databases, run: Run) -> None:
    """Tracking and report say so, and others may run."""
    assert run_row(databases, run)["status"] == "failed"
    assert report(databases, run)["status"] == "failed"
    assert databases.read("SELECT run_id FROM migration.run_lock") == []


def by_state(instances: dict[Place, TaskInstance], state: str) -> set[Place]:
    """Of the report's state nothing is demanded: what it says is looked at instead."""
    return {
        place
        for place, instance in instances.items()
        if instance.state == state and place[0] != "completion.report"
    }


def tries(instances: dict[Place, TaskInstance]) -> dict[Place, int]:
    return {place: instance.tries for place, instance in instances.items()}


def assert_complete(databases: Databases, run: Run, finished: Finished) -> None:
    """Tracking and report call the run complete, and the target is that of an uninterrupted run."""
    row = run_row(databases, run)
    assert row["status"] == "completed"
    assert row["failed_steps"] == []
    facts = report(databases, run)
    assert facts["status"] == "completed"
    assert facts["failed_tasks"] == []
    assert databases.read("SELECT run_id FROM migration.run_lock") == []
    now = content(databases)
    assert now.rows == finished.content.rows
    assert now.digests == finished.content.digests
    assert now.decisions == finished.content.decisions


def case_key(databases: Databases, place: int) -> int:
    """The legacy key of the case at a place in their order, from 0."""
    query = f"SELECT id FROM dispatch_instruction ORDER BY id OFFSET {place} LIMIT 1"
    return int(databases.read(query, source=True)[0][0])


@contextmanager
def refused_case(databases: Databases, key: int, *, others_wait: bool = False) -> Iterator[None]:
    """Something outside the migration that lets no transaction write one case (SQLSTATE P0001, not the row's fault).

    ``others_wait``: every other case waits until the advisory lock GATE is free.
    """
    waiting = f"PERFORM pg_advisory_xact_lock_shared({GATE});" if others_wait else ""
    with psycopg.connect(databases.target, autocommit=True) as connection:
        connection.execute(
            f"""
            CREATE SCHEMA outside;
            CREATE FUNCTION outside.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
              IF NEW.legacy_instruction_id = {key} THEN RAISE EXCEPTION 'the archive is full'; END IF;
              {waiting}
              RETURN NEW;
            END $$;
            CREATE TRIGGER outside BEFORE INSERT ON public.cases
              FOR EACH ROW EXECUTE FUNCTION outside.refuse();
            """.encode()
        )
        yield
        connection.execute("DROP SCHEMA outside CASCADE")


@pytest.fixture
def databases(target: Target, finished: Finished) -> Databases:
    """An empty target, made after the uninterrupted run that results are compared with."""
    return target.make()


def test_the_uninterrupted_run_has_several_instances_per_entity(finished: Finished) -> None:
    """Else nothing below says anything about single mapped instances."""
    assert finished.state == "success"
    assert {("loading.cases", index) for index in range(3)} <= set(finished.instances)
    assert set(tries(finished.instances).values()) <= {0, 1}
    assert finished.content.rows["cases"] > 2 * ROWS_PER_PARTITION
    assert finished.content.rows["patients"] > 0


def test_one_failed_batch_cleared_alone_runs_alone_and_the_run_completes(
    scheduler: Scheduler, databases: Databases, finished: Finished
) -> None:
    second_batch_of_second_partition = case_key(databases, ROWS_PER_PARTITION + 25)
    with refused_case(databases, second_batch_of_second_partition):
        run = scheduler.trigger(**CONF, fail_fast=False)
        assert scheduler.finished(run) == "failed"
    failed = scheduler.instances(run)
    assert by_state(failed, "failed") == {("loading.cases", 1)}
    assert report(databases, run)["failed_tasks"] == ["loading.cases[1]"]
    assert_closed_as_failed(databases, run)
    log = scheduler.log(run, ("loading.cases", 1))
    assert "[TARGET_QUERY_FAILED]" in log
    assert "sqlstate=P0001" in log

    again = scheduler.clear(run, [("loading.cases", 1)], downstream=True)
    assert {place for place in again if place[0] == "loading.cases"} == {("loading.cases", 1)}
    assert again >= by_state(failed, "upstream_failed")
    assert scheduler.finished(run) == "success"

    after = scheduler.instances(run)
    assert after.keys() == finished.instances.keys()
    others = failed.keys() - again
    assert {place: after[place] for place in others} == {place: failed[place] for place in others}
    assert_complete(databases, run, finished)
    attempts = dict(
        databases.read(
            "SELECT batch, attempt FROM migration.batches WHERE phase = 'loading' AND entity = 'cases'"
            " AND batch LIKE 'p001%'"
        )
    )
    assert attempts == {"p001-b0000": 1, "p001-b0001": 2}


def test_what_fail_fast_stopped_runs_after_clearing_all_that_failed(
    scheduler: Scheduler, databases: Databases, finished: Finished
) -> None:
    first_of_last_partition = case_key(databases, 2 * ROWS_PER_PARTITION)
    with refused_case(databases, first_of_last_partition, others_wait=True):
        with psycopg.connect(databases.target, autocommit=True) as gate:
            gate.execute("SELECT pg_advisory_lock(%s)", [GATE])
            run = scheduler.trigger(**CONF)
            await_true(
                lambda: databases.read("SELECT 1 FROM migration.runs WHERE failed_steps <> '{}'") != [],
                MOST_SECONDS,
                lambda: f"nothing has failed: {scheduler.instances(run)}",
            )
        assert scheduler.finished(run) == "failed"
    failed = by_state(scheduler.instances(run), "failed")
    assert failed == {("loading.cases", index) for index in range(3)}
    assert "[TARGET_QUERY_FAILED]" in scheduler.log(run, ("loading.cases", 2))
    for stopped in (0, 1):
        assert "[RUN_STOPPED]" in scheduler.log(run, ("loading.cases", stopped))
    assert report(databases, run)["failed_tasks"][0] == "loading.cases[2]"

    scheduler.clear_failed(run)
    assert scheduler.finished(run) == "success"
    assert_complete(databases, run, finished)


def test_a_failed_load_marked_as_success_does_not_let_validation_pass(
    scheduler: Scheduler, databases: Databases, finished: Finished
) -> None:
    with refused_case(databases, case_key(databases, ROWS_PER_PARTITION)):
        run = scheduler.trigger(**CONF, fail_fast=False)
        assert scheduler.finished(run) == "failed"
    scheduler.mark_success(run, ("loading.cases", 1))
    scheduler.clear_failed(run)
    assert scheduler.finished(run) == "failed"
    instances = scheduler.instances(run)
    assert instances["loading.cases", 1].state == "success"
    assert by_state(instances, "failed") == {("validation.counts", -1), ("validation.key_sets", -1)}
    log = scheduler.log(run, ("validation.counts", -1))
    assert "[CHECKS_FAILED]" in log
    assert "next:" in log
    assert_closed_as_failed(databases, run)
    assert report(databases, run)["failed_tasks"] == ["validation.counts", "validation.key_sets"]

    scheduler.clear(run, [("loading.cases", 1)], downstream=True)
    assert scheduler.finished(run) == "success"
    assert_complete(databases, run, finished)


class TestFinishedRun:
    """Whatever is cleared of it, nothing changes."""

    @pytest.fixture
    def databases(self, target: Target, finished: Finished) -> Databases:
        return target.make(FINISHED)

    def chunks(self, finished: Finished, seed: int) -> list[list[Place]]:
        """All task instances in random order, cut into a few parts."""
        places = sorted(finished.instances)
        random.Random(seed).shuffle(places)
        return [places[start::CHUNKS] for start in range(CHUNKS)]

    def assert_unchanged(
        self, scheduler: Scheduler, databases: Databases, finished: Finished, before: dict[str, str]
    ) -> None:
        now: Content = content(databases)
        assert now.versions == finished.content.versions
        assert now == finished.content
        assert tracking(databases) == before
        states = {place: instance.state for place, instance in scheduler.instances(finished.run).items()}
        assert states == {place: instance.state for place, instance in finished.instances.items()}
        assert_complete(databases, finished.run, finished)

    def test_all_at_once(self, scheduler: Scheduler, databases: Databases, finished: Finished) -> None:
        before = tracking(databases)
        scheduler.clear(finished.run)
        assert scheduler.finished(finished.run) == "success"
        self.assert_unchanged(scheduler, databases, finished, before)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_in_parts_and_any_order(
        self, scheduler: Scheduler, databases: Databases, finished: Finished, seed: int
    ) -> None:
        before = tracking(databases)
        for chunk in self.chunks(finished, seed):
            earlier = tries(scheduler.instances(finished.run))
            cleared = scheduler.clear(finished.run, chunk)
            assert cleared >= set(chunk)
            assert scheduler.finished(finished.run) == "success"
            later = tries(scheduler.instances(finished.run))
            # What was skipped for want of partitions was never started.
            started = {place for place in cleared if earlier[place] > 0}
            assert {place for place in later if later[place] > earlier[place]} == started
        self.assert_unchanged(scheduler, databases, finished, before)
