"""Validation notices what is wrong: a loaded target passes every check, and each corruption fails its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from include.core.batches import Partition, batch_name
from include.core.ids import target_id, target_ids
from include.core.resolve import split_merged
from include.core.spec import Check as Rule
from include.core.tracking import Check, Fates, failures
from include.core.transform import FINDING_SCHEMA, REJECT_SCHEMA, transform
from include.entities import ENTITIES
from include.synthetic.sizes import SourceSize
from local.environment import connection_variable
from local.legacy_source import fill
from local.postgres import EmbeddedPostgres
from plugins.hooks import target_postgres
from plugins.hooks.batch_loader import BatchLoader, LoadBatch
from plugins.hooks.comparison import Comparison
from plugins.hooks.legacy_mdw import LegacyMdwHook
from plugins.hooks.merging import settle
from plugins.hooks.staging import StagingHook
from plugins.hooks.target import open_target
from plugins.hooks.target_postgres import PostgresTarget
from plugins.hooks.target_schema import register
from plugins.hooks.tracking import LedgerRow, TrackingHook
from tests.conftest import Serving, fresh_database

RUN = "run"
Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Migrated:
    """Names of the two databases of a finished run, and its staging."""

    source: str
    target: str
    staging: str


@pytest.fixture(scope="module")
def migrated(
    server: EmbeddedPostgres, deployed_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Migrated]:
    """A source of 60 patients, migrated; tests take copies."""
    staging = (tmp_path_factory.mktemp("staging") / "of-run").as_uri()
    with (
        fresh_database(server) as source,
        fresh_database(server, template=deployed_template, owner="postgres") as target,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        size = SourceSize.real().scaled(60, tasks=300, projects=80, plans=70)
        fill(server.dsn(source), size, 1, lambda _: None)
        databases = Migrated(source, target, staging)
        set_connections(server, databases, monkeypatch)
        migrate()
        yield databases


def set_connections(server: EmbeddedPostgres, databases: Migrated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATION_STAGING_URI", databases.staging)
    monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(server.dsn(databases.source)))
    monkeypatch.setenv(
        "AIRFLOW_CONN_SUPABASE_DB", connection_variable(server.dsn(databases.target, role="postgres"))
    )


def migrate() -> None:
    """What the operators do, entity by entity, with one merged patient and a vector for every document."""
    with LegacyMdwHook().snapshot() as source, target_postgres.session() as connection:
        target = PostgresTarget(connection)
        survivor, duplicate = next(source.keys(ENTITIES["patients"])).to_pylist()[:2]
        merged = target_ids("patients", pa.array([duplicate]))
        tracking, staging = TrackingHook(target, RUN), StagingHook(RUN)
        tracking.open_run(
            type="full",
            scope="everything",
            dry_run=False,
            parameters={"entities": []},
            mapping_version="1",
            rules_version="1",
            code_version="1",
            started_by="test",
            source_horizon=source.horizon(),
            source_identity={},
        )
        connection.execute(
            "INSERT INTO migration.survivors VALUES (%s, 'patients', %s, %s)",
            [RUN, target_id("patients", duplicate), target_id("patients", survivor)],
        )
        connection.execute(
            "INSERT INTO migration.duplicate_pairs"
            " (entity, left_legacy_id, right_legacy_id, score, explanation, status)"
            " VALUES ('patients', %s, %s, 1, '{}', 'auto_merged')",
            [survivor, duplicate],
        )
        tracking.record_batch(LedgerRow("patients", "deduplication", "all", "", Fates(), 1, 0.1))
        for entity in ENTITIES.values():
            loader = BatchLoader(target, RUN, entity, dry_run=False)
            late = []
            partition = Partition(entity.name, 0, None, None)
            staging.write("keys", entity.name, "k0000", pa.table({"legacy_id": next(source.keys(entity))}))
            for number, raw in enumerate(source.batches(entity, partition, 100)):
                name, result = batch_name(partition, number), transform(entity, raw)
                for kind in ("clean", "rejects"):
                    staging.write(kind, entity.name, name, getattr(result, kind))
                rows = result.clean.num_rows + result.rejects.num_rows
                for phase, count in (("extraction", raw.num_rows), ("transformation", rows)):
                    fates = Fates(count, undecided=count)
                    tracking.record_batch(LedgerRow(entity.name, phase, name, "", fates, 1, 0.1))
                clean = result.clean
                if entity.deduplicate:
                    late.append(split_merged(clean, merged, only_merged=True))
                    clean = split_merged(clean, merged, only_merged=False)
                loader.load(LoadBatch(name, "", clean, result.rejects, result.findings), 1)
            for number, clean in enumerate(late):
                empty = REJECT_SCHEMA.empty_table(), FINDING_SCHEMA.empty_table()
                loader.load(LoadBatch(f"merged-{number}", "", clean, *empty), 1)
        settle(target, RUN, "patients", dry_run=False)
        connection.execute(
            "INSERT INTO public.project_embeddings"
            " (id, project_id, content_type, content_hash, model, dimensions, embedding)"
            " SELECT gen_random_uuid(), id, 'treatment_plan', '', 'm', 64,"
            " array_fill(1, ARRAY[64])::extensions.vector FROM public.projects"
        )


@dataclass
class Checked:
    """Copies of the migrated databases that a test may spoil."""

    source: Connection
    target: Connection

    def spoil(self, statement: str, *parameters: object) -> None:
        """Change the target; at least one row or object must be concerned."""
        assert self.target.execute(statement.encode(), parameters).rowcount != 0

    def checks(self, entity_name: str, way: str = "postgres") -> dict[str, Check]:
        """Every check of an entity by name."""
        entity = ENTITIES[entity_name]
        with LegacyMdwHook().snapshot() as source, open_target(way) as target:
            comparison = Comparison(target, TrackingHook(target, RUN))
            results = [
                *comparison.counts(entity),
                *comparison.key_sets(entity, source, StagingHook(RUN)),
                *comparison.integrity(entity),
            ]
            if entity_name == "projects":
                results += comparison.embeddings(entity)
        return {check.name: check for check in results}

    def failed(self, entity_name: str) -> set[str]:
        """Names of the checks that must stop the run."""
        return {check.name for check in failures(self.checks(entity_name).values())}


@pytest.fixture
def checked(
    server: EmbeddedPostgres, migrated: Migrated, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Checked]:
    with (
        fresh_database(server, template=migrated.target, owner="postgres") as target,
        fresh_database(server, template=migrated.source) as source,
    ):
        set_connections(server, Migrated(source, target, migrated.staging), monkeypatch)
        with (
            psycopg.connect(server.dsn(source), autocommit=True) as of_source,
            psycopg.connect(server.dsn(target, role="postgres"), autocommit=True) as of_target,
        ):
            yield Checked(of_source, of_target)


def test_a_healthy_target_passes_every_check(checked: Checked) -> None:
    for entity in ENTITIES.values():
        checks = checked.checks(entity.name)
        failed = [check for check in checks.values() if not check.passed]
        assert failed == [], entity.name
        assert {"rows_loaded", "rows_stored", "keys_without_fate", "row_security_on"} <= set(checks)
        for column in entity.references:
            assert {f"orphans_{column}", f"foreign_key_{column}"} <= set(checks)


CORRUPTIONS = {
    "row deleted": (
        "practice_members",
        "DELETE FROM public.practice_members WHERE id = (SELECT min(id::text)::uuid FROM public.practice_members)",
        {"rows_stored"},
    ),
    "row added": (
        "practices",
        "INSERT INTO public.practices (id, legacy_office_id) VALUES (gen_random_uuid(), -1)",
        {"rows_stored"},
    ),
    "one row lost, another added": (
        "practice_members",
        "UPDATE public.practice_members SET id = gen_random_uuid()"
        " WHERE id = (SELECT min(id::text)::uuid FROM public.practice_members)",
        {"rows_stored"},
    ),
    "ledger lost a batch": (
        "practices",
        "DELETE FROM migration.batches WHERE entity = 'practices' AND phase = 'transformation'",
        {"rows_transformed", "rows_loaded"},
    ),
    "quarantine entry removed": (
        "cases",
        "DELETE FROM migration.quarantine WHERE id = (SELECT min(id) FROM migration.quarantine WHERE entity = 'cases')",
        {"keys_without_fate", "quarantine_explained"},
    ),
    "id map entry removed": (
        "practices",
        "DELETE FROM migration.id_map WHERE entity = 'practices' AND legacy_id ="
        " (SELECT min(legacy_id) FROM migration.id_map WHERE entity = 'practices')",
        {"rows_stored", "keys_without_fate"},
    ),
    "live row also in quarantine": (
        "practices",
        "INSERT INTO migration.quarantine"
        ' (entity, legacy_id, code, "column", reason, how_to_fix, run_id)'
        " SELECT entity, legacy_id, 'value_refused', 'name', '', '', 'run' FROM migration.id_map"
        " WHERE entity = 'practices' LIMIT 1",
        {"keys_with_two_fates"},
    ),
    "key that the source never had": (
        "practices",
        "INSERT INTO migration.id_map (entity, legacy_id, target_id, state, first_run, last_run)"
        " VALUES ('practices', '999999', gen_random_uuid(), 'live', 'run', 'run')",
        {"rows_stored", "keys_without_source", "ids_deterministic"},
    ),
    "foreign key dropped": (
        "projects",
        "ALTER TABLE public.projects DROP CONSTRAINT projects_case_id_fkey",
        {"foreign_key_case_id"},
    ),
    "foreign key not validated": (
        "projects",
        "ALTER TABLE public.projects DROP CONSTRAINT projects_case_id_fkey, ADD CONSTRAINT projects_case_id_fkey"
        " FOREIGN KEY (case_id) REFERENCES public.cases NOT VALID",
        {"foreign_key_case_id"},
    ),
    "parent gone": (
        "projects",
        "ALTER TABLE public.projects DROP CONSTRAINT projects_case_id_fkey; UPDATE public.projects"
        " SET case_id = gen_random_uuid() WHERE id = (SELECT min(id::text)::uuid FROM public.projects)",
        {"foreign_key_case_id", "orphans_case_id"},
    ),
    "required reference empty": (
        "cases",
        "ALTER TABLE public.cases ALTER patient_id DROP NOT NULL; UPDATE public.cases"
        " SET patient_id = NULL WHERE id = (SELECT min(id::text)::uuid FROM public.cases)",
        {"required_patient_id"},
    ),
    "legacy key empty": (
        "cases",
        "ALTER TABLE public.cases ALTER legacy_instruction_id DROP NOT NULL; UPDATE public.cases"
        " SET legacy_instruction_id = NULL WHERE id = (SELECT min(id::text)::uuid FROM public.cases)",
        {"required_legacy_instruction_id"},
    ),
    "row security off": (
        "patients",
        "ALTER TABLE public.patients DISABLE ROW LEVEL SECURITY",
        {"row_security_on"},
    ),
    "value outside the enum": (
        "practice_members",
        "ALTER TABLE public.practice_members ALTER role TYPE text; UPDATE public.practice_members SET role = 'king'"
        " WHERE id = (SELECT min(id::text)::uuid FROM public.practice_members)",
        {"enum_role"},
    ),
    "vector missing": (
        "projects",
        "DELETE FROM public.project_embeddings WHERE id = (SELECT min(id::text)::uuid FROM public.project_embeddings)",
        {"embedded"},
    ),
    "vector of a deleted row": (
        "projects",
        "UPDATE public.projects SET deleted_at = now() WHERE id = (SELECT min(id::text)::uuid FROM public.projects);"
        " UPDATE migration.id_map SET state = 'deleted' WHERE target_id IN"
        " (SELECT id FROM public.projects WHERE deleted_at IS NOT NULL)",
        {"vectors_of_live_rows", "keys_deleted_but_there", "keys_without_fate"},
    ),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_corruption_fails_its_own_checks_only(checked: Checked, kind: str) -> None:
    entity, statement, expected = CORRUPTIONS[kind]
    checked.spoil(statement)
    assert checked.failed(entity) == expected


def test_a_child_of_a_merged_patient_is_noticed_and_named(checked: Checked) -> None:
    checked.spoil(
        "UPDATE public.cases SET patient_id = (SELECT id FROM public.patients WHERE merged_into IS NOT NULL)"
        " WHERE legacy_instruction_id = (SELECT min(legacy_instruction_id) FROM public.cases)"
    )
    (key,) = checked.target.execute("SELECT min(legacy_instruction_id) FROM public.cases").fetchone() or (0,)
    check = checked.checks("cases")["merged_patient_id"]
    assert (check.passed, check.found, check.sample_keys) == (False, "1", (str(key),))
    assert checked.failed("cases") == {"merged_patient_id"}


def test_samples_are_few_and_in_order(checked: Checked) -> None:
    checked.spoil("DELETE FROM migration.id_map WHERE entity = 'profiles'")
    check = checked.checks("profiles")["keys_without_fate"]
    assert int(check.found) > 10
    assert list(check.sample_keys) == sorted(check.sample_keys)
    assert len(check.sample_keys) == 10


def test_a_row_that_arrived_after_the_run_began_is_told_apart(checked: Checked) -> None:
    (key,) = checked.source.execute(
        "INSERT INTO dispatch_office (name, tax_rate, valid, emails) VALUES ('new', 0, true, false)"
        " RETURNING id::text"
    ).fetchone() or ("",)
    checks = checked.checks("practices")
    assert checks["keys_without_fate"].passed
    arrived = checks["keys_arrived"]
    assert (arrived.passed, arrived.severity, arrived.sample_keys) == (False, "warn", (key,))
    assert checked.failed("practices") == set()


def test_a_lost_row_is_not_excused_by_an_arrival(checked: Checked) -> None:
    checked.source.execute(
        "INSERT INTO dispatch_office (name, tax_rate, valid, emails) VALUES ('new', 0, true, false)"
    )
    checked.spoil(
        "DELETE FROM migration.id_map WHERE entity = 'practices' AND legacy_id = %s",
        lost := first_key(checked),
    )
    checks = checked.checks("practices")
    check = checks["keys_without_fate"]
    assert (check.passed, check.sample_keys) == (False, (lost,))
    assert checks["keys_arrived"].found == "1"
    assert lost not in checks["keys_arrived"].sample_keys


def first_key(checked: Checked) -> str:
    row = checked.target.execute("SELECT min(legacy_office_id)::text FROM public.practices").fetchone()
    assert row is not None
    return str(row[0])


def test_a_row_that_left_after_it_was_read_is_told_apart(checked: Checked) -> None:
    key = first_key(checked)
    checked.source.execute("DELETE FROM dispatch_office WHERE id = %s", [key])
    checks = checked.checks("practices")
    assert checks["keys_without_source"].passed
    left = checks["keys_left"]
    assert (left.passed, left.severity, left.sample_keys) == (False, "warn", (key,))
    assert checked.failed("practices") == set()


def test_validation_leaves_nothing_behind(checked: Checked) -> None:
    count = "SELECT count(*) FROM pg_class WHERE relnamespace IN ('public'::regnamespace, 'migration'::regnamespace)"
    before = checked.target.execute(count).fetchone()
    checked.checks("patients")
    assert checked.target.execute(count).fetchone() == before


def test_through_the_api_the_same_is_found(
    checked: Checked, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    for entity in ("practices", "profiles", "projects", "patients"):
        checked.spoil("DELETE FROM migration.id_map WHERE entity = %s AND legacy_id LIKE '%%1'", entity)
    checked.spoil("UPDATE public.cases SET deleted_at = now() WHERE legacy_instruction_id %% 2 = 0")
    checked.source.execute("DELETE FROM dispatch_office WHERE id = %s", [first_key(checked)])
    with serving(checked.target.info.dsn) as api:
        connection = {"conn_type": "supabase", "host": api.url, "password": api.keys.secret}
        monkeypatch.setenv("AIRFLOW_CONN_SUPABASE", json.dumps(connection))
        for entity in ENTITIES:
            assert checked.checks(entity, "rest") == checked.checks(entity), entity


def test_an_entitys_own_rules_are_checked(checked: Checked) -> None:
    rules = (
        Rule("named", "SELECT legacy_office_id::text FROM public.practices WHERE name = ''"),
        Rule("old", "SELECT legacy_office_id::text AS x, 1 FROM public.practices", severity="warn"),
    )
    register(checked.target, [replace(ENTITIES["practices"], checks=rules)])
    checks = checked.checks("practices")
    assert (checks["named"].passed, checks["named"].severity, checks["named"].level) == (True, "fail", 4)
    assert (checks["old"].passed, checks["old"].severity) == (False, "warn")
    assert checks["old"].sample_keys[0] == min(checks["old"].sample_keys)
    assert checked.failed("practices") == set()
