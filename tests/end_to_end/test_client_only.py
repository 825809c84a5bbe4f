"""Airflow knows the URL and the service key, and nothing else of the target; files go into Storage either way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest

from local import legacy_files, schema
from local.postgres import EmbeddedPostgres
from local.storage_server import StorageServer
from local.supabase_api import SupabaseApi
from plugins.hooks.embeddings import HashProvider
from tests.conftest import fresh_database
from tests.end_to_end.conftest import MakeDatabases
from tests.end_to_end.content import Content, content
from tests.end_to_end.runs import Airflow, Databases, Outcome

_CLIENT_ONLY: dict[str, str | None] = {"AIRFLOW_CONN_SUPABASE_DB": None}
_FILES = "SELECT storage_status, count(*), sum(length(checksum)) FROM public.projects GROUP BY 1 ORDER BY 1"


@dataclass(frozen=True)
class Migrated:
    """A target behind its first run.

    Attributes:
        key: the service key that the run was given.
        objects: Storage's objects by key, and their sizes.
    """

    databases: Databases
    run: Outcome
    content: Content
    objects: dict[str, int]
    key: str


@contextmanager
def project(folder: Path, server: EmbeddedPostgres, target: str) -> Iterator[SupabaseApi]:
    """A Supabase project: the API of a target, and Storage."""
    with (
        StorageServer(folder / "objects", SupabaseApi(folder).keys.jwt_secret) as storage,
        SupabaseApi(folder, storage=storage.url) as api,
        api.serving(
            server.dsn(str(psycopg.conninfo.conninfo_to_dict(target)["dbname"]), role="authenticator")
        ),
    ):
        yield api


@pytest.fixture(scope="module")
def source(make_databases: MakeDatabases, tmp_path_factory: pytest.TempPathFactory) -> tuple[Databases, Path]:
    """A source whose first projects have files, and their folder."""
    databases, folder = make_databases(), tmp_path_factory.mktemp("files")
    legacy_files.fill(databases.source_admin, folder, lambda _: None)
    return databases, folder


@pytest.fixture(scope="module")
def deployed(
    server: EmbeddedPostgres, target_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """DSN of a target that the files for the Supabase CLI were applied to, as its owner."""
    files = tmp_path_factory.mktemp("migrations")
    schema.write(files, HashProvider().dimensions)
    with fresh_database(server, template=target_template, owner="postgres") as name:
        dsn = server.dsn(name, role="postgres")
        with psycopg.connect(dsn, autocommit=True) as connection:
            for path in sorted(files.glob("*.sql")):
                connection.execute(path.read_bytes())
        yield dsn


def connection(api: SupabaseApi) -> dict[str, str | None]:
    """The variable of the connection `supabase`."""
    known = {"conn_type": "supabase", "host": api.url, "password": api.keys.secret}
    return {"AIRFLOW_CONN_SUPABASE": json.dumps(known)}


def migrate(
    airflow: Airflow,
    folder: Path,
    server: EmbeddedPostgres,
    databases: Databases,
    files: Path,
    **environment: str | None,
) -> Migrated:
    with project(folder, server, databases.target) as api:
        known = {**connection(api), "MIGRATION_FILES_URI": f"file://{files}", **environment}
        run = airflow.run(databases, environment=known, dry_run=False)
        objects = {
            str(path.relative_to(folder / "objects")): path.stat().st_size
            for path in (folder / "objects").rglob("*")
            if path.is_file()
        }
        return Migrated(databases, run, content(databases), objects, api.keys.secret)


@pytest.fixture(scope="module")
def direct(
    airflow: Airflow,
    supabase_api: SupabaseApi,
    server: EmbeddedPostgres,
    source: tuple[Databases, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Migrated:
    """Rows over a direct connection, files through the API; without PostgREST nothing of this is tested."""
    return migrate(airflow, tmp_path_factory.mktemp("direct"), server, *source)


@pytest.fixture(scope="module")
def client(
    airflow: Airflow,
    direct: Migrated,
    deployed: str,
    server: EmbeddedPostgres,
    source: tuple[Databases, Path],
) -> Migrated:
    """The same source with the client alone."""
    databases, files = replace(direct.databases, target=deployed), source[1]
    folder = files.with_name("client_only")
    return migrate(airflow, folder, server, databases, files, **_CLIENT_ONLY)


def test_both_runs_succeed(direct: Migrated, client: Migrated) -> None:
    assert direct.run.state == "success", direct.run.log[-6000:]
    assert client.run.state == "success", client.run.log[-6000:]
    assert "through a direct connection" in direct.run.log
    assert "through the Supabase client" in client.run.log


def test_targets_are_equal_byte_by_byte(direct: Migrated, client: Migrated) -> None:
    assert client.content.digests == direct.content.digests
    assert client.content.decisions == direct.content.decisions


def test_every_row_has_the_same_fate(direct: Migrated, client: Migrated) -> None:
    assert client.run.fates() == direct.run.fates()


def test_every_file_is_in_storage_or_missed(
    direct: Migrated, client: Migrated, source: tuple[Databases, Path]
) -> None:
    databases, folder = source
    projects = len(databases.read("SELECT id FROM dispatch_project", source=True))
    sizes = sorted(path.stat().st_size for path in folder.iterdir())
    for migrated in (direct, client):
        statuses = {status: rows for status, rows, _ in migrated.databases.read(_FILES)}
        assert statuses == {"verified": len(sizes), "missing": projects - len(sizes)}
        assert set(sizes) <= set(migrated.objects.values())


def test_the_key_is_in_no_log_and_no_xcom(airflow: Airflow, client: Migrated) -> None:
    files = [path for path in airflow.state.folder.rglob("*") if path.is_file()]
    assert any(path.name == "airflow.db" for path in files)
    assert [path for path in files if client.key.encode() in path.read_bytes()] == []


def test_an_empty_target_is_refused_with_what_to_do(
    airflow: Airflow,
    make_databases: MakeDatabases,
    server: EmbeddedPostgres,
    direct: Migrated,
    tmp_path: Path,
) -> None:
    databases = replace(direct.databases, target=make_databases(None).target)
    with project(tmp_path, server, databases.target) as api:
        refused = airflow.run(databases, environment={**connection(api), **_CLIENT_ONLY}, dry_run=False)
    assert refused.state == "failed"
    assert "TARGET_SCHEMA_MISSING" in refused.log
    assert "python -m local.schema --out supabase/migrations" in refused.log
    assert databases.read("SELECT tablename FROM pg_tables WHERE schemaname IN ('public', 'migration')") == []
