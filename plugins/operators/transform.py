"""Hop 2: raw batches of a partition into clean rows, rejects and findings."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from include.core.batches import batch_names
from include.core.errors import MigrationError
from include.core.progress import Progress
from include.core.spec import Entity
from include.core.tracking import Fates
from include.core.transform import Transformed, transform
from include.entities import ENTITIES
from plugins.hooks.staging import StagingHook
from plugins.hooks.tracking import TrackingHook
from plugins.operators.step import Clock, PartitionOperator, Run


class TransformOperator(PartitionOperator):
    """Transforms the batches of one partition's manifest."""

    def step(self, run: Run) -> dict[str, Any]:
        """Returns the manifest it was given."""
        entity, staging = ENTITIES[str(self.entity)], StagingHook(run.run_id)
        rejected, progress = 0, Progress(int(self.partition["batches"]))
        with self.target(run, entity=entity.name) as target:
            tracking = TrackingHook(target, run.run_id)
            for name in batch_names(self.partition):
                tracking.stop_if_failed(fail_fast=run.settings.fail_fast)
                clock = Clock()
                result = _transform(entity, staging.read("raw", entity.name, name), name)
                staging.write("clean", entity.name, name, result.clean)
                staging.write("rejects", entity.name, name, result.rejects)
                staging.write("findings", entity.name, name, result.findings)
                fates = _fates(result)
                tracking.record_batch(
                    clock.ledger_row(run, entity=entity.name, phase=self.phase, batch=name, fates=fates)
                )
                self.batch_recorded(name, fates, clock.seconds)
                rejected += fates.rejected
                self.advance(progress, self.partition["label"], 1, fates.extracted)
        done = progress.standing
        self.progress(
            f"{self.partition['label']}: {done.rows:,} rows, {rejected:,} rejected, {done.rate:,.0f} rows/s",
            entity=entity.name,
            counts={"rejected": rejected},
            **done.facts,
        )
        return dict(self.partition)


def _fates(result: Transformed) -> Fates:
    clean, rejects = result.clean.num_rows, result.rejects.num_rows
    return Fates(clean + rejects, rejected=rejects, undecided=clean)


def _transform(entity: Entity, raw: pa.Table, batch: str) -> Transformed:
    try:
        return transform(entity, raw)
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        # The message of the cause may quote a value.
        raise MigrationError(
            "TRANSFORM_FAILED", f"A rule raised {type(error).__name__}.", entity=entity.name, batch=batch
        ) from None
