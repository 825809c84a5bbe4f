"""Runs of both DAGs under one scheduler: never two at once, and none needs a date."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from tests.end_to_end.content import Content, content
from tests.end_to_end.runs import Databases
from tests.scheduler.conftest import LOADED, Target
from tests.scheduler.scheduler import FULL, INCREMENTAL, Run, Scheduler


@dataclass(frozen=True)
class Pair:
    """Two runs that were triggered at the same time, and what they left."""

    states: dict[Run, str]
    status: dict[str, str]
    content: Content

    def the(self, state: str) -> Run:
        """The one run that ended in this state."""
        [run] = [run for run, ended in self.states.items() if ended == state]
        return run


@pytest.fixture(scope="module")
def pair(scheduler: Scheduler, target: Target) -> Pair:
    """Either of them may be the first: both load everything."""
    databases = target.make()
    runs = [
        scheduler.trigger(FULL, dry_run=False),
        scheduler.trigger(INCREMENTAL, dry_run=False, allow_initial_full=True),
    ]
    states = {run: scheduler.finished(run) for run in runs}
    target.keep(LOADED)
    status = dict(databases.read("SELECT run_id, status FROM migration.runs"))
    return Pair(states, status, content(databases))


@pytest.fixture
def databases(target: Target, pair: Pair) -> Databases:
    """The target that the pair left."""
    return target.make(LOADED)


@pytest.fixture
def renamed_practice(databases: Databases) -> Iterator[int]:
    """Legacy id of a practice that has another name in the source for a while."""
    with psycopg.connect(databases.source_admin, autocommit=True) as source:
        key, name = (
            source.execute("SELECT id, name FROM dispatch_office ORDER BY id LIMIT 1").fetchone() or ()
        )
        source.execute("UPDATE dispatch_office SET name = 'Renamed practice' WHERE id = %s", [key])
        yield key
        source.execute("UPDATE dispatch_office SET name = %s WHERE id = %s", [name, key])


def test_of_two_runs_triggered_at_once_one_fails_fast(
    scheduler: Scheduler, databases: Databases, pair: Pair
) -> None:
    winner, loser = pair.the("success"), pair.the("failed")
    instances = scheduler.instances(loser)
    failures = [place for place, instance in instances.items() if instance.state == "failed"]
    [failed] = [place for place in failures if place[0] != "completion.report"]
    assert failed[0] in ("preparation.deploy_target", "preparation.open_run")
    log = scheduler.log(loser, failed)
    assert "[RUN_LOCKED]" in log
    assert winner.run_id in log
    assert pair.status == {winner.run_id: "completed"}


def test_the_winner_gave_the_lock_back(databases: Databases) -> None:
    assert databases.read("SELECT run_id FROM migration.run_lock") == []
    assert ("source",) in databases.read("SELECT name FROM migration.watermarks")


def test_an_incremental_run_without_a_logical_date_writes_what_changed(
    scheduler: Scheduler, databases: Databases, pair: Pair, renamed_practice: int
) -> None:
    run = scheduler.trigger(INCREMENTAL)
    assert scheduler.finished(run) == "success"
    now = content(databases)
    [(practice, name)] = databases.read(
        f"SELECT id::text, name FROM public.practices WHERE legacy_office_id = {renamed_practice}"
    )
    assert name == "Renamed practice"
    written = {
        (table, key)
        for table, rows in now.versions.items()
        for key, version in rows.items()
        if pair.content.versions[table].get(key) != version
    }
    assert written == {("practices", practice)}
    assert now.rows == pair.content.rows
    assert databases.read(f"SELECT type, status FROM migration.runs WHERE run_id = '{run.run_id}'") == [
        ("incremental", "completed")
    ]
