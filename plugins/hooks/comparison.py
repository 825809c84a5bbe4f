"""What validation asks the target, and how the answers become checks."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from include.core.spec import Entity
from include.core.tracking import Check
from plugins.hooks.target import Rows, Target

if TYPE_CHECKING:
    from plugins.hooks.legacy_mdw import Snapshot
    from plugins.hooks.staging import StagingHook
    from plugins.hooks.tracking import TrackingHook

_SAMPLES = 10
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
                yield _check(entity, 1, result)

    def embeddings(self, entity: Entity) -> Iterator[Check]:
        """Every live row has a vector, except those whose text the provider refuses; no other row has one."""
        for result in self._target.call("check_embedded", entity=entity.name):
            yield _check(entity, 1, result)

    def key_sets(self, entity: Entity, source: Snapshot, staging: StagingHook) -> Iterator[Check]:
        """Keys of the source now against the fates of rows.

        Rows that came or went while the run was under way are told apart: what is newer than the run's
        horizon is left to the next run, what was there when the run was planned, or was extracted, left since.
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
            yield _none("keys_arrived", entity, missing, severity="warn")
        unseen = set(gone)
        for keys in self._seen(entity, staging) if gone else ():
            unseen.difference_update(keys.to_pylist())
        yield _none("keys_without_source", entity, unseen)
        if gone:
            yield _none("keys_left", entity, gone, severity="warn")
        yield _check(entity, 2, found["two_fates"])

    def integrity(self, entity: Entity) -> Iterator[Check]:
        """What constraints promise, asked of the rows themselves, and the entity's own rules."""
        for result in self._target.call("check_integrity", entity=entity.name):
            yield _check(entity, 4, result)

    def _seen(self, entity: Entity, staging: StagingHook) -> Iterable[pa.Array]:
        """Keys that the source had when the run was planned, and those it had when rows were extracted."""
        batches = sorted(self._tracking.done_batches(entity.name, "transformation", "p"))
        return itertools.chain(staging.planned_keys(entity.name), staging.keys(entity.name, batches))


def _check(entity: Entity, level: int, result: Mapping[str, Any]) -> Check:
    return Check(
        *(result["name"], entity.name, level, result["expected"], result["found"]),
        passed=result["expected"] == result["found"],
        severity=result["severity"],
        sample_keys=tuple(result["sample_keys"]),
    )


def _none(name: str, entity: Entity, keys: Collection[str | None], severity: str = "fail") -> Check:
    """A check of level 2 that there are no such keys."""
    samples = sorted(key or "NULL" for key in keys)[:_SAMPLES]
    return Check(name, entity.name, 2, "0", str(len(keys)), not keys, severity, tuple(samples))
