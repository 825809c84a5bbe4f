"""The rules of Supabase's database linter, and that each of them would notice an offence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from local.environment import PROJECT
from local.postgres import EmbeddedPostgres
from plugins.hooks.target_schema import deploy_schema
from tests.api.test_policies import HOSTED_DEFAULTS
from tests.conftest import fresh_database

CHECKS = (PROJECT / "include" / "sql" / "checks" / "security.sql").read_text(encoding="utf-8")
Connection = psycopg.Connection[Any]
# Tables that nobody but the service and the owner may read need no policy.
EXPECTED_INFO = {"rls_enabled_no_policy"}


@pytest.fixture(scope="module")
def deployed(server: EmbeddedPostgres, target_template: str) -> Iterator[str]:
    """Name of a deployed target with the grants that a hosted project makes by itself."""
    with fresh_database(server, template=target_template, owner="postgres") as name:
        with psycopg.connect(server.dsn(name, role="postgres"), autocommit=True) as connection:
            connection.execute(HOSTED_DEFAULTS)
            deploy_schema(connection, 16)
        yield name


@pytest.fixture
def connection(server: EmbeddedPostgres, deployed: str) -> Iterator[Connection]:
    """As superuser; everything a test does is rolled back."""
    with psycopg.connect(server.dsn(deployed)) as opened, opened.transaction(force_rollback=True):
        yield opened


def offences(connection: Connection) -> set[tuple[str, str, str]]:
    """Name, level and object."""
    return set(connection.execute(CHECKS.encode()).fetchall())


def test_the_deployed_schema_is_clean(connection: Connection) -> None:
    found = offences(connection)
    assert {offence for offence in found if offence[0] not in EXPECTED_INFO} == set()
    assert {level for _, level, _ in found} == {"INFO"}
    assert all(name.startswith("migration.") for _, _, name in found)


def test_the_owner_may_ask_too(server: EmbeddedPostgres, deployed: str, connection: Connection) -> None:
    with psycopg.connect(server.dsn(deployed, role="postgres")) as owner:
        assert offences(owner) == offences(connection)


OPEN_TABLE = "CREATE TABLE public.t (id int PRIMARY KEY, password text, kind regproc)"
SECURED = "CREATE TABLE public.t (id int PRIMARY KEY); ALTER TABLE public.t ENABLE ROW LEVEL SECURITY"
POLICY = f"{SECURED}; CREATE POLICY p ON public.t FOR"
FUNCTION = "CREATE FUNCTION {}.f() RETURNS int LANGUAGE sql {} AS 'SELECT 1'"
USERS = "CREATE TABLE auth.users (id uuid PRIMARY KEY, email text UNIQUE)"
MUTATIONS: dict[tuple[str, str, str], list[str]] = {
    ("rls_disabled_in_public", "ERROR", "public.t"): [OPEN_TABLE],
    ("policy_exists_rls_disabled", "ERROR", "public.cases: own_practices"): [
        "ALTER TABLE public.cases DISABLE ROW LEVEL SECURITY"
    ],
    ("rls_enabled_no_policy", "INFO", "public.cases"): ["DROP POLICY own_practices ON public.cases"],
    ("auth_rls_initplan", "WARN", "public.t: p"): [
        f"{POLICY} SELECT USING (auth.uid() IS NOT NULL AND (SELECT auth.role()) = 'x')",
        f"{POLICY} SELECT USING ((SELECT auth.uid()) IS NOT NULL AND current_setting('a') = 'x')",
        f"{POLICY} INSERT WITH CHECK (id IN (SELECT 1) AND private.own_profile() IS NOT NULL)",
    ],
    ("multiple_permissive_policies", "WARN", "public.t: p, q"): [
        f"{POLICY} SELECT TO authenticated USING (id = 1); CREATE POLICY q ON public.t TO authenticated USING (id = 2)"
    ],
    ("rls_policy_always_true", "WARN", "public.t: p"): [
        f"{POLICY} ALL USING (true)",
        f"{POLICY} UPDATE USING (id = 1) WITH CHECK (true)",
        f"{POLICY} UPDATE USING (1 = 1) WITH CHECK (id = 1)",
        f"{POLICY} INSERT WITH CHECK (true)",
        f"{POLICY} DELETE USING (true)",
    ],
    ("rls_references_user_metadata", "ERROR", "public.t: p"): [
        f"{POLICY} SELECT USING (((SELECT auth.jwt()) -> 'user_metadata' ->> 'role') = 'admin')"
    ],
    ("security_definer_view", "ERROR", "public.v"): ["CREATE VIEW public.v AS SELECT * FROM public.cases"],
    ("auth_users_exposed", "ERROR", "public.v"): [
        f"{USERS}; CREATE VIEW public.v AS SELECT email FROM auth.users; GRANT SELECT ON public.v TO anon",
        f"{USERS}; CREATE VIEW public.v WITH (security_invoker) AS SELECT email FROM auth.users",
        f"{USERS}; CREATE MATERIALIZED VIEW public.v AS SELECT email FROM auth.users",
    ],
    ("materialized_view_in_api", "WARN", "public.v"): [
        "CREATE MATERIALIZED VIEW public.v AS SELECT * FROM public.cases"
    ],
    ("foreign_table_in_api", "WARN", "public.f"): [
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
        "CREATE FOREIGN TABLE public.f (id int) SERVER s"
    ],
    ("sensitive_columns_exposed", "ERROR", "public.t.password"): [OPEN_TABLE],
    ("sensitive_columns_exposed", "ERROR", "public.profiles.email"): [
        "ALTER TABLE public.profiles DISABLE ROW LEVEL SECURITY"
    ],
    ("function_search_path_mutable", "WARN", "public.f()"): [FUNCTION.format("public", "")],
    ("function_search_path_mutable", "WARN", "private.f()"): [
        FUNCTION.format("private", "SET work_mem = '1MB'")
    ],
    ("anon_security_definer_function_executable", "WARN", "public.f()"): [
        FUNCTION.format("public", "SECURITY DEFINER SET search_path = ''")
    ],
    ("authenticated_security_definer_function_executable", "WARN", "migration_api.f()"): [
        FUNCTION.format("migration_api", "SECURITY DEFINER SET search_path = ''")
    ],
    ("extension_in_public", "WARN", "vector"): ["ALTER EXTENSION vector SET SCHEMA public"],
    ("unindexed_foreign_keys", "INFO", "public.cases: cases_patient_id_fkey"): [
        "DROP INDEX public.cases_patient_id",
        "DROP INDEX public.cases_patient_id; CREATE INDEX ON public.cases (patient_id) WHERE is_deleted",
        "DROP INDEX public.cases_patient_id; CREATE INDEX ON public.cases (practice_id, patient_id)",
    ],
    ("duplicate_index", "WARN", "public.cases: cases_patient_id, i"): ["CREATE INDEX i ON public.cases (patient_id)"],
    ("no_primary_key", "INFO", "migration.t"): ["CREATE TABLE migration.t (id int)"],
    ("fkey_to_auth_unique", "ERROR", "public.t: t_email_fkey"): [
        f"{USERS}; CREATE TABLE public.t (email text REFERENCES auth.users (email))"
    ],
    ("unsupported_reg_types", "WARN", "public.t.kind"): [OPEN_TABLE],
    ("granted_to_anon", "ERROR", "public.cases"): [
        "GRANT SELECT ON public.cases TO anon",
        "GRANT INSERT ON public.cases TO PUBLIC",
    ],
    ("granted_to_anon", "ERROR", "migration.f()"): [FUNCTION.format("migration", "SET search_path = ''")],
    ("granted_to_anon", "ERROR", "public.s"): ["CREATE SEQUENCE public.s; GRANT USAGE ON SEQUENCE public.s TO anon"],
    ("writable_by_authenticated", "ERROR", "public.cases"): [
        "GRANT INSERT ON public.cases TO authenticated",
        "GRANT TRUNCATE ON public.cases TO authenticated",
    ],
    ("migration_open_to_users", "ERROR", "migration.quarantine"): [
        "GRANT SELECT ON migration.quarantine TO authenticated"
    ],
    ("migration_open_to_users", "ERROR", "migration_api.f()"): [
        FUNCTION.format("migration_api", "SET search_path = ''")
    ],
    ("migration_open_to_users", "ERROR", "schema migration"): ["GRANT USAGE ON SCHEMA migration TO authenticated"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("offence", "mutation"),
    [(offence, mutation) for offence, mutations in MUTATIONS.items() for mutation in mutations],
)
def test_an_offence_would_be_noticed(
    connection: Connection, offence: tuple[str, str, str], mutation: str
) -> None:
    connection.execute(HOSTED_DEFAULTS)  # of the role that is asking now
    before = offences(connection)
    connection.execute(mutation.encode())
    assert offence in offences(connection) - before


def test_every_check_was_made_to_fail() -> None:
    assert set(re.findall(r"SELECT '(\w+)'(?: AS name)?, '(\w+)'", CHECKS)) == {
        (name, level) for name, level, _ in MUTATIONS
    }


def test_harmless_things_are_not_objected_to(connection: Connection) -> None:
    connection.execute(
        f"{POLICY} SELECT TO authenticated USING (id = (SELECT count(*) FROM public.cases));"
        " REVOKE ALL ON public.t FROM anon, authenticated; GRANT SELECT ON public.t TO authenticated;"
        " CREATE VIEW public.v WITH (security_invoker = on) AS SELECT * FROM public.t;"
        " CREATE POLICY q ON public.t FOR INSERT TO authenticated WITH CHECK (id = 1)"
    )
    assert {offence for offence in offences(connection) if offence[0] not in EXPECTED_INFO} == set()
