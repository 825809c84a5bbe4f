"""Level 5 of validation: rows chosen by chance, source and target side by side; kept masked for the report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from include.core.batches import Partition
from include.core.mapping import mapping_version, rules_version
from include.core.resolve import refuse_unstorable
from include.core.samples import CHANGED, DIFFERS, EQUAL, GONE, compared
from include.core.spec import Entity
from include.core.tracking import Check
from include.core.transform import clean_schema, transform
from plugins.hooks.target import Target

if TYPE_CHECKING:
    from plugins.hooks.legacy_mdw import Snapshot

_LEVEL = 5
_ROWS_PER_BATCH = 10_000
_NAMED = 10
_SAMPLES = pa.schema([(name, pa.string()) for name in ("legacy_id", "outcome", "columns")])


class Samples:
    """Samples of one run or validation; repeated, they are the same rows.

    Args:
        keep_foreign_writes: what somebody else wrote is meant to stand, so that a difference is only told.
    """

    def __init__(self, target: Target, run_id: str, *, keep_foreign_writes: bool = False) -> None:
        self._target = target
        self._run_id = run_id
        self._severity = "warn" if keep_foreign_writes else "fail"

    def take(self, entity: Entity, source: Snapshot, rows: int) -> Iterator[Check]:
        """Compare some rows with what the source and its transformation give now, and keep them masked.

        Args:
            rows: how many; fewer where there are fewer.
        """
        keys = self._target.call("sample_keys", run=self._run_id, entity=entity.name, rows=rows)
        found = {row["legacy_id"]: row for row in self._side_by_side(entity, source, keys)} if keys else {}
        kept = [_sample(entity, key, found.get(key)) for key in keys]
        self._target.call(
            "record_samples",
            incoming={"samples": pa.Table.from_pylist(kept, schema=_SAMPLES)},
            run=self._run_id,
            entity=entity.name,
        )
        yield from _checks(entity, kept, self._severity)

    def stored(self) -> list[dict[str, Any]]:
        """Entity, legacy_id, outcome and masked columns of the rows that were kept; those that differ first."""
        samples: list[dict[str, Any]] = self._target.call("samples", run=self._run_id)
        return samples

    def _side_by_side(self, entity: Entity, source: Snapshot, keys: Sequence[str]) -> list[dict[str, Any]]:
        rows = pa.concat_tables([clean_schema(entity).empty_table(), *_read(entity, source, keys)])
        found: list[dict[str, Any]] = self._target.call(
            "side_by_side",
            incoming={"rows": rows},
            entity=entity.name,
            versions={"mapping": mapping_version(), "rules": rules_version()},
        )
        return found


def _read(entity: Entity, source: Snapshot, keys: Sequence[str]) -> Iterator[pa.Table]:
    """The rows as they would be loaded now, of those keys that the source has."""
    whole = Partition(entity.name, 0, None, None)
    parts = None if entity.source.whole else sorted({_partition_key(key) for key in keys})
    for raw in source.batches(entity, whole, _ROWS_PER_BATCH, keys=parts):
        result = transform(entity, raw)
        clean, _ = refuse_unstorable(result.clean, result.rejects)
        yield clean.filter(pc.is_in(clean.column("legacy_id"), pa.array(keys, pa.string())))


def _partition_key(legacy_id: str) -> int:
    """A legacy id is the key by which rows are read, or ends with it (``<category>:<instruction>``)."""
    return int(legacy_id.rsplit(":", 1)[-1])


def _sample(entity: Entity, key: str, row: Mapping[str, Any] | None) -> dict[str, str]:
    if row is None or row["changed"]:
        return {"legacy_id": key, "outcome": GONE if row is None else CHANGED, "columns": "[]"}
    columns = compared(entity, row["columns"])
    outcome = DIFFERS if any(column.how for column in columns) else EQUAL
    return {"legacy_id": key, "outcome": outcome, "columns": json.dumps([asdict(c) for c in columns])}


def _checks(entity: Entity, kept: Sequence[Mapping[str, str]], severity: str) -> Iterator[Check]:
    differ = sorted(row["legacy_id"] for row in kept if row["outcome"] == DIFFERS)
    found, keys = str(len(differ)), tuple(differ[:_NAMED])
    yield Check("samples", entity.name, _LEVEL, "0", found, not differ, severity, keys)
    seen = sum(row["outcome"] in (EQUAL, DIFFERS) for row in kept)
    if kept and not seen:
        yield Check(
            "samples_compared",
            entity.name,
            _LEVEL,
            f"some of {len(kept)}",
            "0",
            passed=False,
            severity="warn",
        )
