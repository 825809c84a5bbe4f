"""Validations between nights: what waits for the next run is told, and fails nothing; what is wrong fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import psycopg
import pytest

from include.core.errors import MigrationError
from plugins.hooks.target_postgres import PostgresTarget
from plugins.operators.preflight import PlanOperator
from tests.incremental.conftest import MakeWorld
from tests.incremental.runner import Outcome, run
from tests.incremental.source import TWIN_OF_1, Instruction, Patient, Project, User
from tests.incremental.test_rollback import undo
from tests.incremental.world import CONF, NIGHTLY, World

VALIDATION = "mdw_validation"
NOBODYS = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def world(make_world: MakeWorld) -> Iterator[World]:
    """Migrated from its own source: the ledger was edited by nobody."""
    with make_world() as made:
        made.forget_target()
        made.full().raise_errors()
        yield made


def checks(world: World, outcome: Outcome) -> dict[tuple[str, str], tuple[str, tuple[str, ...]]]:
    """Those that did not pass: entity and name to severity and sample keys."""
    rows = world.read(
        "SELECT entity, name, severity, sample_keys FROM migration.checks"
        f" WHERE NOT passed AND run_id = '{outcome.run_id}'"
    )
    return {(entity, name): (severity, tuple(keys)) for entity, name, severity, keys in rows}


def validate(world: World, **conf: object) -> Outcome:
    return run(VALIDATION, world.databases, world.folder, **conf)


def test_rows_that_changed_came_and_left_wait_for_the_next_night(world: World) -> None:
    new = Instruction.objects.create(patient_id=3, course_id=1, status=1, deleted=False, suffix="")
    Project.objects.filter(pk=5).update(name="Another")
    Project.objects.filter(pk=60).delete()
    outcome = validate(world).raise_errors()
    assert checks(world, outcome) == {
        ("cases", "keys_arrived"): ("warn", (str(new.pk),)),
        ("projects", "keys_left"): ("warn", ("60",)),
        ("projects", "content_changed_since"): ("warn", ("5",)),
        **{
            check: found
            for check, found in checks(world, outcome).items()
            if check[0] in ("state_analytics", "workflow_performance") and found[0] == "warn"
        },
    }
    assert world.read("SELECT count(*) FROM migration.run_lock") == [(0,)]
    world.night().raise_errors()
    assert checks(world, validate(world).raise_errors()) == {}


def test_vectors_of_a_night_that_embedded_nothing_are_awaited(world: World) -> None:
    new = Instruction.objects.create(patient_id=3, course_id=1, status=1, deleted=False, suffix="")
    world.night(enable_ai=False).raise_errors()
    outcome = validate(world).raise_errors()
    assert checks(world, outcome)[("cases", "embeddings_awaited")] == ("warn", (str(new.pk),))
    world.target_sql(
        "DELETE FROM public.case_embeddings WHERE case_id = (SELECT min(case_id::text)::uuid FROM"
        " public.case_embeddings)"
    )
    assert ("cases", "embedded") in checks(world, validate(world))


def test_behind_an_undone_merge(world: World) -> None:
    embedded = {"ai_entities": ["projects", "cases", "patients", "workflow_template_tasks"]}
    world.night(**embedded).raise_errors()
    with psycopg.connect(world.databases.target, autocommit=True) as connection:
        PostgresTarget(connection).call(
            "unmerge_rows", entity="patients", legacy_ids=[str(TWIN_OF_1)], by="Eva", reason="a test"
        )
    outcome = validate(world, **embedded).raise_errors()
    assert checks(world, outcome)[("patients", "embeddings_awaited")] == ("warn", (str(TWIN_OF_1),))


def test_other_rules_than_those_of_the_last_run(world: World) -> None:
    world.target_sql(
        "UPDATE public.practices SET name = 'By older rules' WHERE legacy_office_id = 1",
        "UPDATE migration.id_map SET rules_version = 'older' WHERE entity = 'practices' AND legacy_id = '1'",
        "SET LOCAL TimeZone = 'UTC'",
        "DO $$ BEGIN EXECUTE format('UPDATE migration.id_map i SET content_hash = s.digest FROM ("
        " SELECT m.legacy_id, (%s)::uuid AS digest FROM %s WHERE m.legacy_id = ''1'') s"
        " WHERE i.entity = ''practices'' AND i.legacy_id = s.legacy_id',"
        " migration.stored_digest('practices'), migration.stored('practices')); END $$",
    )
    outcome = validate(world, entities=["practices"], samples=100).raise_errors()
    assert checks(world, outcome) == {("practices", "content_changed_since"): ("warn", ("1",))}


def test_what_was_to_be_written_again_and_was_not_is_no_change_of_the_source(world: World) -> None:
    world.target_sql("UPDATE public.patients SET last_name = 'Foreign' WHERE legacy_patient_id = 5")
    with patch.object(PlanOperator, "step", side_effect=MigrationError("TARGET_INTERRUPTED", "")):
        assert not world.night(foreign_writes="overwrite").succeeded
    outcome = validate(world)
    assert not outcome.succeeded
    assert checks(world, outcome)[("patients", "content")] == ("fail", ("5",))
    world.night().raise_errors()
    assert checks(world, validate(world).raise_errors()) == {}


def test_rows_that_others_added_and_removed_are_kept_and_told(world: World) -> None:
    world.target_sql(
        "INSERT INTO public.practices SELECT (jsonb_populate_record(t, jsonb_build_object('id',"
        f" '{NOBODYS}', 'legacy_office_id', 999999))).* FROM public.practices t WHERE legacy_office_id = 1",
        "UPDATE public.projects SET deleted_at = now() WHERE legacy_project_id = 30",
    )
    for outcome in (
        world.night(foreign_writes="keep").raise_errors(),
        validate(world, foreign_writes="keep").raise_errors(),
    ):
        told = checks(world, outcome)
        assert {severity for severity, _ in told.values()} == {"warn"}
        assert {("practices", "foreign_writes"), ("projects", "foreign_writes")} <= told.keys()
    assert not validate(world).succeeded


def test_a_repair_gives_vectors_back(world: World) -> None:
    world.target_sql("DELETE FROM public.project_embeddings WHERE true")
    assert ("projects", "embedded") in checks(world, validate(world))
    world.night(repair=True).raise_errors()
    assert checks(world, validate(world).raise_errors()) == {}
    assert world.differences() == []


def test_the_report_of_a_run_that_was_rolled_back_stays(world: World) -> None:
    Project.objects.filter(pk=5).update(name="Another")
    night = world.night().raise_errors()
    ((uri,),) = world.read(f"SELECT report_uri FROM migration.runs WHERE run_id = '{night.run_id}'")
    report = Path(uri.removeprefix("file://")) / "report.json"
    before = report.read_bytes()
    undo(world, night)
    again = run(NIGHTLY, world.databases, world.folder, run_id=night.run_id, **CONF)
    assert not again.succeeded
    assert report.read_bytes() == before
    outcome = validate(world).raise_errors()
    assert checks(world, outcome).get(("projects", "content_changed_since")) == ("warn", ("5",))


@pytest.mark.parametrize("policy", ["stop", "keep", "overwrite"])
def test_what_others_wrote_where_a_merge_had_filled_a_survivor(world: World, policy: str) -> None:
    world.target_sql(
        "UPDATE public.patients SET schemes = '{\"foreign\": true}' WHERE metadata #> '{merged,filled}' ? 'schemes'"
    )
    night = world.night(foreign_writes=policy)
    found = "SELECT count(*) FROM public.patients WHERE schemes ? 'foreign'"
    if policy == "stop":
        assert isinstance(night.errors[0], MigrationError)
        assert night.errors[0].code == "FOREIGN_WRITES"
    else:
        night.raise_errors()
    assert world.read(found)[0][0] == (0 if policy == "overwrite" else 1)
    if policy == "overwrite":
        assert world.differences() == []


def test_a_merge_that_a_broken_run_did_not_settle_is_no_foreign_write(world: World) -> None:
    Patient.objects.filter(pk=43).update(schemes='{"other": true}')
    User.objects.filter(pk=Patient.objects.get(pk=43).user_id).update(last_login=None)
    with patch(
        "plugins.operators.deduplicate.SettleMergesOperator.step",
        side_effect=MigrationError("TARGET_INTERRUPTED", ""),
    ):
        assert not world.night().succeeded
    world.night().raise_errors()
    assert world.differences() == []


def test_a_new_column_makes_no_row_a_foreign_write(world: World) -> None:
    older = (
        "SELECT migration.register(jsonb_build_object('finding_kinds', '{}'::jsonb, 'entities', jsonb_build_object("
        "e.entity, to_jsonb(e) - 'entity' || jsonb_build_object('columns', array_remove(e.columns, 'name')))))"
        " FROM migration.entities e WHERE e.entity = 'practices'"
    )
    digests = "SELECT legacy_id, content_hash FROM migration.id_map WHERE entity = 'practices' ORDER BY 1"
    before = world.read(digests)
    world.target_sql(
        older,
        "UPDATE migration.id_map SET mapping_version = 'older', rules_version = 'older' WHERE entity = 'practices'",
    )
    assert not set(world.read(digests)) & set(before)
    world.target_sql("UPDATE public.practices SET tax_rate = tax_rate + 1 WHERE legacy_office_id = 2")
    stopped = world.night()
    assert isinstance(stopped.errors[0], MigrationError)
    assert stopped.errors[0].code == "FOREIGN_WRITES"
    assert world.read(
        f"SELECT legacy_id FROM migration.differences WHERE run_id = '{stopped.run_id}' AND entity = 'practices'"
    ) == [("2",)]
    world.night(foreign_writes="overwrite").raise_errors()
    assert world.read(digests) == before
    assert world.differences() == []
