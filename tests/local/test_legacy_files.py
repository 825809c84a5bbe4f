"""The demo's files: real STL, the same each time, some missing, one large, one empty."""

from __future__ import annotations

from pathlib import Path

import psycopg

from include.files.mime import HEAD_BYTES, mime_type
from local.legacy_files import MOST_FILES, fill, stl
from local.storage_server import PIECE_BYTES


def test_a_model_is_binary_stl_and_the_same_each_time():
    content = stl(7, 100)
    assert content == stl(7, 100) != stl(8, 100)
    assert len(content) == 84 + 50 * 100
    assert mime_type(content[:HEAD_BYTES], len(content)) == "model/stl"


def test_some_projects_have_files(database: str, tmp_path: Path):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE dispatch_project AS SELECT n * 3 AS id, md5(n::text)::uuid AS uid"
            " FROM generate_series(1, 400) n"
        )
    said: list[str] = []
    folder = tmp_path / "files"
    fill(database, folder, said.append)
    files = {file.name: file.stat().st_size for file in folder.iterdir()}
    assert MOST_FILES * 0.9 < len(files) < MOST_FILES
    assert list(files.values()).count(0) == 1
    assert sum(size > PIECE_BYTES for size in files.values()) == 1
    assert sum(files.values()) < 40_000_000
    assert folder.stat().st_mode & 0o077 == 0
    fill(database, folder, said.append)
    assert said[0].endswith(f"{len(files)} of them new")
    assert said[1].endswith(" 0 of them new")
