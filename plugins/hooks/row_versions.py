"""What changed in the source: the versions its rows have now against those of the rows that were loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from include.core.copytext import parse_rows
from include.core.mapping import mapping_version, rules_version
from include.core.spec import Entity
from plugins.hooks.target import Rows, Target

_COLUMNS = ["legacy_id", "partition_key", "version"]


@dataclass(frozen=True)
class Selection:
    """What a run finds when it compares the rows of the source with those of the target.

    Attributes:
        rows: those that the source has.
        known: those that the target knows and has not marked as deleted.
        gone: legacy ids that the target knows and the source no longer has; none where only the quarantine counts.
        selected: how many rows the run takes up.
        keys: their partition keys, each once, in order; None, last, stands for rows without one. Empty where every
            row is taken up.
    """

    rows: int
    known: int
    gone: pa.Array
    selected: int
    keys: list[int | None]


class RowVersions:
    """Compares the rows of one entity."""

    def __init__(self, target: Target, entity: Entity) -> None:
        self._target = target
        self._entity = entity

    def compare(
        self, versions: Iterable[bytes], scope: str, keep: Callable[[pa.Array], object] = lambda _: None
    ) -> Selection:
        """Select the rows to take up.

        Args:
            versions: what the source has now, as :meth:`Snapshot.versions` sends it; read once.
            scope: ``everything``, ``changes`` or ``quarantine``.
            keep: given the legacy ids, chunk by chunk, while they are sent on.
        """

        def tables() -> Iterator[pa.Table]:
            for chunk in versions:
                rows = parse_rows(chunk, _COLUMNS)
                keep(rows.column("legacy_id").combine_chunks().fill_null(""))
                yield rows

        found = self._target.call(
            "select_rows",
            incoming={"row_versions": Rows(pa.schema({name: pa.string() for name in _COLUMNS}), tables())},
            entity=self._entity.name,
            scope=scope,
            versions={"mapping": mapping_version(), "rules": rules_version()},
        )
        return Selection(**{**found, "gone": pa.array(found["gone"], pa.string())})
