"""Loads batches: COPY into a stage, then the server-side merge (include/sql/migration/0002_merge.sql)."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from include.core import jsontext
from include.core.copytext import format_rows
from include.core.mapping import mapping_version, rules_version
from include.core.spec import Entity
from include.core.tracking import Fates, total
from include.core.transform import FINDING_SCHEMA, REJECT_SCHEMA
from plugins.hooks.connect import is_data_error
from plugins.hooks.tracking import LedgerRow, TrackingHook

_COPY_COLUMN = re.compile(r"^COPY stage, line \d+, column ([^:,]+)", re.MULTILINE)


@dataclass(frozen=True)
class LoadBatch:
    """What one load batch holds: resolved rows with hashes, rejects and findings of the transformation."""

    name: str
    key_range: str
    clean: pa.Table
    rejects: pa.Table
    findings: pa.Table

    @property
    def fingerprint(self) -> str:
        """A digest of the rows' content hashes, in order."""
        digest = hashlib.blake2b(digest_size=16)
        for content_hash in self.clean.column("content_hash").to_pylist():
            digest.update(content_hash.encode())
        return digest.hexdigest()


def merged_ids(connection: psycopg.Connection[tuple[Any, ...]], run_id: str, entity: str) -> pa.Array:
    """Target ids of all merged rows: as deduplication decided in this run, else as they are."""
    rows = connection.execute("SELECT id::text FROM migration.survivors_of(%s, %s)", [run_id, entity])
    return pa.array([row[0] for row in rows], pa.string())


def refresh_statistics(connection: psycopg.Connection[tuple[Any, ...]], entity: str) -> None:
    """ANALYZE behind a bulk load: autovacuum comes too late, and plans made for empty tables are slow."""
    connection.execute(
        sql.SQL(
            "ANALYZE {}, migration.id_map, migration.quarantine, migration.findings, migration.planned_ids"
        ).format(sql.Identifier("public", entity))
    )


class BatchLoader:
    """Loads batches of one entity for one run; each batch is one transaction."""

    def __init__(
        self,
        connection: psycopg.Connection[tuple[Any, ...]],
        tracking: TrackingHook,
        entity: Entity,
        *,
        dry_run: bool,
    ) -> None:
        self._connection = connection
        self._tracking = tracking
        self._run_id = tracking.run_id
        self._entity = entity
        self._dry_run = dry_run

    def load(self, batch: LoadBatch, attempt: int) -> tuple[Fates, float]:
        """Merge a batch and record it in the ledger, all or nothing; returns fates and seconds.

        Rows that the target refuses are found by halving and quarantined alone. A dry run takes the same
        way, rolls the business writes back and keeps only the counts and the planned ids.
        """
        started = time.monotonic()
        with self._connection.transaction():
            self._tracking.hold_lock()
            fates = self._merged(
                lambda: self._loaded(batch),
                lambda: [
                    key for t in (batch.clean, batch.rejects) for key in t.column("legacy_id").to_pylist()
                ],
            )
            seconds = time.monotonic() - started
            self._tracking.record_batch(
                LedgerRow(
                    *(self._entity.name, "loading", batch.name, batch.key_range, fates, attempt, seconds),
                    fingerprint=batch.fingerprint,
                )
            )
        return fates, seconds

    def load_affected(self, name: str, most: int, attempt: int) -> Fates:
        """Merge rows of the target again whose references fit no more, though the source did not touch them.

        They are no rows of the source's extract, so they have a place of their own in the ledger: the phase
        ``references``.

        Args:
            name: of the batch.
            most: rows to take at once.
        """
        started = time.monotonic()
        with self._connection.transaction():
            self._tracking.hold_lock()
            fates = self._merged(lambda: self._merge_affected(most), self._staged_keys)
            if fates.extracted:
                seconds = time.monotonic() - started
                self._tracking.record_batch(
                    LedgerRow(self._entity.name, "references", name, "", fates, attempt, seconds)
                )
        return fates

    def _merge_affected(self, most: int) -> Fates:
        execute = self._connection.execute
        execute("SELECT migration.open_stage(%s)", [self._entity.name])
        execute("SELECT migration.stage_affected(%s, %s, %s)", [self._run_id, self._entity.name, most])
        return self._apply()

    def _staged_keys(self) -> list[str]:
        return [row[0] for row in self._connection.execute("SELECT legacy_id FROM pg_temp.stage")]

    def _merged(self, merge: Callable[[], Fates], keys: Callable[[], list[str]]) -> Fates:
        """Fates of a merge; a dry run takes it back, and children find its rows among the planned ids.

        Args:
            keys: legacy ids of what was merged, asked for before it is taken back.
        """
        if not self._dry_run:
            return merge()
        with self._connection.transaction(force_rollback=True):
            self._defer_references()
            fates = merge()
            planned = self._written(keys())
        self._plan(planned)
        return fates

    def _written(self, keys: list[str]) -> tuple[Any, ...]:
        """Ids of those rows that this run wrote, and whether they are no rows of the target now."""
        row = self._connection.execute(
            "SELECT array_agg(target_id), array_agg(state = 'quarantined') FROM migration.id_map"
            " WHERE entity = %s AND last_run = %s AND legacy_id = ANY (%s)",
            [self._entity.name, self._run_id, keys],
        ).fetchone()
        return row or (None, None)

    def _plan(self, written: tuple[Any, ...]) -> None:
        self._connection.execute(
            "INSERT INTO migration.planned_ids (run_id, id, deleted)"
            " SELECT %s, * FROM unnest(%s::uuid[], %s::boolean[]) ON CONFLICT (run_id, id) DO UPDATE"
            " SET deleted = excluded.deleted",
            [self._run_id, *written],
        )

    def _defer_references(self) -> None:
        """Parents of a rehearsed row may have been taken back: the merge checks them against planned ids instead."""
        names = self._connection.execute(
            "SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(%s) AND contype = 'f' AND condeferrable",
            [f"public.{self._entity.name}"],
        ).fetchall()
        if names:
            listed = sql.SQL(", ").join(sql.Identifier("public", name) for (name,) in names)
            self._connection.execute(sql.SQL("SET CONSTRAINTS {} DEFERRED").format(listed))

    def _loaded(self, batch: LoadBatch) -> Fates:
        """Fates of a batch. Rows that the target refuses are found first, then the rest is merged as a whole,
        so that its rows still find each other."""
        clean, rejects, findings = batch.clean, batch.rejects, batch.findings
        try:
            with self._connection.transaction():
                return self._merge(clean, rejects, findings)
        except psycopg.Error as error:
            _raise_unless_data(error)
        try:
            with self._connection.transaction():
                refused = self._refused_rows(clean)
                keep = pc.invert(
                    pc.is_in(clean.column("legacy_id"), refused.column("legacy_id").combine_chunks())
                )
                rest = clean.filter(keep)
                return self._merge(rest, pa.concat_tables([rejects, refused]), findings_of(findings, rest))
        except psycopg.Error as error:
            _raise_unless_data(error)
        # The rest is refused as a whole but not in parts: a row refers to one that is rejected beside it.
        return total(fates for fates, _ in self._parts(clean, rejects, findings))

    def _refused_rows(self, clean: pa.Table) -> pa.Table:
        """Rejects for the rows that the target refuses; everything tried is taken back."""
        with self._connection.transaction(force_rollback=True):
            parts = self._parts(clean, REJECT_SCHEMA.empty_table(), FINDING_SCHEMA.empty_table())
            return pa.concat_tables([refused for _, refused in parts])

    def _parts(
        self, clean: pa.Table, rejects: pa.Table, findings: pa.Table
    ) -> Iterator[tuple[Fates, pa.Table]]:
        """Fates and rejects of the whole, or of halves where the whole is refused for a row's sake."""
        try:
            with self._connection.transaction():
                fates = self._merge(clean, rejects, findings)
        except psycopg.Error as error:
            _raise_unless_data(error)
            if not clean.num_rows:
                raise
            refused = (error.sqlstate or "", _place(error))
        else:
            yield fates, rejects
            return
        if clean.num_rows == 1:
            row = _refused(clean, *refused)
            yield from self._parts(clean.slice(0, 0), pa.concat_tables([rejects, row]), findings.slice(0, 0))
            return
        middle = clean.num_rows // 2
        left, right = clean.slice(0, middle), clean.slice(middle)
        yield from self._parts(left, rejects, findings_of(findings, left))
        yield from self._parts(right, rejects.slice(0, 0), findings_of(findings, right))

    def _merge(self, clean: pa.Table, rejects: pa.Table, findings: pa.Table) -> Fates:
        entity, execute = self._entity.name, self._connection.execute
        execute("SELECT migration.open_stage(%s)", [entity])
        self._copy("stage", clean)
        self._copy("stage_rejects", rejects)
        self._copy("stage_findings", findings)
        return self._apply()

    def _apply(self) -> Fates:
        """Decide and apply the fates of what is staged."""
        entity, execute = self._entity.name, self._connection.execute
        execute("SELECT migration.classify_stage(%s, %s)", [self._run_id, entity])
        row = execute(
            "SELECT * FROM migration.apply_stage(%s, %s, %s, %s)",
            [self._run_id, entity, mapping_version(), rules_version()],
        ).fetchone()
        if row is None:
            raise LookupError("migration.apply_stage returned nothing")
        return Fates(*row)

    def _copy(self, table: str, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        names = sql.SQL(", ").join(sql.Identifier(name) for name in rows.column_names)
        statement = sql.SQL("COPY {} ({}) FROM STDIN WITH (FORMAT csv)").format(
            sql.Identifier("pg_temp", table), names
        )
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(format_rows(rows))


def findings_of(findings: pa.Table, clean: pa.Table) -> pa.Table:
    """The findings of some rows."""
    return findings.filter(pc.is_in(findings.column("legacy_id"), clean.column("legacy_id").combine_chunks()))


def _raise_unless_data(error: psycopg.Error) -> None:
    if not is_data_error(error):
        raise error


def _place(error: psycopg.Error) -> str:
    """The column or constraint that refused the row; of a value that COPY cannot read only the context tells it."""
    read = _COPY_COLUMN.search(error.diag.context or "")
    return error.diag.column_name or error.diag.constraint_name or (read[1] if read else "")


def _refused(row: pa.Table, sqlstate: str, place: str) -> pa.Table:
    """A reject for the one row that the target refused."""
    members = {name: jsontext.encode_text(row.column(name).combine_chunks()) for name in row.column_names}
    payload = jsontext.build_object(members, keep_null=True)
    cells = [
        row.column("legacy_id")[0].as_py(),
        "value_refused",
        place or f"SQLSTATE {sqlstate}",
        payload[0].as_py(),
    ]
    return pa.table([[cell] for cell in cells], schema=REJECT_SCHEMA)
