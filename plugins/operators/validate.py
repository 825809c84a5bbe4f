"""Validation: the source is read again and compared with the target; every check is recorded."""

from __future__ import annotations

from collections.abc import Iterable

from airflow.sdk.exceptions import AirflowSkipException

from include.core.errors import MigrationError
from include.core.spec import Entity
from include.core.tracking import Check, Fates, failures
from plugins.hooks.comparison import Comparison
from plugins.hooks.legacy_mdw import LegacyMdwHook
from plugins.hooks.staging import StagingHook
from plugins.hooks.tracking import TrackingHook
from plugins.operators.preflight import chosen
from plugins.operators.step import LOG, Clock, MigrationOperator, Run


class ValidateOperator(MigrationOperator):
    """Runs one kind of check over every chosen entity; any failed check fails the task, after all ran."""

    def step(self, run: Run) -> dict[str, int]:
        """Raises CHECKS_FAILED; a dry run has written nothing to check."""
        if run.settings.dry_run:
            raise AirflowSkipException("dry run")
        kind = self.task_id.split(".")[-1]
        results: list[Check] = []
        with self.target(run) as target:
            tracking = TrackingHook(target, run.run_id)
            comparison = Comparison(target, tracking)
            for entity in chosen(run.settings):
                clock = Clock()
                found = list(self.checks(run, entity, comparison))
                rows = tracking.rows(entity.name, "loading")
                tracking.record_checks(found)
                tracking.record_batch(
                    clock.ledger_row(
                        run,
                        entity=entity.name,
                        phase=self.phase,
                        batch=kind,
                        fates=Fates(rows, undecided=rows),
                    )
                )
                results += found
        failed = failures(results)
        warned = [check for check in results if not check.passed and check.severity == "warn"]
        self.progress(f"{kind}: {len(results)} checks, {len(failed)} failed, {len(warned)} warned")
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

    def checks(self, run: Run, entity: Entity, comparison: Comparison) -> Iterable[Check]:
        """The checks of one entity."""
        raise NotImplementedError


class CountsOperator(ValidateOperator):
    """Level 1: the same number of rows in every hop."""

    def checks(self, run: Run, entity: Entity, comparison: Comparison) -> Iterable[Check]:
        """See :class:`Comparison`."""
        yield from comparison.counts(entity)
        if run.settings.enable_ai and entity.name in run.settings.ai_entities:
            yield from comparison.embeddings(entity)


class KeySetsOperator(ValidateOperator):
    """Level 2: source keys = live keys ∪ open quarantine, as sets."""

    def checks(self, run: Run, entity: Entity, comparison: Comparison) -> Iterable[Check]:
        """See :class:`Comparison`. A run that only retried the quarantine knows nothing of the other keys."""
        if run.settings.redrive:
            return
        with LegacyMdwHook().snapshot() as source:
            yield from comparison.key_sets(entity, source, StagingHook(run.run_id))


class IntegrityOperator(ValidateOperator):
    """Level 4: references, enums, required columns, uniqueness, security, the entity's own rules."""

    def checks(self, run: Run, entity: Entity, comparison: Comparison) -> Iterable[Check]:  # noqa: ARG002
        """See :class:`Comparison`."""
        yield from comparison.integrity(entity)
