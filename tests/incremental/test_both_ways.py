"""With nothing but the URL and the service key a run leaves what one over a direct connection leaves."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from plugins.hooks.target_postgres import PostgresTarget
from tests.conftest import Serving
from tests.end_to_end.content import content
from tests.incremental.chance import some_changes
from tests.incremental.conftest import MakeWorld
from tests.incremental.runner import Outcome
from tests.incremental.world import World

_LEDGER = (
    "SELECT entity, phase, sum(extracted), sum(inserted), sum(updated), sum(unchanged), sum(merged), sum(rejected),"
    " sum(deleted) FROM migration.batches WHERE run_id = '{}' GROUP BY 1, 2 ORDER BY 1, 2"
)
_CHECKS = (
    "SELECT entity, name, level, severity, expected, found FROM migration.checks"
    " WHERE run_id = '{}' ORDER BY 1, 2"
)


@pytest.fixture
def world(make_world: MakeWorld) -> Iterator[World]:
    """A source and its complete migration over a direct connection."""
    with make_world() as world:
        world.take_source_for_the_original()
        yield world


@contextmanager
def client_only(world: World, serving: Serving) -> Iterator[dict[str, str]]:
    """The variables of an Airflow that knows no connection to the target but its API."""
    with serving(world.databases.target) as api:
        supabase = {"conn_type": "supabase", "host": api.url, "password": api.keys.secret}
        yield {"AIRFLOW_CONN_SUPABASE_DB": "", "AIRFLOW_CONN_SUPABASE": json.dumps(supabase)}


def recorded(world: World, run: Outcome) -> list[tuple[object, ...]]:
    """What became of the rows, and what was checked."""
    return [*world.read(_LEDGER.format(run.run_id)), *world.read(_CHECKS.format(run.run_id))]


def test_a_full_run(world: World, serving: Serving) -> None:
    direct = world.full().raise_errors()
    migrated, expected = content(world.databases), recorded(world, direct)
    world.target_name = world.deployed()
    first = world.full().raise_errors()
    fresh = recorded(world, first)
    world.target_name = world.deployed()
    with client_only(world, serving) as variables:
        run = world.full(variables, batch_size=50).raise_errors()
        assert content(world.databases).digests == migrated.digests
        assert world.differences() == []
        assert recorded(world, run) == fresh
        again = world.full(variables).raise_errors()
        assert recorded(world, again) == expected


def test_nights(world: World, serving: Serving) -> None:
    chance = random.Random(11)
    with client_only(world, serving) as variables:
        for _ in range(2):
            some_changes(chance, 25)
            dry = world.night(variables, dry_run=True).raise_errors()
            night = world.night(variables).raise_errors()
            world.assert_incremental(night)
            loaded = [row for row in recorded(world, night) if row[1] in ("loading", "references")]
            assert [row for row in recorded(world, dry) if row[1] in ("loading", "references")] == loaded
            assert world.differences() == []


def test_statistics_are_refreshed_once_behind_a_load(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merges look their rows up by key, so that small batches need no statistics in between."""
    call, asked = PostgresTarget.call, Counter[str]()

    def count(target: PostgresTarget, function: str, /, **arguments: Any) -> Any:
        if function == "refresh_statistics":
            asked[arguments["entity"]] += 1
        return call(target, function, **arguments)

    monkeypatch.setattr(PostgresTarget, "call", count)
    world.target_name = world.deployed()
    world.full(batch_size=5, enable_ai=False).raise_errors()
    query = "SELECT count(*) FROM migration.batches WHERE entity = 'cases' AND phase = 'loading'"
    ((batches,),) = world.read(query)
    assert (batches > 1, asked["cases"]) == (True, 1)
