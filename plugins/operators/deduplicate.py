"""Hop 3: which rows of an entity are the same thing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from airflow.sdk.exceptions import AirflowSkipException
from psycopg.types.json import Jsonb

from include.core.batches import batch_names
from include.core.resolve import SURVIVOR_SCHEMA
from include.core.tracking import Fates
from include.entities import ENTITIES
from include.matching.deduplicate import deduplicate
from plugins.hooks.staging import StagingHook
from plugins.hooks.target_postgres import TargetPostgresHook
from plugins.hooks.tracking import TrackingHook
from plugins.operators.preflight import chosen
from plugins.operators.step import Clock, MigrationOperator, Run

if TYPE_CHECKING:
    import psycopg

_COMPARED = ["legacy_id", "first_name", "last_name", "date_of_birth", "gender", "email", "updated_at"]
_SURVIVORS = "survivors"


def staged_survivors(staging: StagingHook, entity: str) -> pa.Table | None:
    """What deduplication decided in this run: legacy_id, survivor_id; None where it did not run."""
    if not staging.exists("dedup", entity, _SURVIVORS):
        return None
    return staging.read("dedup", entity, _SURVIVORS)


class DeduplicateOperator(MigrationOperator):
    """Compares all rows of an entity; needs them all, but reads only the columns it compares."""

    template_fields = ("partitions",)

    def __init__(self, *, partitions: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.partitions = partitions

    def step(self, run: Run) -> dict[str, int]:
        """Stages the survivors, records the pairs (not in a dry run), returns counts.

        Where the entity was not chosen, earlier decisions stand: an empty answer would undo them.
        """
        if ENTITIES[str(self.entity)] not in chosen(run.settings):
            raise AirflowSkipException("not chosen")
        name, staging, clock = ENTITIES[str(self.entity)].name, StagingHook(run.run_id), Clock()
        batches = [batch for partition in self.partitions or () for batch in batch_names(partition)]
        tables = [staging.read("clean", name, batch, _COMPARED) for batch in batches]
        result = deduplicate(pa.concat_tables(tables) if tables else _nobody())
        staging.write("dedup", name, _SURVIVORS, result.survivors.select(SURVIVOR_SCHEMA.names))
        merged, people = result.survivors.num_rows, sum(table.num_rows for table in tables)
        fates = Fates(people, undecided=people)
        with TargetPostgresHook().session(entity=name) as connection:
            if not run.settings.dry_run:
                _record_pairs(connection, run.run_id, name, result.pairs)
            TrackingHook(connection, run.run_id).record_batch(
                clock.ledger_row(run, entity=name, phase=self.phase, batch="all", fates=fates)
            )
        waiting = result.pairs.column("decision").to_pylist().count("pending")
        self.progress(
            f"{name}: {merged:,} merged into survivors, {waiting:,} pairs to review,"
            f" {clock.seconds:.1f} s, {clock.memory_mb:.0f} MB"
        )
        return {"merged": merged, "pending": waiting}


def _nobody() -> pa.Table:
    return pa.schema({column: pa.string() for column in _COMPARED}).empty_table()


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
