"""Rows of entities as the transformation hands them on, and loading them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.rows import dict_row

from include.core.ids import target_id
from include.core.tracking import Fates
from include.core.transform import FINDING_SCHEMA, REJECT_SCHEMA, clean_schema
from include.entities import ENTITIES
from plugins.hooks import target as hooks
from plugins.hooks.batch_loader import BatchLoader, LoadBatch
from plugins.hooks.target_postgres import PostgresTarget
from plugins.hooks.tracking import LedgerRow, TrackingHook

DIMENSIONS = 64
Row = Mapping[str, str | None]

_OPEN = {
    "type": "full",
    "scope": "everything",
    "parameters": {"entities": []},
    "mapping_version": "test",
    "rules_version": "test",
    "code_version": "test",
    "started_by": "test",
    "source_horizon": 7,
    "source_identity": {},
}


def practice(key: int, **values: str | None) -> Row:
    row = {"legacy_office_id": str(key), "name": f"Office {key}", "address": "{}", "settings": "{}"}
    return _row("practices", key, row, values)


def profile(key: int, **values: str | None) -> Row:
    return _row("profiles", key, {"legacy_user_id": str(key), "role": "support", "is_active": "t"}, values)


def member(key: int, practice_key: int, profile_key: int) -> Row:
    row = {
        "legacy_office_doctor_id": str(key),
        "practice_id": target_id("practices", str(practice_key)),
        "profile_id": target_id("profiles", str(profile_key)),
        "role": "doctor",
    }
    return _row("practice_members", key, row, {})


def patient(key: int, **values: str | None) -> Row:
    row = {
        "legacy_patient_id": str(key),
        "patient_number": f"P{key:06}",
        "medical_history": "{}",
        "preferences": "{}",
    }
    return _row("patients", key, row, values)


def case(key: int, patient_key: int, **values: str | None) -> Row:
    row = {
        "legacy_instruction_id": str(key),
        "patient_id": target_id("patients", str(patient_key)),
        "case_number": f"C{key:06}",
        "clinical": "{}",
    }
    return _row("cases", key, row, values)


def project(key: int, **values: str | None) -> Row:
    row = {
        "legacy_project_id": str(key),
        "name": f"Project {key}",
        "project_type": "scan",
        "status": "draft",
        "storage_bucket": "projects",
    }
    return _row("projects", key, row, values)


def workflow(key: int, parent: int | None = None, **values: str | None) -> Row:
    row = {
        "legacy_category_id": str(key),
        "parent_id": None if parent is None else target_id("workflow_templates", str(parent)),
    }
    return _row("workflow_templates", key, row, values)


def task(key: int, workflow_key: int, order: int) -> Row:
    row = {
        "legacy_template_id": str(key),
        "workflow_template_id": target_id("workflow_templates", str(workflow_key)),
        "task_order": str(order),
        "predecessor_tasks": "{}",
    }
    return _row("workflow_template_tasks", key, row, {})


def performance(workflow_key: int, case_key: int, **values: str | None) -> Row:
    row = {
        "legacy_category_id": str(workflow_key),
        "legacy_instruction_id": str(case_key),
        "workflow_template_id": target_id("workflow_templates", str(workflow_key)),
        "case_id": target_id("cases", str(case_key)),
        "task_performance": "[]",
        "bottleneck_tasks": "{}",
    }
    return _row("workflow_performance", f"{workflow_key}:{case_key}", row, values)


def _row(entity: str, key: int | str, row: Row, values: Row) -> Row:
    return {
        "legacy_id": str(key),
        "id": target_id(entity, str(key)),
        "metadata": "{}",
        **row,
        **values,
    }


def clean_table(entity: str, rows: Sequence[Row]) -> pa.Table:
    """Rows as a clean batch; columns a row does not name are NULL."""
    schema = clean_schema(ENTITIES[entity])
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise KeyError(f"{entity} has no column {unknown}")
    filled = [{name: row.get(name) for name in schema.names} for row in rows]
    return pa.Table.from_pylist(filled, schema=schema)


class Target:
    """Loads batches into a deployed target and looks at what became of them."""

    def __init__(self, connection: psycopg.Connection[Any], api: hooks.Target | None = None) -> None:
        self.connection = connection
        self.api = api or PostgresTarget(connection)

    def tracking(self, run: str, *, dry_run: bool = False, **values: Any) -> TrackingHook:
        """The tracking of a run, opened; the one before it, which tests do not close, no longer holds the lock."""
        self.connection.execute("DELETE FROM migration.run_lock WHERE run_id <> %s", [run])
        tracking = TrackingHook(self.api, run)
        tracking.open_run(**{**_OPEN, "dry_run": dry_run, **values})
        return tracking

    def decide(self, run: str, survivors: Mapping[int, int]) -> None:
        """What deduplication of patients decided in a run: merged legacy id to its survivor's."""
        tracking = self.tracking(run)
        self.connection.execute("DELETE FROM migration.survivors WHERE run_id = %s", [run])
        for merged_key, survivor in survivors.items():
            self.connection.execute(
                "INSERT INTO migration.survivors VALUES (%s, 'patients', %s, %s)",
                [run, target_id("patients", str(merged_key)), target_id("patients", str(survivor))],
            )
        tracking.record_batch(LedgerRow("patients", "deduplication", "all", "", Fates(), 1, 0.0))

    def load(
        self,
        entity: str,
        rows: Sequence[Row],
        *,
        run: str = "run-1",
        batch: str = "p000-b0000",
        dry_run: bool = False,
        rejects: Sequence[tuple[str, str, str, str]] = (),
        findings: Sequence[tuple[str, str, str]] = (),
        **values: Any,
    ) -> Fates:
        """Load one batch; rejects are (legacy id, code, column, payload), findings the same without payload.

        Args:
            values: of the run's record.
        """
        self.tracking(run, dry_run=dry_run, **values)
        loader = BatchLoader(self.api, run, ENTITIES[entity], dry_run=dry_run)
        loaded = LoadBatch(
            batch,
            "",
            clean_table(entity, rows),
            _table(rejects, REJECT_SCHEMA),
            _table(findings, FINDING_SCHEMA),
        )
        return loader.load(loaded, attempt=1)[0]

    def delete(self, entity: str, *gone: str, run: str = "run-1", dry_run: bool = False) -> int:
        """Mark rows as gone from the source; the number of those that the target knew."""
        self.tracking(run, dry_run=dry_run)
        known: int = self.api.call(
            "mark_deleted",
            incoming={"gone_keys": pa.table({"legacy_id": pa.array(gone, pa.string())})},
            run=run,
            entity=entity,
            batch={"phase": "loading", "batch": "deleted"},
            dry_run=dry_run,
        )
        return known

    def all(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        return self.connection.execute(query.encode(), parameters).fetchall()

    def image(self, table: str) -> list[tuple[str, ...]]:
        """Every row with its place and transaction: unequal when a row was so much as rewritten."""
        name = sql.Identifier(*table.split("."))
        query = sql.SQL("SELECT ctid::text, xmin::text, t::text FROM {} t ORDER BY 1").format(name)
        return self.connection.execute(query).fetchall()

    def quarantine(self, entity: str, status: str = "open") -> list[tuple[str, str, str]]:
        """(legacy id, code, column) of an entity's entries."""
        return self.all(
            'SELECT legacy_id, code, "column" FROM migration.quarantine WHERE entity = %s AND status = %s'
            " ORDER BY id",
            [entity, status],
        )

    def states(self, entity: str) -> dict[str, str]:
        """Legacy id to state in the id map."""
        return dict(
            self.all("SELECT legacy_id, state FROM migration.id_map WHERE entity = %s ORDER BY 1", [entity])
        )

    def row(self, entity: str, key: int | str) -> dict[str, Any]:
        """The target row of a legacy id."""
        query = sql.SQL("SELECT * FROM {} WHERE id = %s").format(sql.Identifier("public", entity))
        with self.connection.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute(query, [target_id(entity, str(key))]).fetchone()
        assert found is not None
        return found


def _table(rows: Sequence[tuple[str, ...]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)
