"""Preparation: nothing is written before everything that can be known beforehand is known to be right."""

from __future__ import annotations

import itertools
import logging
import os
from dataclasses import replace
from typing import Any

import pyarrow as pa

from include.core.batches import (
    MOST_PARTITIONS,
    PARTITION_ROWS,
    Partition,
    most_partitions,
    partition_rows,
    plan_partitions,
)
from include.core.drift import compare
from include.core.errors import MigrationError
from include.core.mapping import mapping_version, rules_version
from include.core.notes import Note
from include.core.settings import Settings, whole_number
from include.core.spec import Entity
from include.entities import ENTITIES
from plugins.hooks.connect import SOURCE
from plugins.hooks.embeddings import choose_provider
from plugins.hooks.legacy_mdw import LegacyMdwHook, Snapshot
from plugins.hooks.plans import PlansHook
from plugins.hooks.row_versions import RowVersions, Selection
from plugins.hooks.run_log import log_root
from plugins.hooks.run_notes import RunNotes
from plugins.hooks.source_identity import SourceIdentity, first_break
from plugins.hooks.source_memory import last_complete_run, loaded_entities, recall_identities
from plugins.hooks.staging import StagingHook, check_writable, report_root, staging_root
from plugins.hooks.target import Target
from plugins.hooks.target_postgres import PostgresTarget, session
from plugins.hooks.target_schema import check_platform, deploy, is_deployed, verify_schema
from plugins.hooks.tracking import TrackingHook
from plugins.operators.step import LOG, MigrationOperator, Run

# So many rows of an entity may always be gone: a share of a small table says nothing.
_GONE_ALWAYS_ALLOWED = 50
# Where more than this share of an entity is to be read, it is read whole: ranges cost less than lists of keys.
_SHARE_READ_BY_KEYS = 0.5
_MOST_PARTITION_ROWS = 1_000_000_000

_LEVELS = {"info": logging.INFO, "warn": logging.WARNING}
_SCOPES = {
    "everything": "every row of the source is read",
    "changes": "what changed since the rows were loaded is read",
    "quarantine": "only rows in quarantine are read",
}


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
    """Makes sure that rows can be staged, and report and log written: a run must not find that out at its end."""

    tracked = False

    def step(self, run: Run) -> None:  # noqa: ARG002 - the places belong to the installation, not to a run
        """Raises STORAGE_UNWRITABLE."""
        for root in (staging_root(), report_root(), log_root()):
            check_writable(root)


class CheckSourceOperator(MigrationOperator):
    """Connects to the source and compares its columns with what the entities need."""

    tracked = False

    def step(self, run: Run) -> None:
        """Raises SOURCE_DRIFT or SOURCE_FORBIDDEN with the exact difference, SOURCE_ROW_SECURITY."""
        entities = chosen(run.settings)
        tables = {table.name for entity in entities for table in entity.source.all_tables()}
        with LegacyMdwHook().snapshot() as source:
            source.role(tables).refuse_row_security()
            drift = compare(entities, source.columns(tables))
        for note in drift.notes:
            LOG.info("Source: %s", note)
        if drift.missing:
            raise MigrationError("SOURCE_DRIFT", "Missing: " + "; ".join(drift.missing) + ".")
        if drift.forbidden:
            raise MigrationError("SOURCE_FORBIDDEN", "Tables: " + ", ".join(sorted(drift.forbidden)) + ".")
        self.progress(f"source: {len(tables)} tables as expected, {len(drift.notes)} notes in the log")


class DeployTargetOperator(MigrationOperator):
    """Brings the target's schema up to date, or where only the API is known makes sure that it is.

    Entities are told to the merge, and the vector columns fitted to the provider, at the same time.
    """

    tracked = False

    def step(self, run: Run) -> None:
        """Raises TARGET_… errors and RUN_LOCKED; deploys in one transaction."""
        provider = choose_provider() if run.settings.enable_ai else None
        dimensions = provider.dimensions if provider else None
        deployed = _deploy(run, dimensions) if run.way == "postgres" else []
        with self.target(run) as target:
            verify_schema(target, dimensions)
            _check_parents(target, chosen(run.settings))
        state = f"deployed {len(deployed)} schema files" if deployed else "schema as deployed"
        using = f", embeddings by {provider.name} {provider.model}" if provider else ""
        through = "a direct connection" if run.way == "postgres" else "the Supabase client"
        self.progress(f"target: through {through}, {state}{using}")


def _deploy(run: Run, dimensions: int | None) -> list[str]:
    with session() as connection:
        check_platform(connection)
        if is_deployed(connection):  # another run may be at work with the schema as it is
            TrackingHook(PostgresTarget(connection), run.run_id).refuse_if_locked()
        return deploy(connection, dimensions)


def _check_parents(target: Target, entities: list[Entity]) -> None:
    """A chosen entity's parents must be chosen too, or loaded before."""
    names = {entity.name for entity in entities}
    needed = {parent for entity in entities for parent in entity.parents} - names
    missing = sorted(needed - loaded_entities(target)) if needed else []
    if missing:
        raise MigrationError("ENTITY_PARENT_MISSING", f"Missing: {', '.join(missing)}.")


class OpenRunOperator(MigrationOperator):
    """Opens the run in tracking, with the source's horizon and identity taken before anything is read."""

    tracked = False

    def step(self, run: Run) -> dict[str, int]:
        """Idempotent: a cleared run is taken up again. Returns how many partitions each entity may have.

        Raises:
            MigrationError: NO_FULL_RUN, RUN_LOCKED or RUN_CODE_CHANGED.
        """
        tables = {table.name for entity in ENTITIES.values() for table in entity.source.all_tables()}
        with self.target(run) as target:
            seen = recall_identities(target)
            with LegacyMdwHook().snapshot() as source:
                horizon, identity = source.horizon(), source.identity(tables)
                holders = source.holders(open_since=seen[-1].next_xid if seen else None)
                views, sizes = source.without_transactions(tables), source.sizes(tables)
                role, clear = source.role(tables), [SOURCE.conn_id] if source.in_the_clear else []
            clear += [target.conn_id] if target.plaintext else []
            scope, notes = _scope(target, run, [*seen, identity])
            TrackingHook(target, run.run_id).open_run(
                **run.opening,
                scope=scope,
                source_horizon=horizon,
                source_identity=identity.to_json(),
            )
            notes += [Note(holder.note, holder.facts) for holder in holders]
            notes += [Note("without_row_versions", {"table": table}) for table in views]
            notes += [*role.notes, *(Note("plaintext", {"connection": name}) for name in clear)]
            for note in notes:
                RunNotes(target, run.run_id).record(note.code, **note.facts)
                LOG.log(_LEVELS[note.kind.severity], note.text)
        self.progress(f"{_SCOPES[scope]}; {len(notes)} notes" if notes else _SCOPES[scope])
        return most_partitions(
            {
                entity.name: max(sizes[table.name] for table in entity.source.all_tables())
                for entity in chosen(run.settings)
            }
        )


def _scope(target: Target, run: Run, identities: list[SourceIdentity]) -> tuple[str, list[Note]]:
    """Which source rows the run takes up, and what is to be said about it.

    Args:
        identities: of the source as earlier runs saw it, and now.
    """
    if run.type == "full":
        return "everything", []
    complete = last_complete_run(target)
    if complete is None:
        if not run.settings.allow_initial_full:
            raise MigrationError("NO_FULL_RUN", "")
        return "everything", [Note("initial_full", {})]
    if run.settings.redrive:
        return "quarantine", [Note("redrive", {})]
    reason = first_break(identities)
    if reason is not None:
        return "everything", [Note("source_restored", {"reason": reason})]
    return "changes", _other_versions(complete.mapping_version, complete.rules_version)


def _other_versions(mapping: str, rules: str) -> list[Note]:
    """Whether the last complete run, whose versions these are, had another mapping or other rules."""
    pairs = {"mapping_changed": (mapping, mapping_version()), "rules_changed": (rules, rules_version())}
    return [
        Note(code, {"before": before, "after": now}) for code, (before, now) in pairs.items() if before != now
    ]


def _partition_rows_wanted() -> int:
    """Rows that a partition should have at least; more workers want smaller ones."""
    text = os.environ.get("MIGRATION_PARTITION_ROWS") or str(PARTITION_ROWS)
    rows = whole_number(text, 1, _MOST_PARTITION_ROWS)
    if rows is None:
        limits = f"from 1 to {_MOST_PARTITION_ROWS}"
        raise MigrationError("PARAM_INVALID", f"MIGRATION_PARTITION_ROWS must be a whole number {limits}.")
    return rows


class PlanOperator(MigrationOperator):
    """Finds out what of an entity is to be read, and cuts it into partitions, once per run.

    Args:
        most_partitions: by entity, what :class:`OpenRunOperator` returned.
    """

    template_fields = ("most_partitions",)

    def __init__(self, *, most_partitions: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.most_partitions = most_partitions

    def step(self, run: Run) -> list[dict[str, Any]]:
        """The partitions; an entity that was not chosen has none, one without work has one.

        Raises:
            MigrationError: TOO_MANY_DELETED.
        """
        entity = ENTITIES[str(self.entity)]
        if entity not in chosen(run.settings):
            return []
        with self.target(run, entity=entity.name) as target:
            plans = PlansHook(target, run.run_id)
            planned = plans.find(entity.name)
            if planned is not None:
                return planned
            scope, staging = plans.scope(), StagingHook(run.run_id)
            with LegacyMdwHook().snapshot() as source:
                found = RowVersions(target, entity).compare(
                    source.versions(entity), scope, _Keys(staging, entity.name)
                )
                self._stage_gone(run, found, staging)
                partitions = self._partitions(run, source, found, scope)
            size = self._partition_rows(run, found.rows)
            labelled = [
                {**partition.to_json(), "label": partition.label, "rows": rows}
                for partition, rows in zip(
                    partitions, _planned_rows(partitions, found.rows, size), strict=True
                )
            ]
            whole = partitions[0].selected is None
            selected, gone = found.rows if whole else found.selected, len(found.gone)
            result = plans.record(entity.name, labelled, source_rows=found.rows, selected=selected, gone=gone)
        self.progress(
            f"{entity.name}: {found.rows:,} rows in the source, {selected:,} to read, {gone:,} gone,"
            f" {len(result)} partitions"
        )
        return result

    def nothing_done(self, run: Run) -> list[dict[str, Any]]:
        """The partitions as planned, so that Airflow keeps the mapped tasks of the run."""
        with self.target(run) as target:
            return PlansHook(target, run.run_id).find(str(self.entity)) or []

    def _stage_gone(self, run: Run, found: Selection, staging: StagingHook) -> None:
        """Stage the keys that the source no longer has."""
        if len(found.gone) > max(_GONE_ALWAYS_ALLOWED, run.settings.max_deleted * found.known):
            raise MigrationError(
                "TOO_MANY_DELETED",
                f"{len(found.gone)} of {found.known} rows are gone.",
                entity=str(self.entity),
            )
        staging.write("gone", str(self.entity), "all", pa.table({"legacy_id": found.gone}))

    def _partitions(self, run: Run, source: Snapshot, found: Selection, scope: str) -> list[Partition]:
        entity = ENTITIES[str(self.entity)]
        if scope != "everything":
            if not found.selected:
                return [Partition(entity.name, 0, None, None, 0)]
            few = scope == "quarantine" or found.selected <= _SHARE_READ_BY_KEYS * found.rows
            if few and not entity.source.whole:
                return _by_keys(run, entity, found, self._partition_rows(run, len(found.keys)))
        rows = source.count(entity)
        size = self._partition_rows(run, rows)
        cuts = [] if entity.source.whole or rows <= size else source.cuts(entity, size)
        return plan_partitions(entity.name, cuts)

    def _partition_rows(self, run: Run, rows: int) -> int:
        most = (self.most_partitions or {}).get(str(self.entity), MOST_PARTITIONS)
        return partition_rows(rows, run.batch_rows, _partition_rows_wanted(), most)


def _planned_rows(partitions: list[Partition], rows: int, size: int) -> list[int | None]:
    """Rows of each partition; None where cuts at the same key, which are one, leave it open.

    Args:
        rows: of the entity in the source.
        size: rows between two cuts.
    """
    if partitions[0].selected is not None:
        return [partition.selected for partition in partitions]
    whole = len(partitions) - 1
    if not 0 <= rows - whole * size <= size and whole:
        return [None] * len(partitions)
    return [*[size] * whole, rows - whole * size]


class _Keys:
    """Stages the keys of the source while they are compared."""

    def __init__(self, staging: StagingHook, entity: str) -> None:
        self._staging = staging
        self._entity = entity
        self._chunks = itertools.count()

    def __call__(self, keys: pa.Array) -> None:
        self._staging.write("keys", self._entity, f"k{next(self._chunks):04d}", pa.table({"legacy_id": keys}))


def _by_keys(run: Run, entity: Entity, selection: Selection, size: int) -> list[Partition]:
    """Partitions of ``size`` of the selected rows; their keys are staged."""
    lists = [selection.keys[start : start + size] for start in range(0, len(selection.keys), size)]
    ranges = plan_partitions(entity.name, [key for keys in lists[1:] if (key := keys[0]) is not None])
    if len(ranges) < len(lists):  # the last one holds nothing but the rows without a key
        lists[-2:] = [[*lists[-2], *lists[-1]]]
    staging = StagingHook(run.run_id)
    for partition, keys in zip(ranges, lists, strict=True):
        texts = pa.array([None if key is None else str(key) for key in keys], pa.string())
        staging.write("selected", entity.name, partition.name, pa.table({"key": texts}))
    return [replace(part, selected=len(keys)) for part, keys in zip(ranges, lists, strict=True)]
