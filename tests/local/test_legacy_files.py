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
    folder = tmp_path / "files"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE dispatch_project AS SELECT n * 3 AS id, md5(n::text)::uuid AS uid, -1::bigint AS size"
            " FROM generate_series(1, 400) n"
        )
        fill(database, folder, lambda _: None)
        files = {file.name: file.stat() for file in folder.iterdir()}
        sizes = [about.st_size for about in files.values()]
        assert MOST_FILES * 0.9 < len(files) < MOST_FILES
        assert sizes.count(0) == 1
        assert sum(size > PIECE_BYTES for size in sizes) == 1
        assert sum(sizes) < 40_000_000
        assert folder.stat().st_mode & 0o077 == 0

        rows = connection.execute("SELECT uid::text, size FROM dispatch_project WHERE size >= 0").fetchall()
        assert {uid: size for uid, size in rows if files[uid].st_size != size} == {}
        assert 0 < len(files) - len(rows) < 10
        fill(database, folder, lambda _: None)
        assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == {
            name: about.st_mtime_ns for name, about in files.items()
        }
