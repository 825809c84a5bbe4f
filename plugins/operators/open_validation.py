"""A validation on its own: it moves nothing, but nothing may move meanwhile, so it is a run like any other."""

from __future__ import annotations

from include.core.errors import MigrationError
from include.core.notes import Note
from include.entities import ENTITIES
from plugins.hooks.embeddings import choose_provider
from plugins.hooks.legacy_mdw import LegacyMdwHook
from plugins.hooks.run_notes import RunNotes
from plugins.hooks.source_identity import first_break
from plugins.hooks.source_memory import last_complete_run, recall_identities
from plugins.hooks.target_schema import verify_schema
from plugins.hooks.tracking import TrackingHook
from plugins.operators.step import LOG, MigrationOperator, Run


class OpenValidationOperator(MigrationOperator):
    """Opens a run that only validates, behind the last complete migration.

    Rows that the source wrote since then are told apart by that run's horizon.
    """

    tracked = False

    def step(self, run: Run) -> None:
        """Idempotent: a cleared run is taken up again.

        Raises:
            MigrationError: NO_FULL_RUN, RUN_LOCKED, RUN_CODE_CHANGED, or TARGET_… where the schema is another one.
        """
        tables = {table.name for entity in ENTITIES.values() for table in entity.source.all_tables()}
        provider = choose_provider() if run.settings.enable_ai else None
        with self.target(run) as target:
            verify_schema(target, provider.dimensions if provider else None)
            complete = last_complete_run(target)
            if complete is None:
                raise MigrationError("NO_FULL_RUN", "")
            with LegacyMdwHook().snapshot() as source:
                identity = source.identity(tables)
            TrackingHook(target, run.run_id).open_run(
                **run.opening,
                scope="everything",
                source_horizon=complete.horizon,
                source_identity=identity.to_json(),
            )
            reason = first_break([*recall_identities(target), identity])
            if reason is not None:
                note = Note("source_restored", {"reason": reason})
                RunNotes(target, run.run_id).record(note.code, **note.facts)
                LOG.warning(note.text)
        self.progress(f"compared with the source as of the last complete run, {complete.run_id}")
