"""What validation asks the target, and how the answers become checks."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from include.core.ids import target_ids
from include.core.spec import Entity
from include.core.tracking import Check
from plugins.hooks.target import Rows, Target

if TYPE_CHECKING:
    from plugins.hooks.legacy_mdw import Snapshot
    from plugins.hooks.staging import StagingHook
    from plugins.hooks.tracking import TrackingHook

WHOLE = "target"
"""What checks of the target as a whole name as their entity."""

_SAMPLES = 10
_MAPPED = ["legacy_id", "target_id"]
_KEYS = pa.schema({"legacy_id": pa.string()})


class Comparison:
    """Checks of the target against the ledger, the source and itself."""

    def __init__(self, target: Target, tracking: TrackingHook) -> None:
        self._target = target
        self._tracking = tracking

    def counts(self, entity: Entity) -> Iterator[Check]:
        """Rows in every hop, and in the target."""
        for result in self._target.call("check_counts", run=self._tracking.run_id, entity=entity.name):
            # Where rows are shaped, as many as were extracted do not come out.
            if entity.shape is None or result["name"] != "rows_transformed":
                yield check_of(entity.name, 1, result)

    def embeddings(self, entity: Entity, *, awaited: bool = False) -> Iterator[Check]:
        """Every live row has a vector, except those whose text the provider refuses; no other row has one.

        Args:
            awaited: rows written since all were embedded last may wait for the next run that embeds.
        """
        for result in self._target.call("check_embedded", entity=entity.name, awaited=awaited):
            yield check_of(entity.name, 1, result)

    def key_sets(self, entity: Entity, source: Snapshot, staging: StagingHook | None) -> Iterator[Check]:
        """Keys of the source now against the fates of rows.

        Rows that came or went while the run was under way are told apart: what is newer than the run's
        horizon is left to the next run, what was there when the run was planned, or was extracted, left since.

        Args:
            staging: of the run; None of a validation on its own, to which every key that is gone has left.
        """
        found = self._target.call(
            "compare_keys",
            incoming={"source_keys": Rows(_KEYS, (pa.table([k], _KEYS) for k in source.keys(entity)))},
            run=self._tracking.run_id,
            entity=entity.name,
        )
        missing, back, gone = (set(found[name]) for name in ("missing", "back", "gone"))
        arrived = source.keys_since(entity, found["horizon"]) if missing or back else ()
        left = missing | back
        for keys in arrived:
            left.difference_update(keys.to_pylist())
        yield _none("keys_without_fate", entity, missing & left)
        yield _none("keys_deleted_but_there", entity, back & left)
        if missing or back:
            yield _none("keys_arrived", entity, missing - left, severity="warn")
        unseen = set(gone) if staging is not None else set()
        if unseen and staging is not None:
            for keys in self._seen(entity, staging):
                unseen.difference_update(keys.to_pylist())
        yield _none("keys_without_source", entity, unseen)
        if gone:
            yield _none("keys_left", entity, set(gone) - unseen, severity="warn")
        yield check_of(entity.name, 2, found["two_fates"])

    def integrity(self, entity: Entity) -> Iterator[Check]:
        """What constraints promise, asked of the rows themselves; the entity's own rules; the records behind rows."""
        for result in itertools.chain(
            self._target.call("check_integrity", entity=entity.name, run=self._tracking.run_id),
            self._target.call("check_records", entity=entity.name),
        ):
            yield check_of(entity.name, 4, result)
        yield self._ids(entity)

    def schema(self) -> Iterator[Check]:
        """The target as a whole: its schema as it was deployed, and what roles of the API may do."""
        for result in self._target.call("check_schema"):
            yield check_of(WHOLE, 4, result)

    def _ids(self, entity: Entity) -> Check:
        """Every id is the one that its legacy id gives."""
        wrong: list[str] = []
        number = 0
        for rows in self._target.rows("mapped_ids", _MAPPED, entity=entity.name):
            keys = rows.column("legacy_id").combine_chunks()
            other = pc.not_equal(target_ids(entity.name, keys), rows.column("target_id").combine_chunks())
            number += pc.sum(other).as_py() or 0
            wrong += keys.filter(other).slice(0, _SAMPLES - len(wrong)).to_pylist()
        return Check(
            "ids_deterministic", entity.name, 4, "0", str(number), not number, sample_keys=tuple(wrong)
        )

    def _seen(self, entity: Entity, staging: StagingHook) -> Iterable[pa.Array]:
        """Keys that the source had when the run was planned, and those it had when rows were extracted."""
        batches = sorted(self._tracking.done_batches(entity.name, "transformation", "p"))
        return itertools.chain(staging.planned_keys(entity.name), staging.keys(entity.name, batches))


def check_of(entity: str, level: int, result: Mapping[str, Any]) -> Check:
    """A check as the target's functions give it."""
    return Check(
        *(result["name"], entity, level, result["expected"], result["found"]),
        passed=result["expected"] == result["found"],
        severity=result["severity"],
        sample_keys=tuple(result["sample_keys"]),
    )


def _none(name: str, entity: Entity, keys: Collection[str | None], severity: str = "fail") -> Check:
    """A check of level 2 that there are no such keys."""
    samples = sorted(key or "NULL" for key in keys)[:_SAMPLES]
    return Check(name, entity.name, 2, "0", str(len(keys)), not keys, severity, tuple(samples))
