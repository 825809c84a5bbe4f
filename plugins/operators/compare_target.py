"""Preparation: what somebody else wrote in the target since, and what is to be loaded again for it."""

from __future__ import annotations

from include.core.errors import MigrationError
from include.core.notes import Note
from include.core.progress import Progress
from include.core.spec import Entity
from plugins.hooks.content import ContentProof, Differences, whole
from plugins.hooks.legacy_mdw import LegacyMdwHook
from plugins.hooks.plans import PlansHook
from plugins.hooks.run_notes import RunNotes
from plugins.hooks.target import Target
from plugins.operators.preflight import chosen
from plugins.operators.step import LOG, MigrationOperator, Run


class CompareTargetOperator(MigrationOperator):
    """Looks for foreign writes in every run, and with ``repair`` for everything that differs from the source.

    What the settings say is to be written again is forgotten, so that the plan takes it up. A dry run only tells.
    """

    def step(self, run: Run) -> dict[str, int]:
        """Returns how many rows others wrote, are taken up again, and are marked as deleted.

        Raises:
            MigrationError: FOREIGN_WRITES under the policy ``stop``; nothing was written.
        """
        foreign: dict[str, Differences] = {}
        counts = {"foreign": 0, "taken_up": 0, "removed": 0}
        progress = Progress(len(chosen(run.settings)), unit="entities")
        with self.target(run) as target:
            for entity in chosen(run.settings):
                found = ContentProof(target, run.run_id).foreign_writes(entity)
                if found.rows:
                    foreign[entity.name] = found
                    counts["foreign"] += found.rows
                self.advance(progress, "target", 1)
            self._refuse(run, foreign)
            for entity in chosen(run.settings):
                if run.settings.repair:
                    self._compare(run, target, entity)
                self._take_up(run, target, entity, counts)
            self._note(run, target, counts)
        self.progress(self._told(counts), counts=counts)
        return counts

    def _refuse(self, run: Run, foreign: dict[str, Differences]) -> None:
        if foreign and run.settings.foreign_writes == "stop":
            found = "; ".join(
                f"{name} {differences} (e.g. {', '.join(differences.sample_keys)})"
                for name, differences in foreign.items()
            )
            raise MigrationError("FOREIGN_WRITES", f"{found}.", run=run.run_id)

    def _compare(self, run: Run, target: Target, entity: Entity) -> None:
        """Find what differs from the source in the whole entity, before anything is loaded."""
        with LegacyMdwHook().snapshot() as source:
            for check in ContentProof(target, run.run_id).prove(
                entity, whole(source, entity, run.batch_rows)
            ):
                if not check.passed:
                    self.progress(f"{entity.name}: {check.name}, {check.found}")

    def _take_up(self, run: Run, target: Target, entity: Entity, counts: dict[str, int]) -> None:
        own, foreign = run.settings.repair, run.settings.foreign_writes == "overwrite"
        if run.settings.dry_run or not (own or foreign):
            return
        if PlansHook(target, run.run_id).find(entity.name) is not None:
            self.progress(f"{entity.name}: planned before, so nothing more is taken up in this run")
            return
        taken = ContentProof(target, run.run_id).take_up_again(entity, own=own, foreign=foreign)
        counts["taken_up"] += taken.taken_up
        counts["removed"] += taken.removed

    def _note(self, run: Run, target: Target, counts: dict[str, int]) -> None:
        notes = []
        if counts["foreign"]:
            notes.append(
                Note("foreign_writes", {"rows": counts["foreign"], "policy": run.settings.foreign_writes})
            )
        if counts["taken_up"] or counts["removed"]:
            notes.append(Note("taken_up_again", {name: counts[name] for name in ("taken_up", "removed")}))
        for note in notes:
            RunNotes(target, run.run_id).record(note.code, **note.facts)
            LOG.warning(note.text)

    def _told(self, counts: dict[str, int]) -> str:
        return (
            f"target: {counts['foreign']:,} rows written by others, {counts['taken_up']:,} are loaded again,"
            f" {counts['removed']:,} that nobody loaded are marked as deleted"
        )
