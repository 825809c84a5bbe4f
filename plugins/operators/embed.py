"""Hop 5, second half: texts into vectors, by content hash: unchanged text is never paid for again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk.exceptions import AirflowSkipException

from include.core.errors import MigrationError
from include.core.progress import Progress
from include.core.spec import Embeddings, Entity
from include.core.tracking import Fates
from include.embedding.content_hash import content_hashes
from include.embedding.provider import EmbeddingProvider, Vectors
from include.embedding.tokens import request_size
from include.entities import ENTITIES
from plugins.hooks.answer_spool import AnswerSpool
from plugins.hooks.embedding_jobs import EmbeddingJobs, Waiting, batches_of
from plugins.hooks.embedding_ledger import EmbeddingLedger
from plugins.hooks.embedding_sender import Sender, Text
from plugins.hooks.embeddings import choose_provider
from plugins.hooks.staging import StagingHook
from plugins.hooks.target import Target
from plugins.hooks.tracking import TrackingHook
from plugins.hooks.vectors import VectorStore
from plugins.operators.plan_embeddings import (
    TEXTS,
    rows_of,
    share_name,
    skip_without_ai,
    stored_form,
    with_free_text,
)
from plugins.operators.step import Clock, MigrationOperator, PartitionOperator, Run

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

_ROWS_ASKED_AT_ONCE = 5_000
_INDEX = {
    "built": "built",
    "exists": "there already",
    "too_many_dimensions": "none, for too many dimensions; searches read all vectors",
}


class EmbedOperator(PartitionOperator):
    """Embeds one share of an entity's texts.

    Where the Batch API works on it, the task waits without a worker; every time it wakes up it does all of this
    again, and finds what is done already, as after a crash.
    """

    _sender: Sender | None = None

    def step(self, run: Run) -> dict[str, int]:
        """Returns how many rows got a vector, and how many texts were sent and refused."""
        entity = ENTITIES[str(self.entity)]
        skip_without_ai(run, entity)
        if not self.partition["texts"]:
            return {"rows": 0, "sent": 0, "refused": 0}
        clock = Clock()
        with self.target(run, entity=entity.name) as target, target.another() as beside:
            share = _Share(self, run, entity, target, beside)
            share.take_up()
            if run.settings.ai_batch_api:
                self._collect(share)
            share.send()
            TrackingHook(target, run.run_id).record_batch(
                clock.ledger_row(
                    run, entity=entity.name, phase=self.phase, batch=share.name, fates=share.fates
                )
            )
            self.batch_recorded(share.name, share.fates, clock.seconds)
        self.progress(f"{entity.name}: {self.partition['label']}, {share.told}", entity=entity.name)
        return {"rows": share.stored, "sent": share.sent, "refused": share.refused}

    def _collect(self, share: _Share) -> None:
        """Take what the Batch API has answered; come back later while it works."""
        waiting = share.collect()
        if waiting is not None:
            self.progress(f"{self.entity}: {self.partition['label']}, {waiting.told}")
            self.defer(
                trigger=TimeDeltaTrigger(timedelta(seconds=waiting.seconds)), method_name=self.resume.__name__
            )

    @contextmanager
    def stopping(self, sender: Sender) -> Iterator[None]:
        """Within the block, a kill of the task stops the sender."""
        self._sender = sender
        try:
            yield
        finally:
            self._sender = None

    def on_kill(self) -> None:
        """Send nothing more; what is answered stays."""
        if self._sender is not None:
            self._sender.stop()
        super().on_kill()

    def resume(self, context: Context, event: Any = None) -> Any:  # noqa: ARG002 - Airflow passes it
        """Wake up: what is done is found in target and spool."""
        return self.execute(context)


class _Share:
    """The rows of one share, and what has become of them."""

    def __init__(
        self, operator: EmbedOperator, run: Run, entity: Entity, target: Target, beside: Target
    ) -> None:
        embeddings = skip_without_ai(run, entity)
        self.name = share_name(operator.partition["number"])
        self._operator, self._run, self._entity = operator, run, entity
        self._provider: EmbeddingProvider = choose_provider()
        self._free_text = with_free_text(run, embeddings)
        self._store = VectorStore(target, run.run_id, entity, embeddings)
        self._tracking = TrackingHook(target, run.run_id)
        self._beside = beside
        self._spool = AnswerSpool(entity.name)
        self._rows: pa.Table = StagingHook(run.run_id).read(TEXTS, entity.name, self.name)
        _refuse_other_model(self._rows, self._provider)
        self._pending = self._rows
        self._clock = Clock()
        self.sent = self.refused = self.stored = self.tokens = 0

    @property
    def fates(self) -> Fates:
        """Of all rows of the share; those left over were refused, now or by an earlier attempt."""
        left = self._pending.num_rows
        return Fates(self._rows.num_rows, inserted=self._rows.num_rows - left, rejected=left)

    @property
    def told(self) -> str:
        """For a person."""
        refused = f", {self.refused:,} texts refused" if self.refused else ""
        rate = self.stored / max(self._clock.seconds, 0.001)
        return (
            f"{self.stored:,} rows got a vector, {self.sent:,} texts and {self.tokens:,} tokens sent"
            f"{refused}, {rate:,.0f} rows/s"
        )

    def take_up(self) -> None:
        """Leave out what an earlier attempt stored, and store what it was answered and could not store any more."""
        wanted = []
        for start in range(0, self._rows.num_rows, _ROWS_ASKED_AT_ONCE):
            rows = self._rows.slice(start, _ROWS_ASKED_AT_ONCE)
            ids, hashes = (rows.column(name).combine_chunks() for name in ("id", "hash"))
            wanted.append(rows.filter(self._store.lacking(ids, hashes)))
        self._pending = pa.concat_tables(wanted)
        mine = set(self._rows.column("hash").to_pylist())
        for kept in self._spool.wanted(set(self._pending.column("hash").to_pylist())):
            places = [place for place, content_hash in enumerate(kept.hashes) if content_hash in mine]
            self._keep([kept.hashes[place] for place in places], kept.vectors[places])
            # What was planned otherwise then may be another share's now; the rest is dropped behind all shares.
            if len(places) == len(kept.hashes):
                self._spool.drop(kept.name)

    def collect(self) -> Waiting | None:
        """Have the Batch API embed what is pending, and take its answers; None: it will not answer any more."""
        jobs = EmbeddingJobs(batches_of(self._provider), self._ledger(batch_api=True), self.name)
        while True:
            texts = {text.hash: text for text in self._texts()}
            waiting = jobs.submit_or_wait(texts)
            if waiting is not None or not jobs.answered:
                return waiting
            for hashes, vectors, spooled in jobs.collect(self._spool, texts):
                self.sent += len(hashes)
                self._keep(hashes, vectors)
                self._spool.drop(spooled)

    def send(self) -> None:
        """Send what is pending, request by request; what the provider refuses goes to quarantine."""
        refused = self._store.quarantined_hashes(pc.unique(self._pending.column("hash")))
        texts = [text for text in self._texts() if self._run.settings.redrive or text.hash not in refused]
        sender = Sender(
            self._provider,
            self._ledger(batch_api=False),
            self._spool,
            max_retries=self._run.settings.max_retries,
            may_go_on=self._may_go_on,
        )
        progress = Progress(len(texts), unit="texts")
        with self._operator.stopping(sender):
            for done in sender.send(texts):
                settled = len(done.hashes) + len(done.refused)
                self.sent += settled
                self.refused += len(done.refused)
                self.tokens += done.tokens
                if done.hashes:
                    self._keep(done.hashes, done.matrix)
                for name in done.spooled:
                    self._spool.drop(name)
                if done.refused:
                    self._store.quarantine(
                        rows_of(self._pending, done.refused), done.refused, self._provider.model
                    )
                self._operator.advance(progress, f"{self._entity.name}: {self.told}", settled)

    def _ledger(self, *, batch_api: bool) -> EmbeddingLedger:
        """The ledger of requests; jobs of the Batch API cost less, and have limits of their own."""
        price = self._provider.price
        return EmbeddingLedger(
            self._beside,
            self._run.run_id,
            self._entity.name,
            self._provider,
            price=None if price is None else price.rate(batch=batch_api),
            budget=Decimal(str(self._run.settings.ai_budget)),
            paced=not batch_api,
        )

    def _texts(self) -> list[Text]:
        """The distinct texts of the pending rows."""
        columns = (self._pending.column(name).to_pylist() for name in ("hash", "text", "tokens"))
        distinct = {row[0]: row for row in zip(*columns, strict=True)}
        return [
            Text(content_hash, text, tokens, request_size(tokens, text))
            for content_hash, text, tokens in distinct.values()
        ]

    def _keep(self, hashes: list[str], vectors: Vectors) -> None:
        """Give every row of the texts its vector."""
        rows = rows_of(self._pending, hashes)
        self._store.store(
            stored_form(rows, free_text=self._free_text),
            (hashes, vectors),
            self._provider.model,
            self._provider.dimensions,
        )
        self.stored += rows.num_rows
        self._pending = rows_of(self._pending, hashes, but=True)

    def _may_go_on(self) -> None:
        self._tracking.stop_if_failed(fail_fast=self._run.settings.fail_fast)


def _refuse_other_model(rows: pa.Table, provider: EmbeddingProvider) -> None:
    """The hashes were made for one model: vectors of another one must not be known by them."""
    row = rows.slice(0, 1)
    if (
        content_hashes(row.column("text"), provider.model, provider.dimensions)
        != row.column("hash").combine_chunks()
    ):
        raise MigrationError(
            "EMBEDDING_PLAN_OUTDATED", "", model=provider.model, dimensions=provider.dimensions
        )


class BuildIndexOperator(MigrationOperator):
    """Builds the HNSW index behind the bulk load."""

    def step(self, run: Run) -> None:
        """Builds nothing where the index exists, for single inserts keep it up to date; remembers that all is done."""
        entity, clock = ENTITIES[str(self.entity)], Clock()
        embeddings = self._embeddings(run)
        with self.target(run, entity=entity.name) as target:
            store = VectorStore(target, run.run_id, entity, embeddings)
            AnswerSpool(entity.name).forget(lambda hashes: store.known_hashes(pa.array(hashes, pa.string())))
            state = store.build_index()
            # As planned: the provider may have been changed since.
            store.remember_complete(
                EmbeddingLedger.facts(target, run.run_id)["estimates"][entity.name]["recipe"]
            )
        self.progress(f"index on {embeddings.table}: {_INDEX[state]}, {clock.seconds:.1f} s")

    def nothing_done(self, run: Run) -> None:
        """Skipped as ever, where it was."""
        self._embeddings(run)

    def _embeddings(self, run: Run) -> Embeddings:
        if run.settings.dry_run:
            raise AirflowSkipException("dry run")
        return skip_without_ai(run, ENTITIES[str(self.entity)])
