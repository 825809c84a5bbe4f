"""What deduplication compares and decides: rows of the target, survivors and pairs."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from include.core.ids import target_ids
from plugins.hooks.target import Target
from plugins.hooks.tracking import LedgerRow

COMPARED = ["legacy_id", "first_name", "last_name", "date_of_birth", "gender", "email", "updated_at"]
"""Columns that are compared, as text."""


class Decisions:
    """Reads what is compared, and records what was decided, of one entity in one run."""

    def __init__(self, target: Target, run_id: str, entity: str) -> None:
        self._target = target
        self._run_id = run_id
        self._entity = entity

    def stored(self) -> pa.Table:
        """The compared columns of the target's rows."""
        empty = pa.schema({name: pa.string() for name in COMPARED}).empty_table()
        return pa.concat_tables([empty, *self._target.rows("compared_rows", COMPARED, entity=self._entity)])

    def as_stored(self, rows: pa.Table, read: pa.Array) -> bool:
        """Whether rows, in what is compared, are those that the target has of some legacy ids.

        Args:
            rows: the compared columns.
            read: legacy ids of all rows that were read, compared or not.
        """
        incoming = {"rows": rows.select(COMPARED), "read": pa.table({"legacy_id": read})}
        return bool(self._target.call("compared_as_stored", incoming=incoming, entity=self._entity))

    def record(self, survivors: pa.Table, pairs: pa.Table, row: LedgerRow, *, dry_run: bool) -> None:
        """Keep survivors, pairs and the ledger's row, all or nothing; a dry run keeps no pairs.

        Args:
            survivors: legacy_id, survivor_id (a legacy id too).
            pairs: of include/matching/deduplicate.py.
        """
        ids = {
            name: target_ids(self._entity, survivors.column(column).combine_chunks())
            for name, column in (("id", "legacy_id"), ("survivor_id", "survivor_id"))
        }
        incoming = {"survivors": pa.table(ids)}
        if not dry_run:
            incoming["pairs"] = pairs.set_column(
                pairs.schema.get_field_index("score"), "score", pc.cast(pairs.column("score"), pa.string())
            )
        self._target.call(
            "record_decisions",
            incoming=incoming,
            run=self._run_id,
            entity=self._entity,
            dry_run=dry_run,
            row=row.to_json(),
        )


def merged_ids(target: Target, run_id: str, entity: str) -> pa.Array:
    """Target ids of all merged rows: as deduplication decided in this run, else as they are."""
    tables = target.rows("merged_rows", ["id"], run=run_id, entity=entity)
    return (
        pa.concat_tables([pa.schema({"id": pa.string()}).empty_table(), *tables])
        .column("id")
        .combine_chunks()
    )
