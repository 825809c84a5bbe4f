"""What merges make of rows in the target: survivors behind the loads of a run, and merges that are undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plugins.hooks.target import Target


@dataclass(frozen=True)
class Settled:
    """Survivors as the merges in force make them.

    Attributes:
        survivors: rows that others were merged into.
        filled: values in them that came from merged rows.
        conflicts: values of merged rows that differ from their survivor's and are kept in its metadata.
        written: rows that were not so yet, and were written now.
    """

    survivors: int
    filled: int
    conflicts: int
    written: int


@dataclass(frozen=True)
class Unmerged:
    """One merge that was undone.

    Attributes:
        survivor: legacy id of the row that it was merged into.
        children: rows that refer to it again.
        rejected: pairs that no later run merges.
    """

    survivor: str
    children: int
    rejected: int


def settle(target: Target, run_id: str, entity: str, *, dry_run: bool) -> Settled:
    """Fill survivors from the rows merged into them, and keep what differs; writes only what is not so yet.

    A dry run counts the survivors and writes nothing; the other counts are 0, for the rows were not loaded.

    Raises:
        MigrationError: RUN_LOST, and TARGET_….
    """
    return Settled(**target.call("settle_merges", run=run_id, entity=entity, dry_run=dry_run))


def unmerge(target: Target, entity: str, legacy_id: str, by: str, reason: str) -> Unmerged:
    """Undo the merge of one row, as if it had never been merged, and reject it as a duplicate of the others.

    Args:
        legacy_id: of the merged row, not of its survivor.
        by: who decided it.
        reason: why; kept beside the rejected pairs.

    Raises:
        MigrationError: NOT_MERGED; RUN_LOCKED, a run is under way; REVIEW_ENTITY_UNKNOWN; REVIEW_DECISION_INVALID,
            without name or reason; and TARGET_….
    """
    return unmerge_rows(target, entity, [legacy_id], by, reason)[0]


def unmerge_rows(
    target: Target, entity: str, legacy_ids: Sequence[str], by: str, reason: str
) -> list[Unmerged]:
    """Undo the merges of several rows, all or none, one after the other; otherwise as :func:`unmerge`."""
    # As a call with rows, though it has none: that is made once, however often the API loses its answer.
    undone = target.call(
        "unmerge_rows", incoming={}, entity=entity, legacy_ids=list(legacy_ids), by=by, reason=reason
    )
    return [Unmerged(**each) for each in undone]
