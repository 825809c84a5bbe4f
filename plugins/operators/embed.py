"""Hop 5: documents of live target rows into vectors, by content hash: unchanged text is never paid for again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from airflow.sdk.exceptions import AirflowSkipException

from include.core.batches import Partition, batch_name
from include.core.spec import Embeddings
from include.core.tracking import Fates
from include.embedding.batching import cut_texts, plan_batches
from include.embedding.content_hash import content_hashes
from include.entities import ENTITIES
from plugins.hooks.embeddings import choose_provider
from plugins.hooks.plans import PlansHook
from plugins.hooks.tracking import TrackingHook
from plugins.hooks.vectors import VectorStore
from plugins.operators.preflight import chosen
from plugins.operators.step import Clock, MigrationOperator, PartitionOperator, Run

if TYPE_CHECKING:
    import numpy as np

    from include.embedding.provider import EmbeddingProvider

_DOCUMENTS_PER_CHUNK = 5_000


def skip_without_ai(run: Run) -> None:
    """Embeddings are made of what was loaded: a dry run has nothing, and enable_ai=false wants nothing."""
    if run.settings.dry_run or not run.settings.enable_ai:
        raise AirflowSkipException("dry run" if run.settings.dry_run else "enable_ai is off")


class EmbedOperator(PartitionOperator):
    """Embeds the documents of one partition."""

    def step(self, run: Run) -> dict[str, int]:
        """Returns how many documents there are, lacked a vector, and how many texts were sent."""
        skip_without_ai(run)
        entity, partition = ENTITIES[str(self.entity)], Partition.from_json(self.partition)
        embeddings = _embeddings(entity.name)
        provider = choose_provider()
        documents = lacking = sent = 0
        with self.target(run, entity=entity.name) as target:
            tracking = TrackingHook(target, run.run_id)
            store = VectorStore(target, run.run_id, entity, embeddings)
            everything = PlansHook(target, run.run_id).scope() == "everything"
            since = None if everything else store.complete_since(provider.model)
            for number, rows in enumerate(store.documents(partition, _DOCUMENTS_PER_CHUNK, since)):
                tracking.stop_if_failed(fail_fast=run.settings.fail_fast)
                clock = Clock()
                wanted = _wanted(rows, embeddings, provider, store)
                texts = _embed(wanted, provider, store)
                fates = Fates(
                    rows.num_rows, inserted=wanted.num_rows, unchanged=rows.num_rows - wanted.num_rows
                )
                name = batch_name(partition, number)
                tracking.record_batch(
                    clock.ledger_row(run, entity=entity.name, phase=self.phase, batch=name, fates=fates)
                )
                documents, lacking, sent = documents + rows.num_rows, lacking + wanted.num_rows, sent + texts
        self.progress(
            f"{partition.label}: {documents:,} documents, {lacking:,} new or changed, {sent:,} texts sent"
        )
        return {"documents": documents, "lacking": lacking, "sent": sent}


class BuildIndexOperator(MigrationOperator):
    """Builds the HNSW index behind the bulk load."""

    def step(self, run: Run) -> None:
        """Builds nothing where the index exists, for single inserts keep it up to date; remembers that all is done."""
        skip_without_ai(run)
        entity, clock = ENTITIES[str(self.entity)], Clock()
        if entity not in chosen(run.settings):
            return
        embeddings = _embeddings(entity.name)
        with self.target(run, entity=entity.name) as target:
            store = VectorStore(target, run.run_id, entity, embeddings)
            built = store.build_index()
            store.remember_complete()
        if built:
            self.progress(f"index on {embeddings.table} built in {clock.seconds:.1f} s")


def _embeddings(entity: str) -> Embeddings:
    embeddings = ENTITIES[entity].embeddings
    if embeddings is None:
        raise LookupError(f"{entity} has no documents")
    return embeddings


def _wanted(
    rows: pa.Table, embeddings: Embeddings, provider: EmbeddingProvider, store: VectorStore
) -> pa.Table:
    """id, legacy_id, hash, text of the rows that lack a vector of their present text."""
    rendered = embeddings.document.render(rows)
    rows, rendered = rows.filter(pc.is_valid(rendered)), rendered.drop_null()
    texts = pa.array(cut_texts(rendered.to_pylist(), provider.max_tokens_per_input).texts, pa.string())
    hashes = content_hashes(texts, provider.model, provider.dimensions)
    ids = rows.column("id").combine_chunks()
    table = pa.table({"id": ids, "legacy_id": rows.column("legacy_id"), "hash": hashes, "text": texts})
    return table.filter(store.lacking(ids, hashes))


def _embed(wanted: pa.Table, provider: EmbeddingProvider, store: VectorStore) -> int:
    """Send each text once, store each answered request before the next; returns the number of texts sent."""
    known = store.known_hashes(pc.unique(wanted.column("hash")))
    pending = dict(zip(wanted.column("hash").to_pylist(), wanted.column("text").to_pylist(), strict=True))
    texts = {content_hash: text for content_hash, text in pending.items() if content_hash not in known}
    _store(wanted, dict.fromkeys(known), {}, provider, store)
    hashes = list(texts)
    for batch in plan_batches(list(texts.values()), provider.max_inputs, provider.max_tokens_per_request):
        some = [hashes[place] for place in batch]
        vectors = provider.embed([texts[content_hash] for content_hash in some])
        fresh = dict(zip(some, vectors, strict=True))
        _store(wanted, fresh, fresh, provider, store)
    return len(texts)


def _store(
    wanted: pa.Table,
    hashes: dict[str, Any],
    fresh: dict[str, np.ndarray],
    provider: EmbeddingProvider,
    store: VectorStore,
) -> None:
    if hashes:
        mine = wanted.filter(pc.is_in(wanted.column("hash"), pa.array(list(hashes), pa.string())))
        store.store(mine, fresh, provider.model, provider.dimensions)
