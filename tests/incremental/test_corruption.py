"""Corruption of the target behind a green run: each kind is found by one validation, by row and column, and repaired.

All are done to one target, each to rows of its own, so that what is found must be exactly what was done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from include.core.errors import MigrationError
from tests.incremental.conftest import MakeWorld
from tests.incremental.runner import Outcome, run
from tests.incremental.source import ORPHAN_ORDER, TWIN_OF_1, Patient, User
from tests.incremental.world import World

VALIDATION = "mdw_validation"


@dataclass(frozen=True)
class Row:
    """A row that migration.differences must name.

    Attributes:
        legacy_id: NULL for a row that nobody loaded.
        columns: those that differ.
    """

    entity: str
    legacy_id: str | None
    columns: tuple[str, ...] = ()
    kind: str = "changed"


@dataclass(frozen=True)
class Failed:
    """A check that must fail, and what it must name."""

    entity: str
    check: str
    sample: str


@dataclass(frozen=True)
class Corruption:
    """What somebody did to the target, and what must tell it.

    Attributes:
        statements: SQL, each of which must touch something.
        mended: SQL for what no run repairs.
    """

    statements: tuple[str, ...]
    rows: tuple[Row, ...] = ()
    checks: tuple[Failed, ...] = ()
    mended: tuple[str, ...] = ()


def patient(legacy_id: int, column: str, value: str) -> Corruption:
    """One column of one patient."""
    return Corruption(
        (f"UPDATE public.patients SET {column} = {value} WHERE legacy_patient_id = {legacy_id}",),
        (Row("patients", str(legacy_id), (column,)),),
    )


def state(legacy_id: int, value: str) -> Corruption:
    """The time of one state."""
    return Corruption(
        (f"UPDATE public.instruction_states SET changed_at = {value} WHERE legacy_state_id = {legacy_id}",),
        (Row("instruction_states", str(legacy_id), ("changed_at",)),),
    )


def practice(legacy_id: int, column: str, value: str) -> Corruption:
    """One column of one practice."""
    return Corruption(
        (f"UPDATE public.practices SET {column} = {value} WHERE legacy_office_id = {legacy_id}",),
        (Row("practices", str(legacy_id), (column,)),),
    )


_NOBODYS = "00000000-0000-4000-8000-000000000000"
CORRUPTIONS = {
    "one byte changed": patient(5, "last_name", "overlay(last_name PLACING 'x' FROM 2 FOR 1)"),
    "values of two rows swapped": Corruption(
        (
            "UPDATE public.patients t SET first_name = o.first_name FROM public.patients o"
            " WHERE (t.legacy_patient_id, o.legacy_patient_id) IN ((6, 7), (7, 6))",
        ),
        (Row("patients", "6", ("first_name",)), Row("patients", "7", ("first_name",))),
    ),
    "one row missing and one extra, so that counts are equal": Corruption(
        (
            "DELETE FROM public.workflow_performance WHERE legacy_instruction_id = 3 AND legacy_category_id = 1",
            "INSERT INTO public.workflow_performance SELECT (jsonb_populate_record(t, jsonb_build_object('id',"
            f" '{_NOBODYS}', 'legacy_category_id', 999999))).* FROM public.workflow_performance t"
            " WHERE t.legacy_instruction_id = 4 AND t.legacy_category_id = 1",
        ),
        (Row("workflow_performance", "1:3", (), "missing"), Row("workflow_performance", None, (), "extra")),
    ),
    "a duplicate": Corruption(
        (
            "ALTER TABLE public.practices DROP CONSTRAINT practices_legacy_office_id_key",
            "INSERT INTO public.practices SELECT (jsonb_populate_record(t, jsonb_build_object('id',"
            f" '{_NOBODYS}'))).* FROM public.practices t WHERE t.legacy_office_id = 1",
        ),
        (Row("practices", None, (), "extra"),),
        (
            Failed("practices", "values_unique", "1"),
            Failed("target", "schema_as_deployed", "practices_legacy_office_id_key"),
        ),
        (
            f"DELETE FROM public.practices WHERE id = '{_NOBODYS}'",
            "ALTER TABLE public.practices ADD UNIQUE (legacy_office_id)",
        ),
    ),
    "NULL became empty": patient(12, "email", "''"),
    "empty became NULL": patient(13, "suffix", "NULL"),
    "NULL became the word": patient(14, "email", "'NULL'"),
    "a trailing space": patient(15, "last_name", "last_name || ' '"),
    "accents decomposed": patient(9, "first_name", "normalize(first_name, NFD)"),
    "a timestamp shifted by an hour": state(5, "changed_at + interval '1 h'"),
    "a timestamp cut to milliseconds": state(4, "date_trunc('milliseconds', changed_at)"),
    "a date one day later": patient(16, "date_of_birth", "date_of_birth + 1"),
    "another valid enum value": patient(
        17, "gender", "CASE gender WHEN 'male' THEN 'female' ELSE 'male' END::public.gender_type"
    ),
    "a reference to another existing row": Corruption(
        (
            "UPDATE public.cases SET patient_id = (SELECT id FROM public.patients WHERE legacy_patient_id = 11)"
            " WHERE legacy_instruction_id = 6",
        ),
        (Row("cases", "6", ("patient_id",)),),
    ),
    "a child left on the row that was merged away": Corruption(
        (
            "UPDATE public.cases c SET patient_id = m.target_id FROM migration.id_map m, migration.redirects r,"
            f" migration.id_map k WHERE m.entity = 'patients' AND m.legacy_id = '{TWIN_OF_1}'"
            " AND r.entity = 'cases' AND r.original_id = m.target_id"
            " AND k.entity = 'cases' AND k.legacy_id = r.legacy_id AND c.id = k.target_id",
        ),
        (Row("cases", str(TWIN_OF_1), ("patient_id",)),),
        (Failed("cases", "merged_patient_id", str(TWIN_OF_1)),),
    ),
    "a merge of two people that nobody made": Corruption(
        (
            "UPDATE public.patients SET merged_into = (SELECT id FROM public.patients WHERE legacy_patient_id = 20)"
            " WHERE legacy_patient_id = 21",
            "UPDATE migration.id_map m SET state = 'merged', survivor_id = t.merged_into FROM public.patients t"
            " WHERE m.entity = 'patients' AND m.legacy_id = '21' AND t.id = m.target_id",
        ),
        (),
        (Failed("patients", "merges_recorded", "21"),),
        (
            "UPDATE public.patients SET merged_into = NULL WHERE legacy_patient_id = 21",
            "UPDATE migration.id_map SET state = 'live', survivor_id = NULL"
            " WHERE entity = 'patients' AND legacy_id = '21'",
        ),
    ),
    "an embedding of an old text": Corruption(
        (
            "UPDATE public.project_embeddings e SET (content_hash, embedding, content_text) ="
            " (o.content_hash, o.embedding, o.content_text) FROM public.project_embeddings o, migration.id_map m"
            " WHERE m.entity = 'projects' AND m.legacy_id = '7' AND e.project_id = m.target_id"
            " AND o.id = (SELECT min(x.id::text)::uuid FROM public.project_embeddings x"
            " WHERE x.content_hash <> e.content_hash)",
        ),
        (),
        (Failed("projects", "vectors_of_current_texts", "7"),),
        (
            "DELETE FROM public.project_embeddings WHERE true",
            "DELETE FROM migration.watermarks WHERE name <> 'source'",
        ),
    ),
    "row security switched off": Corruption(
        ("ALTER TABLE public.profiles DISABLE ROW LEVEL SECURITY",),
        (),
        (
            Failed("target", "row_security_everywhere", "profiles"),
            Failed("target", "schema_as_deployed", "profiles"),
        ),
        ("ALTER TABLE public.profiles ENABLE ROW LEVEL SECURITY",),
    ),
    "a grant to anon": Corruption(
        ("GRANT SELECT ON public.cases TO anon",),
        (),
        (Failed("target", "anon_has_nothing", "cases"), Failed("target", "schema_as_deployed", "cases")),
        ("REVOKE SELECT ON public.cases FROM anon",),
    ),
    "a row of the quarantine removed": Corruption(
        (f"DELETE FROM migration.quarantine WHERE entity = 'cases' AND legacy_id = '{ORPHAN_ORDER}'",),
        (),
        (Failed("cases", "keys_without_fate", str(ORPHAN_ORDER)),),
    ),
    "a count of the ledger edited": Corruption(
        (
            "UPDATE migration.batches SET inserted = inserted - 1, unchanged = unchanged + 1"
            " WHERE entity = 'practices' AND phase = 'loading' AND inserted > 0",
        ),
        (),
        (Failed("target", "ledger_as_audited", "practices"),),
    ),
    "a member of a jsonb dropped": practice(2, "address", "address - 'city'"),
    "another scale of a number": practice(3, "tax_rate", "tax_rate * 1.00"),
}


@dataclass(frozen=True)
class Found:
    """What a validation found.

    Attributes:
        rows: entity, legacy id, kind and columns of each difference that somebody else made.
        checks: entity and name of each failed check, and what it names.
    """

    rows: frozenset[tuple[str, str | None, str, tuple[str, ...]]]
    checks: dict[tuple[str, str], str]


def validate(world: World, **conf: object) -> tuple[Outcome, Found]:
    outcome = run(VALIDATION, world.databases, world.folder, **conf)
    differences = world.read(
        "SELECT entity, legacy_id, kind, columns FROM migration.differences"
        f" WHERE foreign_write AND run_id = '{outcome.run_id}'"
    )
    checks = world.read(
        "SELECT entity, name, sample_keys FROM migration.checks WHERE NOT passed AND severity = 'fail'"
        f" AND run_id = '{outcome.run_id}'"
    )
    return outcome, Found(
        frozenset((entity, key, kind, tuple(columns)) for entity, key, kind, columns in differences),
        {(entity, name): " ".join(keys) for entity, name, keys in checks},
    )


@pytest.fixture(scope="module")
def proven(make_world: MakeWorld) -> Iterator[World]:
    """A source that has all that is to be corrupted, and its complete migration."""
    with make_world() as world:
        User.objects.filter(pk=Patient.objects.get(pk=9).user_id).update(first_name="Zoë")
        for key, email in ((12, None), (14, None)):
            User.objects.filter(pk=Patient.objects.get(pk=key).user_id).update(email=email or "")
        Patient.objects.filter(pk=13).update(suffix="")
        world.source_sql("UPDATE dispatch_state SET changed_at = changed_at + interval '123 us' WHERE id = 4")
        world.forget_target()
        world.full().raise_errors()
        yield world


@pytest.fixture(scope="module")
def corrupted(proven: World) -> World:
    """With all corruptions at once."""
    world = proven.with_copied_target()
    for corruption in CORRUPTIONS.values():
        world.target_sql(*corruption.statements)
    return world


@pytest.fixture(scope="module")
def found(corrupted: World) -> Found:
    """By one validation."""
    outcome, found = validate(corrupted)
    assert {error.code for error in outcome.errors if isinstance(error, MigrationError)} == {"CHECKS_FAILED"}
    assert outcome.states["validation.samples"] in ("success", "failed"), "all tasks ran"
    return found


def test_a_clean_target_passes_every_check(proven: World) -> None:
    outcome, found = validate(proven)
    outcome.raise_errors()
    assert found == Found(frozenset(), {})
    ((checks, levels),) = proven.read(
        f"SELECT count(*), count(DISTINCT level) FROM migration.checks WHERE run_id = '{outcome.run_id}'"
    )
    assert (checks > 100, levels) == (True, 5)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_it_is_found(name: str, found: Found) -> None:
    corruption = CORRUPTIONS[name]
    assert corruption.rows or corruption.checks
    for row in corruption.rows:
        assert (row.entity, row.legacy_id, row.kind, row.columns) in found.rows
        assert (row.entity, "foreign_writes") in found.checks
    for check in corruption.checks:
        assert check.sample in found.checks[(check.entity, check.check)]


def test_nothing_else_is_accused(found: Found) -> None:
    done = {
        (row.entity, row.legacy_id, row.kind, row.columns)
        for corruption in CORRUPTIONS.values()
        for row in corruption.rows
    }
    assert found.rows == done


def test_the_next_night_stops_before_it_writes_anything(corrupted: World) -> None:
    stopped = corrupted.night()
    assert isinstance(stopped.errors[0], MigrationError)
    assert stopped.errors[0].code == "FOREIGN_WRITES"
    assert "workflow_performance" in str(stopped.errors[0])
    assert stopped.states["preparation.plan.patients"] == "upstream_failed"


def test_what_is_mended_by_hand_and_by_a_repair_is_as_a_fresh_migration(corrupted: World) -> None:
    world = corrupted.with_copied_target()
    for corruption in CORRUPTIONS.values():
        world.target_sql(*corruption.mended)
    night = world.night(repair=True, foreign_writes="overwrite").raise_errors()
    assert world.differences() == []
    assert {"foreign_writes", "taken_up_again"} <= set(world.notes(night))
    _, found = validate(world)
    # What was edited in the ledger stays edited; nobody can tell any more what it was.
    assert found == Found(
        frozenset(), {("target", "ledger_as_audited"): found.checks[("target", "ledger_as_audited")]}
    )


def test_what_is_to_be_kept_is_kept(proven: World) -> None:
    world = proven.with_copied_target()
    world.target_sql(
        "UPDATE public.patients SET last_name = 'Kept' WHERE legacy_patient_id IN (5, 6)",
    )
    User.objects.filter(pk=Patient.objects.get(pk=6).user_id).update(first_name="Changed")
    night = world.night(foreign_writes="keep").raise_errors()
    names = "SELECT legacy_patient_id, first_name, last_name FROM public.patients WHERE legacy_patient_id IN (5, 6)"
    assert {last for _, _, last in world.read(names)} == {"Kept"}
    assert "Changed" not in {first for _, first, _ in world.read(names)}
    fates = "SELECT sum(skipped)::integer FROM migration.batches WHERE run_id = '{}' AND entity = 'patients'"
    assert world.read(fates.format(night.run_id)) == [(1,)]
    again = world.night(foreign_writes="overwrite").raise_errors()
    assert again.succeeded
    assert world.differences() == []


def test_what_this_tool_wrote_wrongly_is_no_foreign_write(proven: World) -> None:
    world = proven.with_copied_target()
    world.target_sql(
        "UPDATE public.patients SET last_name = 'Wrong' WHERE legacy_patient_id = 5",
        "SET LOCAL TimeZone = 'UTC'",
        "DO $$ BEGIN EXECUTE format('UPDATE migration.id_map i SET content_hash = s.digest FROM ("
        " SELECT m.legacy_id, (%s)::uuid AS digest FROM %s WHERE m.legacy_id = ''5'') s"
        " WHERE i.entity = ''patients'' AND i.legacy_id = s.legacy_id',"
        " migration.stored_digest('patients'), migration.stored('patients')); END $$",
    )
    _, found = validate(world, samples=0)
    assert set(found.checks) == {("patients", "content")}
    assert found.rows == frozenset()
    world.night(repair=True).raise_errors()
    assert world.differences() == []
