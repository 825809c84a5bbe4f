"""The numbered SQL files: order, names, hashes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from local.environment import PROJECT
from plugins.hooks.schema_files import SchemaFile, schema_files

FOLDER = PROJECT / "include" / "sql"


def test_tracking_comes_first_and_numbers_are_in_order() -> None:
    names = [file.name for file in schema_files()]
    migration = [name for name in names if name.startswith("migration/")]
    assert names[0] == "migration/0001_tracking.sql"
    assert names[: len(migration)] == migration
    assert names == [*sorted(migration), *sorted(set(names) - set(migration))]


def test_every_file_of_the_two_folders_is_deployed() -> None:
    found = {
        str(path.relative_to(FOLDER))
        for part in ("migration", "target")
        for path in (FOLDER / part).iterdir()
    }
    assert {file.name for file in schema_files()} == found


def test_numbers_are_unique_within_a_folder() -> None:
    numbers = [(Path(file.name).parent, Path(file.name).name[:4]) for file in schema_files()]
    assert len(set(numbers)) == len(numbers)
    assert all(re.fullmatch(r"\d{4}_\w+\.sql", Path(file.name).name) for file in schema_files())


def test_the_hash_is_of_the_text() -> None:
    file = SchemaFile("target/0001_x.sql", "SELECT 'ä';\n")
    assert file.hash == hashlib.sha256("SELECT 'ä';\n".encode()).hexdigest()
    assert file.hash != SchemaFile(file.name, file.sql + " ").hash


def test_no_file_ends_its_transaction() -> None:
    """Deployment is one transaction; a file that commits would leave half a schema behind on failure."""
    for file in schema_files():
        assert not re.search(r"^\s*(COMMIT|ROLLBACK|BEGIN|START TRANSACTION)\s*;", file.sql, re.M | re.I), (
            file.name
        )
