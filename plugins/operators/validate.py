"""Validation: the source is read again and compared with the target; every check is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import ClassVar

import pyarrow as pa
from airflow.sdk.exceptions import AirflowSkipException

from include.core.batches import Partition
from include.core.errors import MigrationError
from include.core.progress import Progress
from include.core.spec import Entity
from include.core.tracking import Check, Fates, failures
from plugins.hooks.comparison import WHOLE, Comparison, check_of
from plugins.hooks.content import Batches, ContentProof, whole
from plugins.hooks.embeddings import choose_provider
from plugins.hooks.file_check import FileCheck, Which
from plugins.hooks.legacy_mdw import LegacyMdwHook, Snapshot
from plugins.hooks.plans import PlansHook
from plugins.hooks.samples import Samples
from plugins.hooks.staging import StagingHook
from plugins.hooks.storage import StorageHook
from plugins.hooks.target import Target
from plugins.hooks.tracking import TrackingHook
from plugins.hooks.vector_check import VectorCheck
from plugins.operators.extract import selected_keys
from plugins.operators.preflight import chosen
from plugins.operators.step import LOG, Clock, MigrationOperator, Run


class ValidateOperator(MigrationOperator):
    """Runs one kind of check over every chosen entity; any failed check fails the task, after all ran.

    Whatever other tasks find: a proof is worth most when it is whole.
    """

    stops_with_others: ClassVar[bool] = False
    rows_compared = 0

    def step(self, run: Run) -> dict[str, int]:
        """Raises CHECKS_FAILED; a dry run has written nothing to check."""
        if run.settings.dry_run and run.type != "validation":
            raise AirflowSkipException("dry run")
        kind = self.task_id.split(".")[-1]
        results: list[Check] = []
        progress = Progress(len(chosen(run.settings)), unit="checks")
        with self.target(run) as target:
            for entity in chosen(run.settings):
                results += self._recorded(
                    run, target, kind, entity.name, lambda of=entity: self.checks(run, target, of)
                )
                self.advance(progress, kind, 1, len(results))
            results += self._recorded(run, target, kind, WHOLE, lambda: self.of_target(run, target))
        return self._verdict(kind, results, progress)

    def checks(self, run: Run, target: Target, entity: Entity) -> Iterable[Check]:  # noqa: ARG002
        """The checks of one entity."""
        return ()

    def of_target(self, run: Run, target: Target) -> Iterable[Check]:  # noqa: ARG002
        """The checks of the target as a whole."""
        return ()

    def compared(self, rows: int) -> None:
        """Rows of the entity at work that were compared so far."""
        self.rows_compared = rows

    def _recorded(
        self, run: Run, target: Target, kind: str, name: str, checks: Callable[[], Iterable[Check]]
    ) -> list[Check]:
        """The results of some checks, kept, with a row in the ledger where there were any."""
        tracking, clock = TrackingHook(target, run.run_id), Clock()
        self.rows_compared = 0
        found = list(checks())
        if found:
            rows = self.rows_compared or (0 if name == WHOLE else tracking.rows(name, "loading"))
            fates = Fates(rows, undecided=rows)
            tracking.record_checks(found)
            tracking.record_batch(
                clock.ledger_row(run, entity=name, phase=self.phase, batch=kind, fates=fates)
            )
            self.batch_recorded(kind, fates, clock.seconds, entity=name)
        return found

    def _verdict(self, kind: str, results: list[Check], progress: Progress) -> dict[str, int]:
        failed = failures(results)
        warned = [check for check in results if not check.passed and check.severity == "warn"]
        counts = {"checks": len(results), "failed": len(failed), "warned": len(warned)}
        self.progress(
            f"{kind}: {len(results)} checks, {len(failed)} failed, {len(warned)} warned",
            counts=counts,
            seconds=round(progress.standing.seconds, 3),
        )
        for check in failed + warned:
            LOG.warning(
                "Check %s of %s: expected %s, found %s, e.g. legacy ids %s",
                *(
                    check.name,
                    check.entity,
                    check.expected,
                    check.found,
                    ", ".join(check.sample_keys) or "none",
                ),
            )
        if failed:
            names = sorted({f"{check.entity}.{check.name}" for check in failed})
            raise MigrationError("CHECKS_FAILED", f"Failed: {', '.join(names)}.")
        return {"checks": len(results), "warned": len(warned)}


class CountsOperator(ValidateOperator):
    """Level 1: the same number of rows in every hop."""

    def checks(self, run: Run, target: Target, entity: Entity) -> Iterable[Check]:
        """See :class:`Comparison`. A validation on its own has no hops."""
        comparison = Comparison(target, TrackingHook(target, run.run_id))
        hops = ("rows_transformed", "rows_loaded") if run.type == "validation" else ()
        # What others removed and may keep; what this tool lost itself is found on level 3.
        kept = "rows_stored" if run.settings.foreign_writes == "keep" else ""
        for check in comparison.counts(entity):
            if check.name not in hops:
                yield replace(check, severity="warn") if check.name == kept else check
        if run.settings.enable_ai and entity.name in run.settings.ai_entities:
            yield from comparison.embeddings(entity, awaited=run.type == "validation")


class KeySetsOperator(ValidateOperator):
    """Level 2: source keys = live keys ∪ open quarantine, as sets."""

    def checks(self, run: Run, target: Target, entity: Entity) -> Iterable[Check]:
        """See :class:`Comparison`. A run that only retried the quarantine knows nothing of the other keys."""
        if run.settings.redrive:
            return
        staging = None if run.type == "validation" else StagingHook(run.run_id)
        with LegacyMdwHook().snapshot() as source:
            comparison = Comparison(target, TrackingHook(target, run.run_id))
            yield from comparison.key_sets(entity, source, staging)


class ContentOperator(ValidateOperator):
    """Level 3: every row of the target against the source, read and transformed again."""

    def checks(self, run: Run, target: Target, entity: Entity) -> Iterable[Check]:
        """See :class:`ContentProof`. A run that took up a part of the rows compares that part with the source."""
        keep = run.settings.foreign_writes == "keep"
        proof = ContentProof(target, run.run_id, keep_foreign_writes=keep, progress=self.compared)
        planned = PlansHook(target, run.run_id).find(entity.name) or []
        partitions = [Partition.from_json(partition) for partition in planned]
        in_part = any(partition.selected is not None for partition in partitions)
        with LegacyMdwHook().snapshot() as source:
            if in_part:
                yield from proof.prove_part(entity, _taken_up(run, entity, source, partitions))
            else:
                yield from proof.prove(entity, whole(source, entity, run.batch_rows))


def _taken_up(run: Run, entity: Entity, source: Snapshot, partitions: list[Partition]) -> Batches:
    """Reads what a run's plan took up of an entity."""
    staging = StagingHook(run.run_id)

    def read() -> Iterator[pa.Table]:
        for partition in partitions:
            keys = selected_keys(staging, partition)
            if keys != []:
                yield from source.batches(entity, partition, run.batch_rows, keys=keys)

    return read


class IntegrityOperator(ValidateOperator):
    """Level 4: references, enums, required columns, uniqueness, merges, security, schema, ledger, own rules."""

    def checks(self, run: Run, target: Target, entity: Entity) -> Iterable[Check]:
        """See :class:`Comparison`."""
        yield from Comparison(target, TrackingHook(target, run.run_id)).integrity(entity)

    def of_target(self, run: Run, target: Target) -> Iterable[Check]:
        """Of a validation on its own, all runs there ever were."""
        yield from Comparison(target, TrackingHook(target, run.run_id)).schema()
        audited = None if run.type == "validation" else run.run_id
        for result in target.call("check_ledger", run=audited):
            yield check_of(WHOLE, 4, result)


class EmbeddingsOperator(ValidateOperator):
    """Level 4: vectors are those of today's texts, and searches find them."""

    def checks(self, run: Run, target: Target, entity: Entity) -> Iterable[Check]:
        """See :class:`VectorCheck`; nothing is sent to the provider."""
        if (
            entity.embeddings is None
            or not run.settings.enable_ai
            or entity.name not in run.settings.ai_entities
        ):
            return
        check = VectorCheck(target, run.run_id, entity, entity.embeddings, choose_provider())
        yield from check.checks(free_text=run.settings.embed_clinical_text, progress=self.compared)


class FilesOperator(ValidateOperator):
    """Level 4: the manifest against rows, and files in Storage byte by byte."""

    def checks(self, run: Run, target: Target, entity: Entity) -> Iterable[Check]:
        """See :class:`FileCheck`."""
        if entity.name != self.entity:
            return
        check = FileCheck(target, run.run_id, entity.name)
        yield from check.listed()
        which: Which = run.settings.verify_files  # type: ignore[assignment] - a closed set
        # First all of them: while files are read for hours, the target is asked nothing.
        if files := check.stored(which):
            with closing(StorageHook.from_connection(max_retries=run.settings.max_retries)) as storage:
                yield from check.bytes(storage, files)


class SamplesOperator(ValidateOperator):
    """Level 5: random rows side by side, masked, for the report."""

    def checks(self, run: Run, target: Target, entity: Entity) -> Iterable[Check]:
        """See :class:`Samples`."""
        keep = run.settings.foreign_writes == "keep"
        with LegacyMdwHook().snapshot() as source:
            samples = Samples(target, run.run_id, keep_foreign_writes=keep)
            yield from samples.take(entity, source, run.settings.samples)
