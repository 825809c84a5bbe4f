"""What the steps of deduplication hand to each other, and the model that runs hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from include.matching.deduplicate import MATCHING_VERSION, SCORED_SCHEMA, MatchModel
from plugins.hooks.staging import StagingHook

# Learnt anew when the population has become larger or smaller by this share.
_GROWN = 0.2
_KIND = "matching"


@dataclass(frozen=True)
class StoredModel:
    """A model as the target keeps it, with what its pairs were chosen by."""

    model: MatchModel
    merge_at: float
    review_at: float

    @classmethod
    def from_json(cls, stored: dict[str, Any] | None) -> StoredModel | None:
        """None where there is none, or only one that another version of matching learnt."""
        if stored is None or stored["version"] != MATCHING_VERSION:
            return None
        return cls(MatchModel.from_json(stored["model"]), stored["merge_at"], stored["review_at"])

    def to_json(self) -> dict[str, Any]:
        """For the target."""
        return {
            "version": MATCHING_VERSION,
            "merge_at": self.merge_at,
            "review_at": self.review_at,
            "model": self.model.to_json(),
        }

    def fits(self, rows: int) -> bool:
        """Whether the population is still about the one it was learnt from."""
        return abs(rows - self.model.people) <= _GROWN * self.model.people


@dataclass(frozen=True)
class MatchPlan:
    """What is compared by which model.

    Attributes:
        learnt: the model is of this run.
        only: legacy ids of the rows that are compared, with everyone, and of those that are gone; None: all are.
    """

    model: StoredModel
    learnt: bool
    only: pa.Array | None


class StagedMatching:
    """Rows, plan and pairs of one entity in the staging of a run."""

    def __init__(self, staging: StagingHook, entity: str) -> None:
        self._staging = staging
        self._entity = entity

    def keep(self, people: pa.Table, plan: MatchPlan) -> None:
        """Stage what all shares need; raises as :meth:`StagingHook.write`."""
        facts = {"learnt": [plan.learnt], "everyone": [plan.only is None]}
        stored = plan.model
        values = {
            "merge_at": [stored.merge_at],
            "review_at": [stored.review_at],
            "model": [stored.model.to_json()],
        }
        self._write("people", people)
        self._write(
            "only", pa.table({"legacy_id": pa.array([] if plan.only is None else plan.only, pa.string())})
        )
        self._write("plan", pa.table({**facts, **values}))

    def people(self) -> pa.Table:
        """The compared columns of all rows."""
        return self._read("people")

    def plan(self) -> MatchPlan:
        """The plan as staged."""
        (row,) = self._read("plan").to_pylist()
        stored = StoredModel(MatchModel.from_json(row["model"]), row["merge_at"], row["review_at"])
        only = None if row["everyone"] else self._read("only").column("legacy_id").combine_chunks()
        return MatchPlan(stored, row["learnt"], only)

    def keep_pairs(self, share: int, pairs: pa.Table) -> None:
        """Stage the pairs of one share."""
        self._write(f"pairs-{share}", pairs)

    def pairs(self, shares: int) -> pa.Table:
        """The pairs of all shares."""
        return pa.concat_tables(
            [SCORED_SCHEMA.empty_table(), *(self._read(f"pairs-{share}") for share in range(shares))]
        )

    def _write(self, name: str, table: pa.Table) -> None:
        self._staging.write(_KIND, self._entity, name, table)

    def _read(self, name: str) -> pa.Table:
        return self._staging.read(_KIND, self._entity, name)
