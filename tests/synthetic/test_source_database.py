"""The generated source on a real PostgreSQL: what COPY stores is what was generated."""

from __future__ import annotations

from typing import Any, Protocol

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from include.synthetic.sizes import SourceSize
from local.legacy_source import fill
from tests.synthetic.sources import SEED, Source


class Server(Protocol):
    def create_database(self, name: str) -> str: ...


@pytest.fixture(scope="module")
def filled(server: Server, tenth_size: SourceSize) -> tuple[str, list[str]]:
    dsn = server.create_database("synthetic_source")
    lines: list[str] = []
    fill(dsn, tenth_size, SEED, lines.append)
    return dsn, lines


def stored_text(
    connection: psycopg.Connection, name: str, columns: list[str]
) -> list[tuple[str | None, ...]]:
    listed = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns)
    query = sql.SQL("SELECT {} FROM {} t ORDER BY t.id").format(listed, sql.Identifier(name))
    connection.execute("SET TimeZone = 'UTC'")
    return connection.execute(query).fetchall()


def expected_text(table: pa.Table) -> list[tuple[str | None, ...]]:
    columns = [[as_postgres(value) for value in column.to_pylist()] for column in table.columns]
    return list(zip(*columns, strict=True))


def as_postgres(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if hasattr(value, "microsecond"):
        seconds = f"{value:%H:%M:%S}" + (f".{value.microsecond:06}".rstrip("0") if value.microsecond else "")
        return f"{value.year:04}-{value:%m-%d} {seconds}+00"
    if hasattr(value, "toordinal"):
        return f"{value.year:04}-{value:%m-%d}"
    return str(value)


def test_database_holds_exactly_the_generated_rows(filled: tuple[str, list[str]], tenth: Source):
    with psycopg.connect(filled[0]) as connection:
        for name, table in tenth.items():
            assert stored_text(connection, name, table.column_names) == expected_text(table), name


def test_null_and_empty_text_stay_apart(filled: tuple[str, list[str]]):
    query = b"""SELECT count(*) FILTER (WHERE schemes IS NULL), count(*) FILTER (WHERE schemes = ''),
        count(*) FILTER (WHERE schemes = 'NULL') FROM dispatch_patient"""
    with psycopg.connect(filled[0]) as connection:
        nulls, blanks, words = connection.execute(query).fetchone() or (0, 0, 1)
    assert (nulls > 100, blanks > 30, words) == (True, True, 0)


def test_sequences_continue_after_the_highest_id(filled: tuple[str, list[str]], tenth: Source):
    with psycopg.connect(filled[0]) as connection:
        row = connection.execute(
            b"INSERT INTO dispatch_course (name) VALUES ('New') RETURNING id",
        ).fetchone()
        connection.rollback()
    assert row == (max(tenth["dispatch_course"]["id"].to_pylist()) + 1,)


def test_foreign_keys_are_validated_and_indexed(filled: tuple[str, list[str]]):
    unindexed = b"""SELECT c.conrelid::regclass::text, a.attname FROM pg_constraint c
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
        WHERE c.contype = 'f' AND (NOT c.convalidated OR NOT EXISTS (
            SELECT 1 FROM pg_index i WHERE i.indrelid = c.conrelid AND i.indkey[0] = c.conkey[1]))"""
    with psycopg.connect(filled[0]) as connection:
        assert connection.execute(unindexed).fetchall() == []
        (count,) = connection.execute(
            b"SELECT count(*) FROM pg_constraint WHERE contype = 'f'"
        ).fetchone() or (0,)
    assert count == 28


def test_progress_names_every_table(filled: tuple[str, list[str]], tenth: Source):
    text = "\n".join(filled[1])
    assert [name for name in tenth if name not in text] == []


def test_a_database_in_use_is_left_alone(filled: tuple[str, list[str]], tenth_size: SourceSize):
    with pytest.raises(psycopg.errors.DuplicateTable):
        fill(filled[0], tenth_size, SEED, lambda _: None)


def test_statistics_are_fresh(filled: tuple[str, list[str]], tenth_size: SourceSize):
    with psycopg.connect(filled[0]) as connection:
        query = b"SELECT reltuples::int FROM pg_class WHERE relname = 'dispatch_task'"
        assert connection.execute(query).fetchone() == (tenth_size.tasks,)
