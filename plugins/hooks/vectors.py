"""The embedding tables of the target: which documents lack a vector, and storing vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from include.core.batches import Partition
from include.core.ids import target_ids
from include.core.spec import Embeddings, Entity
from plugins.hooks.target import Target

_FRESH = pa.schema({"hash": pa.string(), "embedding": pa.list_(pa.float32())})


class VectorStore:
    """Reads documents and keeps vectors of one entity in one run."""

    def __init__(self, target: Target, run_id: str, entity: Entity, embeddings: Embeddings) -> None:
        self._target = target
        self._run_id = run_id
        self._entity = entity
        self._embeddings = embeddings

    def documents(
        self, partition: Partition, rows_per_chunk: int, since: str | None = None
    ) -> Iterator[pa.Table]:
        """Document columns with ``legacy_id``, in chunks, each read whole before it is yielded.

        Args:
            since: only documents that may have changed since (ISO 8601).
        """
        name, low, high = self._entity.name, partition.low, partition.high
        which: dict[str, Any] = {"entity": name, "low": low, "high": high, "since": since}
        ends = self._target.call("document_chunks", **which, rows=rows_per_chunk)
        for behind, until in pairwise([None, *ends]):
            tables = self._target.rows(
                "documents", ["legacy_id", "document"], **which, behind=behind, until=until
            )
            yield pa.Table.from_pylist([row for table in tables for row in _documents(table)])

    def complete_since(self, model: str) -> str | None:
        """A moment (ISO 8601) since which alone documents can lack a vector of this model; None: nobody knows."""
        since: str | None = self._target.call("complete_since", entity=self._entity.name, model=model)
        return since

    def remember_complete(self) -> None:
        """Every document that was there when this run began to read them has its vector now."""
        self._target.call("remember_complete", run=self._run_id, entity=self._entity.name)

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

    def store(
        self, documents: pa.Table, fresh: Mapping[str, np.ndarray], model: str, dimensions: int
    ) -> None:
        """Give every document its vector: a fresh one, or that of an equal text.

        Args:
            documents: id, legacy_id, hash, text.
            fresh: content hash to a new vector.

        Raises:
            MigrationError: RUN_LOST.
        """
        vectors = pa.table([list(fresh), [vector.tolist() for vector in fresh.values()]], schema=_FRESH)
        self._target.call(
            "store_vectors",
            incoming={"documents": self._rows(documents), "fresh": vectors},
            run=self._run_id,
            entity=self._entity.name,
            model=model,
            dimensions=dimensions,
        )

    def _rows(self, documents: pa.Table) -> pa.Table:
        vector_ids = target_ids(self._embeddings.table, documents.column("legacy_id").combine_chunks())
        return pa.table(
            {"vector_id": vector_ids, **{name: documents.column(name) for name in ("id", "hash", "text")}}
        )

    def build_index(self) -> bool:
        """Build the HNSW index if it is not there; returns whether it was built."""
        return bool(self._target.call("build_index", entity=self._entity.name))


def _documents(table: pa.Table) -> Iterator[dict[str, Any]]:
    for legacy_id, document in zip(*(column.to_pylist() for column in table.columns), strict=True):
        yield {"legacy_id": legacy_id, **json.loads(document)}
