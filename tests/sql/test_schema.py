"""Promises of the deployed schema, asked of the catalogue (docs/target-schema.md, rules for every table)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from include.entities import ENTITIES
from local.environment import PLATFORM_SQL
from local.postgres import EmbeddedPostgres, run_script
from plugins.hooks.schema_files import schema_files
from plugins.hooks.target_schema import check_platform, deploy_schema, register
from tests.conftest import FAST_SETTINGS, fresh_database

OURS = ("public", "migration", "private")
Connection = psycopg.Connection[Any]


def deploy(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        check_platform(connection)
        deploy_schema(connection, 16)
        register(connection, ENTITIES.values())


@pytest.fixture(scope="module")
def deployed(server: EmbeddedPostgres, target_template: str) -> Iterator[str]:
    with fresh_database(server, template=target_template, owner="postgres") as name:
        dsn = server.dsn(name, role="postgres")
        deploy(dsn)
        yield dsn


@pytest.fixture
def connection(deployed: str) -> Iterator[Connection]:
    """Everything a test does is rolled back."""
    with psycopg.connect(deployed) as opened, opened.transaction(force_rollback=True):
        yield opened


def offending(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode(), [list(OURS)]).fetchall()


UNINDEXED_KEYS = """
SELECT c.conrelid::regclass::text, c.conname FROM pg_constraint c
WHERE c.contype = 'f' AND c.connamespace::regnamespace::text = ANY (%s) AND NOT EXISTS (
  SELECT 1 FROM pg_index i WHERE i.indrelid = c.conrelid AND i.indisvalid
    AND (i.indkey::int2[])[0:cardinality(c.conkey) - 1] = c.conkey
    -- A partial index serves only where it leaves out nothing but NULL.
    AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) ~ '^\\(\\w+ IS NOT NULL\\)$'))"""
WITHOUT_ROW_SECURITY = """
SELECT c.oid::regclass::text FROM pg_class c
WHERE c.relkind IN ('r', 'p') AND c.relnamespace::regnamespace::text = ANY (%s) AND NOT c.relrowsecurity"""
GRANTED_TO_ANYONE = """
SELECT c.oid::regclass::text, a.grantee, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace::regnamespace::text = ANY (%s) AND (a.grantee = 0 OR a.grantee = 'anon'::regrole)
UNION ALL
SELECT p.oid::regprocedure::text, a.grantee, a.privilege_type FROM pg_proc p,
  aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
WHERE p.pronamespace::regnamespace::text = ANY ('{public,migration,private}')
  AND (a.grantee = 0 OR a.grantee = 'anon'::regrole)"""
UNPINNED_FUNCTIONS = """
SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace::regnamespace::text = ANY (%s)
AND NOT EXISTS (SELECT 1 FROM unnest(p.proconfig) s WHERE s LIKE 'search_path=%%')"""
WRITABLE_BY_SIGNED_IN = """
SELECT c.oid::regclass::text, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace::regnamespace::text = ANY (%s) AND a.grantee = 'authenticated'::regrole
AND (a.privilege_type <> 'SELECT' OR c.relnamespace <> 'public'::regnamespace)"""
UNVALIDATED = """
SELECT conrelid::regclass::text, conname FROM pg_constraint
WHERE connamespace::regnamespace::text = ANY (%s) AND NOT convalidated"""
EXTENSIONS_IN_PUBLIC = """
SELECT extname FROM pg_extension WHERE extnamespace = 'public'::regnamespace AND %s::text[] IS NOT NULL"""
PROMISES = {
    "every foreign key is indexed": UNINDEXED_KEYS,
    "row security is on everywhere": WITHOUT_ROW_SECURITY,
    "nothing is granted to anon or to everybody": GRANTED_TO_ANYONE,
    "functions pin their search path": UNPINNED_FUNCTIONS,
    "signed-in users only read, and only public": WRITABLE_BY_SIGNED_IN,
    "constraints are validated": UNVALIDATED,
    "extensions live outside public": EXTENSIONS_IN_PUBLIC,
}


@pytest.mark.parametrize("promise", PROMISES)
def test_promise(connection: Connection, promise: str) -> None:
    assert offending(connection, PROMISES[promise]) == []


@pytest.mark.parametrize(
    ("promise", "breach"),
    [
        ("every foreign key is indexed", "DROP INDEX public.cases_patient_id"),
        ("row security is on everywhere", "CREATE TABLE public.forgotten (id int)"),
        ("nothing is granted to anon or to everybody", "GRANT SELECT ON public.cases TO anon"),
        (
            "nothing is granted to anon or to everybody",
            "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql RETURN 1",
        ),
        (
            "functions pin their search path",
            "CREATE FUNCTION migration.f() RETURNS int LANGUAGE sql RETURN 1",
        ),
        ("signed-in users only read, and only public", "GRANT UPDATE ON public.cases TO authenticated"),
    ],
)
def test_a_breach_would_be_noticed(connection: Connection, promise: str, breach: str) -> None:
    connection.execute(breach.encode())
    assert len(offending(connection, PROMISES[promise])) == 1


def test_tables_hold_what_every_table_promises(connection: Connection) -> None:
    stamps = ("created_at", "updated_at", "deleted_at")
    promised = {"id": ("uuid", "NO"), "metadata": ("jsonb", "NO")}
    promised |= dict.fromkeys(stamps, ("timestamp with time zone", "YES"))
    for entity in ENTITIES.values():
        rows = connection.execute(
            "SELECT column_name, data_type, is_nullable FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name = %s",
            [entity.name],
        ).fetchall()
        columns = {name: (kind, nullable) for name, kind, nullable in rows}
        assert {name: columns.get(name) for name in promised} == promised, entity.name
        assert {column.name for column in entity.columns} <= set(columns), entity.name
        assert columns[entity.columns[0].name] == ("bigint", "NO"), entity.name


def test_timestamps_have_a_zone(connection: Connection) -> None:
    naive = "SELECT attrelid::regclass::text FROM pg_attribute JOIN pg_class c ON c.oid = attrelid" \
            " WHERE atttypid = 'timestamp'::regtype AND c.relnamespace::regnamespace::text = ANY (%s)"  # fmt: skip
    assert offending(connection, naive) == []


def test_nothing_invents_history(connection: Connection) -> None:
    """created_at of a business row is the source's or NULL, never the time of the load."""
    rows = connection.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        " AND column_default ~ 'now|current|clock' AND NOT table_name ~ '_embeddings$'"
    ).fetchall()
    assert rows == []


@pytest.mark.parametrize("role", ["anon", "authenticated"])
@pytest.mark.parametrize("schema", ["migration", "private"])
def test_api_roles_do_not_see_the_tracking(connection: Connection, role: str, schema: str) -> None:
    query = (
        "SELECT count(*) FROM pg_class WHERE relnamespace = %s::regnamespace"
        " AND has_table_privilege(%s, oid, 'SELECT')"
    )
    assert connection.execute(query, [schema, role]).fetchone() == (0,)
    usage = connection.execute("SELECT has_schema_privilege(%s, %s, 'USAGE')", [role, schema]).fetchone()
    assert usage == (schema == "private" and role == "authenticated",)


class TestAuditLog:
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE migration.audit_log SET actor = 'somebody else'",
            "DELETE FROM migration.audit_log",
            "TRUNCATE migration.audit_log",
        ],
    )
    def test_takes_rows_and_gives_none_back(self, connection: Connection, statement: str) -> None:
        connection.execute("INSERT INTO migration.audit_log (event) VALUES ('test')")
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"),
            connection.transaction(),
        ):
            connection.execute(statement.encode())
        kept = "SELECT count(*) FROM migration.audit_log WHERE event = 'test' AND actor <> 'somebody else'"
        assert connection.execute(kept).fetchone() == (1,)


class TestEveryRowHasOneFate:
    BATCH = (
        "INSERT INTO migration.batches (run_id, entity, phase, batch, status, extracted,"
        " inserted, updated, unchanged, merged, rejected, skipped)"
        " VALUES ('r', 'cases', %s, 'b', %s, %s, 1, 2, 3, 4, 5, 6)"
    )

    @pytest.fixture(autouse=True)
    def run(self, connection: Connection) -> None:
        connection.execute(
            "INSERT INTO migration.runs (run_id, type, scope, dry_run, status, parameters, mapping_version,"
            " rules_version, code_version)"
            " VALUES ('r', 'full', 'everything', false, 'running', '{}', '1', '1', '1')"
        )

    @pytest.mark.parametrize("extracted", [20, 22])
    def test_a_batch_whose_fates_do_not_add_up_is_refused(
        self, connection: Connection, extracted: int
    ) -> None:
        with pytest.raises(psycopg.errors.CheckViolation, match="every_row_has_one_fate"):
            connection.execute(self.BATCH.encode(), ["loading", "done", extracted])

    @pytest.mark.parametrize(
        ("phase", "status", "extracted"),
        [("loading", "done", 21), ("loading", "failed", 20), ("extraction", "done", 99)],
    )
    def test_one_that_does_is_kept(
        self, connection: Connection, phase: str, status: str, extracted: int
    ) -> None:
        connection.execute(self.BATCH.encode(), [phase, status, extracted])
        assert connection.execute("SELECT count(*) FROM migration.batches").fetchone() == (1,)

    def test_its_change_is_in_the_audit_log(self, connection: Connection) -> None:
        connection.execute(self.BATCH.encode(), ["loading", "done", 21])
        events = connection.execute(
            "SELECT event, details ->> 'extracted' FROM migration.audit_log WHERE run_id = 'r' ORDER BY id"
        ).fetchall()
        assert events == [("run running", None), ("loading batch done", "21")]


class TestRowSecurity:
    """Two practices; the signed-in doctor is a member of the first."""

    @pytest.fixture(autouse=True)
    def rows(self, connection: Connection) -> None:
        connection.execute(
            """
            CREATE FUNCTION pg_temp.id(text) RETURNS uuid LANGUAGE sql RETURN lpad($1, 32, '0')::uuid;
            INSERT INTO public.practices (id, legacy_office_id) VALUES (pg_temp.id('1'), 1), (pg_temp.id('2'), 2);
            INSERT INTO public.profiles (id, legacy_user_id, role, is_active, auth_user_id) VALUES
              (pg_temp.id('11'), 11, 'doctor', true, pg_temp.id('a1')),
              (pg_temp.id('12'), 12, 'doctor', true, NULL),
              (pg_temp.id('13'), 13, 'doctor', false, pg_temp.id('a3'));
            INSERT INTO public.practice_members (id, legacy_office_doctor_id, practice_id, profile_id, role)
              SELECT pg_temp.id(n::text), n, pg_temp.id(p), pg_temp.id(m), 'doctor'
              FROM (VALUES (21, '1', '11'), (22, '2', '12'), (23, '1', '13')) v (n, p, m);
            INSERT INTO public.patients (id, legacy_patient_id, practice_id, patient_number)
              SELECT pg_temp.id(n::text), n, pg_temp.id(p), n::text
              FROM (VALUES (31, '1'), (32, '2'), (33, NULL)) v (n, p);
            INSERT INTO public.cases (id, legacy_instruction_id, patient_id, practice_id, case_number)
              SELECT gen_random_uuid(), legacy_patient_id, id, practice_id, patient_number FROM public.patients;
            INSERT INTO public.case_embeddings
              (id, case_id, content_type, content_hash, model, dimensions, embedding)
              SELECT gen_random_uuid(), id, 'case_summary', '', 'm', 16,
                array_fill(1, ARRAY[16])::extensions.vector FROM public.cases;
            INSERT INTO public.workflow_templates (id, legacy_category_id) VALUES (gen_random_uuid(), 1);
            """
        )

    def seen(self, connection: Connection, table: str, subject: str | None) -> int:
        claims = "" if subject is None else json.dumps({"sub": f"{subject:0>32}"})
        connection.execute("SELECT set_config('request.jwt.claims', %s, true)", [claims])
        with connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL ROLE authenticated")
            query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("public", table))
            (count,) = connection.execute(query).fetchone() or (0,)
        return int(count)

    @pytest.mark.parametrize(
        ("table", "expected"),
        [("practices", 1), ("profiles", 2), ("practice_members", 2), ("patients", 1), ("cases", 1),
         ("case_embeddings", 1), ("workflow_templates", 1)],
    )  # fmt: skip
    def test_a_member_sees_its_practice(self, connection: Connection, table: str, expected: int) -> None:
        assert self.seen(connection, table, "a1") == expected

    @pytest.mark.parametrize("subject", [None, "a3", "ff"], ids=["no token", "inactive", "stranger"])
    @pytest.mark.parametrize("table", ["practices", "profiles", "patients", "cases", "case_embeddings"])
    def test_others_see_nothing(self, connection: Connection, table: str, subject: str | None) -> None:
        assert self.seen(connection, table, subject) == 0

    def test_anon_is_refused(self, connection: Connection) -> None:
        connection.execute("SET LOCAL ROLE anon")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT 1 FROM public.practices")

    def test_searches_obey_the_same_rules(self, connection: Connection) -> None:
        query = "SELECT count(*) FROM public.match_cases(array_fill(1, ARRAY[16])::extensions.vector)"
        connection.execute(
            "SELECT set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": f"{'a1':0>32}"})]
        )
        connection.execute("SET LOCAL ROLE authenticated")
        assert connection.execute(query.encode()).fetchone() == (1,)


def test_postgresql_16_takes_it_all(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "server", major=16, settings=FAST_SETTINGS) as older:
        older.create_login("postgres")
        run_script(older.create_database("target"), PLATFORM_SQL)
        dsn = older.dsn("target", role="postgres")
        deploy(dsn)
        with psycopg.connect(dsn) as connection:
            assert {name: offending(connection, query) for name, query in PROMISES.items()} == {
                name: [] for name in PROMISES
            }
            assert deploy_schema(connection, 16) == []
            deployed = connection.execute("SELECT count(*) FROM migration.schema_versions").fetchone()
            assert deployed == (len(schema_files()),)
            connection.execute("SELECT migration.open_stage('cases')")
            connection.execute("SELECT migration.classify_stage('r', 'cases', false)")
            assert (
                connection.execute("SELECT * FROM migration.apply_stage('r', 'cases', '1', '1')").fetchone()
                == (0,) * 7
            )
            content = "SELECT migration_api.content_fingerprints(e.entity, 3) FROM migration.entities e"
            assert all(found == {} for (found,) in connection.execute(content))


def test_no_statement_of_the_functions_needs_a_where_that_it_lacks() -> None:
    """Hosted Supabase loads safeupdate for the API: an UPDATE or DELETE without WHERE is refused there."""
    for file in schema_files():
        text = re.sub(r"--[^\n]*", "", file.sql)
        # Not those of INSERT … ON CONFLICT DO UPDATE and of triggers.
        statements = re.findall(
            r"(?<!DO )(?<!BEFORE )(?<!AFTER )(?<!OR )\b(?:UPDATE|DELETE FROM) [\w.%]+ (?!OR\b)[^;]*?(?:;|\$\$)",
            text,
        )
        assert [statement for statement in statements if "WHERE" not in statement] == [], file.name
