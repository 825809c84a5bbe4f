"""Finds the pairs worth comparing, at a cost that grows with the number of people, not with its square.

Several passes each group people by equal keys; a pair is a candidate if any pass puts both into one block. A
block above the bound is refined by further keys and, if still too large, left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from include.matching.normalise import IntArray, People, pair_codes

PAIRS_AT_ONCE = 400_000
_PREFIX = 3


@dataclass(frozen=True)
class PassCounts:
    """What one blocking pass did: blocks of two or more people, their pairs (before other passes are taken
    into account), and the blocks and people left out because of their size."""

    name: str
    blocks: int
    pairs: int
    skipped_blocks: int
    skipped_people: int


@dataclass(frozen=True)
class BlockingPass:
    """Block codes of all people, 0 for those in no block of this pass."""

    name: str
    codes: IntArray
    counts: PassCounts


def blocking_passes(people: People, max_block: int) -> list[BlockingPass]:
    """Groups people in seven ways, none of which depends on all fields being right."""
    head = people.names.head
    prefix = _prefixes(people)
    first, last = people.names.same[people.first], people.names.same[people.last]
    year, month, day = people.birth // 10_000, people.birth // 100 % 100, people.birth % 100
    any_order = year * 10_000 + np.minimum(month, day) * 100 + np.maximum(month, day)
    initials = _unordered(head[people.first], head[people.last])
    full, birth = people.full, people.birth
    plan: list[tuple[str, IntArray, list[IntArray]]] = [
        ("birth date", birth, [initials, full]),
        ("full name", full, [birth]),
        ("e-mail", people.email, [initials, full]),
        ("last name, first initial", _both(last, head[people.first]), [prefix[people.first], year]),
        ("first name, last initial", _both(first, head[people.last]), [prefix[people.last], year]),
        ("name beginnings", _both(prefix[people.first], prefix[people.last]), [year]),
        ("birth date in any order, initials", _both(any_order, initials), [full]),
    ]
    return [_bounded(name, key, refinements, max_block) for name, key, refinements in plan]


def _prefixes(people: People) -> IntArray:
    return pd.factorize(np.array([text[:_PREFIX] for text in people.names.compact], dtype=object))[0].astype(
        np.int64
    )


def _unordered(left: IntArray, right: IntArray) -> IntArray:
    return pair_codes(np.minimum(left, right), np.maximum(left, right))


def _both(left: IntArray, right: IntArray) -> IntArray:
    """One code per pair of keys, 0 unless both are there."""
    return np.where((left > 0) & (right > 0), pair_codes(left, right), 0)


def _bounded(name: str, key: IntArray, refinements: list[IntArray], max_block: int) -> BlockingPass:
    codes = _dense(key)
    for refinement in refinements:
        large = _too_large(codes, max_block)
        if not large.any():
            break
        finer = _both(codes, refinement) + codes.max(initial=0)
        codes = _dense(np.where(large, np.where(refinement > 0, finer, _without(codes)), codes))
    large = _too_large(codes, max_block)
    skipped = codes[large]
    codes = np.where(large, 0, codes)
    sizes = np.bincount(codes)[1:]
    counts = PassCounts(
        name=name,
        blocks=int((sizes > 1).sum()),
        pairs=int((sizes * (sizes - 1) // 2).sum()),
        skipped_blocks=len(np.unique(skipped)),
        skipped_people=len(skipped),
    )
    return BlockingPass(name, codes, counts)


def _without(codes: IntArray) -> IntArray:
    """Negative twins of the codes: the part of a large block that lacks the refining key stays together."""
    return -codes


def _dense(codes: IntArray) -> IntArray:
    dense, _ = pd.factorize(np.append(0, codes))
    return dense[1:].astype(np.int64)


def _too_large(codes: IntArray, max_block: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return (np.bincount(codes)[codes] > max_block) & (codes > 0)


def pairs_in_blocks(
    codes: IntArray, pairs_at_once: int = PAIRS_AT_ONCE
) -> Iterator[tuple[IntArray, IntArray]]:
    """All pairs of people with the same non-zero code, as chunks of (left, right) positions, left < right.

    A chunk holds about ``pairs_at_once`` pairs, and never more than that plus one block's size.
    """
    order = np.argsort(codes, kind="stable")
    order = order[codes[order] > 0]
    ordered = codes[order]
    ends = np.searchsorted(ordered, ordered, side="right")
    partners = ends - np.arange(len(order)) - 1
    done = np.append(0, np.cumsum(partners))
    start = 0
    while start < len(order) and done[start] < done[-1]:
        stop = max(start + 1, int(np.searchsorted(done, done[start] + pairs_at_once)))
        stop = min(stop, len(order))
        repeats = partners[start:stop]
        left = np.repeat(np.arange(start, stop), repeats)
        offset = np.arange(len(left)) - np.repeat(done[start:stop] - done[start], repeats)
        yield order[left], order[left + 1 + offset]
        start = stop


def candidate_pairs(
    passes: list[BlockingPass], pairs_at_once: int = PAIRS_AT_ONCE
) -> Iterator[tuple[IntArray, IntArray]]:
    """The union of the passes' pairs, each pair once (where the first pass finds it)."""
    for number, blocking in enumerate(passes):
        for left, right in pairs_in_blocks(blocking.codes, pairs_at_once):
            new = np.ones(len(left), dtype=np.bool_)
            for earlier in passes[:number]:
                new &= (earlier.codes[left] != earlier.codes[right]) | (earlier.codes[left] == 0)
            yield left[new], right[new]
