"""Preparation: nothing is written before everything that can be known beforehand is known to be right."""

from __future__ import annotations

import os
from typing import Any

from include.core.batches import PARTITION_ROWS, partition_rows, plan_partitions
from include.core.drift import compare
from include.core.errors import MigrationError
from include.core.mapping import mapping_version
from include.core.settings import Settings
from include.core.spec import Entity
from include.entities import ENTITIES
from plugins.hooks.embeddings import choose_provider
from plugins.hooks.legacy_mdw import LegacyMdwHook
from plugins.hooks.staging import check_writable, report_root, staging_root
from plugins.hooks.target_postgres import TargetPostgresHook
from plugins.hooks.target_schema import check_platform, deploy_schema, fit_dimensions, register
from plugins.hooks.tracking import TrackingHook
from plugins.operators.step import LOG, MigrationOperator, Run, code_version


def chosen(settings: Settings) -> list[Entity]:
    """The run's entities, parents first; none named means all."""
    return [entity for name, entity in ENTITIES.items() if not settings.entities or name in settings.entities]


class CheckSettingsOperator(MigrationOperator):
    """Refuses unknown or invalid parameters before any connection is made."""

    tracked = False

    def step(self, run: Run) -> None:
        """The check itself is part of every step; this one only says what will be done."""
        mode = "DRY RUN, business tables stay untouched" if run.settings.dry_run else "real run"
        names = ", ".join(entity.name for entity in chosen(run.settings))
        self.progress(f"{run.type} migration, {mode}: {names}")


class CheckStorageOperator(MigrationOperator):
    """Makes sure that rows can be staged and the report written: a run must not find that out at its end."""

    tracked = False

    def step(self, run: Run) -> None:  # noqa: ARG002 - the places belong to the installation, not to a run
        """Raises STORAGE_UNWRITABLE."""
        for root in (staging_root(), report_root()):
            check_writable(root)


class CheckSourceOperator(MigrationOperator):
    """Connects to the source and compares its columns with what the entities need."""

    tracked = False

    def step(self, run: Run) -> None:
        """Raises SOURCE_DRIFT or SOURCE_FORBIDDEN with the exact difference."""
        entities = chosen(run.settings)
        tables = {table.name for entity in entities for table in entity.source.all_tables()}
        with LegacyMdwHook().snapshot() as source:
            drift = compare(entities, source.columns(tables))
        for note in drift.notes:
            LOG.info("Source: %s", note)
        if drift.missing:
            raise MigrationError("SOURCE_DRIFT", "Missing: " + "; ".join(drift.missing) + ".")
        if drift.forbidden:
            raise MigrationError("SOURCE_FORBIDDEN", "Tables: " + ", ".join(sorted(drift.forbidden)) + ".")
        self.progress(f"source: {len(tables)} tables as expected, {len(drift.notes)} notes in the log")


class DeployTargetOperator(MigrationOperator):
    """Connects to the target, deploys or verifies its schema, registers entities for the merge."""

    tracked = False

    def step(self, run: Run) -> None:
        """Raises TARGET_… errors; deploys in one transaction."""
        provider = choose_provider() if run.settings.enable_ai else None
        with TargetPostgresHook().session() as connection:
            check_platform(connection)
            deployed = deploy_schema(connection, provider.dimensions if provider else None)
            if provider is not None:
                tables = [e.embeddings.table for e in ENTITIES.values() if e.embeddings is not None]
                fit_dimensions(connection, tables, provider.dimensions)
            register(connection, ENTITIES.values())
            _check_parents(connection, chosen(run.settings))
        state = f"deployed {len(deployed)} schema files" if deployed else "schema as deployed"
        using = f", embeddings by {provider.name} {provider.model}" if provider else ""
        self.progress(f"target: {state}{using}")


def _check_parents(connection: Any, entities: list[Entity]) -> None:
    """A chosen entity's parents must be chosen too, or loaded before."""
    names = {entity.name for entity in entities}
    needed = {parent for entity in entities for parent in entity.parents} - names
    loaded = (
        {row[0] for row in connection.execute("SELECT DISTINCT entity FROM migration.id_map")}
        if needed
        else set()
    )
    missing = sorted(needed - loaded)
    if missing:
        raise MigrationError("ENTITY_PARENT_MISSING", f"Missing: {', '.join(missing)}.")


class OpenRunOperator(MigrationOperator):
    """Opens the run in tracking, with the source's horizon taken before anything is read."""

    tracked = False

    def step(self, run: Run) -> None:
        """Idempotent: a cleared run is taken up again."""
        with LegacyMdwHook().snapshot() as source:
            horizon = source.horizon()
        with TargetPostgresHook().session() as connection:
            TrackingHook(connection, run.run_id).open_run(
                type=run.type,
                dry_run=run.settings.dry_run,
                parameters=run.settings.to_json(),
                mapping_version=mapping_version(),
                code_version=code_version(),
                started_by=run.started_by,
                source_horizon=horizon,
            )


def _partition_rows_wanted() -> int:
    """Rows that a partition should have at least; more workers want smaller ones."""
    text = os.environ.get("MIGRATION_PARTITION_ROWS") or str(PARTITION_ROWS)
    if not (text.isascii() and text.isdigit() and int(text)):
        raise MigrationError("PARAM_INVALID", "MIGRATION_PARTITION_ROWS must be a whole number above 0.")
    return int(text)


class PlanOperator(MigrationOperator):
    """Cuts an entity into partitions, once per run."""

    def step(self, run: Run) -> list[dict[str, Any]]:
        """The partitions; an entity that was not chosen has none, an empty one has one."""
        entity = ENTITIES[str(self.entity)]
        if entity not in chosen(run.settings):
            return []
        at_least = _partition_rows_wanted()
        with LegacyMdwHook().snapshot() as source:
            rows = source.count(entity)
            size = partition_rows(rows, run.settings.batch_size, at_least)
            cuts = [] if entity.source.whole or rows <= size else source.cuts(entity, size)
        partitions = plan_partitions(entity.name, cuts)
        self.progress(f"{entity.name}: {rows:,} rows in the source, {len(partitions)} partitions")
        return [{**partition.to_json(), "label": partition.label} for partition in partitions]
