"""The target over a direct PostgreSQL connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from include.core.copybinary import HEADER, TRAILER, format_binary
from include.core.copytext import format_rows, parse_rows
from plugins.hooks.connect import TARGET, connect, in_the_clear, translated
from plugins.hooks.target import Rows, Target

# Sent as one, for the target may be far away.
_SESSION = """SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET statement_timeout = '60min';
SET lock_timeout = '60s';
SET client_min_messages = 'warning'"""
_READ_BYTES = 8 << 20


@contextmanager
def session() -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection in autocommit (transactions are explicit), its errors translated."""
    with translated(TARGET), connect(TARGET) as connection:
        connection.autocommit = True
        connection.execute(_SESSION)
        yield connection


@contextmanager
def open_postgres() -> Iterator[PostgresTarget]:
    """The target on a connection of its own."""
    with session() as connection:
        yield PostgresTarget(connection)


class PostgresTarget:
    """Calls functions over a connection in autocommit that the caller owns."""

    way = "postgres"
    conn_id = TARGET.conn_id

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection
        self.plaintext = in_the_clear(connection)
        info = connection.info
        self._conninfo = make_conninfo(**{**info.get_parameters(), "password": info.password})

    def call(
        self, function: str, /, *, incoming: Mapping[str, pa.Table | Rows] | None = None, **arguments: Any
    ) -> Any:
        """See :class:`Target`."""
        with translated(TARGET), self._connection.transaction() if incoming else nullcontext():
            for name, rows in (incoming or {}).items():
                self._copy_in(name, Rows.of(rows))
            row = self._connection.execute(_select(function, arguments), _adapted(arguments)).fetchone()
        # A function that returns nothing returns an empty text.
        return None if row is None or row[0] == "" else row[0]

    def rows(self, function: str, columns: Sequence[str], /, **arguments: Any) -> Iterator[pa.Table]:
        """See :class:`Target`."""
        whole = {**arguments, "after": None, "most": None}
        query = sql.SQL("COPY (SELECT {} FROM ({}) q) TO STDOUT WITH (FORMAT csv)").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), _select(function, whole)
        )
        with (
            translated(TARGET),
            self._connection.cursor() as cursor,
            cursor.copy(
                psycopg.ClientCursor(self._connection).mogrify(query, _adapted(whole)).encode()
            ) as copy,
        ):
            rows: list[bytes] = []
            size = 0
            for row in copy:
                rows.append(bytes(row))
                size += len(row)
                if size >= _READ_BYTES:
                    yield parse_rows(b"".join(rows), columns)
                    rows, size = [], 0
        yield parse_rows(b"".join(rows), columns)

    @contextmanager
    def another(self) -> Iterator[Target]:
        """See :class:`Target`. Airflow is not asked again: its way to a task is not made for two threads."""
        with (
            translated(TARGET),
            psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None) as connection,
        ):
            connection.execute("SET statement_timeout = '10s'")
            yield PostgresTarget(connection)

    def cancel(self) -> None:
        """See :class:`Target`."""
        self._connection.cancel()

    def _copy_in(self, name: str, rows: Rows) -> None:
        execute = self._connection.execute
        execute("SELECT migration.open_incoming(%s, %s, %s)", [name, rows.schema.names, rows.types])
        binary = rows.types != ["text"] * len(rows.types)
        statement = sql.SQL("COPY {} ({}) FROM STDIN WITH (FORMAT {})").format(
            sql.Identifier("pg_temp", f"incoming_{name}"),
            sql.SQL(", ").join(map(sql.Identifier, rows.schema.names)),
            sql.SQL("binary" if binary else "csv"),
        )
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for part in _binary(rows) if binary else _csv(rows):
                copy.write(part)


def _csv(rows: Rows) -> Iterator[bytes]:
    return (format_rows(table) for table in rows.tables if table.num_rows)


def _binary(rows: Rows) -> Iterator[bytes]:
    yield HEADER
    for table in rows.tables:
        yield from format_binary(table)
    yield TRAILER


def _select(function: str, arguments: Mapping[str, Any]) -> sql.Composed:
    named = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(f"p_{name}"), sql.Placeholder(name)) for name in arguments
    )
    return sql.SQL("SELECT * FROM {}({})").format(sql.Identifier("migration_api", function), named)


def _adapted(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """JSON objects as jsonb; lists, which hold texts, as text[]."""
    return {name: Jsonb(value) if isinstance(value, dict) else value for name, value in arguments.items()}
