"""The embedding tables of the target: which documents lack a vector, and storing vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.rows import dict_row

from include.core.batches import Partition
from include.core.copytext import format_rows
from include.core.ids import target_ids
from include.core.spec import Embeddings, Entity

# Merged and deleted rows have no document.
_LIVE = sql.SQL(
    " JOIN migration.id_map m ON m.entity = {entity} AND m.target_id = t.id AND m.state = 'live'"
    " WHERE t.deleted_at IS NULL{lower}{upper}{written} ORDER BY m.legacy_id"
)
# Rows written since a moment, and those that refer to one: a document may read what its row refers to.
_WRITTEN = sql.SQL(
    " AND (m.written_at >= {since} OR ARRAY[{references}]::uuid[] && ARRAY(SELECT p.target_id"
    " FROM migration.id_map p WHERE p.entity = ANY ({parents}) AND p.written_at >= {since}))"
)
_INDEX_MEMORY = "256MB"


class VectorStore:
    """Reads documents and keeps vectors of one entity.

    Args:
        guard: called first in every writing transaction; raises where the run must not write.
    """

    def __init__(
        self,
        connection: psycopg.Connection[tuple[Any, ...]],
        entity: Entity,
        embeddings: Embeddings,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        self._guard = guard
        self._connection = connection
        self._entity = entity
        self._embeddings = embeddings
        self._table = sql.Identifier("public", embeddings.table)

    def documents(
        self, partition: Partition, rows_per_chunk: int, since: datetime | None = None
    ) -> Iterator[pa.Table]:
        """Document columns with ``legacy_id``, in chunks; the table is read through a server-side cursor.

        Args:
            since: only documents that may have changed since.
        """
        key = sql.Identifier(self._entity.columns[0].name)
        lower = (
            sql.SQL("") if partition.low is None else sql.SQL(" AND t.{} >= {}").format(key, partition.low)
        )
        upper = (
            sql.SQL("") if partition.high is None else sql.SQL(" AND t.{} < {}").format(key, partition.high)
        )
        select = self._embeddings.document.select_sql().replace("SELECT ", "SELECT m.legacy_id, ", 1)
        query = sql.SQL(select) + _LIVE.format(  # type: ignore[arg-type] # checked names, see DocumentSpec
            entity=self._entity.name, lower=lower, upper=upper, written=self._written(since)
        )
        with (
            self._connection.transaction(),
            self._connection.cursor("documents", row_factory=dict_row) as cursor,
        ):
            cursor.itersize = rows_per_chunk
            cursor.execute(query)
            while rows := cursor.fetchmany(rows_per_chunk):
                yield pa.Table.from_pylist([{**row, "id": str(row["id"])} for row in rows])

    def _written(self, since: datetime | None) -> sql.Composable:
        if since is None:
            return sql.SQL("")
        references = self._entity.references
        columns = sql.SQL(", ").join(sql.Identifier("t", column) for column in references)
        parents = sorted({reference.entity for reference in references.values()})
        return _WRITTEN.format(since=since, references=columns, parents=parents)

    def complete_since(self, model: str) -> datetime | None:
        """All documents of rows written before this moment have a vector of this model; None: nobody knows."""
        row = self._connection.execute(
            sql.SQL(
                "SELECT w.recorded_at FROM migration.watermarks w WHERE w.name = %s"
                " AND NOT EXISTS (SELECT 1 FROM {} e WHERE e.model <> %s)"
            ).format(self._table),
            [self._embeddings.table, model],
        ).fetchone()
        return None if row is None else row[0]

    def remember_complete(self, run_id: str) -> None:
        """Every document that was there when this run began to read them has its vector now."""
        self._connection.execute(
            "INSERT INTO migration.watermarks (name, run_id, recorded_at)"
            " SELECT %(table)s, %(run)s, coalesce(min(b.recorded_at - make_interval(secs => b.seconds)), now())"
            " FROM migration.batches b WHERE b.run_id = %(run)s AND b.entity = %(entity)s"
            " AND b.phase = 'ai_enhancement'"
            " ON CONFLICT (name) DO UPDATE SET run_id = excluded.run_id, recorded_at = excluded.recorded_at",
            {"table": self._embeddings.table, "run": run_id, "entity": self._entity.name},
        )

    def lacking(self, ids: pa.Array, hashes: pa.Array) -> pa.Array:
        """Which rows have no vector of this content yet, as a boolean array."""
        query = sql.SQL(
            "SELECT e.id IS NULL FROM unnest(%s::uuid[], %s::text[]) WITH ORDINALITY AS d (id, hash, place)"
            " LEFT JOIN {} e ON e.{} = d.id AND e.content_hash = d.hash AND e.content_type = %s ORDER BY place"
        ).format(self._table, sql.Identifier(self._embeddings.owner))
        rows = self._connection.execute(
            query, [ids.to_pylist(), hashes.to_pylist(), self._embeddings.document.content_type]
        )
        return pa.array([row[0] for row in rows], pa.bool_())

    def known_hashes(self, hashes: pa.Array) -> set[str]:
        """Contents that some row already has a vector of: those are copied, not paid for again."""
        query = sql.SQL("SELECT DISTINCT content_hash FROM {} WHERE content_hash = ANY (%s)").format(
            self._table
        )
        return {row[0] for row in self._connection.execute(query, [hashes.to_pylist()])}

    def store(self, documents: pa.Table, fresh: dict[str, np.ndarray], model: str, dimensions: int) -> None:
        """Give every document its vector: a fresh one, or that of an equal text.

        Args:
            documents: id, legacy_id, hash, text.
            fresh: content hash to a new vector.
        """
        with self._connection.transaction():
            self._guard()
            self._connection.execute(
                "CREATE TEMPORARY TABLE fresh (hash text, embedding real[]) ON COMMIT DROP"
            )
            with (
                self._connection.cursor() as cursor,
                cursor.copy("COPY pg_temp.fresh FROM STDIN (FORMAT binary)") as copy,
            ):
                copy.set_types(["text", "float4[]"])
                for content_hash, vector in fresh.items():
                    copy.write_row((content_hash, vector.tolist()))
            self._connection.execute(
                "CREATE TEMPORARY TABLE documents (vector_id uuid, id uuid, hash text, text text) ON COMMIT DROP"
            )
            with (
                self._connection.cursor() as cursor,
                cursor.copy("COPY pg_temp.documents FROM STDIN WITH (FORMAT csv)") as copy,
            ):
                copy.write(format_rows(self._rows(documents)))
            self._connection.execute(
                self._upsert(), [self._embeddings.document.content_type, model, dimensions]
            )

    def _rows(self, documents: pa.Table) -> pa.Table:
        vector_ids = target_ids(self._embeddings.table, documents.column("legacy_id").combine_chunks())
        return pa.table(
            {"vector_id": vector_ids, **{name: documents.column(name) for name in ("id", "hash", "text")}}
        )

    def _upsert(self) -> sql.Composed:
        return sql.SQL(
            "INSERT INTO {table} (id, {owner}, content_type, content_hash, model, dimensions, embedding, content_text)"
            " SELECT d.vector_id, d.id, %s, d.hash, %s, %s,"
            " coalesce(f.embedding::extensions.vector, k.embedding), d.text"
            " FROM pg_temp.documents d LEFT JOIN pg_temp.fresh f USING (hash)"
            " LEFT JOIN LATERAL (SELECT e.embedding FROM {table} e WHERE e.content_hash = d.hash LIMIT 1) k"
            " ON f.hash IS NULL"
            " ON CONFLICT (id) DO UPDATE SET content_hash = excluded.content_hash, model = excluded.model,"
            " dimensions = excluded.dimensions, embedding = excluded.embedding, content_text = excluded.content_text,"
            " created_at = now()"
        ).format(table=self._table, owner=sql.Identifier(self._embeddings.owner))

    def build_index(self) -> bool:
        """Build the HNSW index if it is not there; returns whether it was built."""
        name = f"{self._embeddings.table}_hnsw"
        row = self._connection.execute("SELECT to_regclass(%s)", [f"public.{name}"]).fetchone()
        if row is not None and row[0] is not None:
            return False
        with self._connection.transaction():
            self._connection.execute(sql.SQL("SET LOCAL maintenance_work_mem = {}").format(_INDEX_MEMORY))
            self._connection.execute(
                sql.SQL("CREATE INDEX {} ON {} USING hnsw (embedding extensions.vector_cosine_ops)").format(
                    sql.Identifier(name), self._table
                )
            )
        return True
