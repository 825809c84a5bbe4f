"""Rows that the source no longer has are marked as deleted, never removed."""

from __future__ import annotations

from include.core.tracking import Fates
from plugins.hooks.staging import StagingHook
from plugins.hooks.target import Target
from plugins.hooks.tracking import TrackingHook, peak_memory_mb
from plugins.operators.preflight import chosen
from plugins.operators.step import Clock, MigrationOperator, Run

_BATCH = "deleted"


class DeleteOperator(MigrationOperator):
    """Marks what preparation found gone, entity by entity, before anything is loaded."""

    def step(self, run: Run) -> dict[str, int]:
        """Returns the number of deleted rows per entity; what an earlier attempt has marked counts as its."""
        deleted: dict[str, int] = {}
        with self.target(run) as target:
            tracking = TrackingHook(target, run.run_id)
            for entity in chosen(run.settings):
                if not tracking.done_batches(entity.name, self.phase, _BATCH):
                    deleted[entity.name] = self._mark(run, target, entity.name)
        verb = "would be marked" if run.settings.dry_run else "marked"
        self.progress(f"{sum(deleted.values()):,} rows are gone from the source and {verb} as deleted")
        return deleted

    def _mark(self, run: Run, target: Target, entity: str) -> int:
        clock = Clock()
        deleted = int(
            target.call(
                "mark_deleted",
                incoming={"gone_keys": StagingHook(run.run_id).read("gone", entity, "all")},
                run=run.run_id,
                entity=entity,
                batch={
                    "phase": self.phase,
                    "batch": _BATCH,
                    "attempt": run.attempt,
                    "memory_mb": peak_memory_mb(),
                },
                dry_run=run.settings.dry_run,
            )
        )
        self.batch_recorded(_BATCH, Fates(), clock.seconds, entity=entity, deleted=deleted)
        return deleted
