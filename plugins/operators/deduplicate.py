"""Hop 3: which rows of an entity are the same thing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from airflow.sdk.exceptions import AirflowSkipException
from psycopg import sql
from psycopg.types.json import Jsonb

from include.core.batches import Partition, batch_names
from include.core.copytext import format_rows, parse_rows
from include.core.ids import target_ids
from include.core.tracking import Fates
from include.entities import ENTITIES
from include.matching.deduplicate import deduplicate
from plugins.hooks.staging import StagingHook
from plugins.hooks.target_postgres import TargetPostgresHook
from plugins.hooks.tracking import TrackingHook
from plugins.operators.preflight import chosen
from plugins.operators.step import Clock, MigrationOperator, Run, code_version

if TYPE_CHECKING:
    import psycopg

_COMPARED = ["legacy_id", "first_name", "last_name", "date_of_birth", "gender", "email", "updated_at"]


class DeduplicateOperator(MigrationOperator):
    """Compares all rows of an entity, changed or not; reads only the columns it compares."""

    template_fields = ("partitions",)

    def __init__(self, *, partitions: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.partitions = partitions

    def step(self, run: Run) -> dict[str, int]:
        """Records the survivors, and the pairs (not in a dry run); returns counts of what was decided.

        Where the entity was not chosen, earlier decisions stand: an empty answer would undo them.
        """
        if ENTITIES[str(self.entity)] not in chosen(run.settings):
            raise AirflowSkipException("not chosen")
        name, clock, staging = ENTITIES[str(self.entity)].name, Clock(), StagingHook(run.run_id)
        with TargetPostgresHook().session(entity=name) as connection:
            clean, read = self._staged(staging)
            partly = self._reads_a_part()
            if partly and _unchanged(connection, staging, name, clean, read) and _decided(connection):
                self.progress(f"{name}: nothing that is compared changed, so all decisions stand")
                return {"merged": 0, "pending": 0}
            everybody = (
                pa.concat_tables([clean, _others(connection, staging, name, read)]) if partly else clean
            )
            result = deduplicate(everybody)
            fates = Fates(everybody.num_rows, undecided=everybody.num_rows)
            with connection.transaction():
                TrackingHook(connection, run.run_id).hold_lock()
                _record_survivors(connection, run.run_id, name, result.survivors)
                if not run.settings.dry_run:
                    _record_pairs(connection, run.run_id, name, result.pairs)
                TrackingHook(connection, run.run_id).record_batch(
                    clock.ledger_row(run, entity=name, phase=self.phase, batch="all", fates=fates)
                )
        merged = result.survivors.num_rows
        waiting = result.pairs.column("decision").to_pylist().count("pending")
        self.progress(
            f"{name}: {merged:,} merged into survivors, {waiting:,} pairs to review,"
            f" {clock.seconds:.1f} s, {clock.memory_mb:.0f} MB"
        )
        return {"merged": merged, "pending": waiting}

    def _staged(self, staging: StagingHook) -> tuple[pa.Table, pa.Array]:
        """The rows of this run that can be compared, and the legacy ids of all that were read."""
        name = str(self.entity)
        batches = [batch for partition in self.partitions or () for batch in batch_names(partition)]
        tables = [staging.read("clean", name, batch, _COMPARED) for batch in batches]
        keys = [*staging.keys(name, batches), pa.array([], pa.string())]
        return pa.concat_tables(tables) if tables else _nobody(), pa.concat_arrays(keys)

    def _reads_a_part(self) -> bool:
        """Whether the run reads a part of the rows only."""
        parts = [Partition.from_json(partition) for partition in self.partitions or ()]
        return any(partition.selected is not None for partition in parts)


def _unchanged(
    connection: psycopg.Connection[Any], staging: StagingHook, entity: str, clean: pa.Table, read: pa.Array
) -> bool:
    """Whether the rows that were read are, in what is compared, those of the target, and none is gone."""
    if staging.read("gone", entity, "all").num_rows:
        return False
    return _rows_of(clean) == _rows_of(_stored(connection, entity, read))


def _others(
    connection: psycopg.Connection[Any], staging: StagingHook, entity: str, read: pa.Array
) -> pa.Table:
    """The rows of the target that the run did not read, without those that are gone."""
    gone = staging.read("gone", entity, "all").column("legacy_id").combine_chunks()
    stored = _stored(connection, entity)
    away = pc.is_in(stored.column("legacy_id"), pa.concat_arrays([read, gone]))
    return stored.filter(pc.invert(away))


def _decided(connection: psycopg.Connection[Any]) -> bool:
    """Whether the last complete run, by the same code, is also the last that may have loaded rows."""
    row = connection.execute(
        "SELECT c.code_version = %s AND NOT EXISTS (SELECT 1 FROM migration.runs r WHERE NOT r.dry_run"
        " AND r.status = 'failed' AND r.started_at >= c.started_at)"
        " FROM migration.watermarks w JOIN migration.runs c USING (run_id) WHERE w.name = 'source'",
        [code_version()],
    ).fetchone()
    return row is not None and bool(row[0])


def _nobody() -> pa.Table:
    return pa.schema({column: pa.string() for column in _COMPARED}).empty_table()


def _rows_of(table: pa.Table) -> set[tuple[str | None, ...]]:
    return set(zip(*(table.column(name).to_pylist() for name in _COMPARED), strict=True))


def _stored(connection: psycopg.Connection[Any], entity: str, keys: pa.Array | None = None) -> pa.Table:
    """The compared columns of the target's rows, of all or of those with some legacy ids."""
    columns = sql.SQL(", ").join(sql.Identifier("t", column) for column in _COMPARED[1:])
    query = sql.SQL(
        "COPY (SELECT m.legacy_id, {} FROM migration.id_map m JOIN {} t ON t.id = m.target_id"
        " WHERE m.entity = {} AND m.state IN ('live', 'merged') AND t.deleted_at IS NULL{})"
        " TO STDOUT WITH (FORMAT csv)"
    ).format(
        columns,
        sql.Identifier("public", entity),
        sql.Literal(entity),
        sql.SQL("") if keys is None else sql.SQL(" AND m.legacy_id = ANY ({})").format(keys.to_pylist()),
    )
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        return parse_rows(b"".join(bytes(row) for row in copy), _COMPARED)


def _record_survivors(
    connection: psycopg.Connection[Any], run_id: str, entity: str, survivors: pa.Table
) -> None:
    """Every merged row and its survivor, for the merge of this run."""
    connection.execute("DELETE FROM migration.survivors WHERE run_id = %s AND entity = %s", [run_id, entity])
    merged, survivor = (
        target_ids(entity, survivors.column(name).combine_chunks()) for name in ("legacy_id", "survivor_id")
    )
    names = [pa.array([text] * len(merged), pa.string()) for text in (run_id, entity)]
    rows = pa.table([*names, merged, survivor], names=["run_id", "entity", "id", "survivor_id"])
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY migration.survivors FROM STDIN WITH (FORMAT csv)") as copy,
    ):
        copy.write(format_rows(rows))


def _record_pairs(connection: psycopg.Connection[Any], run_id: str, entity: str, pairs: pa.Table) -> None:
    """Pairs as found now; what a person decided stays, what is no longer a pair becomes stale."""
    rows = [
        (
            entity,
            p["left_id"],
            p["right_id"],
            p["score"],
            Jsonb(json.loads(p["explanation"])),
            p["decision"],
            run_id,
        )
        for p in pairs.to_pylist()
    ]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO migration.duplicate_pairs AS d"
            " (entity, left_legacy_id, right_legacy_id, score, explanation, status, run_id)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (entity, left_legacy_id, right_legacy_id) DO UPDATE SET score = excluded.score,"
            " explanation = excluded.explanation, status = excluded.status, run_id = excluded.run_id"
            " WHERE d.decided_at IS NULL",
            rows,
        )
        cursor.execute(
            "UPDATE migration.duplicate_pairs SET status = 'stale'"
            " WHERE entity = %s AND run_id <> %s AND decided_at IS NULL AND status <> 'stale'",
            [entity, run_id],
        )
