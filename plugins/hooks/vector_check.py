"""Vectors in validation: each is of the text that its row has now, well formed, and what searches find it by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from include.core.batches import Partition
from include.core.spec import Embeddings, Entity
from include.core.tracking import Check
from include.embedding import redaction
from include.embedding.documents import recipe
from include.embedding.provider import EmbeddingProvider
from include.embedding.redaction import Redactor
from include.embedding.rendering import Rendered, rendered
from plugins.hooks.comparison import check_of
from plugins.hooks.target import Target
from plugins.hooks.vectors import VectorStore

Progress = Callable[[int], None]
"""Told how many documents were compared so far."""

_LEVEL = 4
_NAMED = 10
_DOCUMENTS_PER_CHUNK = 5_000
_SENT = pa.schema([(name, pa.string()) for name in ("legacy_id", "id", "hash", "text_digest")])


class VectorCheck:
    """Checks the vectors of one entity; nothing is sent to the provider, who only names the model and counts tokens."""

    def __init__(
        self, target: Target, run_id: str, entity: Entity, embeddings: Embeddings, provider: EmbeddingProvider
    ) -> None:
        self._target = target
        self._entity = entity
        self._document = embeddings.document
        self._provider = provider
        self._store = VectorStore(target, run_id, entity, embeddings)

    def checks(self, *, free_text: bool, progress: Progress = lambda _: None) -> Iterator[Check]:
        """All checks.

        Documents are written by the recipe of the last run that embedded all of them, with or without free text; rows
        written since may still have the vector of their former text, which is a warning.

        Args:
            free_text: whether the documents have free text, where no complete run says so.
        """
        for result in self._target.call("check_vectors", entity=self._entity.name):
            yield check_of(self._entity.name, _LEVEL, result)
        since = {with_it: self._complete_since(free_text=with_it) for with_it in (True, False)}
        made_with = next((with_it for with_it, moment in since.items() if moment is not None), free_text)
        yield from self._of_current_texts(made_with, since[made_with], progress)

    def _complete_since(self, *, free_text: bool) -> str | None:
        if free_text and not self._document.free_text:
            return None
        made_by = recipe(
            self._document,
            model=self._provider.model,
            dimensions=self._provider.dimensions,
            free_text=free_text,
            redaction=redaction.VERSION,
        )
        return self._store.complete_since(made_by)

    def _of_current_texts(self, free_text: bool, since: str | None, progress: Progress) -> Iterator[Check]:
        free_text = free_text and bool(self._document.free_text)
        redactor = Redactor(self._store.known_names()) if free_text else None
        whole = Partition(self._entity.name, 0, None, None)
        found = {name: _Found() for name in ("wrong", "outdated")}
        done = 0
        for rows in self._store.documents(whole, _DOCUMENTS_PER_CHUNK, free_text=free_text):
            sent = _sent(rendered(self._document, rows, self._provider, redactor))
            others = self._target.call(
                "vectors_of_other_texts", incoming={"documents": sent}, entity=self._entity.name, since=since
            )
            for name, keys in others.items():
                found[name].add(keys)
            done += rows.num_rows
            progress(done)
        yield self._none("vectors_of_current_texts", found["wrong"], "fail")
        yield self._none("vectors_outdated", found["outdated"], "warn")

    def _none(self, name: str, found: _Found, severity: str) -> Check:
        number, samples = str(found.number), tuple(found.samples)
        return Check(name, self._entity.name, _LEVEL, "0", number, not found.number, severity, samples)


class _Found:
    """How many rows were found, and the first of them."""

    def __init__(self) -> None:
        self.number = 0
        self.samples: list[str] = []

    def add(self, keys: Sequence[str]) -> None:
        self.number += len(keys)
        self.samples = sorted([*self.samples, *keys])[:_NAMED]


def _sent(documents: Rendered) -> pa.Table:
    """What tells a document from others, of rows without one too."""
    told = documents.documents
    digests = [
        hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        for text in told.column("text").to_pylist()
    ]
    columns = [told.column(name) for name in ("legacy_id", "id", "hash")]
    nothing = pa.nulls(documents.without.num_rows, pa.string())
    return pa.concat_tables(
        [
            pa.table([*columns, pa.array(digests, pa.string())], schema=_SENT),
            pa.table(
                [*(documents.without.column(name) for name in ("legacy_id", "id")), nothing, nothing],
                schema=_SENT,
            ),
        ]
    )
