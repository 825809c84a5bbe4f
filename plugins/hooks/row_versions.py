"""What changed in the source: the versions its rows have now against those of the rows that were loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from include.core.copytext import parse_rows
from include.core.mapping import mapping_version, rules_version
from include.core.spec import Entity

_SELECTED = (
    "CREATE TEMPORARY TABLE selected ON COMMIT DROP AS SELECT n.partition_key FROM pg_temp.row_versions n"
    " LEFT JOIN migration.id_map m ON m.entity = {entity} AND m.legacy_id = n.legacy_id"
    " LEFT JOIN migration.quarantine q ON q.entity = {entity} AND q.status = 'open' AND q.legacy_id = n.legacy_id"
    " WHERE "
)
_CONDITIONS = {
    # Rows that are new, are back, wait in quarantine, were written since, or were transformed by other rules.
    "changes": "q.id IS NOT NULL OR m.state IS NULL OR m.state NOT IN ('live', 'merged')"
    " OR (m.source_version, m.mapping_version, m.rules_version)"
    " IS DISTINCT FROM (n.version, {mapping}, {rules})",
    "quarantine": "q.id IS NOT NULL",
}
_GONE = (
    "SELECT m.legacy_id FROM migration.id_map m WHERE m.entity = {entity} AND m.state <> 'deleted'"
    " AND NOT EXISTS (SELECT 1 FROM pg_temp.row_versions n WHERE n.legacy_id = m.legacy_id)"
    " UNION SELECT q.legacy_id FROM migration.quarantine q WHERE q.entity = {entity} AND q.status = 'open'"
    " AND NOT EXISTS (SELECT 1 FROM pg_temp.row_versions n WHERE n.legacy_id = q.legacy_id)"
)


@dataclass(frozen=True)
class Selection:
    """The rows that a run takes up.

    Attributes:
        rows: how many.
        keys: their partition keys, each once, in order; None, last, stands for rows without one.
    """

    rows: int
    keys: list[int | None]


class RowVersions:
    """Compares within a transaction of the caller; what was read is in a temporary table."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], entity: Entity) -> None:
        self._connection = connection
        self._entity = entity

    def read(self, versions: Iterator[bytes]) -> Iterator[pa.Array]:
        """Take what the source has now, as :meth:`Snapshot.versions` sends it; yields the legacy ids, in chunks."""
        self._connection.execute(
            "CREATE TEMPORARY TABLE row_versions (legacy_id text, partition_key bigint, version uuid) ON COMMIT DROP"
        )
        with (
            self._connection.cursor() as cursor,
            cursor.copy("COPY pg_temp.row_versions FROM STDIN WITH (FORMAT csv)") as copy,
        ):
            for chunk in versions:
                copy.write(chunk)
                keys = parse_rows(chunk, ["legacy_id", "partition_key", "version"]).column("legacy_id")
                yield keys.combine_chunks().fill_null("")
        self._connection.execute("ANALYZE pg_temp.row_versions")

    def count(self) -> int:
        """Rows that the source has."""
        return self._number("SELECT count(*) FROM pg_temp.row_versions")

    def known(self) -> int:
        """Rows that the target knows and has not marked as deleted."""
        return self._number(
            "SELECT count(*) FROM migration.id_map WHERE entity = {entity} AND state <> 'deleted'"
        )

    def gone(self) -> pa.Array:
        """Legacy ids that the target knows and the source no longer has."""
        return pa.array([row[0] for row in self._rows(_GONE)], pa.string())

    def select(self, scope: str) -> Selection:
        """The rows to take up.

        Args:
            scope: ``changes`` or ``quarantine``.
        """
        self._connection.execute(self._filled(_SELECTED + _CONDITIONS[scope]))
        keys = self._rows("SELECT DISTINCT partition_key FROM pg_temp.selected ORDER BY 1")
        return Selection(self._number("SELECT count(*) FROM pg_temp.selected"), [key for (key,) in keys])

    def _number(self, query: str) -> int:
        return int(self._rows(query)[0][0])

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(self._filled(query)).fetchall()

    def _filled(self, query: str) -> sql.Composed:
        return sql.SQL(query).format(  # type: ignore[arg-type] # constants of this file
            entity=sql.Literal(self._entity.name),
            mapping=sql.Literal(mapping_version()),
            rules=sql.Literal(rules_version()),
        )
