"""The files for the Supabase CLI deploy what a run over a direct connection deploys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from include.core.errors import MigrationError
from local import schema
from local.environment import PROJECT
from plugins.hooks.schema_files import SchemaFile, schema_files
from plugins.hooks.target_postgres import PostgresTarget
from plugins.hooks.target_schema import verify_schema


def applied(dsn: str, folder: Path) -> psycopg.Connection[tuple[object, ...]]:
    """The target behind the files, each applied once, in the order of their names."""
    connection = psycopg.connect(dsn, autocommit=True)
    for path in sorted(folder.glob("*.sql")):
        connection.execute(path.read_bytes())
    return connection


def test_a_target_deployed_by_the_files_is_what_a_run_needs(target_database: str, tmp_path: Path) -> None:
    new = schema.write(tmp_path / "migrations", 512)
    assert [path.name for path in new] == sorted(path.name for path in new)
    with applied(target_database, tmp_path / "migrations") as connection:
        verify_schema(PostgresTarget(connection), 512)
        with pytest.raises(MigrationError) as refused:
            verify_schema(PostgresTarget(connection), 1536)
        assert refused.value.code == "TARGET_DIMENSIONS"


def test_without_the_last_file_it_says_what_is_missing(target_database: str, tmp_path: Path) -> None:
    schema.write(tmp_path, None)[-1].unlink()
    with (
        applied(target_database, tmp_path) as connection,
        pytest.raises(MigrationError, match="entities registered otherwise: cases") as refused,
    ):
        verify_schema(PostgresTarget(connection), 1536)
    assert refused.value.code == "TARGET_SCHEMA_MISSING"


def test_what_was_written_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = schema.write(tmp_path, None)
    assert schema.write(tmp_path, None) == []
    monkeypatch.setattr(schema, "_registration", lambda: "SELECT 1;\n")
    (again,) = schema.write(tmp_path, None)
    assert again.name > first[-1].name
    assert again.name.endswith("_register.sql")


def test_a_file_of_a_later_version_comes_behind_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CLI refuses a version that is there already, and one before those it has applied."""
    first = schema.write(tmp_path, None)
    later = SchemaFile("migration/0099_later.sql", "SELECT 1;\n")
    before = schema_files()
    monkeypatch.setattr(schema, "schema_files", lambda: [*before[:3], later, *before[3:]])
    monkeypatch.setattr(schema, "_registration", lambda: "SELECT 2;\n")
    new = schema.write(tmp_path, None)
    assert [path.name.partition("_")[2] for path in new] == ["migration_0099_later.sql", "register.sql"]
    versions = [path.name.partition("_")[0] for path in (*first, *new)]
    assert versions == sorted(set(versions))


def test_a_file_that_may_be_deployed_is_never_replaced(tmp_path: Path) -> None:
    schema.write(tmp_path, None)
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "local.schema", "--out", str(tmp_path), "--dimensions", "64"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "target_0003_embeddings.sql differs" in done.stderr
