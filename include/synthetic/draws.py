"""Random numbers that depend on seed, table, column and row, and on nothing else.

Each column has a PCG64 stream of its own, of which row ``i`` takes word ``i``. So any range of rows can be
made alone, in any order and in chunks of any size, with the same values. Only the raw words of the bit
generator are used, which NumPy keeps stable, and only exact arithmetic on them: no logarithm or cosine,
whose last bit differs between machines.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_MANTISSA_SHIFT = np.uint64(11)
_MANTISSA_UNIT = 2.0**-53


@dataclass(frozen=True)
class Draws:
    """The random values of rows ``start`` to ``start + count`` of one table."""

    seed: int
    table: str
    start: int
    count: int

    def words(self, column: str) -> NDArray[np.uint64]:
        """64 random bits per row."""
        key = [self.seed, zlib.crc32(self.table.encode()), zlib.crc32(column.encode())]
        generator = np.random.PCG64(np.random.SeedSequence(key)).advance(self.start)
        return np.asarray(generator.random_raw(self.count), dtype=np.uint64)

    def uniform(self, column: str) -> NDArray[np.float64]:
        """Numbers in [0, 1)."""
        return (self.words(column) >> _MANTISSA_SHIFT).astype(np.float64) * _MANTISSA_UNIT

    def below(self, column: str, limit: int | Ints) -> Ints:
        """Whole numbers from 0 to below ``limit`` (one limit, or one per row)."""
        return (self.uniform(column) * limit).astype(np.int64)

    def skewed(self, column: str, limit: int | Ints) -> Ints:
        """Like :meth:`below`, but small numbers are common and large ones rare."""
        share = self.uniform(column)
        return (share * share * limit).astype(np.int64)

    def chance(self, column: str, share: float) -> Bools:
        """True in about ``share`` of the rows."""
        return self.uniform(column) < share

    def pick(self, column: str, weights: Sequence[float]) -> Ints:
        """An index into ``weights``, each as often as its weight says."""
        bounds = np.cumsum(np.asarray(weights, dtype=np.float64))
        place: Ints = np.searchsorted(bounds, self.uniform(column) * bounds[-1], side="right")
        return place.clip(max=len(bounds) - 1)


def shuffled(seed: int, name: str, count: int) -> Ints:
    """The numbers 0 to ``count`` - 1 in random order."""
    return np.argsort(Draws(seed, "shuffle", 0, count).words(name), kind="stable")


def quota(count: int, share: float, minimum: int = 0) -> int:
    """How many of ``count`` rows a share amounts to, but at least ``minimum``.

    The minimum is what keeps rare dirt alive in a small source; it shrinks to 1 where it would be more
    than a hundredth of all rows.
    """
    floor = min(minimum, max(count // 100, 1))
    return min(max(round(count * share), floor), count)


def quotas(count: int, shares: Sequence[float], minimum: int = 0) -> list[int]:
    """:func:`quota` of each share, never more than ``count`` together: later ones give way."""
    left, result = count, []
    for share in shares:
        result.append(min(quota(count, share, minimum), left))
        left -= result[-1]
    return result


def divided(seed: int, name: str, count: int, sizes: Sequence[int]) -> NDArray[np.int8]:
    """Exactly ``sizes[k]`` random rows of ``count`` get the number k + 1, all others 0."""
    result = np.zeros(count, dtype=np.int8)
    order, start = shuffled(seed, name, count), 0
    for number, size in enumerate(sizes, start=1):
        result[order[start : start + size]] = number
        start += size
    return result


def spread_ids(draws: Draws, stride: int) -> Ints:
    """Rising ids with gaps: one id at random in each stretch of ``stride`` numbers."""
    first = (draws.start + np.arange(draws.count, dtype=np.int64)) * stride + 1
    return first + draws.below("id", stride)


def free_ids(present: Ints) -> Ints:
    """Ids that look like those of ``present`` (rising, not empty) but belong to no row."""
    after = present + 1
    return after[~np.isin(after, present)]
