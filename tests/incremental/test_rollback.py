"""Whatever a run did by night, rolled back it has not been; and the next one does it as if it were the first."""

from __future__ import annotations

import random
from typing import Any
from unittest.mock import patch

import psycopg
import pytest

from include.core.errors import MigrationError
from plugins.hooks.batch_loader import BatchLoader
from plugins.hooks.rollback import RolledBack, roll_back
from plugins.hooks.target import Target, open_target
from plugins.hooks.target_postgres import PostgresTarget
from tests.conftest import Serving
from tests.hooks.journal import Rows, changed_tables, journaled_rows
from tests.incremental.chance import some_changes
from tests.incremental.runner import Outcome, run
from tests.incremental.world import CONF, NIGHTLY, World

CHANGES = 30


def fingerprint(world: World) -> Rows:
    """Of the target; the contents of its vectors are made anew, and must be the same, too."""
    contents = world.read("SELECT contents FROM migration.vector_tables() ORDER BY 1")
    return journaled_rows(world.read) | {
        f"migration.{table}": [
            row for (row,) in world.read(f"SELECT t::text FROM migration.{table} t ORDER BY 1")
        ]
        for (table,) in contents
    }


def assert_same(found: Rows, expected: Rows) -> None:
    assert changed_tables(found, expected) == {}


def undo(world: World, night: Outcome, **options: bool) -> RolledBack:
    with psycopg.connect(world.databases.target, autocommit=True) as connection:
        return _undo(PostgresTarget(connection), night, **options)


def _undo(target: Target, night: Outcome, **options: bool) -> RolledBack:
    wanted = {"with_later": False, "overwrite": False, **options}
    return roll_back(target, night.run_id, "Eva", "a test", **wanted)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_night_by_chance(world: World, seed: int) -> None:
    chance = random.Random(seed)
    some_changes(chance, CHANGES)
    before = fingerprint(world)
    night = world.night().raise_errors()
    assert changed_tables(fingerprint(world), before)
    assert undo(world, night).runs == (night.run_id,)
    assert_same(fingerprint(world), before)
    world.assert_incremental(world.night().raise_errors())
    assert world.differences() == []


def test_the_first_load(world: World) -> None:
    world.target_name = world.deployed()
    before = fingerprint(world)
    assert not any(before.values())
    first = world.full().raise_errors()
    undo(world, first)
    assert_same(fingerprint(world), before)
    world.full().raise_errors()
    assert world.differences() == []


def test_several_nights_at_once(world: World) -> None:
    chance = random.Random(7)
    before = fingerprint(world)
    nights = []
    for _ in range(3):
        some_changes(chance, 10)
        nights.append(world.night().raise_errors())
    with pytest.raises(MigrationError, match="ROLLBACK_BLOCKED"):
        undo(world, nights[0])
    undone = undo(world, nights[0], with_later=True)
    assert undone.runs == tuple(night.run_id for night in reversed(nights))
    assert_same(fingerprint(world), before)
    world.night().raise_errors()
    assert world.differences() == []


def test_one_after_the_other(world: World) -> None:
    chance = random.Random(8)
    states = [fingerprint(world)]
    nights = []
    for _ in range(2):
        some_changes(chance, 10)
        nights.append(world.night().raise_errors())
        states.append(fingerprint(world))
    for night, before in zip(reversed(nights), reversed(states[:-1]), strict=True):
        undo(world, night)
        assert_same(fingerprint(world), before)


@pytest.mark.parametrize("entity", ["patients", "state_analytics"])
def test_a_night_that_failed_half_way(world: World, entity: str) -> None:
    some_changes(random.Random(5), CHANGES)
    before = fingerprint(world)
    load = BatchLoader.load

    def fail(self: BatchLoader, *arguments: Any, **options: Any) -> Any:
        if self._entity.name == entity:
            raise MigrationError("TARGET_INTERRUPTED", "")
        return load(self, *arguments, **options)

    with patch.object(BatchLoader, "load", fail):
        night = world.night()
    assert not night.succeeded
    assert changed_tables(fingerprint(world), before)
    undo(world, night)
    assert_same(fingerprint(world), before)
    world.night().raise_errors()
    assert world.differences() == []


def test_a_night_that_was_killed_half_way(world: World) -> None:
    some_changes(random.Random(5), CHANGES)
    before = fingerprint(world)
    load = BatchLoader.load

    def end(self: BatchLoader, *arguments: Any, **options: Any) -> Any:
        if self._entity.name == "cases":
            raise KeyboardInterrupt
        return load(self, *arguments, **options)

    with patch.object(BatchLoader, "load", end), pytest.raises(KeyboardInterrupt):
        world.night()
    ((holder,),) = world.read("SELECT run_id FROM migration.run_lock")
    killed = Outcome(holder, {}, {}, ())
    assert changed_tables(fingerprint(world), before)
    with pytest.raises(MigrationError, match="RUN_LOCKED"):
        undo(world, killed)
    world.target_sql(
        "UPDATE migration.run_lock SET heartbeat_at = heartbeat_at - interval '1 day' WHERE true"
    )
    undo(world, killed)
    assert_same(fingerprint(world), before)
    world.night().raise_errors()
    assert world.differences() == []


def test_through_the_client(world: World, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    some_changes(random.Random(9), CHANGES)
    before = fingerprint(world)
    night = world.night().raise_errors()
    with serving(world.databases.target) as api:
        monkeypatch.setenv(
            "AIRFLOW_CONN_SUPABASE",
            f'{{"conn_type": "supabase", "host": "{api.url}", "password": "{api.keys.secret}"}}',
        )
        with open_target("rest") as target:
            _undo(target, night)
    assert_same(fingerprint(world), before)


def test_a_night_that_was_rolled_back_is_not_cleared(world: World) -> None:
    some_changes(random.Random(5), 5)
    night = world.night().raise_errors()
    undo(world, night)
    before = fingerprint(world)
    again = run(NIGHTLY, world.databases, world.folder, run_id=night.run_id, **CONF)
    assert isinstance(again.errors[0], MigrationError)
    assert again.errors[0].code == "RUN_ROLLED_BACK"
    assert_same(fingerprint(world), before)
    assert world.read(f"SELECT status FROM migration.runs WHERE run_id = '{night.run_id}'") == [
        ("rolled_back",)
    ]
