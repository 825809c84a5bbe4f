"""What a person is asked before loading: what it will do with each entity, and why somebody must look at it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from include.core.settings import Settings

ALWAYS_ALLOWED = 50
"""So many merges and deletions of an entity ask for nobody: a share of a small table says nothing."""
APPROVE, REJECT = "Approve", "Reject"


@dataclass(frozen=True)
class Expected:
    """What loading will do with the rows of one entity.

    Attributes:
        read: rows that the run has read.
        rejected: of these, those that go to quarantine; a missing parent may add to them while loading.
        stored: rows that the target has.
        merged: rows that will newly be merged into others.
        deleted: rows that the source no longer has.
        to_review: pairs that wait in the review queue.
        new: of those read, rows that the target does not know; None where nobody is asked.
    """

    entity: str
    read: int
    rejected: int
    stored: int
    merged: int
    deleted: int
    to_review: int
    new: int | None = None

    def with_new(self, rows: int) -> Expected:
        """The same with the number of new rows."""
        return replace(self, new=rows)

    @property
    def known(self) -> int:
        """Rows that the target knows: written where they changed."""
        return self.read - self.rejected - (self.new or 0)

    def to_json(self) -> dict[str, Any]:
        """For XCom."""
        return asdict(self)


def totals(expected: Sequence[Expected]) -> dict[str, int]:
    """Sums over all entities: new, known, merged and deleted rows."""
    return {
        "new": sum(one.new or 0 for one in expected),
        "known": sum(one.known for one in expected),
        "merged": sum(one.merged for one in expected),
        "deleted": sum(one.deleted for one in expected),
    }


def reasons(expected: Sequence[Expected], settings: Settings) -> list[str]:
    """Why a person must approve, a sentence each; empty where nobody is asked.

    A share of 1 is never exceeded.
    """
    found = ["`require_approval` is set."] if settings.require_approval else []
    for one in expected:
        found += _excess(one, "merged", one.merged, max(one.read, one.stored), settings.approve_merged_above)
        found += _excess(one, "deleted", one.deleted, one.stored, settings.approve_deleted_above)
    return found


def _excess(one: Expected, fate: str, rows: int, of: int, limit: float) -> list[str]:
    if limit >= 1 or rows <= max(ALWAYS_ALLOWED, limit * of):
        return []
    share = f"{rows:,} of {of:,} rows would be {fate} ({rows / max(of, 1):.1%})"
    return [f"{one.entity}: {share}, more than `approve_{fate}_above` allows ({limit:.1%})."]


def plan_id(expected: Sequence[Expected]) -> str:
    """Names what was asked: equal for equal numbers, whatever an earlier attempt of the run has loaded of them."""
    numbers = [[one.entity, one.read, one.rejected, one.new, one.merged, one.deleted] for one in expected]
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:12]


def request(
    expected: Sequence[Expected], why: Sequence[str], run: Mapping[str, str], most_days: int
) -> tuple[str, str]:
    """Headline and Markdown text of the question.

    Args:
        run: dag, run_id, started_by, and ``ai``: what is known of embeddings.
        most_days: so long an answer is waited for.
    """
    sums = totals(expected)
    writes = [f"{sums['new']:,} new", f"{sums['known']:,} known", f"{sums['merged']:,} merged"]
    subject = f"Load {', '.join(writes)} and mark {sums['deleted']:,} as deleted?"
    lines = [
        f"Run `{run['run_id']}` of `{run['dag']}`, started by {run['started_by']}, has read and compared everything."
        " Nothing is written to the business tables yet.",
        "",
        "**Why you are asked**",
        "",
        *(f"* {reason}" for reason in why),
        "",
        "**What loading will do**",
        "",
        "| Entity | read | new | known | rejected | merged | deleted | pairs to review |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *(_line(one) for one in expected),
        "",
        "*known*: in the target already, written only where they differ. *rejected*: to quarantine, with a reason; rows"
        " whose parent is missing may join them. *merged*: of the rows new and known, those that become part of another"
        f" one. {run['ai']}",
        "",
        f"**{APPROVE}**: the rows are loaded; `mdw_rollback` can undo it. **{REJECT}**: nothing is written, and the run"
        " ends as failed with `[APPROVAL_REJECTED]`. Until then no other run starts; without an answer this one ends in"
        f" {most_days} days.",
    ]
    return subject, "\n".join(lines)


def _line(one: Expected) -> str:
    counts = (one.read, one.new or 0, one.known, one.rejected, one.merged, one.deleted, one.to_review)
    return f"| {one.entity} | " + " | ".join(f"{count:,}" for count in counts) + " |"
