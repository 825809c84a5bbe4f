"""The embedding tables of the target: which documents lack a vector, and storing vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from include.core.batches import Partition
from include.core.ids import target_ids
from include.core.spec import Embeddings, Entity
from include.embedding.provider import Vectors
from plugins.hooks.target import Target

IndexState = Literal["built", "exists", "too_many_dimensions"]


class VectorStore:
    """Reads documents and keeps vectors of one entity in one run."""

    def __init__(self, target: Target, run_id: str, entity: Entity, embeddings: Embeddings) -> None:
        self._target = target
        self._run_id = run_id
        self._entity = entity
        self._embeddings = embeddings

    def documents(
        self, partition: Partition, rows_per_chunk: int, since: str | None = None, *, free_text: bool = False
    ) -> Iterator[pa.Table]:
        """Document columns with ``legacy_id``, in chunks, each read whole before it is yielded.

        Args:
            since: only documents that may have changed since (ISO 8601).
            free_text: also the columns of free text, and what must be removed from them.
        """
        name, low, high = self._entity.name, partition.low, partition.high
        which: dict[str, Any] = {"entity": name, "low": low, "high": high, "since": since}
        ends = self._target.call("document_chunks", **which, rows=rows_per_chunk)
        for behind, until in pairwise([None, *ends]):
            tables = self._target.rows(
                "documents",
                ["legacy_id", "document"],
                **which,
                behind=behind,
                until=until,
                free_text=free_text,
            )
            yield pa.Table.from_pylist([row for table in tables for row in _documents(table)])

    def known_names(self) -> set[str]:
        """Words that are part of the name of anybody in the target, in lower case."""
        tables = self._target.rows("known_names", ["name"])
        return {name for table in tables for name in table.column("name").to_pylist()}

    def stored_columns(self, entity: str, columns: Sequence[str], ids: pa.Array) -> pa.Table:
        """Columns of an entity's rows as PostgreSQL's text, for documents of rows that are not loaded yet.

        Args:
            ids: target ids; those that the target does not have are left out.

        Returns:
            String columns: id and those asked for.
        """
        asked = [column for column in columns if column != "id"]
        schema = pa.schema([(column, pa.string()) for column in ("id", *asked)])
        tables = self._target.rows(
            "stored_columns", ["id", "row"], entity=entity, columns=asked, ids=ids.to_pylist()
        )
        rows = [
            {"id": key, **json.loads(row)}
            for table in tables
            for key, row in zip(*(column.to_pylist() for column in table.columns), strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=schema)

    def expected(self, entity: str, ids: pa.ChunkedArray) -> pa.Array:
        """Which rows of an entity a dry run expects to be there behind it, as a boolean array."""
        live = set(self._target.call("expected_rows", run=self._run_id, entity=entity, ids=ids.to_pylist()))
        return pa.array([key in live for key in ids.to_pylist()], pa.bool_())

    def complete_since(self, recipe: str) -> str | None:
        """A moment (ISO 8601) since which alone documents can lack a vector; None: nobody knows.

        Args:
            recipe: digest of all that decides what is embedded, and how.
        """
        since: str | None = self._target.call("complete_since", entity=self._entity.name, recipe=recipe)
        return since

    def remember_complete(self, recipe: str) -> None:
        """Every document that was there when this run began to read them has its vector, or is in quarantine.

        Raises:
            MigrationError: RUN_LOST.
        """
        self._target.call("remember_complete", run=self._run_id, entity=self._entity.name, recipe=recipe)

    def lacking(self, ids: pa.Array, hashes: pa.Array) -> pa.Array:
        """Which rows have no vector of this content yet, as a boolean array."""
        lacking = set(
            self._target.call(
                "lacking", entity=self._entity.name, ids=ids.to_pylist(), hashes=hashes.to_pylist()
            )
        )
        return pa.array([key in lacking for key in ids.to_pylist()], pa.bool_())

    def known_hashes(self, hashes: pa.Array) -> set[str]:
        """Contents that some row already has a vector of: those are copied, not paid for again."""
        return set(self._target.call("known_hashes", entity=self._entity.name, hashes=hashes.to_pylist()))

    def quarantined_hashes(self, hashes: pa.Array) -> dict[str, str]:
        """Contents that the provider has refused, and the code of each: they are not sent again."""
        refused = self._target.call("quarantined_hashes", entity=self._entity.name, hashes=hashes.to_pylist())
        return dict(refused)

    def store(
        self, documents: pa.Table, fresh: tuple[Sequence[str], Vectors], model: str, dimensions: int
    ) -> int:
        """Give every document its vector: a fresh one, or that of an equal text.

        Args:
            documents: id, legacy_id, hash, text (NULL: not to be stored), shortened (boolean). Rows that are live
                no more are passed over.
            fresh: content hashes, each once, and their new vectors as the rows of a matrix.

        Returns:
            How many vectors were written; those that were there already are not.

        Raises:
            MigrationError: RUN_LOST.
        """
        written: int = self._target.call(
            "store_vectors",
            incoming={"documents": self._rows(documents), "fresh": _fresh(*fresh, dimensions)},
            run=self._run_id,
            entity=self._entity.name,
            model=model,
            dimensions=dimensions,
        )
        return written

    def copy(self, documents: pa.Table, model: str, dimensions: int) -> int:
        """Like :meth:`store`, for documents whose texts other rows have vectors of."""
        return self.store(documents, ([], np.empty((0, dimensions), np.float32)), model, dimensions)

    def quarantine(self, documents: pa.Table, refused: Mapping[str, str], model: str) -> None:
        """Note that the provider refuses these texts; vectors of earlier texts of the rows go.

        Args:
            documents: id, legacy_id, hash of every row that has such a text.
            refused: content hash to the code of the refusal.

        Raises:
            MigrationError: RUN_LOST.
        """
        codes = [refused[content_hash] for content_hash in documents.column("hash").to_pylist()]
        rows = documents.select(["id", "legacy_id", "hash"]).append_column(
            "code", pa.array(codes, pa.string())
        )
        self._target.call(
            "quarantine_embeddings",
            incoming={"documents": rows},
            run=self._run_id,
            entity=self._entity.name,
            model=model,
        )

    def _rows(self, documents: pa.Table) -> pa.Table:
        vector_ids = target_ids(self._embeddings.table, documents.column("legacy_id").combine_chunks())
        shortened = ["t" if cut else "f" for cut in documents.column("shortened").to_pylist()]
        return pa.table(
            {
                "vector_id": vector_ids,
                **{name: documents.column(name) for name in ("id", "legacy_id", "hash", "text")},
                "shortened": pa.array(shortened, pa.string()),
            }
        )

    def build_index(self) -> IndexState:
        """Build the HNSW index if it is not there; of too many dimensions there is none, and searches are exact."""
        state: IndexState = self._target.call("build_index", entity=self._entity.name)
        return state


def _documents(table: pa.Table) -> Iterator[dict[str, Any]]:
    for legacy_id, document in zip(*(column.to_pylist() for column in table.columns), strict=True):
        yield {"legacy_id": legacy_id, **json.loads(document)}


def _fresh(hashes: Sequence[str], vectors: Vectors, dimensions: int) -> pa.Table:
    if vectors.shape != (len(hashes), dimensions):
        raise ValueError(f"{len(hashes)} hashes, vectors of shape {vectors.shape}, {dimensions} dimensions")
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    embeddings = pa.FixedSizeListArray.from_arrays(flat, dimensions)
    return pa.table({"hash": pa.array(hashes, pa.string()), "embedding": embeddings})
