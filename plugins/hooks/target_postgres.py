"""The target over a direct PostgreSQL connection: schema deployment and the merge of batches."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from airflow.sdk import BaseHook
from psycopg import sql
from psycopg.types.json import Jsonb

from include.core import jsontext
from include.core.copytext import format_rows, parse_rows
from include.core.errors import MigrationError
from include.core.findings import FINDINGS
from include.core.mapping import mapping_version
from include.core.spec import Entity, OnMissing
from include.core.tracking import Fates, total
from include.core.transform import FINDING_SCHEMA, REJECT_SCHEMA
from plugins.hooks.connect import TARGET, connect, is_data_error, translated
from plugins.hooks.schema_files import SchemaFile, schema_files
from plugins.hooks.tracking import LedgerRow, TrackingHook

_SESSION = (
    "SET TimeZone = 'UTC'",
    "SET DateStyle = 'ISO, YMD'",
    "SET IntervalStyle = 'postgres'",
    "SET statement_timeout = '60min'",
    "SET lock_timeout = '60s'",
    "SET client_min_messages = 'warning'",
)
_PLATFORM = """SELECT needed FROM (VALUES ('role', 'anon'), ('role', 'authenticated'), ('role', 'service_role'),
    ('schema', 'auth'), ('schema', 'extensions'), ('extension', 'vector')) AS n (kind, needed)
WHERE NOT CASE kind WHEN 'role' THEN EXISTS (SELECT 1 FROM pg_roles WHERE rolname = needed)
  WHEN 'schema' THEN EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = needed)
  ELSE EXISTS (SELECT 1 FROM pg_extension WHERE extname = needed) END"""
_COPY_COLUMN = re.compile(r"^COPY stage, line \d+, column ([^:,]+)", re.MULTILINE)
_DUPLICATES = (
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateObject,
    psycopg.errors.DuplicateFunction,
    psycopg.errors.DuplicateSchema,
)
_DEPLOY_LOCK = 4_021_977_001  # any number, as long as it is ours alone


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


class TargetPostgresHook(BaseHook):
    """Writes and reads the target."""

    def __init__(self) -> None:
        super().__init__()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    @contextmanager
    def session(self, **facts: object) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection in autocommit (transactions are explicit), its errors translated."""
        with translated(TARGET, **facts), connect(TARGET) as connection:
            connection.autocommit = True
            self._connection = connection
            try:
                for statement in _SESSION:
                    connection.execute(statement)
                yield connection
            finally:
                self._connection = None

    def cancel(self) -> None:
        """Cancel what runs in the server; for a task that is being killed."""
        if self._connection is not None:
            self._connection.cancel()


def check_platform(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Refuse a database that lacks what Supabase provides.

    Raises:
        MigrationError: TARGET_PLATFORM_MISSING.
    """
    missing = [row[0] for row in connection.execute(_PLATFORM)]
    if missing:
        raise MigrationError("TARGET_PLATFORM_MISSING", f"Missing: {', '.join(missing)}.")


def deploy_schema(connection: psycopg.Connection[tuple[Any, ...]], dimensions: int | None) -> list[str]:
    """Deploy what is not deployed yet, in one transaction; returns the names of the files deployed.

    Args:
        dimensions: of the vector columns, if they are created now.

    Raises:
        MigrationError: TARGET_SCHEMA_CHANGED or TARGET_SCHEMA_FOREIGN.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_DEPLOY_LOCK])
        recorded = _recorded(connection)
        files = schema_files()
        _refuse_changed(files, recorded)
        if not recorded:
            _refuse_foreign(connection)
        if dimensions is not None:
            connection.execute("SELECT set_config('mdw.dimensions', %s, true)", [str(dimensions)])
        missing = [file for file in files if file.name not in recorded]
        for file in missing:
            _run_file(connection, file)
        _record_hashes(connection, files)
    return [file.name for file in missing]


def _run_file(connection: psycopg.Connection[tuple[Any, ...]], file: SchemaFile) -> None:
    try:
        connection.execute(file.sql)
        connection.execute(
            "INSERT INTO migration.schema_versions (name) VALUES (%s) ON CONFLICT DO NOTHING", [file.name]
        )
    except _DUPLICATES as error:
        # A type, function, index … of the same name; the server's words name it and quote no row.
        detail = f"{file.name}: {error.diag.message_primary}."
        raise MigrationError("TARGET_SCHEMA_FOREIGN", detail) from None


def _record_hashes(connection: psycopg.Connection[tuple[Any, ...]], files: Sequence[SchemaFile]) -> None:
    """Files register their names themselves; one deployed by other means gets the hash of the file as it is now."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE migration.schema_versions SET hash = %s WHERE name = %s AND hash IS NULL",
            [(file.hash, file.name) for file in files],
        )


def _recorded(connection: psycopg.Connection[tuple[Any, ...]]) -> dict[str, str | None]:
    row = connection.execute("SELECT to_regclass('migration.schema_versions')").fetchone()
    if row is None or row[0] is None:
        return {}
    return dict(connection.execute("SELECT name, hash FROM migration.schema_versions").fetchall())


def _refuse_changed(files: Sequence[SchemaFile], recorded: dict[str, str | None]) -> None:
    changed = [file.name for file in files if recorded.get(file.name) not in (None, file.hash)]
    unknown = sorted(set(recorded) - {file.name for file in files})
    if changed or unknown:
        raise MigrationError(
            "TARGET_SCHEMA_CHANGED", f"Changed: {changed}; deployed but unknown here: {unknown}."
        )


def _refuse_foreign(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    ours = [name for file in schema_files() for name in _created_tables(file.sql)]
    rows = connection.execute(
        "SELECT t.name FROM unnest(%s::text[]) AS t (name) WHERE to_regclass(t.name) IS NOT NULL", [ours]
    )
    existing = [row[0] for row in rows]
    if existing:
        raise MigrationError("TARGET_SCHEMA_FOREIGN", f"Existing: {', '.join(existing)}.")


def _created_tables(text: str) -> list[str]:
    return [line.split()[2] for line in text.splitlines() if line.startswith("CREATE TABLE ")]


def vector_dimensions(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
    """Dimensions of the deployed vector columns."""
    row = connection.execute(
        "SELECT atttypmod FROM pg_attribute WHERE attrelid = 'public.project_embeddings'::regclass"
        " AND attname = 'embedding'"
    ).fetchone()
    if row is None:
        raise LookupError("public.project_embeddings has no column embedding")
    return int(row[0])


def fit_dimensions(
    connection: psycopg.Connection[tuple[Any, ...]], tables: Collection[str], dimensions: int
) -> None:
    """Give the vector columns the provider's dimensions, which is free as long as they are empty.

    Raises:
        MigrationError: TARGET_DIMENSIONS, there are vectors of another size.
    """
    deployed = vector_dimensions(connection)
    if deployed == dimensions:
        return
    for table in tables:
        name = sql.Identifier("public", table)
        filled = connection.execute(sql.SQL("SELECT EXISTS (SELECT 1 FROM {})").format(name)).fetchone()
        if filled is not None and filled[0]:
            raise MigrationError(
                "TARGET_DIMENSIONS", f"The target has {deployed}, the provider {dimensions}."
            )
    with connection.transaction():
        for table in tables:
            connection.execute(
                sql.SQL("ALTER TABLE {} ALTER COLUMN embedding TYPE extensions.vector({})").format(
                    sql.Identifier("public", table), sql.Literal(dimensions)
                )
            )


def register(connection: psycopg.Connection[tuple[Any, ...]], entities: Collection[Entity]) -> None:
    """Tell the merge what it needs to know of entities and codes, as their files declare it now."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO migration.finding_kinds VALUES (%s, %s, %s) ON CONFLICT (code) DO UPDATE"
            " SET reason = excluded.reason, how_to_fix = excluded.how_to_fix",
            [(kind.code, kind.reason, kind.how_to_fix) for kind in FINDINGS.values()],
        )
        cursor.executemany(
            "INSERT INTO migration.entities VALUES (%s, %s, %s) ON CONFLICT (entity) DO UPDATE"
            " SET columns = excluded.columns, refs = excluded.refs",
            [(e.name, [c.name for c in e.columns], Jsonb(_references(e))) for e in entities],
        )


def _references(entity: Entity) -> list[dict[str, object]]:
    return [
        {"name": name, "entity": ref.entity, "required": ref.on_missing is OnMissing.REJECT}
        for name, ref in entity.references.items()
    ]


def survivors(connection: psycopg.Connection[tuple[Any, ...]], entity: str) -> pa.Table:
    """Merged rows known from earlier runs: legacy_id, survivor_id (legacy ids)."""
    query = sql.SQL(
        "COPY (SELECT m.legacy_id, s.legacy_id FROM migration.id_map m JOIN migration.id_map s"
        " ON s.entity = m.entity AND s.target_id = m.survivor_id"
        " WHERE m.entity = {} AND m.state = 'merged') TO STDOUT WITH (FORMAT csv)"
    ).format(entity)
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        return parse_rows(b"".join(bytes(row) for row in copy), ["legacy_id", "survivor_id"])


def refresh_statistics(connection: psycopg.Connection[tuple[Any, ...]], entity: str) -> None:
    """ANALYZE behind a bulk load: autovacuum comes too late, and plans made for empty tables are slow."""
    connection.execute(
        sql.SQL("ANALYZE {}, migration.id_map, migration.quarantine, migration.findings").format(
            sql.Identifier("public", entity)
        )
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
            fates = self._rehearsed(batch) if self._dry_run else self._loaded(batch)
            seconds = time.monotonic() - started
            self._tracking.record_batch(
                LedgerRow(
                    *(self._entity.name, "loading", batch.name, batch.key_range, fates, attempt, seconds),
                    fingerprint=batch.fingerprint,
                )
            )
        return fates, seconds

    def _rehearsed(self, batch: LoadBatch) -> Fates:
        """Fates of a batch that is taken back; its children find it among the planned ids."""
        keys = [table.column("legacy_id").to_pylist() for table in (batch.clean, batch.rejects)]
        with self._connection.transaction(force_rollback=True):
            self._defer_references()
            fates = self._loaded(batch)
            written = self._connection.execute(
                "SELECT array_agg(target_id), array_agg(state = 'quarantined') FROM migration.id_map"
                " WHERE entity = %s AND last_run = %s AND legacy_id = ANY (%s)",
                [self._entity.name, self._run_id, [*keys[0], *keys[1]]],
            ).fetchone()
        self._connection.execute(
            "INSERT INTO migration.planned_ids (run_id, id, deleted)"
            " SELECT %s, * FROM unnest(%s::uuid[], %s::boolean[]) ON CONFLICT (run_id, id) DO UPDATE"
            " SET deleted = excluded.deleted",
            [self._run_id, *(written or (None, None))],
        )
        return fates

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
        execute("SELECT migration.classify_stage(%s, %s)", [self._run_id, entity])
        row = execute(
            "SELECT * FROM migration.apply_stage(%s, %s, %s)", [self._run_id, entity, mapping_version()]
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
