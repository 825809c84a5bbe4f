"""What validation asks the target, and how the answers become checks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
from psycopg import sql

from include.core.copytext import format_rows
from include.core.spec import Embeddings, Entity, OnMissing
from include.core.tracking import Check

if TYPE_CHECKING:
    from plugins.hooks.legacy_mdw import Snapshot
    from plugins.hooks.staging import StagingHook
    from plugins.hooks.tracking import TrackingHook

_SAMPLES = 10
_FATES = (
    "SELECT legacy_id FROM migration.id_map WHERE entity = {entity} AND state IN ('live', 'merged')"
    " UNION SELECT legacy_id FROM migration.quarantine WHERE entity = {entity} AND status = 'open'"
)


class Comparison:
    """Checks of the target against the ledger, the source and itself."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], tracking: TrackingHook) -> None:
        self._connection = connection
        self._tracking = tracking

    def counts(self, entity: Entity) -> Iterator[Check]:
        """Rows in every hop, and in the target."""
        extracted, transformed, loaded = (
            self._tracking.rows(entity.name, phase) for phase in ("extraction", "transformation", "loading")
        )
        if entity.shape is None:
            yield _equal("rows_transformed", entity, 1, extracted, transformed)
        yield _equal("rows_loaded", entity, 1, transformed, loaded)
        known = "SELECT target_id::text FROM migration.id_map WHERE entity = {entity} AND state IN ('live', 'merged')"
        live = "SELECT id::text FROM {table} WHERE deleted_at IS NULL"
        differing = f"({known} EXCEPT {live}) UNION ALL ({live} EXCEPT {known})"
        yield self._none("rows_stored", entity, 1, differing)

    def embeddings(self, entity: Entity, embeddings: Embeddings) -> Check:
        """Every live row that has a document has a vector."""
        query = (
            "SELECT m.legacy_id FROM migration.id_map m WHERE m.entity = {entity} AND m.state = 'live'"
            " AND NOT EXISTS (SELECT 1 FROM {vectors} e WHERE e.{owner} = m.target_id)"
        )
        names = {
            "vectors": sql.Identifier("public", embeddings.table),
            "owner": sql.Identifier(embeddings.owner),
        }
        return self._none("embedded", entity, 1, query, **names)

    def key_sets(self, entity: Entity, source: Snapshot, staging: StagingHook) -> Iterator[Check]:
        """Keys of the source now against the fates of rows.

        Rows that came or went while the run was under way are told apart: what is newer than the run's
        horizon is left to the next run, what was there when the run was planned, or was extracted, left since.
        """
        run = self._tracking.facts("runs")[0]
        with self._connection.transaction(force_rollback=True):
            self._keep_keys("source_keys", source.keys(entity))
            missing = "SELECT legacy_id FROM source_keys EXCEPT (" + _FATES + ")"
            gone = "(" + _FATES + ") EXCEPT SELECT legacy_id FROM source_keys"
            back = (
                "SELECT legacy_id FROM migration.id_map WHERE entity = {entity} AND state = 'deleted'"
                " INTERSECT SELECT legacy_id FROM source_keys"
            )
            if self._keys(f"({missing}) UNION ({back})", entity, limit=1):
                self._keep_keys("arrived", source.keys_since(entity, run["source_horizon"]))
                newer = " EXCEPT SELECT legacy_id FROM arrived"
                yield self._none("keys_without_fate", entity, 2, missing + newer)
                yield self._none("keys_deleted_but_there", entity, 2, f"({back}){newer}")
                yield self._none("keys_arrived", entity, 2, missing, severity="warn")
            else:
                yield self._none("keys_without_fate", entity, 2, missing)
                yield self._none("keys_deleted_but_there", entity, 2, back)
            if self._keys(gone, entity, limit=1):
                self._keep_keys("seen", self._seen(entity, staging))
                yield self._none(
                    "keys_without_source", entity, 2, f"({gone}) EXCEPT SELECT legacy_id FROM seen"
                )
                yield self._none("keys_left", entity, 2, gone, severity="warn")
            else:
                yield self._none("keys_without_source", entity, 2, gone)
        twice = (
            "SELECT q.legacy_id FROM migration.quarantine q JOIN migration.id_map m USING (entity, legacy_id)"
            " WHERE q.entity = {entity} AND q.status = 'open' AND q.code <> 'key_repeated'"
            " AND m.state IN ('live', 'merged')"
        )
        yield self._none("keys_with_two_fates", entity, 2, twice)

    def integrity(self, entity: Entity) -> Iterator[Check]:
        """What constraints promise, asked of the rows themselves."""
        key = entity.columns[0].name
        for column, reference in entity.references.items():
            names = {"column": sql.Identifier(column), "parent": sql.Identifier("public", reference.entity)}
            orphans = (
                "SELECT m.legacy_id FROM {table} t"
                " JOIN migration.id_map m ON m.entity = {entity} AND m.target_id = t.id"
                " WHERE t.deleted_at IS NULL AND t.{column} IS NOT NULL"
                " AND NOT EXISTS (SELECT 1 FROM {parent} p WHERE p.id = t.{column} AND p.deleted_at IS NULL)"
            )
            yield self._none(f"orphans_{column}", entity, 4, orphans, **names)
            yield self._constraint(entity, column)
            if reference.on_missing is OnMissing.REJECT and column != "merged_into":
                yield self._required(entity, column)
        yield self._required(entity, key)
        yield self._security(entity)
        yield from self._enums(entity)
        yield from self._merged_parents(entity)
        for check in entity.checks:
            yield self._none(check.name, entity, 4, check.sql, severity=check.severity)

    def _required(self, entity: Entity, column: str) -> Check:
        nulls = "SELECT t.id::text FROM {table} t WHERE t.{column} IS NULL"
        return self._none(f"required_{column}", entity, 4, nulls, column=sql.Identifier(column))

    def _constraint(self, entity: Entity, column: str) -> Check:
        """The foreign key is still there and was never left unvalidated."""
        found = self._number(
            "SELECT count(*) FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid"
            " AND a.attnum = ANY (c.conkey) WHERE c.conrelid = to_regclass({name}) AND c.contype = 'f'"
            " AND c.convalidated AND a.attname = {column}",
            entity,
            name=sql.Literal(f"public.{entity.name}"),
            column=sql.Literal(column),
        )
        return _equal(f"foreign_key_{column}", entity, 4, 1, found)

    def _security(self, entity: Entity) -> Check:
        found = self._number(
            "SELECT count(*) FROM pg_class WHERE oid = to_regclass({name}) AND relrowsecurity",
            entity,
            name=sql.Literal(f"public.{entity.name}"),
        )
        return _equal("row_security_on", entity, 4, 1, found)

    def _enums(self, entity: Entity) -> Iterator[Check]:
        for column in entity.columns:
            if column.enum is not None:
                wrong = (
                    "SELECT m.legacy_id FROM {table} t JOIN migration.id_map m ON m.entity = {entity}"
                    " AND m.target_id = t.id WHERE t.{column} IS NOT NULL AND t.{column}::text NOT IN"
                    " (SELECT enumlabel FROM pg_enum WHERE enumtypid = {type}::regtype)"
                )
                names = {"column": sql.Identifier(column.name), "type": sql.Literal(f"public.{column.enum}")}
                yield self._none(f"enum_{column.name}", entity, 4, wrong, **names)

    def _merged_parents(self, entity: Entity) -> Iterator[Check]:
        """No live row points at a row that was merged away."""
        for column, reference in entity.references.items():
            if reference.entity == entity.name:
                continue
            names = {"column": sql.Identifier(column), "parent": sql.Literal(reference.entity)}
            left = (
                "SELECT c.legacy_id FROM {table} t"
                " JOIN migration.id_map c ON c.entity = {entity} AND c.target_id = t.id"
                " JOIN migration.id_map p ON p.entity = {parent} AND p.target_id = t.{column}"
                " WHERE p.state = 'merged' AND t.deleted_at IS NULL"
            )
            yield self._none(f"merged_{column}", entity, 4, left, **names)

    def _seen(self, entity: Entity, staging: StagingHook) -> Iterator[pa.Array]:
        """Keys that the source had when the run was planned, and those it had when rows were extracted."""
        # Asked before the keys are written: a connection that copies answers nothing else, it waits for ever.
        batches = sorted(self._tracking.done_batches(entity.name, "transformation", "p"))
        return itertools.chain(staging.planned_keys(entity.name), staging.keys(entity.name, batches))

    def _keep_keys(self, table: str, keys: Iterable[pa.Array]) -> None:
        name = sql.Identifier(table)
        self._connection.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (legacy_id text) ON COMMIT DROP").format(name)
        )
        statement = sql.SQL("COPY {} FROM STDIN WITH (FORMAT csv)").format(name)
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for chunk in keys:
                copy.write(format_rows(pa.table({"legacy_id": chunk})))
        self._connection.execute(sql.SQL("ANALYZE {}").format(name))

    def _none(
        self,
        name: str,
        entity: Entity,
        level: int,
        query: str,
        severity: str = "fail",
        **names: sql.Composable,
    ) -> Check:
        """A check that a query for offending legacy ids finds nothing."""
        found = self._number(f"SELECT count(*) FROM ({query}) offending", entity, **names)
        samples = self._keys(query, entity, limit=_SAMPLES, **names) if found else []
        return Check(name, entity.name, level, "0", str(found), found == 0, severity, tuple(samples))

    def _number(self, query: str, entity: Entity, **names: sql.Composable) -> int:
        row = self._connection.execute(self._filled(query, entity, names)).fetchone()
        return 0 if row is None else int(row[0])

    def _keys(self, query: str, entity: Entity, *, limit: int, **names: sql.Composable) -> list[str]:
        limited = f"SELECT * FROM ({query}) offending ORDER BY 1 LIMIT {limit}"
        return [row[0] or "NULL" for row in self._connection.execute(self._filled(limited, entity, names))]

    @staticmethod
    def _filled(query: str, entity: Entity, names: dict[str, sql.Composable]) -> sql.Composed:
        return sql.SQL(query).format(  # type: ignore[arg-type] # constants of this file and entity files
            entity=sql.Literal(entity.name), table=sql.Identifier("public", entity.name), **names
        )


def _equal(name: str, entity: Entity, level: int, expected: int, found: int) -> Check:
    return Check(name, entity.name, level, str(expected), str(found), expected == found)
