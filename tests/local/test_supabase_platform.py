"""The stand-in for what a hosted Supabase project brings along."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from local.environment import PLATFORM_SQL
from local.postgres import EmbeddedPostgres, run_script
from tests.conftest import FAST_SETTINGS

PERSON = UUID("6f9619ff-8b86-4011-b42d-00cf4fc964ff")


def test_the_owner_is_postgres_and_no_superuser(target_database: str) -> None:
    with psycopg.connect(target_database) as connection:
        row = connection.execute(
            "SELECT rolname, rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert row == ("postgres", False, True, True)
        connection.execute("CREATE SCHEMA migration; CREATE TABLE public.t (v extensions.vector(3))")


def test_api_roles(target_database: str) -> None:
    with psycopg.connect(target_database) as connection:
        roles = connection.execute(
            "SELECT rolname, rolcanlogin, rolinherit, rolbypassrls FROM pg_roles"
            " WHERE rolname IN ('anon', 'authenticated', 'service_role', 'authenticator') ORDER BY rolname"
        ).fetchall()
    assert roles == [
        ("anon", False, False, False),
        ("authenticated", False, False, False),
        ("authenticator", True, False, False),
        ("service_role", False, False, True),
    ]


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_a_new_table_is_closed_until_it_is_granted(target_database: str, role: str) -> None:
    with psycopg.connect(target_database, autocommit=True) as connection:
        connection.execute("CREATE TABLE secrets (id int)")
        connection.execute(f"SET ROLE {role}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM secrets")


def test_row_security_sees_the_callers_token(target_database: str) -> None:
    with psycopg.connect(target_database) as connection:
        connection.execute("CREATE TABLE notes (owner uuid)")
        connection.execute("INSERT INTO notes VALUES (%s), (gen_random_uuid())", (PERSON,))
        connection.execute("ALTER TABLE notes ENABLE ROW LEVEL SECURITY")
        connection.execute("CREATE POLICY own ON notes FOR SELECT USING (owner = auth.uid())")
        connection.execute("GRANT SELECT ON notes TO authenticated, service_role")
        claims = json.dumps({"sub": str(PERSON), "role": "authenticated"})
        connection.execute("SELECT set_config('request.jwt.claims', %s, true)", (claims,))
        connection.execute("SET LOCAL ROLE authenticated")
        assert connection.execute("SELECT owner, auth.role() FROM notes").fetchall() == [
            (PERSON, "authenticated")
        ]
        connection.execute("SET LOCAL ROLE service_role")
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (2,)


@pytest.mark.parametrize("claims", [None, ""])
def test_without_a_token_nobody_is_signed_in(target_database: str, claims: str | None) -> None:
    with psycopg.connect(target_database) as connection:
        if claims is not None:
            connection.execute("SELECT set_config('request.jwt.claims', %s, true)", (claims,))
        assert connection.execute("SELECT auth.uid(), auth.role(), auth.jwt()").fetchone() == (
            None,
            None,
            None,
        )


def test_applying_it_again_changes_nothing(server: EmbeddedPostgres, database: str) -> None:
    run_script(database, PLATFORM_SQL)
    before = roles_and_grants(database)
    run_script(database, PLATFORM_SQL)
    assert roles_and_grants(database) == before


def roles_and_grants(dsn: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT rolname, rolcanlogin, rolinherit, rolbypassrls, rolcreaterole FROM pg_roles"
            " UNION ALL SELECT nspname || coalesce(nspacl::text, ''), NULL, NULL, NULL, NULL FROM pg_namespace"
            " UNION ALL SELECT member::regrole || ' in ' || roleid::regrole, NULL, NULL, NULL, NULL"
            " FROM pg_auth_members ORDER BY 1"
        ).fetchall()


def test_postgres_16_takes_it_too(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "server", major=16, settings=FAST_SETTINGS) as older:
        older.create_login("postgres")
        run_script(older.create_database("target"), PLATFORM_SQL)
        with psycopg.connect(older.dsn("target", role="postgres")) as connection:
            connection.execute("CREATE TABLE public.t (v extensions.halfvec(3))")
            assert connection.execute("SELECT auth.uid()").fetchone() == (None,)
