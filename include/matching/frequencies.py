"""How common values are in the population: counts by hash, so that no value can be read from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from include.matching.texts import CodeArray, FloatArray, HashArray, IntArray

_RARE_UP_TO = 2  # a value of the compared pair alone need not be kept
_MOST_VALUES = 60_000


@dataclass(frozen=True)
class Prior:
    """What is assumed of a value's frequency before anything is counted: ``share``, worth ``rows`` rows."""

    share: float
    rows: float


@dataclass(frozen=True)
class ValueCounts:
    """How many rows hold a value, for values that more than two rows hold; ``hashes`` is sorted."""

    hashes: HashArray
    counts: IntArray
    rows: int

    def of(self, hashes: HashArray) -> IntArray:
        """The counts of some values; 0 for those that are too rare to be kept."""
        if not len(self.hashes):
            return np.zeros(len(hashes), dtype=np.int64)
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[place] == hashes, self.counts[place], 0)

    def log_shares(self, hashes: HashArray, prior: Prior, left_out: int) -> FloatArray:
        """log2 of the share of other people with each value.

        The pair at hand is left out (``left_out`` rows): that the two agree must not make their value look
        common, or the rarest names would lose most.
        """
        others = np.maximum(self.of(hashes) - left_out, 0)
        share: FloatArray = np.log2((others + prior.share * prior.rows) / (self.rows + prior.rows))
        return share


def count_values(hash_of_code: HashArray, codes: CodeArray) -> ValueCounts:
    """Counts the values of a column; code 0 is no value."""
    of_code = np.bincount(codes, minlength=len(hash_of_code)).astype(np.int64)
    of_code[0] = 0
    hashes, position = np.unique(hash_of_code, return_inverse=True)
    counts = np.bincount(position.reshape(-1), weights=of_code).astype(np.int64)
    known = int(counts.sum())
    floor = _RARE_UP_TO
    if len(counts) > _MOST_VALUES:
        floor = max(floor, int(np.partition(counts, -_MOST_VALUES)[-_MOST_VALUES]))
    kept = counts > floor
    return ValueCounts(hashes[kept], counts[kept], known)
