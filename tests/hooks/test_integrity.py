"""Level 4: the target still is what was deployed and loaded; each corruption fails the check that is for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from include.core.ids import target_id
from include.core.tracking import Check, failures
from include.entities import ENTITIES
from local import schema
from local.postgres import EmbeddedPostgres
from plugins.hooks import target_schema
from plugins.hooks.comparison import Comparison
from plugins.hooks.merging import settle, unmerge
from plugins.hooks.schema_files import SchemaFile, schema_files
from plugins.hooks.target_postgres import PostgresTarget
from plugins.hooks.target_schema import deploy
from plugins.hooks.tracking import TrackingHook
from tests.conftest import fresh_database
from tests.hooks.loading import DIMENSIONS, Target, case, patient, practice, profile, project

RUN = "run-1"
UID = "11111111-1111-4111-8111-111111111111"


ONE, OTHER, THIRD, STRANGER = 1, 2, 3, 4


@pytest.fixture(scope="module")
def loaded(server: EmbeddedPostgres, deployed_template: str) -> Iterator[Target]:
    """Patients 2 and 3 are 1, by the pairs 1-2 and 2-3; 4 is somebody else. The office of case 9 is not there."""
    with (
        fresh_database(server, template=deployed_template, owner="postgres") as name,
        psycopg.connect(server.dsn(name, role="postgres"), autocommit=True) as connection,
    ):
        target = Target(connection, PostgresTarget(connection))
        target.load("practices", [practice(1)])
        target.load("profiles", [profile(1)])
        target.decide(RUN, {OTHER: ONE, THIRD: ONE})
        for left, right in ((ONE, OTHER), (OTHER, THIRD)):
            target.connection.execute(
                "INSERT INTO migration.duplicate_pairs"
                " (entity, left_legacy_id, right_legacy_id, score, explanation, status)"
                " VALUES ('patients', %s, %s, 1, '{}', 'auto_merged')",
                [str(left), str(right)],
            )
        target.load("patients", [patient(ONE), patient(STRANGER)])
        target.load("patients", [patient(OTHER, first_name="Ada"), patient(THIRD)], batch="merged-0")
        gone = target_id("practices", "77")
        target.load("cases", [*(case(key, key) for key in (ONE, OTHER, THIRD)), case(9, 4, practice_id=gone)])
        target.load("projects", [project(1, legacy_uid=UID), project(2)])
        settle(target.api, RUN, "patients", dry_run=False)
        # A complete run: only what is decided from now on waits for the next one.
        connection.execute("UPDATE migration.runs SET started_at = now() WHERE run_id = %s", [RUN])
        connection.execute("INSERT INTO migration.watermarks (name, run_id) VALUES ('source', %s)", [RUN])
        yield target


@pytest.fixture
def spoilt(loaded: Target) -> Iterator[Target]:
    """The same, to be spoilt: it is as before behind the test."""
    with loaded.connection.transaction(force_rollback=True):
        yield loaded


def of_schema(target: Target) -> dict[str, Check]:
    return {check.name: check for check in Comparison(target.api, TrackingHook(target.api, RUN)).schema()}


def of_records(target: Target, entity: str) -> dict[str, Check]:
    """What is asked beside constraints and own rules."""
    comparison = Comparison(target.api, TrackingHook(target.api, RUN))
    known = {result["name"] for result in target.api.call("check_integrity", entity=entity)}
    return {check.name: check for check in comparison.integrity(ENTITIES[entity]) if check.name not in known}


def not_passed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if not check.passed}


class TestSchema:
    @pytest.mark.parametrize("target", ["postgres", "rest"], indirect=True)
    def test_what_was_deployed_passes_and_quickly(self, target: Target) -> None:
        started = time.monotonic()
        checks = of_schema(target)
        assert time.monotonic() - started < 2
        assert not_passed(checks) == set()
        assert set(checks) == {
            "schema_as_deployed",
            "schema_additions",
            "anon_has_nothing",
            "users_only_read",
            "row_security_everywhere",
        }
        assert {(check.entity, check.level) for check in checks.values()} == {("target", 4)}

    def test_what_runs_change_by_themselves_is_no_drift(self, target: Target) -> None:
        target.load("projects", [project(1)])
        target.all("SELECT migration.fit_vectors(32)")
        for entity in ("projects", "cases"):
            target.api.call("build_index", entity=entity)
            target.api.call("refresh_statistics", entity=entity)
        assert target.all("SELECT to_regclass('migration.project_contents_hnsw') IS NOT NULL") == [(True,)]
        assert not_passed(of_schema(target)) == set()


@dataclass(frozen=True)
class Drift:
    """What somebody did to the schema, the checks that fail (or warn), and what one of them names."""

    statement: str
    checks: tuple[str, ...]
    key: str


DEPLOYED = "schema_as_deployed"
DRIFT = {
    "row security off": Drift(
        "ALTER TABLE public.patients DISABLE ROW LEVEL SECURITY",
        (DEPLOYED, "row_security_everywhere"),
        "row security public.patients: changed",
    ),
    "row security off in schema migration": Drift(
        "ALTER TABLE migration.quarantine DISABLE ROW LEVEL SECURITY",
        (DEPLOYED, "row_security_everywhere"),
        "row security migration.quarantine: changed",
    ),
    "grant to anon": Drift(
        "GRANT SELECT ON public.patients TO anon",
        (DEPLOYED, "anon_has_nothing"),
        "grant public.patients to anon: added",
    ),
    "grant of one column to anon": Drift(
        "GRANT SELECT (email) ON public.patients TO anon",
        (DEPLOYED, "anon_has_nothing"),
        "grant public.patients to anon on email: added",
    ),
    "grant to everybody": Drift(
        "GRANT EXECUTE ON FUNCTION migration_api.unmerge TO PUBLIC",
        (DEPLOYED, "anon_has_nothing", "users_only_read"),
        "grant migration_api.unmerge(text,text,text,text) to PUBLIC: added",
    ),
    "users may write": Drift(
        "GRANT UPDATE ON public.cases TO authenticated",
        (DEPLOYED, "users_only_read"),
        "grant public.cases to authenticated: changed",
    ),
    "grant taken away": Drift(
        "REVOKE SELECT ON public.cases FROM authenticated",
        (DEPLOYED,),
        "grant public.cases to authenticated: gone",
    ),
    "view of others, open to anon": Drift(
        "CREATE SCHEMA shop; CREATE VIEW shop.people AS SELECT email FROM public.patients;"
        " GRANT SELECT ON shop.people TO anon",
        ("anon_has_nothing",),
        "shop.people: SELECT",
    ),
    "policy added": Drift(
        "CREATE POLICY open ON public.cases FOR SELECT TO authenticated USING (true)",
        (DEPLOYED,),
        "policy public.cases open: added",
    ),
    "policy changed": Drift(
        "ALTER POLICY own_practices ON public.cases USING (true)",
        (DEPLOYED,),
        "policy public.cases own_practices: changed",
    ),
    "trigger added": Drift(
        "CREATE FUNCTION public.spoil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        " CREATE TRIGGER spoil BEFORE INSERT ON public.cases FOR EACH ROW EXECUTE FUNCTION public.spoil()",
        (DEPLOYED,),
        "trigger public.cases spoil: added",
    ),
    "rule added": Drift(
        "CREATE RULE quiet AS ON DELETE TO public.cases DO INSTEAD NOTHING",
        (DEPLOYED,),
        "rule public.cases quiet: added",
    ),
    "function changed": Drift(
        "CREATE OR REPLACE FUNCTION private.own_profile() RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER"
        " SET search_path = '' AS 'SELECT NULL::uuid'",
        (DEPLOYED,),
        "function private.own_profile(): changed",
    ),
    "constraint gone": Drift(
        "ALTER TABLE public.practices DROP CONSTRAINT practices_legacy_office_id_key",
        (DEPLOYED,),
        "constraint public.practices practices_legacy_office_id_key: gone",
    ),
    "constraint not validated": Drift(
        "ALTER TABLE public.projects DROP CONSTRAINT projects_case_id_fkey, ADD CONSTRAINT projects_case_id_fkey"
        " FOREIGN KEY (case_id) REFERENCES public.cases DEFERRABLE NOT VALID",
        (DEPLOYED,),
        "constraint public.projects projects_case_id_fkey: changed",
    ),
    "column may be NULL": Drift(
        "ALTER TABLE public.cases ALTER patient_id DROP NOT NULL",
        (DEPLOYED,),
        "column public.cases patient_id: changed",
    ),
    "default changed": Drift(
        "ALTER TABLE public.cases ALTER clinical SET DEFAULT '[]'",
        (DEPLOYED,),
        "column public.cases clinical: changed",
    ),
    "enum got a value": Drift(
        "ALTER TYPE public.gender_type ADD VALUE 'other one'",
        (DEPLOYED,),
        "enum public.gender_type: changed",
    ),
    "index gone": Drift(
        "DROP INDEX public.cases_patient_id", (DEPLOYED,), "index public.cases cases_patient_id: gone"
    ),
    "view changed": Drift(
        "ALTER VIEW public.current_patients SET (security_invoker = false)",
        (DEPLOYED,),
        "relation public.current_patients: changed",
    ),
    "hash of a file edited": Drift(
        "UPDATE migration.schema_versions SET hash = 'x' WHERE name = 'target/0001_types.sql'",
        (DEPLOYED,),
        "file migration.schema_versions target/0001_types.sql: changed",
    ),
    "record emptied": Drift("DELETE FROM migration.schema_objects", (DEPLOYED,), "no deployment is recorded"),
    "index of somebody": Drift(
        "CREATE INDEX theirs ON public.cases (title)",
        ("schema_additions",),
        "index public.cases theirs: added",
    ),
    "column of somebody": Drift(
        "ALTER TABLE public.cases ADD theirs text", ("schema_additions",), "column public.cases theirs: added"
    ),
}


@pytest.mark.parametrize("kind", DRIFT)
def test_a_change_of_the_schema_is_noticed_and_named(spoilt: Target, kind: str) -> None:
    drift = DRIFT[kind]
    spoilt.connection.execute(drift.statement.encode())
    checks = of_schema(spoilt)
    assert not_passed(checks) == set(drift.checks)
    assert drift.key in {key for name in drift.checks for key in checks[name].sample_keys}
    if drift.checks == ("schema_additions",):
        assert failures(checks.values()) == []


class TestRecord:
    """The record follows deployments, and nothing else."""

    def test_a_run_that_deploys_nothing_records_nothing(self, spoilt: Target) -> None:
        spoilt.connection.execute("ALTER TABLE public.patients DISABLE ROW LEVEL SECURITY")
        deploy(spoilt.connection, DIMENSIONS)
        assert "schema_as_deployed" in not_passed(of_schema(spoilt))

    def test_what_new_files_change_is_recorded_and_what_somebody_did_is_not(
        self, spoilt: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spoilt.connection.execute(
            "ALTER TABLE public.patients DISABLE ROW LEVEL SECURITY; CREATE INDEX theirs ON public.cases (title)"
        )
        new = SchemaFile(
            "target/9999_later.sql",
            "ALTER TABLE public.cases ADD later text; DROP INDEX public.cases_patient_id;"
            " CREATE OR REPLACE FUNCTION private.own_profile() RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER"
            " SET search_path = '' AS 'SELECT NULL::uuid';",
        )
        monkeypatch.setattr(target_schema, "schema_files", lambda: [*schema_files(), new])
        assert deploy(spoilt.connection, None) == ["target/9999_later.sql"]
        checks = of_schema(spoilt)
        assert checks["schema_as_deployed"].sample_keys == ("row security public.patients: changed",)
        assert checks["schema_additions"].sample_keys == ("index public.cases theirs: added",)

    def test_the_owner_may_accept_the_schema_as_it_is(self, spoilt: Target) -> None:
        spoilt.connection.execute("DROP INDEX public.cases_patient_id")
        spoilt.all("SELECT migration.accept_schema()")
        assert not_passed(of_schema(spoilt)) == set()

    def test_the_service_role_cannot_write_it(self, spoilt: Target) -> None:
        spoilt.connection.execute("SET LOCAL ROLE service_role")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            spoilt.connection.execute("DELETE FROM migration.schema_objects")


def test_files_of_the_supabase_cli_record_the_same(target_database: str, tmp_path: Path) -> None:
    schema.write(tmp_path, DIMENSIONS)
    with psycopg.connect(target_database, autocommit=True) as connection:
        for path in sorted(tmp_path.glob("*.sql")):
            connection.execute(path.read_bytes())
        found = Target(connection, PostgresTarget(connection))
        assert not_passed(of_schema(found)) == set()
        before = found.all("SELECT xmin::text, o::text FROM migration.schema_objects o ORDER BY 2")
        assert deploy(connection, DIMENSIONS) == []
        assert found.all("SELECT xmin::text, o::text FROM migration.schema_objects o ORDER BY 2") == before


def _set_patient(change: str, key: int) -> str:
    return f"UPDATE public.patients SET {change} WHERE legacy_patient_id = {key}"


def _id(key: int) -> str:
    return f"'{target_id('patients', str(key))}'"


RECORDS = {
    "merge that nobody made": (
        "patients",
        _set_patient(f"merged_into = {_id(ONE)}", STRANGER),
        {"merges_recorded"},
        str(STRANGER),
    ),
    "merge that only the id map knows": (
        "patients",
        _set_patient(f"merged_into = {_id(ONE)}", STRANGER)
        + f"; UPDATE migration.id_map SET state = 'merged', survivor_id = {_id(ONE)}"
        f" WHERE entity = 'patients' AND legacy_id = '{STRANGER}'",
        {"merges_recorded", "merges_justified", "merges_by_pairs"},
        str(STRANGER),
    ),
    "merge that everything knows but the pairs": (
        "patients",
        _set_patient(f"merged_into = {_id(ONE)}", STRANGER)
        + f"; UPDATE migration.id_map SET state = 'merged', survivor_id = {_id(ONE)}"
        f" WHERE entity = 'patients' AND legacy_id = '{STRANGER}'; INSERT INTO migration.merges"
        f" (run_id, entity, survivor_id, merged_id) VALUES ('run-1', 'patients', {_id(ONE)}, {_id(STRANGER)})",
        {"merges_justified", "merges_by_pairs"},
        str(STRANGER),
    ),
    "merge taken back in the row": (
        "patients",
        _set_patient("merged_into = NULL", OTHER),
        {"merges_recorded"},
        str(OTHER),
    ),
    "merge led to another": (
        "patients",
        f"UPDATE migration.merges SET survivor_id = {_id(STRANGER)} WHERE merged_id = {_id(OTHER)}",
        {"merges_recorded"},
        str(OTHER),
    ),
    "record of a merge removed": (
        "patients",
        f"DELETE FROM migration.merges WHERE merged_id = {_id(OTHER)}",
        {"merges_recorded"},
        str(OTHER),
    ),
    "record of a merge of nobody": (
        "patients",
        "INSERT INTO migration.merges (run_id, entity, survivor_id, merged_id) VALUES ('run-1', 'patients',"
        f" {_id(ONE)}, {_id(99)})",
        {"merges_recorded"},
        target_id("patients", "99"),
    ),
    "survivor gone": (
        "patients",
        _set_patient("deleted_at = now()", ONE),
        {"merges_recorded"},
        str(OTHER),
    ),
    "pair rejected long ago": (
        "patients",
        "UPDATE migration.duplicate_pairs SET status = 'rejected', decided_at = '2020-01-01',"
        " reviewed_at = '2020-01-01' WHERE right_legacy_id = '3'",
        {"merges_justified", "merges_by_pairs"},
        str(THIRD),
    ),
    "pair waits for a person": (
        "patients",
        "UPDATE migration.duplicate_pairs SET status = 'pending' WHERE right_legacy_id = '3'",
        {"merges_by_pairs"},
        str(THIRD),
    ),
    "redirect to nobody": (
        "cases",
        "UPDATE migration.redirects SET original_id = gen_random_uuid() WHERE legacy_id = '2'",
        {"redirects_settled"},
        str(OTHER),
    ),
    "redirect of a reference that is there": (
        "cases",
        f"UPDATE migration.redirects SET original_id = {_id(STRANGER)} WHERE legacy_id = '2'",
        {"redirects_settled"},
        str(OTHER),
    ),
    "redirect of a row that is gone": (
        "cases",
        "UPDATE migration.redirects SET legacy_id = '99' WHERE legacy_id = '2'",
        {"redirects_settled"},
        "99",
    ),
    "the parent came": (
        "cases",
        "INSERT INTO public.practices (id, legacy_office_id) SELECT original_id, 77 FROM migration.redirects"
        " WHERE legacy_id = '9'",
        {"redirects_settled"},
        "9",
    ),
    "redirect of no reference": (
        "cases",
        'INSERT INTO migration.redirects (entity, legacy_id, "column", original_id)'
        " VALUES ('cases', '1', 'title', gen_random_uuid())",
        {"redirects_settled"},
        "1",
    ),
    "legacy id twice": (
        "patients",
        "ALTER TABLE public.patients DROP CONSTRAINT patients_legacy_patient_id_key; "
        + _set_patient(f"legacy_patient_id = {ONE}", STRANGER),
        {"values_unique"},
        str(STRANGER),
    ),
    "another id": (
        "practices",
        "UPDATE migration.id_map SET target_id = gen_random_uuid() WHERE entity = 'practices'",
        {"ids_deterministic"},
        "1",
    ),
    "reason of a refusal removed": (
        "practices",
        "INSERT INTO migration.id_map (entity, legacy_id, target_id, state, first_run, last_run)"
        f" VALUES ('practices', '5', '{target_id('practices', '5')}', 'quarantined', '', '')",
        {"quarantine_explained"},
        "5",
    ),
}


def test_clean_records_pass(spoilt: Target) -> None:
    for entity in ENTITIES:
        checks = of_records(spoilt, entity)
        assert not_passed(checks) == set(), entity
        assert {"redirects_settled", "values_unique", "ids_deterministic", "quarantine_explained"} <= set(
            checks
        )
    assert "merges_recorded" in of_records(spoilt, "patients")


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_that_is_wrong_is_noticed_and_named(spoilt: Target, kind: str) -> None:
    entity, statement, expected, key = RECORDS[kind]
    spoilt.connection.execute(statement.encode())
    checks = of_records(spoilt, entity)
    found = not_passed(checks)
    assert found == expected
    assert any(key in checks[name].sample_keys for name in found)


def test_values_that_only_live_rows_must_not_share(spoilt: Target) -> None:
    spoilt.connection.execute(
        f"ALTER TABLE public.projects DROP CONSTRAINT projects_legacy_uid_key;"
        f" UPDATE public.projects SET legacy_uid = '{UID}', deleted_at = now() WHERE legacy_project_id = 2".encode()
    )
    assert of_records(spoilt, "projects")["values_unique"].passed
    spoilt.connection.execute("UPDATE public.projects SET deleted_at = NULL WHERE legacy_project_id = 2")
    check = of_records(spoilt, "projects")["values_unique"]
    assert (check.found, check.sample_keys) == ("2", ("1", "2"))


def test_behind_an_undone_merge_nothing_is_wrong(spoilt: Target) -> None:
    """The pairs that led to the third row went through the second: the next run decides about it."""
    spoilt.connection.execute("DELETE FROM migration.run_lock")
    unmerge(spoilt.api, "patients", str(OTHER), "Dr. Who", "Two people")
    for entity in ("patients", "cases"):
        assert not_passed(of_records(spoilt, entity)) == set()


def test_behind_a_deletion_nothing_is_wrong(spoilt: Target) -> None:
    spoilt.delete("cases", "2", "9")
    spoilt.delete("patients", str(STRANGER))
    for entity in ("patients", "cases"):
        assert not_passed(of_records(spoilt, entity)) == set(), entity
