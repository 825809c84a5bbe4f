"""What deduplication compares and decides: rows of the target, survivors and pairs."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include.core.ids import target_ids
from include.matching import settings
from plugins.hooks.target import Target
from plugins.hooks.tracking import LedgerRow

COMPARED = list(settings.COMPARED)
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

    def changed(self, rows: pa.Table, read: pa.Array) -> pa.Array:
        """Legacy ids, of those read, that are compared otherwise than the target has them: changed, new, or no more.

        Args:
            rows: the compared columns of the rows that can be compared.
            read: legacy ids of all rows that were read, compared or not.
        """
        incoming = {"rows": rows.select(COMPARED), "read": pa.table({"legacy_id": read})}
        return pa.array(
            self._target.call("compared_changed", incoming=incoming, entity=self._entity), pa.string()
        )

    def decided_since_complete(self) -> bool:
        """Whether a person decided anything since the last complete run began."""
        return bool(self._target.call("decided_since_complete", entity=self._entity))

    def record(
        self,
        survivors: pa.Table,
        pairs: pa.Table,
        row: LedgerRow,
        *,
        dry_run: bool,
        compared: pa.Array | None,
        asked_again: pa.Table,
        model: dict[str, Any] | None,
    ) -> None:
        """Keep what was decided and the ledger's row, all or nothing; a dry run keeps survivors alone.

        Args:
            survivors: legacy_id, survivor_id (a legacy id too).
            pairs: of include/matching/deduplicate.py.
            compared: legacy ids of the rows that were compared anew or are gone: earlier pairs of theirs that are
                not among these become stale; None: all rows were.
            asked_again: left_id, right_id of decided pairs that need a second look.
            model: to be kept for later runs; None: the one that is kept stays.
        """
        ids = {
            name: target_ids(self._entity, survivors.column(column).combine_chunks())
            for name, column in (("id", "legacy_id"), ("survivor_id", "survivor_id"))
        }
        incoming = {"survivors": pa.table(ids)}
        if not dry_run:
            incoming |= {
                "pairs": pairs.set_column(
                    pairs.schema.get_field_index("score"),
                    "score",
                    pc.cast(pairs.column("score"), pa.string()),
                ),
                "compared": pa.table(
                    {"legacy_id": pa.array([], pa.string()) if compared is None else compared}
                ),
                "asked_again": asked_again.select(["left_id", "right_id"]),
            }
        self._target.call(
            "record_decisions",
            incoming=incoming,
            run=self._run_id,
            entity=self._entity,
            dry_run=dry_run,
            row=row.to_json(),
            everyone=compared is None,
            model=model,
        )


def merged_ids(target: Target, run_id: str, entity: str) -> pa.Array:
    """Target ids of all merged rows: as deduplication decided in this run, else as they are."""
    tables = target.rows("merged_rows", ["id"], run=run_id, entity=entity)
    return (
        pa.concat_tables([pa.schema({"id": pa.string()}).empty_table(), *tables])
        .column("id")
        .combine_chunks()
    )
