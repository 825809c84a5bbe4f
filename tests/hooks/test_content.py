"""Level 3: every row of the target against the source; whatever is changed behind a green run is found and named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar
from unittest.mock import Mock

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from psycopg import sql

from include.core.batches import Partition
from include.core.ids import target_id
from include.core.tracking import Check, Fates, failures
from include.core.transform import transform
from include.entities import ENTITIES
from include.synthetic.sizes import SourceSize
from local.legacy_source import fill
from local.postgres import EmbeddedPostgres
from plugins.hooks.batch_loader import BatchLoader, LoadBatch
from plugins.hooks.content import ContentProof, TakenUp, whole
from plugins.hooks.legacy_mdw import LegacyMdwHook
from plugins.hooks.target import open_target
from tests.conftest import Serving, fresh_database
from tests.hooks.loading import Target, case, patient, practice
from tests.hooks.test_comparison import Connection, Migrated, migrate, set_connections

BOTH_WAYS = True
RUN = "run"
PATIENTS = ENTITIES["patients"]
# What generated rows may lack; of some patients that are not merged, and of one case and office.
_SOURCE = (
    "UPDATE auth_user SET first_name = 'Zo\u00eb', last_name = ''"
    " WHERE id = (SELECT user_id FROM dispatch_patient WHERE id = 192)",
    "UPDATE dispatch_patient SET suffix = '', birthdate = '1984-02-29', sex = 1,"
    " submitted_at = '2021-03-28 01:30:00.123456+00' WHERE id = 192",
    "UPDATE dispatch_patient SET suffix = 'NULL', birthdate = '1984-02-28' WHERE id = 240",
    "UPDATE dispatch_patient SET suffix = NULL WHERE id = 261",
    "UPDATE dispatch_instruction SET price = 120.50, notes = 'a note' WHERE id = 6",
    "INSERT INTO dispatch_office_doctors SELECT (jsonb_populate_record(d, '{\"id\": 9999}')).*"
    " FROM dispatch_office_doctors d WHERE d.id = (SELECT min(id) FROM dispatch_office_doctors)",
)


@pytest.fixture(scope="module")
def migrated(
    server: EmbeddedPostgres, deployed_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Migrated]:
    """A source of 60 patients, migrated, with a merge and rows in quarantine; tests take copies."""
    staging = (tmp_path_factory.mktemp("staging") / "of-run").as_uri()
    with (
        fresh_database(server) as source,
        fresh_database(server, template=deployed_template, owner="postgres") as target,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        size = SourceSize.real().scaled(60, tasks=300, projects=80, plans=70)
        fill(server.dsn(source), size, 1, lambda _: None)
        with psycopg.connect(server.dsn(source)) as connection:
            connection.execute(
                "ALTER TABLE dispatch_office_doctors DROP CONSTRAINT dispatch_office_doctors_office_id_user_id_uniq"
            )
            for statement in _SOURCE:
                assert connection.execute(statement.encode()).rowcount == 1
        databases = Migrated(source, target, staging)
        set_connections(server, databases, monkeypatch)
        migrate()
        yield databases


@dataclass
class World:
    """A target that a test may spoil."""

    target: Connection

    def spoil(self, *statements: str) -> None:
        """Change the target; at least one row or object must be concerned each time."""
        for statement in statements:
            assert self.target.execute(statement.encode()).rowcount != 0

    def own(self, name: str) -> None:
        """Let the id map say that every row was written as it is."""
        ((digest, stored),) = self.target.execute(
            "SELECT migration.stored_digest(%s), migration.stored(%s)", [name, name]
        ).fetchall()
        self.target.execute("SET TimeZone = 'UTC'")
        self.target.execute(
            "UPDATE migration.id_map i SET content_hash = s.digest"
            f" FROM (SELECT m.legacy_id, ({digest})::uuid AS digest FROM {stored}) s"
            f" WHERE i.entity = '{name}' AND i.legacy_id = s.legacy_id".encode()
        )

    def prove(self, name: str, way: str = "postgres", **options: bool) -> dict[str, Check]:
        """Every check of an entity by name."""
        with LegacyMdwHook().snapshot() as source, open_target(way) as target:
            checks = list(
                ContentProof(target, RUN, **options).prove(ENTITIES[name], whole(source, ENTITIES[name], 25))
            )
        assert {check.level for check in checks} == {3}
        return {check.name: check for check in checks}

    def prove_part(self, name: str, keys: list[int] | None = None, way: str = "postgres") -> dict[str, Check]:
        """The same of a run that took up some rows."""
        partition = Partition(name, 0, None, None, len(keys or []))
        with LegacyMdwHook().snapshot() as source, open_target(way) as target:
            some = lambda: source.batches(ENTITIES[name], partition, 25, None, keys) if keys else []  # noqa: E731
            checks = list(ContentProof(target, RUN).prove_part(ENTITIES[name], some))
        return {check.name: check for check in checks}

    def load(self, name: str) -> Fates:
        """Load an entity again, as another full run does."""
        entity, fates = ENTITIES[name], Fates()
        with LegacyMdwHook().snapshot() as source, open_target() as target:
            for number, raw in enumerate(whole(source, ENTITIES[name], 25)()):
                made = transform(entity, raw)
                batch = LoadBatch(f"again-{number}", "", made.clean, made.rejects, made.findings)
                fates += BatchLoader(target, RUN, entity, dry_run=False).load(batch, 1)[0]
        return fates

    def key(self, query: str) -> str:
        """A single value of the target."""
        ((value,),) = self.target.execute(query.encode()).fetchall()
        return str(value)


@pytest.fixture
def world(server: EmbeddedPostgres, migrated: Migrated, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with fresh_database(server, template=migrated.target, owner="postgres") as name:
        set_connections(server, Migrated(migrated.source, name, migrated.staging), monkeypatch)
        with psycopg.connect(server.dsn(name, role="postgres"), autocommit=True) as connection:
            yield World(connection)


def found(checks: dict[str, Check]) -> dict[str, str]:
    """Name to what was found, of checks that did not pass."""
    return {check.name: check.found for check in checks.values() if not check.passed}


def test_a_clean_target_passes_with_a_merge_quarantine_and_cleared_references(world: World) -> None:
    assert world.key("SELECT count(*) FROM migration.id_map WHERE state = 'merged'") == "1"
    assert int(world.key("SELECT count(*) FROM migration.redirects WHERE stored_id IS NOT NULL")) > 0
    assert int(world.key("SELECT count(*) FROM migration.redirects WHERE stored_id IS NULL")) > 0
    assert int(world.key("SELECT count(*) FROM public.patients WHERE metadata ? 'merged'")) == 1
    assert int(world.key("SELECT count(*) FROM migration.quarantine")) > 0
    assert int(world.key("SELECT count(*) FROM migration.id_map WHERE state = 'quarantined'")) > 0
    for name in ENTITIES:
        assert found(world.prove(name)) == {}
        assert found(world.prove_part(name)) == {}


def test_no_bucket_of_a_clean_target_is_looked_at_twice(world: World) -> None:
    """Every rule makes the text that PostgreSQL prints; else the proof would be right, but slow."""
    for entity in ENTITIES.values():
        with LegacyMdwHook().snapshot() as source, open_target() as target:
            read = Mock(side_effect=whole(source, entity, 25))
            list(ContentProof(target, RUN).prove(entity, read))
        assert read.call_count == 1, entity.name


@dataclass(frozen=True)
class Corruption:
    """What somebody does to a table, and how it is told."""

    entity: str
    statements: tuple[str, ...]
    found: str
    keys: tuple[str, ...] = ("192",)


def patients_set(assignment: str, key: int = 192) -> str:
    return f"UPDATE public.patients SET {assignment} WHERE legacy_patient_id = {key}"


def cases_set(assignment: str) -> str:
    return f"UPDATE public.cases SET {assignment} WHERE legacy_instruction_id = 6"


_SWAPPED = (
    "UPDATE public.patients t SET date_of_birth = o.date_of_birth FROM public.patients o"
    " WHERE (t.legacy_patient_id, o.legacy_patient_id) IN ((192, 240), (240, 192))"
)
CHANGED = {
    "one byte": Corruption("patients", (patients_set("first_name = 'Zoe'"),), "1: 1 changed; first_name 1"),
    "two rows' values swapped": Corruption(
        "patients", (_SWAPPED,), "2: 2 changed; date_of_birth 2", ("192", "240")
    ),
    "'' to NULL": Corruption("patients", (patients_set("suffix = NULL"),), "1: 1 changed; suffix 1"),
    "'' to 'NULL'": Corruption("patients", (patients_set("suffix = 'NULL'"),), "1: 1 changed; suffix 1"),
    "'NULL' to NULL": Corruption(
        "patients", (patients_set("suffix = NULL", 240),), "1: 1 changed; suffix 1", ("240",)
    ),
    "NULL to ''": Corruption(
        "patients", (patients_set("suffix = ''", 261),), "1: 1 changed; suffix 1", ("261",)
    ),
    "a trailing space": Corruption(
        "patients", (patients_set("first_name = first_name || ' '"),), "1: 1 changed; first_name 1"
    ),
    "decomposed accents": Corruption(
        "patients", (patients_set("first_name = normalize(first_name, NFD)"),), "1: 1 changed; first_name 1"
    ),
    "an hour later": Corruption(
        "patients",
        (patients_set("submitted_at = submitted_at + interval '1 hour'"),),
        "1: 1 changed; submitted_at 1",
    ),
    "cut to milliseconds": Corruption(
        "patients",
        (patients_set("submitted_at = date_trunc('milliseconds', submitted_at)"),),
        "1: 1 changed; submitted_at 1",
    ),
    "the next day": Corruption(
        "patients", (patients_set("date_of_birth = date_of_birth + 1"),), "1: 1 changed; date_of_birth 1"
    ),
    "another enum": Corruption(
        "patients",
        (patients_set("gender = CASE gender WHEN 'male' THEN 'female' ELSE 'male' END::public.gender_type"),),
        "1: 1 changed; gender 1",
    ),
    "a boolean": Corruption(
        "patients", (patients_set("archived = NOT archived"),), "1: 1 changed; archived 1"
    ),
    "a foreign key to another row": Corruption(
        "cases",
        (
            "UPDATE public.cases SET patient_id = (SELECT id FROM public.patients WHERE legacy_patient_id ="
            " CASE WHEN patient_id = (SELECT id FROM public.patients WHERE legacy_patient_id = 192)"
            " THEN 240 ELSE 192 END) WHERE legacy_instruction_id = 6",
        ),
        "1: 1 changed; patient_id 1",
        ("6",),
    ),
    "a jsonb key dropped": Corruption(
        "cases", (cases_set("clinical = clinical - 'notes'"),), "1: 1 changed; clinical 1", ("6",)
    ),
    "a jsonb null dropped": Corruption(
        "cases", (cases_set("clinical = jsonb_strip_nulls(clinical)"),), "1: 1 changed; clinical 1", ("6",)
    ),
    "the scale of a number": Corruption(
        "cases", (cases_set("price = 120.5"),), "1: 1 changed; price 1", ("6",)
    ),
    "the mapping's version": Corruption(
        "cases", (cases_set("metadata = metadata - 'mapping_version'"),), "1: 1 changed; metadata 1", ("6",)
    ),
}


@pytest.mark.parametrize("corruption", CHANGED.values(), ids=CHANGED)
def test_a_changed_value_is_found_and_its_column_named(world: World, corruption: Corruption) -> None:
    world.spoil(*corruption.statements)
    checks = world.prove(corruption.entity)
    assert found(checks) == {"foreign_writes": corruption.found}
    assert checks["foreign_writes"].sample_keys == corruption.keys
    assert failures(checks.values())
    # Without the source it shows as well; which column, only the source tells.
    part = world.prove_part(corruption.entity)
    assert found(part) == {"foreign_writes": corruption.found.split(";")[0]}
    assert part["foreign_writes"].sample_keys == corruption.keys


@pytest.mark.parametrize("corruption", CHANGED.values(), ids=CHANGED)
def test_what_this_tool_wrote_wrongly_is_no_foreign_write(world: World, corruption: Corruption) -> None:
    world.spoil(*corruption.statements)
    world.own(corruption.entity)
    checks = world.prove(corruption.entity)
    assert found(checks) == {"content": corruption.found}
    assert checks["content"].sample_keys == corruption.keys
    keys = [int(key) for key in corruption.keys]
    assert found(world.prove_part(corruption.entity, keys)) == {"content": corruption.found}
    assert found(world.prove_part(corruption.entity)) == {}


_COPY = (
    "INSERT INTO public.patients SELECT (jsonb_populate_record(p, %s)).*"
    " FROM public.patients p WHERE p.legacy_patient_id = 192"
)
_NO_CONSTRAINTS = (
    "ALTER TABLE public.patients DROP CONSTRAINT patients_pkey CASCADE",
    "ALTER TABLE public.patients DROP CONSTRAINT patients_legacy_patient_id_key",
    "ALTER TABLE public.patients DROP CONSTRAINT patients_patient_number_key",
)
_NEW = "6f1d3f0e-5b5c-4c1e-9d3a-4d5744000001"
_REMOVED = (
    "ALTER TABLE public.patients DROP CONSTRAINT patients_pkey CASCADE",
    "DELETE FROM public.patients WHERE legacy_patient_id = 192",
)
ROWS = {
    "a row gone": Corruption("patients", _REMOVED, "1: 1 missing"),
    "a row marked as deleted": Corruption("patients", (patients_set("deleted_at = now()"),), "1: 1 missing"),
    "a row that nobody loaded": Corruption(
        "patients",
        ((_COPY % f'\'{{"id": "{_NEW}", "legacy_patient_id": 999, "patient_number": "P999"}}\''),),
        "1: 1 extra",
        (_NEW,),
    ),
    "one gone and one too many": Corruption(
        "patients",
        ((_COPY % f'\'{{"id": "{_NEW}", "legacy_patient_id": 999, "patient_number": "P999"}}\''), *_REMOVED),
        "2: 1 extra, 1 missing",
        ("192", _NEW),
    ),
    "another id": Corruption(
        "patients", (_REMOVED[0], patients_set(f"id = '{_NEW}'")), "2: 1 extra, 1 missing", ("192", _NEW)
    ),
    "the same row twice": Corruption("patients", (*_NO_CONSTRAINTS, _COPY % "'{}'"), "1: 1 extra"),
    "the same row twice, with two ids": Corruption(
        "patients", (*_NO_CONSTRAINTS, _COPY % f'\'{{"id": "{_NEW}"}}\''), "1: 1 extra", (_NEW,)
    ),
}


@pytest.mark.parametrize("corruption", ROWS.values(), ids=ROWS)
def test_rows_gone_or_too_many_are_found(world: World, corruption: Corruption) -> None:
    world.spoil(*corruption.statements)
    for checks in (world.prove(corruption.entity), world.prove_part(corruption.entity)):
        assert found(checks) == {"foreign_writes": corruption.found}
        assert checks["foreign_writes"].sample_keys == corruption.keys


def test_an_edited_merge_is_found(world: World) -> None:
    merged = world.key(
        "SELECT legacy_id FROM migration.id_map WHERE entity = 'patients' AND state = 'merged'"
    )
    world.spoil(
        "UPDATE public.patients SET merged_into = (SELECT id FROM public.patients WHERE legacy_patient_id = 192)"
        " WHERE merged_into IS NOT NULL"
    )
    for checks in (world.prove("patients"), world.prove_part("patients")):
        assert found(checks) == {"foreign_writes": "1: 1 changed; merged_into 1"}
        assert checks["foreign_writes"].sample_keys == (merged,)


def test_a_merge_that_only_the_row_knows_is_found(world: World) -> None:
    world.spoil(patients_set("merged_into = (SELECT id FROM public.patients WHERE legacy_patient_id = 240)"))
    assert found(world.prove("patients")) == {"foreign_writes": "1: 1 changed; merged_into 1"}


def test_a_child_that_was_led_back_to_the_merged_row_is_found(world: World) -> None:
    """Its reference is that of the source, but what was stored was the survivor."""
    world.spoil(
        "UPDATE public.cases c SET patient_id = r.original_id FROM migration.redirects r JOIN migration.id_map m"
        " USING (entity, legacy_id) WHERE r.entity = 'cases' AND r.\"column\" = 'patient_id' AND c.id = m.target_id"
    )
    rows = world.key(
        "SELECT count(*) FROM migration.redirects WHERE entity = 'cases' AND \"column\" = 'patient_id'"
    )
    assert found(world.prove("cases")) == {"foreign_writes": f"{rows}: {rows} changed; patient_id {rows}"}


def test_rows_that_exchange_their_places_in_the_id_map_are_found(world: World) -> None:
    world.spoil(
        "UPDATE migration.id_map m SET target_id = o.target_id FROM migration.id_map o WHERE m.entity = 'patients'"
        " AND o.entity = 'patients' AND (m.legacy_id, o.legacy_id) IN (('192', '240'), ('240', '192'))"
    )
    checks = world.prove("patients")
    assert found(checks) == {"foreign_writes": "2: 2 changed; id 2"}
    assert checks["foreign_writes"].sample_keys == ("192", "240")
    assert found(world.prove_part("patients")) == {"foreign_writes": "2: 2 changed"}


def test_a_row_that_came_back_from_quarantine_by_itself_is_found(world: World) -> None:
    """It is in the table as the source has it, but should not be."""
    world.spoil(
        "UPDATE migration.id_map SET state = 'quarantined', content_hash = NULL, source_version = NULL"
        " WHERE entity = 'patients' AND legacy_id = '192'"
    )
    for checks in (world.prove("patients"), world.prove_part("patients")):
        assert found(checks) == {"foreign_writes": "1: 1 extra"}
        assert checks["foreign_writes"].sample_keys == ("192",)


def test_a_deleted_row_is_expected_nowhere_unless_it_is_there(world: World) -> None:
    """The source has it again: that is for the key sets to say."""
    with open_target() as target:
        target.call(
            "mark_deleted",
            incoming={"gone_keys": pa.table({"legacy_id": ["192"]})},
            run=RUN,
            entity="patients",
            batch={"phase": "loading", "batch": "deleted"},
            dry_run=False,
        )
    assert found(world.prove("patients")) == {}
    world.spoil(patients_set("deleted_at = NULL"))
    for checks in (world.prove("patients"), world.prove_part("patients")):
        assert found(checks) == {"foreign_writes": "1: 1 extra"}


def test_a_row_that_the_rules_refuse_must_not_be_there(world: World) -> None:
    """Quarantine, id map and table agree that it was loaded; the source says that it cannot be."""
    refused = "9999"
    assert (
        world.key(f"SELECT code FROM migration.quarantine WHERE legacy_id = '{refused}'") == "link_repeated"
    )
    with LegacyMdwHook().snapshot() as source:
        raw = pa.concat_tables(whole(source, ENTITIES["practice_members"], 1_000)())
    version = raw.filter(pc.equal(raw.column("legacy_id"), refused)).column("source_version")[0]
    key = target_id("practice_members", refused)
    world.spoil(
        "INSERT INTO public.practice_members SELECT (jsonb_populate_record(p, jsonb_build_object('id', "
        f"'{key}', 'legacy_office_doctor_id', {refused}, 'practice_id', o.id))).* FROM public.practice_members p"
        " JOIN public.practices o ON NOT EXISTS (SELECT FROM public.practice_members m WHERE m.practice_id = o.id"
        " AND m.profile_id = p.profile_id) LIMIT 1",
        "DELETE FROM migration.quarantine WHERE entity = 'practice_members'",
        "INSERT INTO migration.id_map (entity, legacy_id, target_id, content_hash, source_version, mapping_version,"
        f" rules_version, state, first_run, last_run) SELECT entity, '{refused}', '{key}', content_hash, '{version}',"
        " mapping_version, rules_version, 'live', first_run, last_run FROM migration.id_map"
        " WHERE entity = 'practice_members' LIMIT 1",
    )
    assert found(world.prove("practice_members")) == {"foreign_writes": "1: 1 extra"}
    world.own("practice_members")
    checks = world.prove("practice_members")
    assert found(checks) == {"content": "1: 1 extra"}
    assert checks["content"].sample_keys == (refused,)


def test_a_derived_row_is_made_anew_and_compared(world: World) -> None:
    world.spoil(
        "UPDATE public.workflow_performance SET completion_rate = completion_rate - 1"
        " WHERE id = (SELECT min(id::text)::uuid FROM public.workflow_performance)",
        "UPDATE public.state_analytics SET duration_minutes = 1 WHERE id ="
        " (SELECT min(id::text)::uuid FROM public.state_analytics WHERE duration_minutes IS DISTINCT FROM 1)",
    )
    assert found(world.prove("workflow_performance")) == {"foreign_writes": "1: 1 changed; completion_rate 1"}
    assert found(world.prove("state_analytics")) == {"foreign_writes": "1: 1 changed; duration_minutes 1"}


def test_nothing_of_a_value_is_kept(world: World) -> None:
    world.spoil(patients_set("first_name = 'Unmistakable'"))
    checks = world.prove("patients")
    assert "Unmistakable" not in str(checks)
    rows = world.key("SELECT jsonb_agg(to_jsonb(d)) FROM migration.differences d")
    assert "first_name" in rows
    assert "Unmistakable" not in rows


def test_what_changed_in_the_source_since_is_no_fault(
    world: World, server: EmbeddedPostgres, migrated: Migrated, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = world.target.info.dbname
    with fresh_database(server, template=migrated.source) as name:
        set_connections(server, Migrated(name, target, migrated.staging), monkeypatch)
        with psycopg.connect(server.dsn(name), autocommit=True) as source:
            source.execute("UPDATE dispatch_patient SET suffix = 'later' WHERE id IN (192, 240)")
            source.execute("DELETE FROM dispatch_patient WHERE id = 374")
            source.execute(
                "INSERT INTO dispatch_patient SELECT (jsonb_populate_record(p, '{\"id\": 999}')).*"
                " FROM dispatch_patient p WHERE id = 424"
            )
        checks = world.prove("patients")
        assert found(checks) == {"content_changed_since": "2: 2 changed"}
        assert checks["content_changed_since"].sample_keys == ("192", "240")
        assert failures(checks.values()) == []
        # Who wrote the target as well is told from that.
        world.spoil(patients_set("first_name = 'x'"), patients_set("first_name = 'y'", 374))
        assert found(world.prove("patients")) == {
            "foreign_writes": "2: 2 changed; first_name 1, suffix 1",
            "content_changed_since": "1: 1 changed",
        }


def test_rows_of_other_rules_wait_for_the_next_run(world: World) -> None:
    world.spoil(patients_set("suffix = 'of other rules'"))
    world.own("patients")
    world.spoil("UPDATE migration.id_map SET rules_version = 'other' WHERE entity = 'patients'")
    assert found(world.prove("patients")) == {"content_changed_since": "1: 1 changed"}


def test_foreign_writes_that_are_kept_are_a_warning(world: World) -> None:
    world.spoil(patients_set("first_name = 'x'"))
    checks = world.prove("patients", keep_foreign_writes=True)
    assert found(checks) == {"foreign_writes": "1: 1 changed; first_name 1"}
    assert failures(checks.values()) == []


def test_a_second_proof_forgets_the_first(world: World) -> None:
    world.spoil(patients_set("first_name = 'x'"))
    world.prove("patients")
    world.spoil(patients_set("first_name = 'Zo\u00eb'"))
    assert found(world.prove("patients")) == {}
    assert world.key("SELECT count(*) FROM migration.differences") == "0"


def test_progress_tells_rows_read(world: World) -> None:
    told: list[int] = []
    with LegacyMdwHook().snapshot() as source, open_target() as target:
        list(ContentProof(target, RUN, progress=told.append).prove(PATIENTS, whole(source, PATIENTS, 25)))
    assert told == sorted(told)
    assert told[-1] >= 60
    assert len(told) > 1


def test_over_the_api_the_same_is_found(
    world: World, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.spoil(
        patients_set("first_name = 'x'"),
        patients_set("deleted_at = now()", 240),
        _COPY % f'\'{{"id": "{_NEW}", "legacy_patient_id": 999, "patient_number": "P999"}}\'',
    )
    direct, part = world.prove("patients"), world.prove_part("patients", [192])
    with serving(world.target.info.dsn) as api:
        monkeypatch.setenv("SUPABASE_URL", api.url)
        monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", api.keys.secret)
        assert world.prove("patients", "rest") == direct
        assert world.prove_part("patients", [192], "rest") == part
    assert found(direct) == {"foreign_writes": "3: 1 changed, 1 extra, 1 missing; first_name 1"}


REPAIRED = {
    **{
        name: CHANGED[name]
        for name in ("one byte", "two rows' values swapped", "a foreign key to another row")
    },
    **{name: ROWS[name] for name in ("a row marked as deleted", "a row that nobody loaded")},
}


@pytest.mark.parametrize("corruption", REPAIRED.values(), ids=REPAIRED)
def test_what_was_found_is_loaded_again_and_nothing_else(world: World, corruption: Corruption) -> None:
    world.spoil(*corruption.statements)
    world.prove(corruption.entity)
    extra = int("extra" in corruption.found)
    with open_target() as target:
        proof = ContentProof(target, RUN)
        entity = ENTITIES[corruption.entity]
        assert proof.take_up_again(entity, own=True, foreign=False) == TakenUp(0, 0)
        rows = len(corruption.keys) - extra
        assert proof.take_up_again(entity, own=False, foreign=True) == TakenUp(rows, extra)
    assert world.load(corruption.entity).updated == rows
    assert found(world.prove(corruption.entity)) == {}


def test_exchanged_places_in_the_id_map_are_repaired(world: World) -> None:
    world.spoil(
        "UPDATE migration.id_map m SET target_id = o.target_id FROM migration.id_map o WHERE m.entity = 'patients'"
        " AND o.entity = 'patients' AND (m.legacy_id, o.legacy_id) IN (('192', '240'), ('240', '192'))"
    )
    world.prove("patients")
    with open_target() as target:
        assert ContentProof(target, RUN).take_up_again(PATIENTS, own=False, foreign=True) == TakenUp(2, 0)
    assert world.load("patients").updated == 2
    assert found(world.prove("patients")) == {}


class TestKept:
    """What somebody else wrote stands, where the run says so."""

    KEEP: ClassVar[dict[str, Any]] = {
        "run": "run-2",
        "parameters": {"entities": [], "foreign_writes": "keep"},
    }

    def test_a_row_that_somebody_else_changed_is_skipped(self, target: Target) -> None:
        target.load("patients", [patient(1, first_name="A"), patient(2, first_name="B"), patient(3)])
        target.connection.execute("UPDATE public.patients SET email = 'x@y.de' WHERE legacy_patient_id = 1")
        before = target.image("public.patients"), target.image("migration.id_map")
        rows = [patient(1, first_name="C"), patient(3)]
        assert target.load("patients", rows, **self.KEEP) == Fates(2, skipped=1, unchanged=1)
        assert (target.image("public.patients"), target.image("migration.id_map")) == before
        both = [patient(1, first_name="C"), patient(2, first_name="D")]
        assert target.load("patients", both, **self.KEEP, batch="b2") == Fates(2, skipped=1, updated=1)
        assert target.row("patients", 1)["email"] == "x@y.de"

    def test_findings_of_a_skipped_row_stay(self, target: Target) -> None:
        finding = [("1", "name_empty", "first_name")]
        target.load("patients", [patient(1)], findings=finding)
        target.connection.execute("UPDATE public.patients SET email = 'x@y.de'")
        target.load("patients", [patient(1, first_name="C")], **self.KEEP)
        assert target.all("SELECT legacy_id, code FROM migration.findings") == [("1", "name_empty")]

    def test_without_the_policy_it_is_written(self, target: Target) -> None:
        target.load("patients", [patient(1, first_name="A")])
        target.connection.execute("UPDATE public.patients SET email = 'x@y.de'")
        assert target.load("patients", [patient(1, first_name="C")], run="run-2") == Fates(1, updated=1)
        assert target.row("patients", 1)["email"] is None

    def test_a_row_that_is_to_be_written_again_is_written(self, target: Target) -> None:
        target.load("patients", [patient(1, first_name="A")])
        target.connection.execute("UPDATE public.patients SET email = 'x@y.de'")
        target.connection.execute("UPDATE migration.id_map SET content_hash = NULL WHERE entity = 'patients'")
        assert target.load("patients", [patient(1, first_name="A")], **self.KEEP) == Fates(1, updated=1)

    def test_a_row_that_was_to_be_merged_stays_and_keeps_its_children(self, target: Target) -> None:
        target.load("patients", [patient(1), patient(2, first_name="B")])
        target.load("cases", [case(1, 2)])
        target.connection.execute("UPDATE public.patients SET email = 'x@y.de' WHERE legacy_patient_id = 2")
        target.tracking(**self.KEEP)
        target.connection.execute(
            "INSERT INTO migration.survivors VALUES ('run-2', 'patients', %s, %s)",
            [target_id("patients", "2"), target_id("patients", "1")],
        )
        target.connection.execute(
            "INSERT INTO migration.batches (run_id, entity, phase, batch)"
            " VALUES ('run-2', 'patients', 'deduplication', 'all')"
        )
        merged = target.load("patients", [patient(2, first_name="B")], **self.KEEP)
        assert merged == Fates(1, skipped=1)
        assert target.load("cases", [case(1, 2)], **self.KEEP) == Fates(1, unchanged=1)
        assert target.row("patients", 2)["merged_into"] is None

    def test_a_reference_that_somebody_else_changed_is_not_followed(self, target: Target) -> None:
        """But one that leads to a row that is gone is."""
        target.load("practices", [practice(1), practice(2), practice(3)])
        target.load("patients", [patient(1, practice_id=target_id("practices", "9")), patient(2)])
        for key, office in ((1, 2), (2, 3)):
            target.connection.execute(
                "UPDATE public.patients SET practice_id = %s WHERE legacy_patient_id = %s",
                [target_id("practices", str(office)), key],
            )
        target.delete("practices", "3")
        target.tracking(**self.KEEP)
        loader = BatchLoader(target.api, "run-2", PATIENTS, dry_run=False)
        assert loader.load_affected("a", 10, 1) == Fates(1, updated=1)
        assert str(target.row("patients", 1)["practice_id"]) == target_id("practices", "2")
        assert target.row("patients", 2)["practice_id"] is None


def test_a_digest_does_not_depend_on_the_session(target: Target) -> None:
    row = patient(1, submitted_at="2021-03-28 01:30:00.123456+00", date_of_birth="1984-02-29")
    target.load("patients", [row])
    read = "SELECT content_hash FROM migration.id_map"
    kept = target.all(read)
    for setting in ("TimeZone = 'Asia/Tokyo'", "DateStyle = 'German'", "IntervalStyle = 'sql_standard'"):
        target.connection.execute(f"SET {setting}".encode())
    target.connection.execute("UPDATE migration.id_map SET content_hash = NULL")
    assert target.load("patients", [row], run="run-2") == Fates(1, updated=1)
    assert target.all(read) == kept


def test_a_value_written_otherwise_is_no_difference_and_one_that_is_none_is(target: Target) -> None:
    row = patient(1, submitted_at="2021-03-28T01:30:00Z", archived="true", status_code="007")
    target.load("patients", [row])
    query = sql.SQL("SELECT migration.same_value({}, {}, {})")
    for stored, sent, kind, same in (
        ("2021-03-28 01:30:00+00", "2021-03-28T01:30:00Z", "timestamptz", True),
        ("t", "true", "boolean", True),
        ("7", "007", "integer", True),
        ("7", "seven", "integer", False),
        ("1.50", "1.5", "numeric", False),
        ('{"a": 1}', '{"a":1}', "jsonb", True),
        (None, "", "text", False),
    ):
        statement = query.format(sql.Literal(stored), sql.Literal(sent), sql.Literal(kind))
        assert target.connection.execute(statement).fetchone() == (same,), (stored, sent)


def test_the_ledger_tells_what_a_batch_held(target: Target) -> None:
    """The same rows in any order, however often they are loaded; a dry run reckons it as well."""
    first, second = patient(1, first_name="A"), patient(2)
    target.load("patients", [first, second], batch="b1", dry_run=True)
    target.load("patients", [second, first], batch="b2", run="run-2")
    target.load("patients", [first, second], batch="b3", run="run-2")
    target.load("patients", [patient(1, first_name="B"), second], batch="b4", run="run-2")
    one, two, three, other = (
        fingerprint
        for (fingerprint,) in target.all("SELECT fingerprint FROM migration.batches ORDER BY batch")
    )
    assert one == two == three
    assert int(one) > 0
    assert other != one
