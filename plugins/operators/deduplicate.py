"""Hop 3: which rows of an entity are the same thing: who is compared, the comparison in shares, the decision."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from airflow.sdk.exceptions import AirflowSkipException

from include.core.batches import Partition, batch_names
from include.core.progress import Progress
from include.core.tracking import Fates
from include.entities import ENTITIES
from include.matching.deduplicate import MatchResult, MatchSettings, compare, decide, learn
from plugins.hooks.decisions import COMPARED, Decisions
from plugins.hooks.matching import MatchPlan, StagedMatching, StoredModel
from plugins.hooks.merging import settle
from plugins.hooks.review import Review, asked_again
from plugins.hooks.run_notes import RunNotes
from plugins.hooks.source_memory import last_complete_run
from plugins.hooks.staging import StagingHook, report_root, run_folder
from plugins.hooks.target import Target
from plugins.hooks.tracking import LedgerRow, peak_memory_mb
from plugins.operators.preflight import chosen
from plugins.operators.step import Clock, MigrationOperator, Run, code_version

_KEYS = ["left_id", "right_id"]


def _settings(run: Run) -> MatchSettings:
    settings = MatchSettings(merge_at=run.settings.merge_at, review_at=run.settings.review_at)
    # Tasks that share the work leave the other cores to each other.
    return replace(settings, workers=1) if run.settings.match_shares > 1 else settings


class PlanMatchingOperator(MigrationOperator):
    """Finds out who must be compared, and by which model; cuts the comparison into shares.

    Args:
        partitions: what transformation returned.
    """

    template_fields = ("partitions",)

    def __init__(self, *, partitions: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.partitions = partitions

    def nothing_done(self, run: Run) -> list[dict[str, Any]]:
        """As many shares as ever, of nothing."""
        return self._shares(run, stands=True)

    def step(self, run: Run) -> list[dict[str, Any]]:
        """Stages rows and plan; returns shares, of nothing where all decisions stand.

        Where the entity was not chosen, earlier decisions stand: an empty answer would undo them.
        """
        if ENTITIES[str(self.entity)] not in chosen(run.settings):
            raise AirflowSkipException("not chosen")
        name, staging, clock = str(self.entity), StagingHook(run.run_id), Clock()
        clean, read = self._staged(staging)
        gone = staging.read("gone", name, "all").column("legacy_id").combine_chunks()
        with self.target(run, entity=name) as target:
            decisions = Decisions(target, run.run_id, name)
            review = Review(target, name)
            stored = _stored_model(run, review)
            only = None
            if self._reads_a_part():
                if stored is not None and _undisturbed(target):
                    only = pa.concat_arrays([decisions.changed(clean, read), gone, review.reopened_rows()])
                    if not len(only) and not decisions.decided_since_complete():
                        self.progress(f"{name}: nothing that is compared changed, so all decisions stand")
                        return self._shares(run, stands=True)
                clean = pa.concat_tables([clean, _others(decisions, pa.concat_arrays([read, gone]))])
        plan = self._plan(run, clean, stored, only)
        StagedMatching(staging, name).keep(clean, plan)
        who = "all" if plan.only is None else f"{len(plan.only):,} new, changed or gone"
        self.progress(f"{name}: {who} of {clean.num_rows:,} rows to compare, {peak_memory_mb():.0f} MB")
        return self._shares(run, stands=False, seconds=clock.seconds)

    def _shares(self, run: Run, *, stands: bool, seconds: float = 0.0) -> list[dict[str, Any]]:
        of = run.settings.match_shares
        common = {"entity": self.entity, "of": of, "stands": stands, "plan_seconds": seconds}
        return [{**common, "label": f"{share + 1} of {of}", "share": share} for share in range(of)]

    def _plan(
        self, run: Run, people: pa.Table, stored: StoredModel | None, only: pa.Array | None
    ) -> MatchPlan:
        if stored is not None and stored.fits(people.num_rows):
            return MatchPlan(stored, learnt=False, only=only)
        clock = Clock()
        model = learn(people, _settings(run))
        self.progress(f"{self.entity}: weights learnt from {people.num_rows:,} rows, {clock.seconds:.1f} s")
        learnt = StoredModel(model, run.settings.merge_at, run.settings.review_at)
        return MatchPlan(learnt, learnt=True, only=None)

    def _staged(self, staging: StagingHook) -> tuple[pa.Table, pa.Array]:
        """The rows of this run that can be compared, and the legacy ids of all that were read."""
        name = str(self.entity)
        batches = [batch for partition in self.partitions or () for batch in batch_names(partition)]
        tables = [staging.read("clean", name, batch, COMPARED) for batch in batches]
        keys = [*staging.keys(name, batches), pa.array([], pa.string())]
        return pa.concat_tables(tables) if tables else _nobody(), pa.concat_arrays(keys)

    def _reads_a_part(self) -> bool:
        """Whether the run reads a part of the rows only."""
        parts = [Partition.from_json(partition) for partition in self.partitions or ()]
        return any(partition.selected is not None for partition in parts)


class ComparePairsOperator(MigrationOperator):
    """Compares one share of the pairs worth comparing.

    Args:
        partition: the share: label, share (from 0), of (how many there are), stands (nothing is to be compared),
            plan_seconds.
    """

    template_fields = ("partition",)

    def __init__(self, *, partition: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.partition = partition

    def step(self, run: Run) -> float:
        """Stages the pairs of the share that are alike enough to be looked at; returns seconds."""
        if self.partition["stands"]:
            return 0.0
        clock, staged = Clock(), StagedMatching(StagingHook(run.run_id), str(self.entity))
        plan, share = staged.plan(), (self.partition["share"], self.partition["of"])
        label, progress = f"{self.entity}: share {self.partition['label']}", Progress(None, unit="pairs")
        pairs = compare(
            staged.people(),
            plan.model.model,
            _settings(run),
            share=share,
            changed=plan.only,
            told=lambda compared: self.advance(progress, label, compared),
        )
        staged.keep_pairs(self.partition["share"], pairs)
        self.progress(
            f"{label}, {pairs.num_rows:,} pairs alike, {clock.seconds:.1f} s, {peak_memory_mb():.0f} MB",
            entity=self.entity,
            counts={"alike": pairs.num_rows},
            **progress.standing.facts,
        )
        return clock.seconds


class DeduplicateOperator(MigrationOperator):
    """Decides who is merged into whom: by the pairs compared now and earlier, and by what people decided.

    Args:
        shares: what the plan returned.
        compared: seconds of each share.
    """

    template_fields = ("shares", "compared")

    def __init__(self, *, shares: Any, compared: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shares = shares
        self.compared = compared

    def step(self, run: Run) -> dict[str, int]:
        """Records survivors and pairs (a dry run lists them instead); returns counts of what was decided."""
        if ENTITIES[str(self.entity)] not in chosen(run.settings):
            raise AirflowSkipException("not chosen")
        if all(share["stands"] for share in self.shares):
            return {"merged": 0, "pending": 0}
        name, clock = str(self.entity), Clock()
        staged = StagedMatching(StagingHook(run.run_id), name)
        plan, people = staged.plan(), staged.people()
        with self.target(run, entity=name) as target:
            review = Review(target, name)
            earlier = review.earlier_pairs() if plan.only is not None else None
            known = review.decisions()
            pairs = _all_pairs(staged.pairs(len(self.shares)), earlier, plan.only)
            result = decide(people, plan.model.model, _settings(run), pairs, known)
            again = asked_again(people, known)
            fates = Fates(people.num_rows, undecided=people.num_rows)
            Decisions(target, run.run_id, name).record(
                result.survivors,
                _news(result.pairs, earlier, plan.only),
                self._with_work(
                    clock.ledger_row(run, entity=name, phase=self.phase, batch="all", fates=fates)
                ),
                dry_run=run.settings.dry_run,
                compared=plan.only,
                asked_again=again,
                model=plan.model.to_json() if plan.learnt else None,
            )
            counts = self._note(run, RunNotes(target, run.run_id), result, again)
        self.batch_recorded("all", fates, clock.seconds)
        self.progress(
            f"{name}: {counts['merged']:,} merged into survivors, {counts['pending']:,} pairs to review,"
            f" {clock.seconds:.1f} s, {peak_memory_mb():.0f} MB",
            entity=name,
            counts=counts,
            seconds=round(clock.seconds, 3),
        )
        return counts

    def _with_work(self, row: LedgerRow) -> LedgerRow:
        """The ledger's row with the time of all three steps: they are one batch."""
        earlier = self.shares[0]["plan_seconds"] + sum(seconds or 0.0 for seconds in self.compared)
        return replace(row, seconds=row.seconds + earlier)

    def _note(self, run: Run, notes: RunNotes, result: MatchResult, again: pa.Table) -> dict[str, int]:
        """Tell the report; a dry run lists ids and scores beside it, for nobody else keeps them."""
        waiting = pc.sum(pc.equal(result.pairs["decision"], "pending")).as_py() or 0
        counts = {"merged": result.survivors.num_rows, "pending": waiting}
        facts: dict[str, Any] = {"entity": str(self.entity), **counts, "again": again.num_rows}
        if run.settings.dry_run:
            name = f"duplicates-{self.entity}.csv"
            _write_list(run, name, result.pairs.select([*_KEYS, "score", "decision"]))
            notes.record("duplicates_listed", file=name, **facts)
        elif counts["merged"] or waiting or again.num_rows:
            notes.record("duplicates_found", **facts)
        if len(result.contradictions):
            notes.record("decisions_contradict", entity=str(self.entity), pairs=len(result.contradictions))
        return counts


class SettleMergesOperator(MigrationOperator):
    """Gives survivors what the rows merged into them have and they lack."""

    def step(self, run: Run) -> dict[str, int]:
        """Returns counts; nothing where the entity was not chosen."""
        if ENTITIES[str(self.entity)] not in chosen(run.settings):
            raise AirflowSkipException("not chosen")
        with self.target(run, entity=str(self.entity)) as target:
            settled = settle(target, run.run_id, str(self.entity), dry_run=run.settings.dry_run)
        self.progress(
            f"{self.entity}: {settled.survivors:,} survivors, {settled.written:,} written;"
            f" {settled.filled:,} values from merged rows, {settled.conflicts:,} conflicts kept"
        )
        return asdict(settled)


def _write_list(run: Run, name: str, pairs: pa.Table) -> None:
    folder = report_root() / run_folder(run.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    file: Any = folder / name
    with file.open("wb") as sink:
        pyarrow.csv.write_csv(pairs, sink)


def _stored_model(run: Run, review: Review) -> StoredModel | None:
    """The model of earlier runs, where its pairs were chosen as this run's are to be."""
    stored = StoredModel.from_json(review.model())
    wanted = (run.settings.merge_at, run.settings.review_at)
    return stored if stored is not None and (stored.merge_at, stored.review_at) == wanted else None


def _undisturbed(target: Target) -> bool:
    """Whether the last complete run, by the same code, is also the last that may have loaded rows."""
    complete = last_complete_run(target)
    return complete is not None and complete.undisturbed and complete.code_version == code_version()


def _others(decisions: Decisions, away: pa.Array) -> pa.Table:
    """The rows of the target but those with some legacy ids: what the run has read, and what is gone."""
    stored = decisions.stored()
    return stored.filter(pc.invert(pc.is_in(stored.column("legacy_id"), away)))


def _touches(pairs: pa.Table, keys: pa.Array) -> pa.ChunkedArray:
    return pc.or_(pc.is_in(pairs["left_id"], keys), pc.is_in(pairs["right_id"], keys))


def _all_pairs(compared: pa.Table, earlier: pa.Table | None, only: pa.Array | None) -> pa.Table:
    """What was compared now, and what earlier runs found of rows that did not change."""
    if earlier is None or only is None:
        return compared
    kept = earlier.filter(pc.invert(_touches(earlier, only)))
    return pa.concat_tables([compared, kept.select(compared.column_names)])


def _news(pairs: pa.Table, earlier: pa.Table | None, only: pa.Array | None) -> pa.Table:
    """Pairs that were compared now, or were decided otherwise before."""
    if earlier is None or only is None:
        return pairs
    known = pc.binary_join_element_wise(earlier["left_id"], earlier["right_id"], earlier["status"], ":")
    found = pc.binary_join_element_wise(pairs["left_id"], pairs["right_id"], pairs["decision"], ":")
    return pairs.filter(pc.or_(_touches(pairs, only), pc.invert(pc.is_in(found, known.combine_chunks()))))


def _nobody() -> pa.Table:
    return pa.schema({column: pa.string() for column in COMPARED}).empty_table()
