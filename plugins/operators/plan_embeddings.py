"""Hop 5, first half: which documents lack a vector, what that will cost, and the texts in shares."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from airflow.sdk.exceptions import AirflowSkipException

from include.core.batches import Partition, batch_names
from include.core.errors import MigrationError
from include.core.spec import Embeddings, Entity
from include.core.tracking import Fates
from include.embedding import redaction
from include.embedding.content_hash import content_hashes
from include.embedding.documents import columns_sent, recipe
from include.embedding.prices import FREE, cost
from include.embedding.provider import EmbeddingProvider
from include.embedding.redaction import Redactor
from include.embedding.rendering import RENDERED, rendered
from include.entities import ENTITIES
from plugins.hooks.embedding_ledger import EmbeddingLedger
from plugins.hooks.embeddings import choose_provider
from plugins.hooks.openai_batches import OpenAIBatches
from plugins.hooks.plans import PlansHook
from plugins.hooks.run_notes import RunNotes
from plugins.hooks.staging import StagingHook
from plugins.hooks.target import Target
from plugins.hooks.tracking import TrackingHook
from plugins.hooks.vectors import VectorStore
from plugins.operators.preflight import chosen
from plugins.operators.step import Clock, MigrationOperator, Run

TEXTS = "texts"
"""Kind of the staged shares: id, legacy_id, hash, text, shortened, tokens; rows of one text are in one share."""
PLAN = "plan"

_DOCUMENTS_PER_CHUNK = 5_000
_KEYS_PER_CALL = 25_000
# Enough to be worth a task, few enough for one job of the Batch API and to be followed while it works.
_TEXTS_PER_SHARE = 10_000
MOST_SHARES = 8
# Fewer than OpenAI's lowest tier lets wait at the Batch API, and far from the most bytes of a job.
_TOKENS_PER_SHARE = 2_000_000


def share_name(number: int) -> str:
    """The share in staging and in the ledger: ``s003``."""
    return f"s{number:03d}"


def skip_without_ai(run: Run, entity: Entity) -> Embeddings:
    """The entity's documents, where the run embeds them.

    Raises:
        AirflowSkipException: it does not.
    """
    if not run.settings.enable_ai:
        raise AirflowSkipException("enable_ai is off")
    if entity not in chosen(run.settings) or entity.name not in run.settings.ai_entities:
        raise AirflowSkipException("not chosen")
    if entity.embeddings is None:
        raise ValueError(f"{entity.name} has no documents")
    return entity.embeddings


def with_free_text(run: Run, embeddings: Embeddings) -> bool:
    """Whether clinical text gets into the documents: only where the setting that says so allows it."""
    return run.settings.embed_clinical_text and bool(embeddings.document.free_text)


def recipe_of(run: Run, embeddings: Embeddings, provider: EmbeddingProvider) -> str:
    """What vectors of this run are made by; others of the same text are other vectors."""
    return recipe(
        embeddings.document,
        model=provider.model,
        dimensions=provider.dimensions,
        free_text=with_free_text(run, embeddings),
        redaction=redaction.VERSION,
    )


@dataclass(frozen=True)
class _Texts:
    """Distinct texts that are to be sent."""

    rows: pa.Table
    tokens: int
    number: int


class PlanEmbeddingsOperator(MigrationOperator):
    """Finds the documents without a vector and cuts their texts into shares.

    A dry run predicts: it renders the documents from the rows that it staged.

    Args:
        staged: entity to what transformation returned, for this entity and those its documents read.
    """

    template_fields = ("staged",)

    def __init__(self, *, staged: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.staged = staged

    def nothing_done(self, run: Run) -> list[dict[str, Any]]:
        """As many shares as ever, of nothing."""
        entity = ENTITIES[str(self.entity)]
        skip_without_ai(run, entity)
        if run.settings.dry_run:
            return []
        with self.target(run) as target:
            done = TrackingHook(target, run.run_id).done_batches(entity.name, self.phase, "s")
        return [_share(entity.name, number, 0) for number in range(max(1, len(done)))]

    def step(self, run: Run) -> list[dict[str, Any]]:
        """Returns the shares, at least one; none in a dry run.

        Raises:
            MigrationError: EMBEDDING_PRICE_UNKNOWN, and those of provider and target.
        """
        entity = ENTITIES[str(self.entity)]
        embeddings = skip_without_ai(run, entity)
        provider, clock = choose_provider(), Clock()
        _refuse_unpriced(provider)
        with self.target(run, entity=entity.name) as target:
            plan = _Plan(run, target, entity, embeddings, provider)
            documents = plan.staged(self.staged) if run.settings.dry_run else plan.stored()
            number, wanted = plan.lacking(documents)
            texts = plan.texts(wanted)
            self._tell(run, plan, number, wanted.num_rows, texts)
            if run.settings.dry_run:
                return []
            shares = _stage_shares(
                StagingHook(run.run_id), entity.name, texts, batch_api=run.settings.ai_batch_api
            )
            done = number - texts.rows.num_rows
            tracking = TrackingHook(target, run.run_id)
            planned = {share_name(share["number"]) for share in shares if share["texts"]}
            # Rows of shares that an earlier plan of the run had, and this one has not, are among those done.
            gone = tracking.done_batches(entity.name, self.phase, "s") - planned
            for batch, fates in [
                *((name, Fates(0)) for name in sorted(gone)),
                (PLAN, Fates(done, unchanged=done)),
            ]:
                tracking.record_batch(
                    clock.ledger_row(run, entity=entity.name, phase=self.phase, batch=batch, fates=fates)
                )
                self.batch_recorded(batch, fates, clock.seconds)
        return shares

    def _tell(self, run: Run, plan: _Plan, documents: int, wanted: int, texts: _Texts) -> None:
        """The estimate, before anything is sent: to the log, to the report, and as a warning above the budget."""
        provider, price = plan.provider, plan.provider.price
        money = None if price is None else cost(texts.tokens, price, batch=run.settings.ai_batch_api)
        estimate: dict[str, Any] = {
            "provider": provider.name,
            "model": provider.model,
            "leaves": provider.leaves,
            "account": provider.account,
            "columns": columns_sent(plan.document, free_text=plan.free_text),
            "recipe": plan.recipe,
            "documents": documents,
            "wanted": wanted,
            "texts": texts.number,
            "tokens": texts.tokens,
            "cost": None if money is None else str(money),
        }
        EmbeddingLedger.record_estimate(plan.target, run.run_id, plan.entity.name, estimate)
        spent = "price unknown" if money is None else f"{money:.4f} US dollars"
        if provider.price not in (None, FREE):
            spent += f" (prices of {provider.price.as_of})"
        self.progress(
            f"{plan.entity.name}: {documents:,} documents, {wanted:,} new or changed; to {provider.name}"
            f" {provider.model}: {texts.number:,} texts, {texts.tokens:,} tokens, {spent}"
        )
        if money is not None and money > Decimal(str(run.settings.ai_budget)):
            facts = {"entity": plan.entity.name, "cost": f"{money:.2f}", "budget": run.settings.ai_budget}
            RunNotes(plan.target, run.run_id).record("embedding_over_budget", **facts)


class _Plan:
    """The documents of one entity in one run."""

    def __init__(
        self, run: Run, target: Target, entity: Entity, embeddings: Embeddings, provider: EmbeddingProvider
    ) -> None:
        self.run, self.target, self.entity, self.provider = run, target, entity, provider
        self.document = embeddings.document
        self.free_text = with_free_text(run, embeddings)
        self._store = VectorStore(target, run.run_id, entity, embeddings)
        self.recipe = recipe_of(run, embeddings, provider)
        self._redactor = Redactor(self._store.known_names()) if self.free_text else None

    def stored(self) -> Iterator[pa.Table]:
        """Document columns of the target's live rows that may lack a vector."""
        tracking = TrackingHook(self.target, self.run.run_id)
        scope = PlansHook(self.target, self.run.run_id).scope()
        # A repair takes nothing for granted.
        trusted = scope == "changes" and not self.run.settings.repair
        since = self._store.complete_since(self.recipe) if trusted else None
        whole = Partition(self.entity.name, 0, None, None)
        for rows in self._store.documents(whole, _DOCUMENTS_PER_CHUNK, since, free_text=self.free_text):
            tracking.stop_if_failed(fail_fast=self.run.settings.fail_fast)
            yield rows

    def staged(self, manifests: Mapping[str, Any]) -> Iterator[pa.Table]:
        """Document columns of the rows that this run has staged.

        What they refer to is read from the target where the run did not read it.
        """
        staging, needed = StagingHook(self.run.run_id), self.document.staged_columns(free_text=self.free_text)
        own = needed.pop("t")
        entities = {join.alias: join.entity for join in self.document.joins}
        joined = {}
        for table, columns in needed.items():
            entity = entities.get(table, table)
            joined[table] = self._expected(entity, _clean(staging, entity, columns, manifests))
        for batch in _batches(manifests.get(self.entity.name)):
            clean = staging.read("clean", self.entity.name, batch, ["id", "legacy_id", *own])
            rows = self._expected(self.entity.name, clean)
            for join in self.document.joins:
                missing = _missing(rows.column(join.by), joined[join.alias])
                stored = self._store.stored_columns(join.entity, needed[join.alias], missing)
                joined[join.alias] = pa.concat_tables([joined[join.alias], stored])
            yield self.document.staged_rows(rows, joined, free_text=self.free_text)

    def _expected(self, entity: str, rows: pa.Table) -> pa.Table:
        """Without the rows that would be rejected."""
        parts = [rows.slice(start, _KEYS_PER_CALL) for start in range(0, rows.num_rows, _KEYS_PER_CALL)]
        kept = [part.filter(self._store.expected(entity, part.column("id"))) for part in parts]
        return pa.concat_tables([rows.slice(0, 0), *kept])

    def lacking(self, documents: Iterator[pa.Table]) -> tuple[int, pa.Table]:
        """The number of documents; and id, legacy_id, hash, text, shortened of those without a vector of their text."""
        number, wanted = 0, [RENDERED.empty_table()]
        for rows in documents:
            told = self._rendered(rows)
            number += told.num_rows
            ids, hashes = (told.column(name).combine_chunks() for name in ("id", "hash"))
            wanted.append(told.filter(self._store.lacking(ids, hashes)))
        return number, pa.concat_tables(wanted)

    def _rendered(self, rows: pa.Table) -> pa.Table:
        found = rendered(self.document, rows, self.provider, self._redactor)
        self._set_aside(found.without)
        return found.documents

    def _set_aside(self, rows: pa.Table) -> None:
        """Note the rows that have no document."""
        if not rows.num_rows or self.run.settings.dry_run:
            return
        [nothing] = content_hashes(pa.array([""]), self.provider.model, self.provider.dimensions).to_pylist()
        missing = MigrationError("EMBEDDING_NO_TEXT", "")
        noted = rows.select(["id", "legacy_id"]).append_column("hash", pa.array([nothing] * rows.num_rows))
        self._store.quarantine(noted, {nothing: missing.code}, self.provider.model)

    def texts(self, wanted: pa.Table) -> _Texts:
        """What is to be sent: the rows whose text nobody has a vector of, with the tokens of each.

        Rows with the text of another row get its vector at once; texts that the provider refused are left out.
        """
        hashes = pc.unique(wanted.column("hash"))
        known = self._store.known_hashes(hashes)
        if not self.run.settings.dry_run:
            copied = rows_of(wanted, known)
            for start in range(0, copied.num_rows, _DOCUMENTS_PER_CHUNK):
                self._store.copy(
                    stored_form(copied.slice(start, _DOCUMENTS_PER_CHUNK), free_text=self.free_text),
                    self.provider.model,
                    self.provider.dimensions,
                )
        refused = {} if self.run.settings.redrive else self._store.quarantined_hashes(hashes)
        if refused and not self.run.settings.dry_run:
            self._store.quarantine(rows_of(wanted, refused), refused, self.provider.model)
        rows = rows_of(wanted, known | refused.keys(), but=True)
        distinct = dict(zip(rows.column("hash").to_pylist(), rows.column("text").to_pylist(), strict=True))
        tokens = {content_hash: self.provider.count_tokens(text) for content_hash, text in distinct.items()}
        counted = pa.array(
            [tokens[content_hash] for content_hash in rows.column("hash").to_pylist()], pa.int64()
        )
        return _Texts(rows.append_column("tokens", counted), sum(tokens.values()), len(tokens))


def rows_of(rows: pa.Table, hashes: Collection[str], *, but: bool = False) -> pa.Table:
    """The rows of some texts, by content hash, or all but these."""
    theirs = pc.is_in(rows.column("hash"), pa.array(list(hashes), pa.string()))
    return rows.filter(pc.invert(theirs) if but else theirs)


def stored_form(rows: pa.Table, *, free_text: bool) -> pa.Table:
    """Rows as they are stored: what holds free text is not kept beside its vector."""
    if not free_text:
        return rows
    place = rows.schema.get_field_index("text")
    return rows.set_column(place, "text", pa.nulls(rows.num_rows, pa.string()))


def _refuse_unpriced(provider: EmbeddingProvider) -> None:
    """A budget cannot be kept where nobody knows the price."""
    if provider.price is None:
        raise MigrationError("EMBEDDING_PRICE_UNKNOWN", "", model=provider.model)


def _batches(manifests: Any) -> list[str]:
    return [batch for manifest in manifests or () for batch in batch_names(manifest)]


def _missing(ids: pa.ChunkedArray, rows: pa.Table) -> pa.Array:
    """The ids that none of the rows has."""
    known = pc.is_in(ids, rows.column("id").combine_chunks())
    return pc.unique(ids.filter(pc.invert(known))).drop_null()


def _clean(staging: StagingHook, entity: str, columns: list[str], manifests: Mapping[str, Any]) -> pa.Table:
    names = ["id", *columns]
    tables = [staging.read("clean", entity, batch, names) for batch in _batches(manifests.get(entity))]
    return pa.concat_tables([pa.schema([(name, pa.string()) for name in names]).empty_table(), *tables])


def _share(entity: str, number: int, texts: int, of: int = 1) -> dict[str, Any]:
    label = f"{number + 1} of {of}: {texts:,} texts" if texts else "nothing to send"
    return {"entity": entity, "number": number, "texts": texts, "label": label, "low": None, "high": None}


def _stage_shares(
    staging: StagingHook, entity: str, texts: _Texts, *, batch_api: bool
) -> list[dict[str, Any]]:
    """Stage the rows in shares of about equally many texts; all rows of one text are in one share."""
    if not texts.number:
        return [_share(entity, 0, 0)]
    of = min(MOST_SHARES, ceil(texts.number / _TEXTS_PER_SHARE))
    if batch_api:  # a share is one job there
        of = max(
            of,
            ceil(texts.number / OpenAIBatches.max_texts),
            min(texts.number, ceil(texts.tokens / _TOKENS_PER_SHARE)),
        )
    places = texts.rows.column("hash").combine_chunks().dictionary_encode().indices
    share = pc.floor(pc.divide(pc.multiply(places.cast(pa.float64()), of), texts.number)).cast(pa.int64())
    shares = []
    for number in range(of):
        rows = texts.rows.filter(pc.equal(share, number))
        staging.write(TEXTS, entity, share_name(number), rows)
        shares.append(_share(entity, number, pc.count_distinct(rows.column("hash")).as_py(), of))
    return shares
