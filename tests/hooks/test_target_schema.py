"""Deployment of the schema, in a real target."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from include.core.errors import MigrationError
from include.entities import ENTITIES
from local.environment import connection_variable
from plugins.hooks import target_schema
from plugins.hooks.schema_files import SchemaFile, schema_files
from plugins.hooks.target_postgres import session
from plugins.hooks.target_schema import (
    check_platform,
    deploy_schema,
    is_deployed,
    register,
    registration,
    vector_dimensions,
    verify_schema,
)
from tests.hooks.loading import DIMENSIONS, Target

SECRET = "Zweifelstein"


def one_hook_session(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AIRFLOW_CONN_SUPABASE_DB", connection_variable(dsn))
    return session()


def schemas(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname IN ('public', 'migration', 'private') ORDER BY 1, 2"
    ).fetchall()


class TestDeployment:
    def test_deploys_everything_once(self, target_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with one_hook_session(target_database, monkeypatch) as connection:
            check_platform(connection)
            assert not is_deployed(connection)
            assert deploy_schema(connection, 384) == [file.name for file in schema_files()]
            assert is_deployed(connection)
            assert vector_dimensions(connection) == 384
            before = schemas(connection)
            assert deploy_schema(connection, 1536) == []
            assert (schemas(connection), vector_dimensions(connection)) == (before, 384)
            recorded = connection.execute("SELECT name, hash FROM migration.schema_versions").fetchall()
            assert sorted(recorded) == sorted((file.name, file.hash) for file in schema_files())

    def test_without_a_provider_the_vectors_have_1536_dimensions(
        self, target_database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with one_hook_session(target_database, monkeypatch) as connection:
            deploy_schema(connection, None)
            assert vector_dimensions(connection) == 1536

    @pytest.mark.parametrize("change", ["edited", "unknown"])
    def test_refuses_a_target_deployed_from_other_files(
        self, target: Target, monkeypatch: pytest.MonkeyPatch, change: str
    ) -> None:
        files = schema_files()
        last = SchemaFile(files[-1].name, files[-1].sql + "\n-- edited")
        other = [*files[:-1], last] if change == "edited" else files[:-1]
        monkeypatch.setattr(target_schema, "schema_files", lambda: other)
        before = schemas(target.connection)
        with pytest.raises(MigrationError) as caught:
            deploy_schema(target.connection, None)
        assert caught.value.code == "TARGET_SCHEMA_CHANGED"
        assert last.name in str(caught.value)
        assert schemas(target.connection) == before

    def test_deploys_a_new_file_behind_the_recorded_ones(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        new = SchemaFile("target/9999_later.sql", "CREATE TABLE public.later (id int);")
        monkeypatch.setattr(target_schema, "schema_files", lambda: [*schema_files(), new])
        assert deploy_schema(target.connection, None) == ["target/9999_later.sql"]
        assert target.all("SELECT count(*) FROM public.later") == [(0,)]

    @pytest.mark.parametrize(
        ("name", "existing"),
        [
            ("patients", "CREATE TABLE public.patients (mine text)"),
            ("project_embeddings", "CREATE TABLE public.project_embeddings (mine text)"),
            ("user_role", "CREATE TYPE public.user_role AS ENUM ('mine')"),
            (
                "match_cases",
                "CREATE FUNCTION public.match_cases(extensions.vector, integer, double precision)"
                " RETURNS int LANGUAGE sql RETURN 1",
            ),
        ],
    )
    def test_never_touches_what_it_did_not_deploy(
        self, target_database: str, monkeypatch: pytest.MonkeyPatch, name: str, existing: str
    ) -> None:
        with one_hook_session(target_database, monkeypatch) as connection:
            connection.execute(existing.encode())
            before = schemas(connection)
            with pytest.raises(MigrationError) as caught:
                deploy_schema(connection, 384)
            assert caught.value.code == "TARGET_SCHEMA_FOREIGN"
            assert name in str(caught.value)
            assert schemas(connection) == before

    def test_names_what_a_plain_postgresql_lacks(
        self, target_template: str, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with (
            one_hook_session(database, monkeypatch) as connection,
            pytest.raises(MigrationError) as caught,
        ):
            check_platform(connection)
        assert caught.value.code == "TARGET_PLATFORM_MISSING"
        assert "auth, extensions, vector" in str(caught.value)

    def test_registering_again_follows_the_entity_files(self, target: Target) -> None:
        target.all("UPDATE migration.entities SET columns = '{}', refs = '[]' RETURNING 1")
        register(target.connection, ENTITIES.values())
        (columns,) = target.all("SELECT columns FROM migration.entities WHERE entity = 'cases'")[0]
        assert columns == [column.name for column in ENTITIES["cases"].columns]


class TestVerification:
    """What a run finds out through the API, by which nothing can be deployed."""

    def test_a_deployed_target_is_as_expected(self, target: Target) -> None:
        verify_schema(target.api, DIMENSIONS)
        verify_schema(target.api, None)

    @pytest.mark.parametrize(
        ("statement", "named"),
        [
            (
                "DELETE FROM migration.schema_versions WHERE name = 'target/0004_security.sql'",
                "not deployed: target/0004_security.sql",
            ),
            (
                "UPDATE migration.schema_versions SET hash = 'x' WHERE name = 'target/0001_types.sql'",
                "deployed from other files: target/0001_types.sql",
            ),
            (
                "UPDATE migration.schema_versions SET hash = NULL WHERE name = 'target/0001_types.sql'",
                "deployed from other files: target/0001_types.sql",
            ),
            (
                "INSERT INTO migration.schema_versions (name) VALUES ('target/9999_later.sql')",
                "deployed but unknown here: target/9999_later.sql",
            ),
            ("DELETE FROM migration.schema_versions", "not deployed: migration/0001_tracking.sql"),
            (
                "UPDATE migration.entities SET columns = '{}' WHERE entity = 'cases'",
                "entities registered otherwise: cases",
            ),
            (
                "DELETE FROM migration.finding_kinds WHERE code = 'name_empty'",
                "codes registered otherwise: name_empty",
            ),
        ],
    )
    def test_what_is_missing_or_different_is_named(self, target: Target, statement: str, named: str) -> None:
        target.connection.execute(statement.encode())
        with pytest.raises(MigrationError) as caught:
            verify_schema(target.api, None)
        assert caught.value.code == "TARGET_SCHEMA_MISSING"
        assert named in str(caught.value)

    def test_vectors_of_another_size_are_refused(self, target: Target) -> None:
        with pytest.raises(MigrationError) as caught:
            verify_schema(target.api, DIMENSIONS + 1)
        assert caught.value.code == "TARGET_DIMENSIONS"

    def test_what_is_declared_is_what_is_registered(self, target: Target) -> None:
        expected = registration(ENTITIES.values())
        assert expected["entities"].keys() == ENTITIES.keys()
        assert expected["entities"]["patients"]["enums"] == [{"name": "gender", "type": "gender_type"}]
        assert {"name": "practice_id", "entity": "practices", "required": False} in expected["entities"][
            "patients"
        ]["refs"]
        deployed = target.api.call("deployed")
        versions = {file.name: file.hash for file in schema_files()}
        assert deployed == {**expected, "schema_versions": versions, "dimensions": DIMENSIONS}
