"""Rows that are gone from the source, kept in the target as deleted."""

from __future__ import annotations

from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from include.core.copytext import format_rows
from include.core.spec import Entity


class Deletions:
    """Finds and marks the deleted rows of one entity, within a transaction of the caller."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], entity: Entity, run_id: str) -> None:
        self._connection = connection
        self._entity = entity
        self._names = {"entity": entity.name, "run": run_id}

    def take(self, legacy_ids: pa.Table) -> int:
        """Take the keys that are gone (column ``legacy_id``); returns how many the target knew until now."""
        execute = self._connection.execute
        execute("DROP TABLE IF EXISTS pg_temp.gone_keys, pg_temp.gone")
        execute("CREATE TEMPORARY TABLE gone_keys (legacy_id text) ON COMMIT DROP")
        with (
            self._connection.cursor() as cursor,
            cursor.copy("COPY pg_temp.gone_keys FROM STDIN WITH (FORMAT csv)") as copy,
        ):
            copy.write(format_rows(legacy_ids))
        execute("CREATE TEMPORARY TABLE gone (legacy_id text, target_id uuid) ON COMMIT DROP")
        return execute(
            "INSERT INTO pg_temp.gone SELECT m.legacy_id, m.target_id FROM migration.id_map m"
            " JOIN pg_temp.gone_keys k USING (legacy_id) WHERE m.entity = %(entity)s AND m.state <> 'deleted'",
            self._names,
        ).rowcount

    def plan(self) -> None:
        """Remember what a dry run found, so that children of rows that will be gone fare as they would."""
        self._connection.execute(
            "INSERT INTO migration.planned_ids (run_id, id, deleted) SELECT %(run)s, target_id, true"
            " FROM pg_temp.gone ON CONFLICT DO NOTHING",
            self._names,
        )

    def mark(self) -> None:
        """Mark what was taken: ``deleted_at``, state ``deleted``, merges undone, vectors removed."""
        execute = self._connection.execute
        execute(
            sql.SQL(
                "UPDATE {} t SET deleted_at = now() FROM pg_temp.gone g"
                " WHERE t.id = g.target_id AND t.deleted_at IS NULL"
            ).format(sql.Identifier("public", self._entity.name))
        )
        execute(
            "UPDATE migration.id_map m SET state = 'deleted', survivor_id = NULL, content_hash = NULL,"
            " source_version = NULL, written_at = now(), last_run = %(run)s FROM pg_temp.gone g"
            " WHERE m.entity = %(entity)s AND m.legacy_id = g.legacy_id",
            self._names,
        )
        execute(
            "UPDATE migration.merges m SET undone_at = now() FROM pg_temp.gone g"
            " WHERE m.merged_id = g.target_id AND m.undone_at IS NULL"
        )
        # A row that was rejected and is gone now needs no repair.
        execute(
            "UPDATE migration.quarantine q SET status = 'waived', resolved_run_id = %(run)s"
            " FROM pg_temp.gone_keys k WHERE q.entity = %(entity)s AND q.status = 'open'"
            " AND k.legacy_id = q.legacy_id",
            self._names,
        )
        for table in ("findings", "redirects"):
            execute(
                sql.SQL(
                    "DELETE FROM {} f USING pg_temp.gone g"
                    " WHERE f.entity = %(entity)s AND f.legacy_id = g.legacy_id"
                ).format(sql.Identifier("migration", table)),
                self._names,
            )
        if self._entity.embeddings is not None:
            execute(
                sql.SQL("DELETE FROM {} e USING pg_temp.gone g WHERE e.{} = g.target_id").format(
                    sql.Identifier("public", self._entity.embeddings.table),
                    sql.Identifier(self._entity.embeddings.owner),
                )
            )
