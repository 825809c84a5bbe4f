"""How right a matcher's pairs and merges are, given who is who."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

_BINS = 10


@dataclass(frozen=True)
class Agreement:
    """Precision and recall of pairs of records."""

    precision: float
    recall: float

    @classmethod
    def of(cls, right: int, said: int, true: int) -> Agreement:
        """From the numbers of pairs said and rightly so, said, and true; nothing said is nothing wrong."""
        return cls(right / said if said else 1.0, right / true if true else 1.0)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


class Judge:
    """Knows who is who.

    Args:
        legacy_id: the key of each record, distinct.
        person: the number of the person behind each record.
    """

    def __init__(self, legacy_id: pa.ChunkedArray, person: Ints) -> None:
        self._rows = pd.Index(legacy_id.to_pandas())
        self._person = person
        self.true_left, self.true_right = _pairs_of_groups(person)

    @property
    def size(self) -> int:
        """How many records there are."""
        return len(self._person)

    @property
    def true_pairs(self) -> int:
        """Pairs of records of one person."""
        return len(self.true_left)

    def rows(self, legacy_id: pa.ChunkedArray) -> Ints:
        """Positions of keys; KeyError for one that is unknown."""
        rows: Ints = self._rows.get_indexer(legacy_id.to_pandas()).astype(np.int64)
        if (rows < 0).any():
            raise KeyError("A result names a record that was not given.")
        return rows

    def right(self, pairs: pa.Table) -> Bools:
        """Whether each pair (``left_id``, ``right_id``) is one person."""
        same: Bools = self._person[self.rows(pairs["left_id"])] == self._person[self.rows(pairs["right_id"])]
        return same

    def clusters(self, survivors: pa.Table) -> Ints:
        """The cluster of each record, from ``legacy_id`` and ``survivor_id`` of those that are merged."""
        cluster = np.arange(len(self._person), dtype=np.int64)
        cluster[self.rows(survivors["legacy_id"])] = self.rows(survivors["survivor_id"])
        return cluster

    def of_clusters(self, cluster: Ints) -> Agreement:
        """All pairs within clusters against the truth."""
        together = pd.Series(cluster).groupby([cluster, self._person]).size()
        return Agreement.of(
            _pair_count(together.to_numpy(np.int64)), _pair_count(np.bincount(cluster)), self.true_pairs
        )

    def of_pairs(self, pairs: pa.Table) -> Agreement:
        """The given pairs against the truth."""
        return Agreement.of(int(self.right(pairs).sum()), pairs.num_rows, self.true_pairs)

    def found(self, pairs: pa.Table, cluster: Ints | None = None) -> float:
        """The share of the true pairs that are among the given ones or within a cluster."""
        size = len(self._person)
        left, right = self.rows(pairs["left_id"]), self.rows(pairs["right_id"])
        given = np.minimum(left, right) * size + np.maximum(left, right)
        found = np.isin(self.true_left * size + self.true_right, given)
        if cluster is not None:
            found |= cluster[self.true_left] == cluster[self.true_right]
        return float(found.mean()) if len(found) else 1.0


def _pairs_of_groups(group: Ints) -> tuple[Ints, Ints]:
    """All pairs of positions (left < right) with the same number."""
    order = np.argsort(group, kind="stable")
    lefts, rights = [], []
    step = 1
    while True:
        same = group[order[:-step]] == group[order[step:]]
        if step >= len(order) or not same.any():
            break
        lefts.append(order[:-step][same])
        rights.append(order[step:][same])
        step += 1
    nothing = np.empty(0, dtype=np.int64)
    return np.concatenate([nothing, *lefts]), np.concatenate([nothing, *rights])


def _pair_count(sizes: NDArray[np.integer[Any]]) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def best_f1(score: Floats, right: Bools, true: int) -> float:
    """The highest F1 that any threshold on the score gives."""
    order = np.argsort(-score, kind="stable")
    said = np.arange(1, len(order) + 1)
    f1 = 2 * np.cumsum(right[order]) / (said + true)
    # A threshold cannot part pairs of one score.
    last = np.append(score[order][1:] != score[order][:-1], True) if len(order) else np.empty(0, np.bool_)
    return float(f1[last].max(initial=0.0))


def calibration_error(score: Floats, right: Bools) -> float:
    """Expected calibration error: how far scores are from the share that is right, ten bins, by their pairs."""
    bins = np.minimum((score * _BINS).astype(np.int64), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    distance = np.abs(np.bincount(bins, score, _BINS) - np.bincount(bins, right, _BINS))
    return float(distance.sum() / max(counts.sum(), 1))


@dataclass(frozen=True)
class Quality:
    """What the table shows of a matcher's answers; ``merges`` by ``merge_at``."""

    best_f1: float
    merges: Mapping[float, Agreement]
    found: float
    queue: float
    calibration: float
