"""Level 3 of validation: the source is read again, transformed again, and compared with every row of the target.

By digest and bucket first, made on both sides at once; then row by row and column by column where a bucket
differs. What differs because somebody else wrote the target is told apart from what is our own fault, and from what
changed in the source since it was loaded (docs/decisions/0026-content-is-proved-by-digest.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from include.core.batches import Partition
from include.core.fingerprint import Fingerprints, bucket_names, content_digests
from include.core.ids import target_ids
from include.core.mapping import mapping_version, rules_version
from include.core.resolve import refuse_unstorable
from include.core.spec import VERSION, Entity
from include.core.tracking import Check
from include.core.transform import clean_schema, transform
from plugins.hooks.target import Rows, Target

if TYPE_CHECKING:
    from plugins.hooks.legacy_mdw import Snapshot

Batches = Callable[[], Iterable[pa.Table]]
"""Reads raw batches of an entity, each time the same: all calls in one snapshot of the source."""

# 4,096 buckets: of a table of a million rows each holds some 250.
_DIGITS = 3
_LEVEL = 3
_KEY = pa.schema({"legacy_id": pa.string()})
_REFUSED = pa.schema({"legacy_id": pa.string(), VERSION: pa.string()})


@dataclass(frozen=True)
class Differences:
    """Rows of the target that are not as they should be.

    Attributes:
        kinds: changed, missing or extra, to the number of rows.
        columns: column to the number of rows that differ in it, where that is known.
        sample_keys: legacy ids of some; of rows that nobody loaded their own ids.
    """

    kinds: Mapping[str, int]
    columns: Mapping[str, int]
    sample_keys: tuple[str, ...]

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Differences:
        """As the target counts them."""
        return cls(found["kinds"], found["columns"], tuple(found["sample_keys"]))

    @property
    def rows(self) -> int:
        """Differences; a row may be of two kinds."""
        return sum(self.kinds.values())

    def __str__(self) -> str:
        """``3: 2 changed, 1 missing; first_name 2``; never a value."""
        kinds = ", ".join(f"{rows} {kind}" for kind, rows in sorted(self.kinds.items()))
        columns = ", ".join(f"{name} {rows}" for name, rows in sorted(self.columns.items()))
        return "; ".join(part for part in (f"{self.rows}: {kinds}" if kinds else "0", columns) if part)


@dataclass(frozen=True)
class TakenUp:
    """What was made of differences.

    Attributes:
        taken_up: rows that the next plan takes up and the next merge writes.
        removed: rows that nobody loaded, now marked as deleted.
    """

    taken_up: int
    removed: int


def whole(source: Snapshot, entity: Entity, rows: int) -> Batches:
    """All rows of an entity.

    Args:
        rows: of a batch.
    """
    return lambda: source.batches(entity, Partition(entity.name, 0, None, None), rows)


class ContentProof:
    """Compares entities of one run; what is found stays in ``migration.differences``, by run.

    Args:
        run_id: of the run, or of a validation.
        keep_foreign_writes: what somebody else wrote is meant to stand, so it is only told.
        progress: told how many rows were read and compared so far, batch by batch.
    """

    def __init__(
        self,
        target: Target,
        run_id: str,
        *,
        keep_foreign_writes: bool = False,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._target = target
        self._run_id = run_id
        self._severity = "warn" if keep_foreign_writes else "fail"
        self._progress = progress

    def prove(self, entity: Entity, batches: Batches) -> Iterator[Check]:
        """Checks of every row: ``content``, ``foreign_writes``, ``content_changed_since``.

        Args:
            batches: reads the whole entity; asked a second time where buckets differ.
        """
        differing = self._differing(entity, batches)
        found = self._compare(entity, _Narrowed(entity, batches, set(differing)), differing)
        yield from self._checks(entity, found)

    def prove_part(self, entity: Entity, batches: Batches) -> Iterator[Check]:
        """The same checks of a run that took up a part of the rows.

        Those are compared with the source; all others hold what an earlier run wrote, which was compared then, so it is
        enough that nobody wrote them since.

        Args:
            batches: reads the rows that the run took up.
        """
        self._target.call("find_foreign_writes", run=self._run_id, entity=entity.name)
        found = self._compare(entity, _Narrowed(entity, batches, None), None)
        yield from self._checks(entity, found)

    def foreign_writes(self, entity: Entity) -> Differences:
        """What somebody else wrote in the target since this tool did; the source is not asked."""
        found = self._target.call("find_foreign_writes", run=self._run_id, entity=entity.name)
        return Differences.from_json(found["foreign"])

    def take_up_again(self, entity: Entity, *, own: bool, foreign: bool) -> TakenUp:
        """Have rows that were found last, in this run, written again; the run must hold the lock.

        Args:
            own: those that differ though nobody else wrote them.
            foreign: those that somebody else wrote.
        """
        answer = self._target.call(
            "take_up_again", run=self._run_id, entity=entity.name, own=own, foreign=foreign
        )
        return TakenUp(**answer)

    def _differing(self, entity: Entity, batches: Batches) -> list[str]:
        """Names of buckets whose rows are not the same in the target; it counts its own meanwhile."""
        absent = self._keys_without_row(entity)
        counted, rows = Fingerprints(_DIGITS), 0
        with ThreadPoolExecutor(1) as beside:
            theirs = beside.submit(
                self._target.call, "content_fingerprints", entity=entity.name, digits=_DIGITS
            )
            try:
                for raw in _read_ahead(batches()):
                    clean = _clean(entity, raw)
                    expected = clean.filter(pc.invert(pc.is_in(clean.column("legacy_id"), absent)))
                    counted.add(expected.column("id").combine_chunks(), _digests(entity, expected))
                    rows += raw.num_rows
                    self._progress(rows)
            except BaseException:
                self._target.cancel()
                raise
        others = {
            bucket: (count, int(high), int(low)) for bucket, (count, high, low) in theirs.result().items()
        }
        return counted.differing(others)

    def _keys_without_row(self, entity: Entity) -> pa.Array:
        """Keys whose rows are in quarantine, or count as deleted: no row of the target is expected for them."""
        pages = self._target.rows("keys_without_row", _KEY.names, entity=entity.name)
        return pa.concat_tables([_KEY.empty_table(), *pages]).column(0).combine_chunks()

    def _compare(self, entity: Entity, rows: _Narrowed, buckets: list[str] | None) -> dict[str, Any]:
        sent = {
            "rows": Rows(clean_schema(entity), rows.read(self._progress if buckets is None else None)),
            "refused": Rows(_REFUSED, rows.refused()),
        }
        answer: dict[str, Any] = self._target.call(
            "compare_content",
            incoming=sent,
            run=self._run_id,
            entity=entity.name,
            buckets=buckets,
            versions={"mapping": mapping_version(), "rules": rules_version()},
        )
        return answer

    def _checks(self, entity: Entity, found: Mapping[str, Any]) -> Iterator[Check]:
        since = found["changed_since"]
        for name, severity, differences in (
            ("content", "fail", Differences.from_json(found["own"])),
            ("foreign_writes", self._severity, Differences.from_json(found["foreign"])),
            (
                "content_changed_since",
                "warn",
                Differences(
                    {"changed": since["rows"]} if since["rows"] else {}, {}, tuple(since["sample_keys"])
                ),
            ),
        ):
            passed = not differences.rows
            yield Check(
                *(name, entity.name, _LEVEL, "0", str(differences)),
                passed=passed,
                severity=severity,
                sample_keys=differences.sample_keys,
            )


class _Narrowed:
    """Rows of some buckets, or of all (None), transformed; those that the rules refuse are told behind them."""

    def __init__(self, entity: Entity, batches: Batches, buckets: set[str] | None) -> None:
        self._entity = entity
        self._batches = batches
        self._buckets = buckets if buckets is None else pa.array(sorted(buckets), pa.string())
        self._refused: list[pa.Table] = []

    def read(self, progress: Callable[[int], None] | None) -> Iterator[pa.Table]:
        """Clean rows, batch by batch."""
        if self._buckets is not None and not len(self._buckets):
            return
        rows = 0
        for raw in self._batches():
            narrowed = self._narrow(raw)
            clean = _clean(self._entity, narrowed)
            self._refused.append(_refused(self._entity, narrowed, clean))
            yield clean if self._buckets is None else clean.filter(self._wanted(clean.column("id")))
            rows += raw.num_rows
            if progress is not None:
                progress(rows)

    def refused(self) -> Iterator[pa.Table]:
        """Keys and versions of rows that the rules refuse; known once the others were read."""
        yield from self._refused

    def _narrow(self, raw: pa.Table) -> pa.Table:
        """Without rows of other buckets, where what becomes of a row does not depend on others."""
        if self._buckets is None or self._entity.shape is not None or self._entity.source.whole:
            return raw
        return raw.filter(
            self._wanted(target_ids(self._entity.name, raw.column("legacy_id").combine_chunks()))
        )

    def _wanted(self, ids: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return pc.is_in(bucket_names(ids, _DIGITS), self._buckets)


def _read_ahead(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same batches; the next one is read while one is worked on."""
    left = iter(batches)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, left, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, left, None)
            yield batch


def _clean(entity: Entity, raw: pa.Table) -> pa.Table:
    """What becomes of raw rows, without those that no way into the target carries."""
    made = transform(entity, raw)
    return refuse_unstorable(made.clean, made.rejects)[0]


def _digests(entity: Entity, clean: pa.Table) -> Any:
    names = ["legacy_id", "id", *(column.name for column in entity.columns if column.name != "merged_into")]
    return content_digests([clean.column(name).combine_chunks() for name in names])


def _refused(entity: Entity, raw: pa.Table, clean: pa.Table) -> pa.Table:
    """Raw rows of which no clean row was made; rows that are shaped into others have no version of their own."""
    if entity.shape is not None:
        return _REFUSED.empty_table()
    rows = raw.select(_REFUSED.names)
    return rows.filter(
        pc.invert(pc.is_in(rows.column("legacy_id"), clean.column("legacy_id").combine_chunks()))
    )
