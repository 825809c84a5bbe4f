"""Rows that the source no longer has are marked as deleted, never removed."""

from __future__ import annotations

from include.core.tracking import Fates
from plugins.hooks.deletions import Deletions
from plugins.hooks.staging import StagingHook
from plugins.hooks.target_postgres import TargetPostgresHook
from plugins.hooks.tracking import TrackingHook
from plugins.operators.preflight import chosen
from plugins.operators.step import Clock, MigrationOperator, Run


class DeleteOperator(MigrationOperator):
    """Marks what preparation found gone, for all entities at once, before anything is loaded."""

    def step(self, run: Run) -> dict[str, int]:
        """Returns the number of deleted rows per entity."""
        staging = StagingHook(run.run_id)
        deleted: dict[str, int] = {}
        with TargetPostgresHook().session() as connection, connection.transaction():
            tracking = TrackingHook(connection, run.run_id)
            tracking.hold_lock()
            for entity in chosen(run.settings):
                clock, deletions = Clock(), Deletions(connection, entity, run.run_id)
                gone = deletions.take(staging.read("gone", entity.name, "all"))
                if run.settings.dry_run:
                    deletions.plan()
                else:
                    deletions.mark()
                tracking.record_batch(
                    clock.ledger_row(
                        run,
                        entity=entity.name,
                        phase=self.phase,
                        batch="deleted",
                        fates=Fates(),
                        deleted=gone,
                    )
                )
                deleted[entity.name] = gone
        verb = "would be marked" if run.settings.dry_run else "marked"
        self.progress(f"{sum(deleted.values()):,} rows are gone from the source and {verb} as deleted")
        return deleted
