"""Vectors that were answered and paid for, kept beside staging until the target has them.

Independent of runs: what one run was killed with, the next one finds. A file holds the answer of one request, by
content hash, and no text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from include.core.errors import MigrationError
from include.embedding.provider import Vectors
from plugins.hooks.staging import StagedFolder, staging_root

_KIND = "answers"


@dataclass(frozen=True)
class Kept:
    """One answer that the target may lack.

    Attributes:
        name: of its file.
        vectors: float32, a row for each hash.
    """

    name: str
    hashes: list[str]
    vectors: Vectors


class AnswerSpool:
    """The answers of one entity's texts."""

    def __init__(self, entity: str) -> None:
        self._entity = entity

    @cached_property
    def _folder(self) -> StagedFolder:
        # The text can be guessed from a vector. The root may be anybody's, and belong to somebody else.
        return StagedFolder(staging_root(), private=staging_root() / _KIND)

    def keep(self, hashes: Sequence[str], vectors: Vectors) -> str:
        """Keep an answer, whole or not at all; returns the name by which it is dropped.

        Raises:
            MigrationError: STORAGE_FULL or STORAGE_UNWRITABLE.
        """
        name = hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:32]
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        self._folder.write(_KIND, self._entity, name, pa.table({"hash": list(hashes), "embedding": lists}))
        return name

    def wanted(self, hashes: Collection[str]) -> Iterator[Kept]:
        """Answers that hold a vector for any of the hashes."""
        for name, table in self._answers(["hash", "embedding"]) if hashes else ():
            kept = table.column("hash").to_pylist()
            if not set(kept).isdisjoint(hashes):
                lists = table.column("embedding").combine_chunks()
                yield Kept(name, kept, lists.flatten().to_numpy().reshape(len(kept), -1))

    def forget(self, known: Callable[[list[str]], Collection[str]]) -> None:
        """Drop the answers that the target has: a task was killed before it could.

        Args:
            known: which of some hashes the target has a vector of.
        """
        for name, table in self._answers(["hash"]):
            hashes = table.column("hash").to_pylist()
            if set(hashes) <= set(known(hashes)):
                self.drop(name)

    def _answers(self, columns: list[str]) -> Iterator[tuple[str, pa.Table]]:
        """All answers; without those that another task has stored and dropped since their names were read."""
        for name in self._folder.names(_KIND, self._entity):
            try:
                table = self._folder.read(_KIND, self._entity, name, columns)
            except MigrationError as error:
                if error.code != "STAGING_MISSING":
                    raise
                continue
            yield name, table

    def drop(self, name: str) -> None:
        """Forget an answer: the target has it."""
        self._folder.drop(_KIND, self._entity, name)
