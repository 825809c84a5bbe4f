"""What a nightly run does with the whole of the source, beside single changes."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from include.core.errors import MigrationError
from local.postgres import _BINARIES, _wheel_folder
from plugins.hooks.batch_loader import BatchLoader
from plugins.hooks.embeddings import HashProvider
from tests.conftest import fresh_database
from tests.end_to_end.conftest import allow_reading
from tests.end_to_end.content import content
from tests.incremental.chance import some_changes
from tests.incremental.compare import Target, without
from tests.incremental.conftest import MakeWorld
from tests.incremental.runner import INCREMENTAL, Outcome, dag_exists
from tests.incremental.source import (
    ORPHAN_ORDER,
    START,
    Instruction,
    Office,
    Patient,
    State,
    User,
)
from tests.incremental.world import World

pytestmark = pytest.mark.skipif(not dag_exists(INCREMENTAL), reason="there is no incremental DAG")

_SELECTED = "SELECT entity, selected_rows FROM migration.plans WHERE run_id = '{}' AND selected_rows > 0"
_FATES = (
    "SELECT entity, phase, sum(extracted), sum(inserted), sum(updated), sum(unchanged), sum(merged), sum(rejected)"
    " FROM migration.batches WHERE run_id = '{}' AND phase IN ('loading', 'references') GROUP BY 1, 2 ORDER BY 1, 2"
)
_DECISIONS = ("id_map", "quarantine", "findings", "redirects", "merges")


def _written(world: World) -> dict[str, Any]:
    """Which transaction wrote each row last, business rows and decisions."""
    rows: dict[str, Any] = dict(content(world.databases).versions)
    for table in _DECISIONS:
        rows[table] = world.read(f"SELECT ctid::text, xmin::text FROM migration.{table} ORDER BY 1")
    return rows


def _selected(world: World, night: Outcome) -> dict[str, int]:
    return dict(world.read(_SELECTED.format(night.run_id)))


def _quarantined(world: World) -> dict[str, int]:
    return dict(
        world.read("SELECT entity, count(*) FROM migration.quarantine WHERE status = 'open' GROUP BY 1")
    )


def _sent(night: Outcome) -> int:
    """Texts that the embedding provider was given."""
    return sum(
        instance["sent"]
        for task, instances in night.results.items()
        if task.startswith("ai_enhancement.") and not task.endswith("_plan")
        for instance in instances or ()
    )


def _code(outcome: Outcome) -> str:
    """Of the error that stopped a run."""
    assert isinstance(outcome.errors[0], MigrationError), outcome.errors
    return outcome.errors[0].code


def test_a_night_without_changes_writes_nothing(world: World) -> None:
    before = _written(world)
    night = world.night().raise_errors()
    assert _written(world) == before
    assert _sent(night) == 0
    world.assert_incremental(night)


def test_only_rows_that_changed_are_taken_up(world: World) -> None:
    """Beside those in quarantine, which every run tries again."""
    waiting = _quarantined(world)
    User.objects.filter(pk=Patient.objects.get(pk=8).user_id).update(first_name="Zebulon")
    night = world.night().raise_errors()
    assert _selected(world, night) == {**waiting, "patients": 1, "profiles": 1}
    assert _selected(world, world.night().raise_errors()) == waiting


def test_rows_written_without_a_change_are_read_once_and_never_written(world: World) -> None:
    world.source_sql("UPDATE dispatch_state SET status = status", "UPDATE dispatch_office SET name = name")
    before = content(world.databases).versions
    night = world.night().raise_errors()
    assert _selected(world, night)["practices"] == Office.objects.count()
    assert _selected(world, night)["instruction_states"] == State.objects.count()
    assert content(world.databases).versions == before
    assert _selected(world, world.night().raise_errors()) == _quarantined(world)
    assert world.differences() == []


@pytest.mark.parametrize("first", ["nothing", "dry run", "some entities"])
def test_without_a_complete_full_run_it_stops(world: World, first: str) -> None:
    world.forget_target()
    if first == "dry run":
        world.full(dry_run=True).raise_errors()
    if first == "some entities":
        world.full(entities=["practices", "profiles"]).raise_errors()
    refused = world.night()
    assert _code(refused) == "NO_FULL_RUN"
    assert set(content(world.databases).rows.values()) == {0} or first == "some entities"


def test_without_a_complete_full_run_it_may_do_one(world: World) -> None:
    world.forget_target()
    night = world.night(allow_initial_full=True).raise_errors()
    assert world.notes(night) == ["initial_full"]
    assert world.differences() == []
    Patient.objects.filter(pk=5).update(suffix="next")
    world.assert_incremental(world.night(allow_initial_full=True).raise_errors())


def test_a_restored_source_is_compared_as_a_whole(world: World) -> None:
    """Same rows, other transactions, another database; some rows are as they were before the last night."""
    with ExitStack() as stack:
        restored = stack.enter_context(fresh_database(world.server))
        _copy(world.databases.source_admin, world.server.dsn(restored))
        allow_reading(world.server.dsn(restored))
        Patient.objects.filter(pk=6).update(suffix="lost")
        State.objects.create(status=11, on=True, changed_at=START, instruction_id=6)
        world.night().raise_errors()
        world.move_source(restored)
        Patient.objects.filter(pk=5).update(suffix="new")
        night = world.night().raise_errors()
        assert world.notes(night) == ["source_restored"]
        assert world.differences() == []
        Patient.objects.filter(pk=5).update(suffix="next")
        world.assert_incremental(world.night().raise_errors())
        world.move_source(restored)  # no session of Django may stand in the way of dropping it


def test_a_source_whose_time_went_back_is_not_trusted(world: World) -> None:
    """By accident a row has the version that is remembered, though another content."""
    query = "SELECT suffix FROM public.patients WHERE legacy_patient_id = 5"
    world.target_sql(
        "UPDATE public.patients SET suffix = 'lost' WHERE legacy_patient_id = 5",
        "UPDATE migration.id_map SET content_hash = NULL WHERE entity = 'patients' AND legacy_id = '5'",
    )
    # A sample may find it.
    world.assert_incremental(world.night(samples=0).raise_errors())
    assert world.read(query) == [("lost",)]
    world.target_sql(
        "UPDATE migration.runs SET source_identity = jsonb_set(source_identity, '{next_xid}',"
        " to_jsonb((source_identity ->> 'next_xid')::bigint + 1000000))"
    )
    night = world.night().raise_errors()
    assert world.notes(night) == ["source_restored"]
    assert world.read(query) == [("00BB",)]
    assert world.differences() == []


def test_too_many_deleted_rows_stop_it_before_anything_is_written(world: World) -> None:
    State.objects.filter(pk__lte=60).delete()
    Patient.objects.filter(pk=5).update(suffix="next")
    before = content(world.databases).versions
    stopped = world.night()
    assert _code(stopped) == "TOO_MANY_DELETED"
    assert content(world.databases).versions == before
    world.night(max_deleted=1.0).raise_errors()
    assert world.differences() == []


def test_fifty_deleted_rows_of_a_small_table_are_no_mass_deletion(world: World) -> None:
    State.objects.filter(pk__lte=50).delete()
    night = world.night().raise_errors()
    assert night.results["loading.deleted_rows"]["instruction_states"] == 50


def test_another_mapping_transforms_all_rows_it_concerns(world: World, tmp_path: Path) -> None:
    file = tmp_path / "codes.toml"
    file.write_text('[state_name]\n[state_name.codes]\n11 = { value = "waiting", certainty = "sure" }\n')
    names = "SELECT DISTINCT status_name FROM public.instruction_states WHERE status_code = 11 AND deleted_at IS NULL"
    assert world.read(names) == [("legacy_11",)]
    assert world.nights_elsewhere({"MIGRATION_MAPPING_FILE": str(file)}) == []
    assert world.read(names) == [("waiting",)]
    night = world.night().raise_errors()
    assert world.notes(night) == ["mapping_changed"]
    assert world.read(names) == [("legacy_11",)]


@pytest.fixture(scope="module")
def changed(make_world: MakeWorld) -> Target:
    """A fresh migration of the source behind :func:`_change`, which several tests end with."""
    with make_world() as world:
        _change()
        return without(world.fresh(), "source_version")


def _change() -> None:
    some_changes(random.Random(5), 15)


def test_a_dry_night_writes_nothing_and_predicts_all(world: World, changed: Target) -> None:
    _change()
    before = content(world.databases)
    dry = world.night(dry_run=True).raise_errors()
    after = content(world.databases)
    assert (after.versions, after.decisions) == (before.versions, before.decisions)
    night = world.night().raise_errors()
    assert world.read(_FATES.format(dry.run_id)) == world.read(_FATES.format(night.run_id))
    assert world.differences(changed) == []


@pytest.mark.parametrize("entity", ["patients", "cases", "state_analytics"])
def test_the_next_night_does_what_a_failed_one_left(world: World, changed: Target, entity: str) -> None:
    _change()
    load = BatchLoader.load

    def fail(self: BatchLoader, *arguments: Any) -> Any:
        if self._entity.name == entity:
            raise MigrationError("TARGET_INTERRUPTED", "")
        return load(self, *arguments)

    with patch.object(BatchLoader, "load", fail):
        assert _code(world.night()) == "TARGET_INTERRUPTED"
    world.night().raise_errors()
    assert world.differences(changed) == []


def test_documents_of_nights_without_embeddings_are_embedded_later(world: World, changed: Target) -> None:
    """One night wants none, another gets none."""
    chance = random.Random(5)
    some_changes(chance, 8)
    world.night(enable_ai=False).raise_errors()
    some_changes(chance, 7)
    with patch.object(HashProvider, "embed", side_effect=MigrationError("EMBEDDING_BUSY", "")):
        assert _code(world.night()) == "EMBEDDING_BUSY"
    world.night().raise_errors()
    assert world.differences(changed) == []


def test_a_night_of_some_entities_leaves_the_others_to_the_next(world: World, changed: Target) -> None:
    _change()
    world.night(entities=["practices", "profiles", "patients"]).raise_errors()
    world.night(entities=["cases"]).raise_errors()
    world.night().raise_errors()
    assert world.differences(changed) == []


def test_a_redrive_takes_up_nothing_but_quarantined_rows(world: World) -> None:
    Instruction.objects.filter(pk=ORPHAN_ORDER).update(patient_id=30)
    Patient.objects.filter(pk=5).update(suffix="next")
    State.objects.filter(pk=9).delete()
    redriven = world.night(redrive=True).raise_errors()
    assert world.read(
        "SELECT suffix, (SELECT state FROM migration.id_map WHERE entity = 'cases' AND legacy_id ="
        f" '{ORPHAN_ORDER}') FROM public.patients WHERE legacy_patient_id = 5"
    ) == [("00BB", "live")]
    assert "patients" not in _selected(world, redriven)
    world.assert_incremental(world.night().raise_errors())
    assert world.differences() == []


def test_a_second_full_run_is_as_good_as_a_first(world: World, changed: Target) -> None:
    """A full run over a target that has seen another state of the source."""
    _change()
    world.full().raise_errors()
    assert world.differences(changed) == []


@pytest.mark.parametrize("seed", [1])
def test_night_after_night_by_chance(world: World, seed: int) -> None:
    chance = random.Random(seed)
    for night in range(5):
        changes = some_changes(chance, 8)
        world.assert_incremental(world.night().raise_errors())
        assert world.differences() == [], f"night {night + 1}: {changes}"


def _copy(source: str, restored: str) -> None:
    """Dump and restore, as an administrator would."""
    programs = _wheel_folder() / _BINARIES[18] / "bin"
    environment: Mapping[str, str] = {"PATH": os.environ["PATH"]}
    dump = subprocess.run(  # noqa: S603 - a fixed command
        [programs / "pg_dump", "--no-owner", source], env=environment, check=True, capture_output=True
    )
    subprocess.run(  # noqa: S603 - a fixed command
        [programs / "psql", "-q", "-v", "ON_ERROR_STOP=1", restored],
        env=environment,
        input=dump.stdout,
        check=True,
        capture_output=True,
    )
