"""The tracking tables: what runs, what became of every batch, what was checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from airflow.sdk import BaseHook
from psycopg import sql
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from include.core.errors import MigrationError
from include.core.tracking import Check, Fates
from plugins.hooks.run_lock import RunLock

StepStates = Callable[[Sequence[str]], Mapping[str, str]]
"""Steps to the states that Airflow gives their tasks."""

# A failure is recorded here moments before Airflow knows it, and a cleared task runs moments before it enters.
_LONGEST_DOUBT_SECONDS = 20.0
_DOUBT_SECONDS = 0.5
# What a run decided for its own later steps.
_OF_RUNS = ("planned_ids", "survivors")


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


@dataclass(frozen=True)
class _State:
    """What the tracking tables know of a run."""

    status: str
    failed_steps: list[str]
    mapping_version: str
    code_version: str
    holds_lock: bool

    def refuse_other(self, versions: Mapping[str, Any]) -> None:
        """Raise RUN_CODE_CHANGED where the versions differ from those that the run was opened with."""
        for name, what in (("code_version", "code"), ("mapping_version", "mapping")):
            if versions[name] != (before := getattr(self, name)):
                raise MigrationError(
                    "RUN_CODE_CHANGED",
                    f"The run was opened with {what} {before}, present is {versions[name]}.",
                )


class TrackingHook(BaseHook):
    """Writes and reads the tracking tables of one run, over a connection that the caller owns."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], run_id: str) -> None:
        super().__init__()
        self._connection = connection
        self.run_id = run_id
        self._lock = RunLock(connection, run_id)

    def refuse_if_locked(self) -> None:
        """For what must not be done beside another run although this one is not open yet.

        Raises:
            MigrationError: RUN_LOCKED.
        """
        self._lock.refuse_if_taken()

    def open_run(self, *, dag_id: str | None = None, **values: Any) -> None:
        """Start the run and take the lock, or take both up again after a clear; a complete run stays complete.

        Args:
            dag_id: lets other runs ask Airflow whether this one is over.
            values: type, scope, dry_run, parameters (JSON object), mapping_version, rules_version, code_version,
                started_by, source_horizon, source_identity (JSON object).

        Raises:
            MigrationError: RUN_LOCKED, RUN_CODE_CHANGED, RUN_SUPERSEDED or PARAM_INVALID.
        """
        known = self._state()
        if known is not None:
            if known.status == "completed":
                return
            known.refuse_other(values)
        with self._connection.transaction():
            self._lock.acquire()
            self._refuse_superseded()
            self._connection.execute(
                "INSERT INTO migration.runs (run_id, dag_id, type, scope, dry_run, status, phase, parameters,"
                " mapping_version, rules_version, code_version, started_by, source_horizon, source_identity)"
                " VALUES (%(run_id)s, %(dag_id)s, %(type)s, %(scope)s, %(dry_run)s, 'running', 'preparation',"
                " %(parameters)s, %(mapping_version)s, %(rules_version)s, %(code_version)s, %(started_by)s,"
                " %(source_horizon)s, %(source_identity)s)"
                " ON CONFLICT (run_id) DO UPDATE SET status = 'running', ended_at = NULL,"
                " failed_steps = '{}', parameters = excluded.parameters",
                {
                    **values,
                    "run_id": self.run_id,
                    "dag_id": dag_id,
                    "parameters": Jsonb(values["parameters"]),
                    "source_identity": Jsonb(values["source_identity"]),
                },
            )

    def close_run(self, status: str, counts: Mapping[str, Any], report_uri: str) -> None:
        """Record the end and give the lock back. A complete run that wrote leaves its horizon for the next run.

        What a failed run has decided for its later steps stays, for they may be cleared.

        Raises:
            MigrationError: RUN_LOST when a run that lost its lock is to be called completed.
        """
        with self._connection.transaction():
            if not self._lock.release() and status == "completed":
                raise self._lock.lost()
            self._connection.execute(
                "UPDATE migration.runs SET status = %s, ended_at = coalesce(ended_at, clock_timestamp()),"
                " counts = %s, report_uri = %s WHERE run_id = %s",
                [status, Jsonb(dict(counts)), report_uri, self.run_id],
            )
            if status == "completed":
                self._forget_decisions()
            self._connection.execute(
                "INSERT INTO migration.watermarks (name, horizon, run_id)"
                " SELECT 'source', source_horizon, run_id FROM migration.runs"
                " WHERE run_id = %s AND status = 'completed' AND NOT dry_run AND source_horizon IS NOT NULL"
                " AND parameters -> 'entities' = '[]' AND scope <> 'quarantine'"
                " ON CONFLICT (name) DO UPDATE SET horizon = excluded.horizon, run_id = excluded.run_id,"
                " recorded_at = now()",
                [self.run_id],
            )

    def enter(
        self,
        phase: str,
        step: str,
        *,
        fail_fast: bool,
        versions: Mapping[str, str] | None = None,
        states: StepStates | None = None,
    ) -> bool:
        """Begin a step: forget its own earlier failure, and refuse to start behind another one's.

        A failed run, whose tasks were cleared, takes the lock again and goes on.

        Args:
            versions: code_version and mapping_version of now, to be compared with the run's.
            states: asked for failed steps that were cleared together with this one and must not stop it.

        Returns:
            False where the run is complete: there is nothing to do.

        Raises:
            MigrationError: RUN_STATE_MISSING, RUN_STOPPED while another step is failed, and those of
                :meth:`open_run`.
        """
        known = self._state()
        if known is None:
            raise MigrationError("RUN_STATE_MISSING", "", run=self.run_id)
        if known.status == "completed":
            return False
        if versions is not None:
            known.refuse_other(versions)
        if known.status == "running" and known.holds_lock:
            self._lock.confirm()
        else:
            self._take_up_again()
        self._connection.execute(
            "UPDATE migration.runs SET failed_steps = array_remove(failed_steps, %(step)s), phase = %(phase)s"
            " WHERE run_id = %(run)s AND (phase <> %(phase)s OR %(step)s = ANY (failed_steps))",
            {"step": step, "phase": phase, "run": self.run_id},
        )
        if fail_fast and states is not None:
            self._forget_cleared(states)
        self.stop_if_failed(fail_fast=fail_fast)
        return True

    def stop_if_failed(self, *, fail_fast: bool) -> None:
        """Asked before every batch, outside of its transaction; also a sign of life.

        Raises:
            MigrationError: RUN_STATE_MISSING, RUN_LOST or RUN_STOPPED.
        """
        self._lock.beat()
        known = self._state()
        if known is None:
            raise MigrationError("RUN_STATE_MISSING", "", run=self.run_id)
        if not known.holds_lock:
            raise self._lock.lost()
        if known.failed_steps and fail_fast:
            raise MigrationError("RUN_STOPPED", f"Failed: {', '.join(known.failed_steps)}.", run=self.run_id)

    def hold_lock(self) -> None:
        """First statement of every transaction that writes: nobody takes the lock over before its end.

        Raises:
            MigrationError: RUN_LOST.
        """
        self._lock.hold()

    def _state(self) -> _State | None:
        with self._connection.cursor(row_factory=class_row(_State)) as cursor:
            return cursor.execute(
                "SELECT r.status, r.failed_steps, r.mapping_version, r.code_version, l.run_id IS NOT NULL AS holds_lock"
                " FROM migration.runs r LEFT JOIN migration.run_lock l USING (run_id) WHERE r.run_id = %s",
                [self.run_id],
            ).fetchone()

    def _take_up_again(self) -> None:
        with self._connection.transaction():
            self._lock.acquire()
            self._refuse_superseded()
            self._connection.execute(
                "UPDATE migration.runs SET status = 'running', ended_at = NULL WHERE run_id = %s",
                [self.run_id],
            )

    def _refuse_superseded(self) -> None:
        """What was staged before another run loaded would bring older rows back; a dry run outdates only dry runs."""
        later = self._connection.execute(
            "SELECT o.run_id FROM migration.runs o, migration.runs mine WHERE mine.run_id = %s"
            " AND o.run_id <> mine.run_id AND o.ended_at > mine.ended_at AND (mine.dry_run OR NOT o.dry_run)"
            " AND (o.status = 'completed' OR EXISTS (SELECT FROM migration.batches b WHERE b.run_id = o.run_id"
            " AND b.phase = 'loading' AND b.recorded_at > mine.ended_at)) ORDER BY o.ended_at LIMIT 1",
            [self.run_id],
        ).fetchone()
        if later is not None:
            raise MigrationError("RUN_SUPERSEDED", f"It was run {later[0]}.", run=self.run_id)

    def _forget_decisions(self) -> None:
        """Also those of the failed runs that this one has superseded."""
        for table in _OF_RUNS:
            self._connection.execute(
                sql.SQL(
                    "DELETE FROM {} d USING migration.runs r, migration.runs mine WHERE mine.run_id = %s"
                    " AND r.run_id = d.run_id AND (r.run_id = mine.run_id OR r.dry_run OR NOT mine.dry_run)"
                ).format(sql.Identifier("migration", table)),
                [self.run_id],
            )

    def _forget_cleared(self, states: StepStates) -> None:
        """Drop failed steps whose tasks were cleared, though they have not entered yet.

        A task that runs is in doubt: it was cleared and will enter in a moment, or fails and Airflow will know.
        """
        deadline = time.monotonic() + _LONGEST_DOUBT_SECONDS
        while (known := self._state()) is not None and known.failed_steps:
            found = states(known.failed_steps)
            failed = {step for step in known.failed_steps if found.get(step) == "failed"}
            running = {step for step in known.failed_steps if found.get(step) == "running"}
            in_doubt = running if time.monotonic() < deadline else set()
            for step in set(known.failed_steps) - failed - in_doubt:
                self._connection.execute(
                    "UPDATE migration.runs SET failed_steps = array_remove(failed_steps, %s) WHERE run_id = %s",
                    [step, self.run_id],
                )
            if failed or not in_doubt:
                return
            time.sleep(_DOUBT_SECONDS)

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
