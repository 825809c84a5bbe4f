"""Rows that the source no longer has are marked as deleted, never removed; too many of them stop the run."""

from __future__ import annotations

from typing import Any

from include.core.batches import batch_names
from include.core.errors import MigrationError
from include.core.tracking import Fates
from include.entities import ENTITIES
from plugins.hooks.deletions import Deletions
from plugins.hooks.staging import StagingHook
from plugins.hooks.target_postgres import TargetPostgresHook
from plugins.hooks.tracking import TrackingHook
from plugins.operators.step import Clock, MigrationOperator, Run

# So many rows of an entity may always be gone: a share of a small table says nothing.
_ALWAYS_ALLOWED = 50


class DeleteOperator(MigrationOperator):
    """Compares the keys extracted in this run with those the target knows, for all entities at once.

    It comes first in loading, so that a mass deletion stops the run before anything is written.

    Args:
        manifests: entity to what its extraction returned.
    """

    template_fields = ("manifests",)

    def __init__(self, *, manifests: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.manifests = manifests

    def step(self, run: Run) -> dict[str, int]:
        """Returns the number of deleted rows per entity; raises TOO_MANY_DELETED."""
        staging = StagingHook(run.run_id)
        deleted: dict[str, int] = {}
        with TargetPostgresHook().session() as connection, connection.transaction():
            tracking = TrackingHook(connection, run.run_id)
            for name, manifests in self.manifests.items():
                if not manifests:  # not chosen for this run
                    continue
                clock, deletions = Clock(), Deletions(connection, ENTITIES[name], run.run_id)
                batches = [batch for manifest in manifests for batch in batch_names(manifest)]
                gone, known = deletions.find(staging.keys(name, batches))
                if gone > max(_ALWAYS_ALLOWED, run.settings.max_deleted * known):
                    raise MigrationError("TOO_MANY_DELETED", f"{gone} of {known} rows are gone.", entity=name)
                if run.settings.dry_run:
                    deletions.plan()
                else:
                    deletions.mark()
                tracking.record_batch(
                    clock.ledger_row(
                        run, entity=name, phase=self.phase, batch="deleted", fates=Fates(), deleted=gone
                    )
                )
                deleted[name] = gone
        verb = "would be marked" if run.settings.dry_run else "marked"
        self.progress(f"{sum(deleted.values()):,} rows are gone from the source and {verb} as deleted")
        return deleted
