"""The legacy MDW database: read-only, PostgreSQL 9.5, a role with SELECT and nothing else.

Every statement runs in a READ ONLY, REPEATABLE READ transaction with timeouts, and uses only what 9.5 has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pyarrow as pa
from airflow.sdk import BaseHook
from psycopg.pq import TransactionStatus

from include.core.batches import Partition, cut_groups
from include.core.copytext import parse_rows
from include.core.source_query import (
    Columns,
    count_rows,
    select_cuts,
    select_keys,
    select_rows,
    select_versions,
)
from include.core.spec import Entity
from plugins.hooks.connect import SOURCE, connect, in_the_clear, translated
from plugins.hooks.source_identity import Holder, SourceIdentity, read_holders, read_identity
from plugins.hooks.source_role import SourceRole, read_role

_SESSION = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
    "SET LOCAL statement_timeout = '60min'",
    "SET LOCAL lock_timeout = '10s'",
    # A policy that would hide rows, which would look like deleted ones, makes the server refuse the query.
    "SET LOCAL row_security = off",
    # The text forms that the transformation relies on.
    "SET LOCAL TimeZone = 'UTC'",
    "SET LOCAL DateStyle = 'ISO, YMD'",
    "SET LOCAL IntervalStyle = 'postgres'",
    "SET LOCAL client_encoding = 'UTF8'",
)
_COLUMNS = """SELECT c.relname, a.attname, t.typname, has_table_privilege(c.oid, 'SELECT')
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND pg_catalog.pg_table_is_visible(c.oid) AND c.relname = ANY (%s)"""
# Views and foreign tables do not tell which transaction wrote a row.
_WITH_TRANSACTIONS = """SELECT relname FROM pg_catalog.pg_class
WHERE relkind IN ('r', 'm', 'p') AND pg_catalog.pg_table_is_visible(oid) AND relname = ANY (%s)"""
_HORIZON = "SELECT txid_snapshot_xmin(txid_current_snapshot())"
_KEYS_PER_CHUNK = 100_000
# Keys listed in one statement.
_KEYS_PER_QUERY = 25_000
_SIZES = """SELECT c.relname::text, pg_catalog.pg_relation_size(c.oid) FROM pg_catalog.pg_class c
WHERE pg_catalog.pg_table_is_visible(c.oid) AND c.relname = ANY (%s)"""


class LegacyMdwHook(BaseHook):
    """Reads the legacy database."""

    def __init__(self) -> None:
        super().__init__()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """One read-only transaction; everything read through it belongs to one moment."""
        with connect(SOURCE) as connection:
            self._connection = connection
            with translated(SOURCE):
                for statement in _SESSION:
                    connection.execute(statement)
            try:
                yield Snapshot(connection)
            finally:
                self._connection = None
                if connection.info.transaction_status is TransactionStatus.ACTIVE:
                    # A COPY that was left under way keeps the connection's lock: a rollback would wait for ever.
                    connection.close()
                else:
                    # Whatever the body raised must not be hidden by a connection that is gone.
                    with suppress(psycopg.OperationalError):
                        connection.rollback()

    def cancel(self) -> None:
        """Cancel what runs in the server; for a task that is being killed."""
        if self._connection is not None:
            self._connection.cancel()


class Snapshot:
    """The source at one moment. Its methods translate their own errors: a caller's, of the target, are not ours."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection

    def columns(self, tables: Collection[str]) -> dict[str, dict[str, tuple[str, bool]]]:
        """Table → column → (type name, may be selected) of the tables that exist."""
        found: dict[str, dict[str, tuple[str, bool]]] = {}
        for table, column, kind, readable in self._rows(_COLUMNS, [list(tables)]):
            found.setdefault(table, {})[column] = (kind, readable)
        return found

    def existing(self, entity: Entity) -> Columns:
        """Columns of the tables an entity reads, to know which optional ones are absent, and ``xmin``."""
        tables = sorted({table.name for table in entity.source.all_tables()})
        known = {row[0] for row in self._rows(_WITH_TRANSACTIONS, [tables])}
        return {
            table: {*columns, "xmin"} if table in known else set(columns)
            for table, columns in self.columns(tables).items()
        }

    def without_transactions(self, tables: Collection[str]) -> list[str]:
        """Views and foreign tables among some tables: their rows do not tell which transaction wrote them."""
        known = {row[0] for row in self._rows(_WITH_TRANSACTIONS, [sorted(tables)])}
        return sorted(set(self.columns(tables)) - known)

    def sizes(self, tables: Collection[str]) -> dict[str, int]:
        """Bytes of some tables; 0 for what has none of its own. Exact at any time, unlike statistics."""
        return {**dict.fromkeys(tables, 0), **dict(self._rows(_SIZES, [sorted(tables)]))}

    def horizon(self) -> int:
        """Oldest transaction still running: what is visible here is older, the rest comes later."""
        return int(self._single(_HORIZON))

    def identity(self, tables: Collection[str]) -> SourceIdentity:
        """Which database this is and how far it has come, to be compared with that of earlier runs."""
        return read_identity(self._rows, tables)

    def role(self, tables: Collection[str]) -> SourceRole:
        """What our role may do with some tables, and which of them it would read under row security."""
        return read_role(self._rows, tables)

    @property
    def in_the_clear(self) -> bool:
        """Whether rows cross a network unencrypted, as a setting allows."""
        return in_the_clear(self._connection)

    def holders(
        self,
        *,
        older_than_seconds: float = 60,
        older_than_transactions: int = 10_000,
        open_since: int | None = None,
    ) -> list[Holder]:
        """Open transactions that are worth naming (see `read_holders`)."""
        return read_holders(
            self._rows,
            older_than_seconds=older_than_seconds,
            older_than_transactions=older_than_transactions,
            open_since=open_since,
        )

    def count(self, entity: Entity) -> int:
        """Rows of the table that the entity's partitions are cut from."""
        return int(self._single(count_rows(entity.source)))

    def cuts(self, entity: Entity, rows_per_partition: int) -> list[int]:
        """Keys at which to cut partitions."""
        return [int(row[0]) for row in self._rows(select_cuts(entity.source, rows_per_partition))]

    def batches(
        self,
        entity: Entity,
        partition: Partition,
        batch_size: int,
        after: int | None = None,
        keys: Sequence[int | None] | None = None,
    ) -> Iterator[pa.Table]:
        """Raw batches of a partition in key order, each row with its version, streamed; memory holds one batch.

        Args:
            after: resume behind this key.
            keys: read only rows with these partition keys, sorted; None among them, last, stands for rows
                without one.
        """
        existing = self.existing(entity)
        if keys is None:
            queries = [select_rows(entity, existing, partition, after)]
        else:
            queries = [
                select_rows(entity, existing, partition, keys=some) for some in _key_lists(keys, after)
            ]
        names = entity.source.raw_columns
        size = None if entity.source.whole else batch_size
        chunks = (parse_rows(rows, names) for query in queries for rows in self._copy(query, size))
        group = entity.source.group_by
        yield from chunks if group is None else cut_groups(chunks, group)

    def versions(self, entity: Entity) -> Iterator[bytes]:
        """CSV of legacy id, partition key and version of every row, in chunks of whole rows."""
        yield from self._copy(select_versions(entity, self.existing(entity)), _KEYS_PER_CHUNK)

    def keys(self, entity: Entity) -> Iterator[pa.Array]:
        """Every legacy id of the entity, in chunks."""
        yield from self._keys(select_keys(entity, self.existing(entity)))

    def keys_since(self, entity: Entity, horizon: int) -> Iterator[pa.Array]:
        """Legacy ids of rows written behind a horizon."""
        yield from self._keys(select_keys(entity, self.existing(entity), horizon))

    def _keys(self, query: str) -> Iterator[pa.Array]:
        for rows in self._copy(query, _KEYS_PER_CHUNK):
            yield parse_rows(rows, ["legacy_id"]).column(0).combine_chunks()

    def _single(self, query: str) -> Any:
        ((value,),) = self._rows(query)
        return value

    def _rows(self, query: str, parameters: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        with translated(SOURCE):
            return self._connection.execute(query, parameters).fetchall()

    def _copy(self, query: str, rows_per_chunk: int | None) -> Iterator[bytes]:
        """COPY output in chunks of whole rows: the server sends one message per row."""
        chunk: list[bytes] = []
        with translated(SOURCE), self._connection.cursor() as cursor, cursor.copy(query) as copy:
            for row in copy:
                chunk.append(bytes(row))
                if len(chunk) == rows_per_chunk:
                    yield b"".join(chunk)
                    chunk.clear()
        if chunk:
            yield b"".join(chunk)


def _key_lists(keys: Sequence[int | None], after: int | None) -> Iterator[list[int]]:
    """Keys for one statement each; an empty list stands for rows without a key."""
    wanted = [key for key in keys if key is not None and (after is None or key > after)]
    for start in range(0, len(wanted), _KEYS_PER_QUERY):
        yield wanted[start : start + _KEYS_PER_QUERY]
    if None in keys:
        yield []
