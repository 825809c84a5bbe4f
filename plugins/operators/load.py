"""Hop 4: clean rows into the target, one transaction per batch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow as pa

from include.core.batches import Partition, batch_names
from include.core.errors import MigrationError
from include.core.progress import Progress
from include.core.resolve import split_merged
from include.core.spec import Entity
from include.core.tracking import Fates
from include.core.transform import REJECT_SCHEMA
from include.entities import ENTITIES
from plugins.hooks.batch_loader import BatchLoader, LoadBatch, findings_of
from plugins.hooks.decisions import merged_ids
from plugins.hooks.plans import PlansHook
from plugins.hooks.staging import StagingHook
from plugins.hooks.target import naming
from plugins.hooks.tracking import TrackingHook, fates_to_json
from plugins.operators.preflight import chosen
from plugins.operators.step import Clock, MigrationOperator, PartitionOperator, Run

# Below this many rows a share says nothing.
_ROWS_FOR_A_SHARE = 50


class LoadOperator(PartitionOperator):
    """Loads the batches of one partition.

    Args:
        merged_rows: load the rows that were merged into a survivor, in a second pass behind all survivors,
            instead of the others.
    """

    def __init__(self, *, merged_rows: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.merged_rows = merged_rows

    def step(self, run: Run) -> dict[str, Any]:
        """Returns the manifest it was given."""
        entity, staging = ENTITIES[str(self.entity)], StagingHook(run.run_id)
        fates, seconds = Fates(), 0.0
        with self.target(run, entity=entity.name) as target:
            tracking, plan = TrackingHook(target, run.run_id), PlansHook(target, run.run_id)
            merged = merged_ids(target, run.run_id, entity.name) if entity.deduplicate else None
            loader = BatchLoader(target, run.run_id, entity, dry_run=run.settings.dry_run)
            partition = Partition.from_json(self.partition)
            done = tracking.done_batches(entity.name, "loading", f"{self._prefix}{partition.name}")
            progress = Progress(int(self.partition["batches"]), done=len(done))
            for name in batch_names(self.partition):
                if f"{self._prefix}{name}" in done:
                    continue
                batch = self._batch(entity, staging, name, merged)
                if self.merged_rows and not batch.clean.num_rows:
                    self.advance(progress, self.partition["label"], 1, 0)
                    continue
                tracking.stop_if_failed(fail_fast=run.settings.fail_fast)
                with naming(batch=batch.name):
                    loaded, took = loader.load(batch, run.attempt)
                self.batch_recorded(batch.name, loaded, took)
                self.advance(progress, self.partition["label"], 1, loaded.extracted)
                fates, seconds = fates + loaded, seconds + took
                self._refuse_flood(tracking, plan, entity, run.settings.max_rejected)
            if fates.inserted:
                target.call("refresh_statistics", entity=entity.name)
        self._say(fates, seconds, dry_run=run.settings.dry_run)
        return dict(self.partition)

    @property
    def _prefix(self) -> str:
        """What the ledger's names of this pass begin with."""
        return "merged-" if self.merged_rows else ""

    def _batch(self, entity: Entity, staging: StagingHook, name: str, merged: pa.Array | None) -> LoadBatch:
        clean = staging.read("clean", entity.name, name)
        rejects = staging.read("rejects", entity.name, name)
        findings = staging.read("findings", entity.name, name)
        if merged is not None:
            clean = split_merged(clean, merged, only_merged=self.merged_rows)
            findings = findings_of(findings, clean)
            rejects = REJECT_SCHEMA.empty_table() if self.merged_rows else rejects
        return LoadBatch(f"{self._prefix}{name}", self.partition["label"], clean, rejects, findings)

    def _refuse_flood(self, tracking: TrackingHook, plan: PlansHook, entity: Entity, most: float) -> None:
        """Of an entity that is read in part, what waits in quarantine is read every time: all its rows count."""
        sums = tracking.fates(entity.name)
        rows = sums.extracted if self._read_whole else plan.source_rows()[entity.name]
        if rows >= _ROWS_FOR_A_SHARE and sums.rejected > most * rows:
            raise MigrationError(
                "TOO_MANY_REJECTED",
                f"{sums.rejected} of {rows} rows{' so far' if self._read_whole else ''},"
                f" allowed is a share of {most:g}.",
                entity=entity.name,
            )

    @property
    def _read_whole(self) -> bool:
        return Partition.from_json(self.partition).selected is None

    def _say(self, fates: Fates, seconds: float, *, dry_run: bool) -> None:
        rate = f", {fates.extracted / seconds:,.0f} rows/s" if seconds else ""
        verb = "would be " if dry_run else ""
        kept = f", {fates.skipped:,} skipped, for somebody else changed them" if fates.skipped else ""
        self.progress(
            f"{self.partition['label']}{' (merged)' if self.merged_rows else ''}: {verb}{fates.inserted:,} inserted,"
            f" {fates.updated:,} updated, {fates.unchanged:,} unchanged, {fates.merged:,} merged,"
            f" {fates.rejected:,} rejected{kept}{rate}",
            entity=self.entity,
            counts=fates_to_json(asdict(fates)),
            rows=fates.extracted,
            seconds=round(seconds, 3),
        )


class ReferencesOperator(MigrationOperator):
    """Merges rows of the target again whose references fit no more, though the source did not touch them.

    A parent was deleted, went into quarantine, was merged, is no longer merged, or has come.
    """

    def step(self, run: Run) -> int:
        """Returns the number of rows that were merged again."""
        entity, rows, fates = ENTITIES[str(self.entity)], 0, Fates()
        if entity not in chosen(run.settings):
            return 0
        with self.target(run, entity=entity.name) as target:
            tracking = TrackingHook(target, run.run_id)
            loader = BatchLoader(target, run.run_id, entity, dry_run=run.settings.dry_run)
            while True:
                tracking.stop_if_failed(fail_fast=run.settings.fail_fast)
                name, clock = f"a{run.attempt:02d}-b{rows:08d}", Clock()
                with naming(batch=name):
                    merged = loader.load_affected(name, run.batch_rows, run.attempt)
                if merged.extracted:  # else it is no batch
                    self.batch_recorded(name, merged, clock.seconds, phase="references")
                fates, rows = fates + merged, rows + merged.extracted
                # What was not written would be found again for ever.
                if merged.extracted < run.batch_rows or merged.unchanged == merged.extracted:
                    break
        if rows:
            verb = "would be " if run.settings.dry_run else ""
            self.progress(
                f"{entity.name}: references of {rows:,} rows {verb}followed, {fates.rejected:,} rejected"
            )
        return rows
