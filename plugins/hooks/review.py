"""The review of pairs that may be the same thing: what runs read of people's decisions, and how people decide.

Names are read where they are asked for, and nowhere else; the target keeps who did.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from plugins.hooks.decisions import COMPARED
from plugins.hooks.target import Target

CONFIRMED, REJECTED, WITHDRAWN = "confirmed", "rejected", "pending"
STATUSES = ("pending", "asked_again", "auto_merged", "confirmed", "rejected", "stale")
"""What the queue can be asked for; asked_again: decided, and a row changed since."""
ORDERS = ("likely", "unlikely", "doubtful")
"""Of a page: the highest score first, the lowest, or the one next to one half."""
EARLIER_PAIRS = ("left_id", "right_id", "score", "explanation", "status")
DECISIONS = ("left_id", "right_id", "decision", "left_hash", "right_hash", "asked_again")
SHOWN = tuple(column for column in COMPARED if column != "legacy_id")
"""What a person sees of a row, where names may be seen."""
_KEY = "pair"
_PARAMETERS = {"left_id": "left", "right_id": "right", "decided_by": "by"}
_HASHED = sorted(set(COMPARED) - {"legacy_id", "updated_at"})
_QUEUE = (
    *("left_id", "right_id", "score", "explanation", "status", "asked_again_at", "decided_by", "decided_at"),
    *("decision_reason", "seen", "left_values", "right_values"),
)


@dataclass(frozen=True)
class Pair:
    """A pair in the queue.

    Attributes:
        score: 0 to 1; None: decided by a person, and never found by a run.
        explanation: as the matcher gave it.
        status: pending, auto_merged, confirmed, rejected or stale.
        asked_again_at: since when a decided pair waits for a second look.
        seen: names the state of both rows; None where one is gone.
        left: values by column (:data:`SHOWN`), only where names were asked for and the row is there.
    """

    left_id: str
    right_id: str
    score: float | None
    explanation: Mapping[str, Any]
    status: str
    asked_again_at: str | None
    decided_by: str | None
    decided_at: str | None
    decision_reason: str | None
    seen: str | None
    left: Mapping[str, str | None] | None
    right: Mapping[str, str | None] | None


@dataclass(frozen=True)
class Decision:
    """What a person says of a pair.

    Attributes:
        decision: confirmed, rejected, or pending: an earlier one is withdrawn.
        label: how an error names the place it stands in; no value of a row.
        seen: of the :class:`Pair` that was looked at; None: decided whatever the rows are now.
    """

    left_id: str
    right_id: str
    decision: str
    decided_by: str
    reason: str
    label: str
    seen: str | None = None


@dataclass(frozen=True)
class Wanted:
    """Which page of the queue.

    Attributes:
        status: one of :data:`STATUSES`.
        order: one of :data:`ORDERS`.
        lowest: score from which on, 0 to 1; a pair that no run found has 0.
        highest: score up to which.
        id: legacy id of a row, to get its pairs alone.
        after: `next` of the page before; None: the first one.
        most: pairs on the page, up to 200.
    """

    status: str = "pending"
    order: str = "likely"
    lowest: float | None = None
    highest: float | None = None
    id: str | None = None
    after: Mapping[str, Any] | None = None
    most: int = 50


class Review:
    """The queue of one entity."""

    def __init__(self, target: Target, entity: str) -> None:
        self._target = target
        self._entity = entity

    def model(self) -> dict[str, Any] | None:
        """What a run kept of its matcher; None: nothing yet."""
        model: dict[str, Any] | None = self._target.call("match_model", entity=self._entity)
        return model

    def earlier_pairs(self) -> pa.Table:
        """Pairs that nobody decided and that are none of the past: :data:`EARLIER_PAIRS`, score as float64.

        One that a person reopened may have any score.
        """
        pairs = self._read("earlier_pairs", EARLIER_PAIRS)
        place = pairs.schema.get_field_index("score")
        return pairs.set_column(place, "score", pc.cast(pairs.column("score"), pa.float64()))

    def decisions(self) -> pa.Table:
        """What people decided: :data:`DECISIONS`, asked_again as boolean."""
        decided = self._read("decisions", DECISIONS)
        place = decided.schema.get_field_index("asked_again")
        return decided.set_column(place, "asked_again", pc.equal(decided.column("asked_again"), "true"))

    def reopened_rows(self) -> pa.Array:
        """Legacy ids of rows to be compared anew, for a decision about them was taken back since the last complete run
        began: a pair that is none by its score was kept only because it was decided.
        """
        return pa.array(self._target.call("reopened_rows", entity=self._entity), pa.string())

    def queue(self, statuses: Sequence[str] = (), *, names_for: str | None = None) -> Iterator[Pair]:
        """Pairs in the order of their ids as text.

        Args:
            statuses: of :data:`STATUSES`; empty: those that wait for a person.
            names_for: who is to see names; kept in the audit log. None: nobody, and none are read.

        Raises:
            MigrationError: REVIEW_ENTITY_UNKNOWN, PARAM_INVALID.
        """
        tables = self._target.rows(
            "review_queue",
            [_KEY, *_QUEUE],
            entity=self._entity,
            status=list(statuses) or None,
            with_names=names_for is not None,
            by=names_for,
        )
        return (_pair(row) for table in tables for row in table.to_pylist())

    def counts(self) -> dict[str, int]:
        """Number of pairs by each of :data:`STATUSES`; those asked again are counted as decided too.

        Raises:
            MigrationError: REVIEW_ENTITY_UNKNOWN.
        """
        counts: dict[str, int] = self._target.call("review_counts", entity=self._entity)
        return counts

    def decide(self, decisions: Iterable[Decision]) -> dict[str, int]:
        """Keep decisions, all or nothing; the next run applies them, also where one is under way.

        Returns:
            How many are confirmed, rejected, pending (withdrawn) and unchanged: known already.

        Raises:
            MigrationError: REVIEW_ENTITY_UNKNOWN, REVIEW_DECISION_INVALID, REVIEW_PAIR_UNKNOWN, REVIEW_PAIR_CHANGED.
        """
        columns = list(Decision.__dataclass_fields__)
        schema = pa.schema({column: pa.string() for column in columns})
        rows = pa.Table.from_pylist([asdict(decision) for decision in decisions], schema)
        counts: dict[str, int] = self._target.call(
            "decide_pairs", incoming={"decisions": rows}, entity=self._entity
        )
        return counts

    def page(self, wanted: Wanted, *, names_for: str | None = None) -> dict[str, Any]:
        """A page of pairs, as migration_api.review_page gives it: counts by status, pairs, and where the next begins.

        Args:
            names_for: who is to see names; kept in the audit log. None: nobody, and none are read.

        Raises:
            MigrationError: REVIEW_ENTITY_UNKNOWN, PARAM_INVALID.
        """
        page: dict[str, Any] = self._target.call(
            "review_page",
            entity=self._entity,
            **asdict(wanted),
            with_names=names_for is not None,
            by=names_for,
        )
        return page

    def pair(self, left: str, right: str, *, names_for: str) -> dict[str, Any]:
        """One pair with both rows and what merges made of them, as migration_api.review_pair gives it.

        Raises:
            MigrationError: REVIEW_ENTITY_UNKNOWN, REVIEW_PAIR_UNKNOWN, PARAM_INVALID without a name.
        """
        pair: dict[str, Any] = self._target.call(
            "review_pair", entity=self._entity, left=left, right=right, by=names_for
        )
        return pair

    def decide_shown(self, decision: Decision, reviewed: str) -> dict[str, Any]:
        """Keep a decision on a pair as it was shown; the next run applies it.

        Args:
            decision: with `seen` as :meth:`pair` gave it; None where a row is gone.
            reviewed: as :meth:`pair` gave it; tells whether somebody decided since.

        Returns:
            `changed`, False where the decision was known already, and `counts` by status.

        Raises:
            MigrationError: as :meth:`decide`.
        """
        given = asdict(decision)
        del given["label"]
        # As a call with rows, though it has none: that is made once, however often the API loses its answer.
        kept: dict[str, Any] = self._target.call(
            "decide_shown",
            incoming={},
            entity=self._entity,
            **{_PARAMETERS.get(name, name): value for name, value in given.items()},
            reviewed=reviewed,
        )
        return kept

    def undo(self, left: str, right: str, by: str) -> dict[str, Any]:
        """Take the last decision on a pair back; what was decided before holds again.

        Returns:
            `status` of the pair, and `counts` by status.

        Raises:
            MigrationError: REVIEW_ENTITY_UNKNOWN; REVIEW_NOTHING_TO_UNDO, it was not theirs, or is undone already.
        """
        undone: dict[str, Any] = self._target.call(
            "undo_decision", incoming={}, entity=self._entity, left=left, right=right, by=by
        )
        return undone

    def _read(self, function: str, columns: Sequence[str]) -> pa.Table:
        empty = pa.schema({column: pa.string() for column in columns}).empty_table()
        tables = self._target.rows(function, [_KEY, *columns], entity=self._entity)
        return pa.concat_tables([empty, *(table.select(columns) for table in tables)])


def asked_again(people: pa.Table, decisions: pa.Table) -> pa.Table:
    """Decided pairs that need a second look: both rows are there, and one is not what it was when it was decided.

    Args:
        people: the compared columns (include/matching/deduplicate.py), as text, of everyone.
        decisions: as :meth:`Review.decisions` gives them.

    Returns:
        left_id, right_id of those that are not asked again yet.
    """
    open_ones = decisions.filter(pc.invert(decisions.column("asked_again"))).to_pylist()
    ids = {one[side] for one in open_ones for side in ("left_id", "right_id")}
    concerned = people.filter(pc.is_in(people.column("legacy_id"), pa.array(sorted(ids), pa.string())))
    hashes = compared_hashes(concerned)
    changed = [
        {"left_id": one["left_id"], "right_id": one["right_id"]}
        for one in open_ones
        if one["left_id"] in hashes
        and one["right_id"] in hashes
        and (hashes[one["left_id"]], hashes[one["right_id"]]) != (one["left_hash"], one["right_hash"])
    ]
    return pa.Table.from_pylist(changed, pa.schema({"left_id": pa.string(), "right_id": pa.string()}))


def compared_hashes(people: pa.Table) -> dict[str, str]:
    """Legacy id to the hash of what is compared, as the function migration.compared_hash of the target computes it.

    Columns that are NULL are left out, so a column that is compared newly changes no hash until it has a value; when a
    row was written does not count.
    """
    columns = [people.column(name).to_pylist() for name in _HASHED]
    return {
        key: _hash(dict(zip(_HASHED, values, strict=True)))
        for key, *values in zip(people.column("legacy_id").to_pylist(), *columns, strict=True)
    }


def _hash(values: Mapping[str, str | None]) -> str:
    text = "".join(f"{name}={len(value)}:{value}" for name, value in values.items() if value is not None)
    return hashlib.sha256(text.encode()).hexdigest()


def _pair(row: Mapping[str, str | None]) -> Pair:
    facts = {name: value for name, value in row.items() if name in Pair.__dataclass_fields__}
    read = {
        "score": None if row["score"] is None else float(row["score"]),
        "explanation": json.loads(row["explanation"] or "{}"),
        "left": json.loads(row["left_values"] or "null"),
        "right": json.loads(row["right_values"] or "null"),
    }
    return Pair(**{**facts, **read})
