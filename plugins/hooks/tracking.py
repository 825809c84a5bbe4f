"""The tracking tables: what runs, what became of every batch, what was checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from airflow.sdk import BaseHook
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from include.core.errors import MigrationError
from include.core.tracking import Check, Fates


@dataclass(frozen=True)
class LedgerRow:
    """One batch in one phase.

    Attributes:
        key_range: legacy keys, for a person.
        memory_mb: peak of the worker process so far; None where it was not measured.
        fingerprint: digest of the batch's content hashes.
        deleted: rows found gone from the source.
    """

    entity: str
    phase: str
    batch: str
    key_range: str
    fates: Fates
    attempt: int
    seconds: float
    memory_mb: float | None = None
    fingerprint: str | None = None
    deleted: int = 0


class TrackingHook(BaseHook):
    """Writes and reads the tracking tables of one run, over a connection that the caller owns."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], run_id: str) -> None:
        super().__init__()
        self._connection = connection
        self.run_id = run_id

    def open_run(self, **values: Any) -> None:
        """Start the run, or take it up again after a clear; what it did so far stays recorded.

        Args:
            values: type, dry_run, parameters (JSON object), mapping_version, code_version, started_by,
                source_horizon.
        """
        self._connection.execute(
            "INSERT INTO migration.runs (run_id, type, dry_run, status, phase, parameters, mapping_version,"
            " code_version, started_by, source_horizon) VALUES (%(run_id)s, %(type)s, %(dry_run)s, 'running',"
            " 'preparation', %(parameters)s, %(mapping_version)s, %(code_version)s, %(started_by)s,"
            " %(source_horizon)s) ON CONFLICT (run_id) DO UPDATE SET status = 'running', ended_at = NULL,"
            " failed_steps = '{}', parameters = excluded.parameters",
            {**values, "run_id": self.run_id, "parameters": Jsonb(values["parameters"])},
        )

    def close_run(self, status: str, counts: Mapping[str, Any], report_uri: str) -> None:
        """Record the end. A complete full run that wrote something leaves its horizon for the next run."""
        with self._connection.transaction():
            self._connection.execute(
                "UPDATE migration.runs SET status = %s, ended_at = clock_timestamp(), counts = %s, report_uri = %s"
                " WHERE run_id = %s",
                [status, Jsonb(dict(counts)), report_uri, self.run_id],
            )
            self._connection.execute("DELETE FROM migration.planned_ids WHERE run_id = %s", [self.run_id])
            self._connection.execute(
                "INSERT INTO migration.watermarks (name, horizon, run_id)"
                " SELECT 'source', source_horizon, run_id FROM migration.runs"
                " WHERE run_id = %s AND status = 'completed' AND NOT dry_run AND source_horizon IS NOT NULL"
                " AND parameters -> 'entities' = '[]'"
                " ON CONFLICT (name) DO UPDATE SET horizon = excluded.horizon, run_id = excluded.run_id,"
                " recorded_at = now()",
                [self.run_id],
            )

    def enter(self, phase: str, step: str, *, fail_fast: bool) -> None:
        """Begin a step: forget its own earlier failure, and refuse to start behind another one's.

        Raises:
            MigrationError: RUN_STATE_MISSING, or RUN_STOPPED while another step is failed.
        """
        self._connection.execute(
            "UPDATE migration.runs SET failed_steps = array_remove(failed_steps, %(step)s), phase = %(phase)s"
            " WHERE run_id = %(run)s AND (phase <> %(phase)s OR %(step)s = ANY (failed_steps))",
            {"step": step, "phase": phase, "run": self.run_id},
        )
        self.stop_if_failed(fail_fast=fail_fast)

    def stop_if_failed(self, *, fail_fast: bool) -> None:
        """Asked before every batch.

        Raises:
            MigrationError: RUN_STATE_MISSING or RUN_STOPPED.
        """
        row = self._connection.execute(
            "SELECT failed_steps FROM migration.runs WHERE run_id = %s", [self.run_id]
        ).fetchone()
        if row is None:
            raise MigrationError("RUN_STATE_MISSING", "", run=self.run_id)
        if row[0] and fail_fast:
            raise MigrationError("RUN_STOPPED", f"Failed: {', '.join(row[0])}.", run=self.run_id)

    def fail_step(self, step: str) -> None:
        """Record that a step failed for good; stops the others under fail_fast."""
        self._connection.execute(
            "UPDATE migration.runs SET failed_steps = failed_steps || %(step)s::text"
            " WHERE run_id = %(run)s AND NOT %(step)s = ANY (failed_steps)",
            {"step": step, "run": self.run_id},
        )

    def record_batch(self, row: LedgerRow) -> None:
        """Write the ledger's row of a batch; a repeated batch replaces its own."""
        fates = row.fates
        self._connection.execute(
            "INSERT INTO migration.batches AS b (run_id, entity, phase, batch, key_range, attempt, extracted, inserted,"
            " updated, unchanged, merged, rejected, skipped, seconds, memory_mb, fingerprint, deleted)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (run_id, entity, phase, batch) DO UPDATE SET attempt = b.attempt + 1, status = 'done',"
            " key_range = excluded.key_range, extracted = excluded.extracted, inserted = excluded.inserted,"
            " updated = excluded.updated, unchanged = excluded.unchanged, merged = excluded.merged,"
            " rejected = excluded.rejected, skipped = excluded.skipped, seconds = excluded.seconds,"
            " memory_mb = excluded.memory_mb, fingerprint = excluded.fingerprint, deleted = excluded.deleted,"
            " error_code = NULL, recorded_at = now()",
            [
                *(self.run_id, row.entity, row.phase, row.batch, row.key_range, row.attempt),
                *(fates.extracted, fates.inserted, fates.updated, fates.unchanged, fates.merged),
                *(fates.rejected, fates.skipped, row.seconds, row.memory_mb, row.fingerprint, row.deleted),
            ],
        )

    def fail_batch(self, entity: str, phase: str, batch: str, error_code: str) -> None:
        """Record that a batch failed; what it did was rolled back."""
        self._connection.execute(
            "INSERT INTO migration.batches AS b (run_id, entity, phase, batch, status, error_code)"
            " VALUES (%s, %s, %s, %s, 'failed', %s) ON CONFLICT (run_id, entity, phase, batch) DO UPDATE"
            " SET status = 'failed', attempt = b.attempt + 1, error_code = excluded.error_code, recorded_at = now()",
            [self.run_id, entity, phase, batch, error_code],
        )

    def done_batches(self, entity: str, phase: str, partition: str) -> set[str]:
        """Names of the batches of a partition that a phase has finished."""
        rows = self._connection.execute(
            "SELECT batch FROM migration.batches WHERE run_id = %s AND entity = %s AND phase = %s"
            " AND status = 'done' AND starts_with(batch, %s)",
            [self.run_id, entity, phase, partition],
        )
        return {row[0] for row in rows}

    def fates(self, entity: str) -> Fates:
        """The sum over the loaded batches of an entity."""
        row = self._connection.execute(
            "SELECT coalesce(sum(extracted), 0), coalesce(sum(inserted), 0), coalesce(sum(updated), 0),"
            " coalesce(sum(unchanged), 0), coalesce(sum(merged), 0), coalesce(sum(rejected), 0),"
            " coalesce(sum(skipped), 0) FROM migration.batches"
            " WHERE run_id = %s AND entity = %s AND phase = 'loading'",
            [self.run_id, entity],
        ).fetchone()
        return Fates(*(int(value) for value in row or ()))

    def rows(self, entity: str, phase: str) -> int:
        """How many rows of an entity a phase has handled."""
        row = self._connection.execute(
            "SELECT coalesce(sum(extracted), 0) FROM migration.batches"
            " WHERE run_id = %s AND entity = %s AND phase = %s",
            [self.run_id, entity, phase],
        ).fetchone()
        return 0 if row is None else int(row[0])

    def record_checks(self, checks: Iterable[Check]) -> None:
        """Store results of checks; a repeated check replaces its own."""
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO migration.checks VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
                " ON CONFLICT (run_id, name, entity) DO UPDATE SET level = excluded.level,"
                " severity = excluded.severity, expected = excluded.expected, found = excluded.found,"
                " passed = excluded.passed, sample_keys = excluded.sample_keys",
                [
                    (
                        self.run_id,
                        c.name,
                        c.entity,
                        c.level,
                        c.severity,
                        c.expected,
                        c.found,
                        c.passed,
                        [*c.sample_keys],
                    )
                    for c in checks
                ],
            )

    def facts(self, table: str) -> list[dict[str, Any]]:
        """All rows of this run in ``runs``, ``batches`` or ``checks``, for the report."""
        queries = {
            "runs": "SELECT * FROM migration.runs WHERE run_id = %s",
            "batches": "SELECT * FROM migration.batches WHERE run_id = %s ORDER BY phase, entity, batch",
            "checks": "SELECT * FROM migration.checks WHERE run_id = %s ORDER BY passed, entity, name",
        }
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(queries[table], [self.run_id]).fetchall()

    def finding_counts(self) -> list[tuple[str, str, str, int]]:
        """(entity, kind, code, rows): what is in quarantine and what was noticed, now."""
        return self._connection.execute(
            "SELECT entity, 'quarantine', code, count(*) FROM migration.quarantine WHERE status = 'open'"
            " GROUP BY entity, code UNION ALL"
            " SELECT entity, 'finding', code, count(*) FROM migration.findings GROUP BY entity, code"
            " ORDER BY 1, 2, 3"
        ).fetchall()  # type: ignore[return-value]
