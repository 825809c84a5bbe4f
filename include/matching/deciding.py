"""Which records are one person's: what the scores say, and what people have said, which counts more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from include.matching.clustering import (
    LARGEST_GROUP,
    Links,
    average_linkage,
    connected_components,
    join_confirmed,
)
from include.matching.scoring import Scored, Scorer, clashes, vetoes
from include.matching.texts import BoolArray, FloatArray, IntArray

_PAIRS_AT_A_TIME = 500_000
_TWO = 2


@dataclass(frozen=True)
class Decided:
    """What people decided on pairs: two rows of positions each, left before right."""

    confirmed: IntArray
    rejected: IntArray


def cluster(scorer: Scorer, merge_at: float, likely: IntArray, decided: Decided) -> tuple[IntArray, IntArray]:
    """Joins records into clusters.

    Args:
        scorer: of all people.
        merge_at: lowest score of a pair that is joined without a person's decision.
        likely: pairs with at least this score (two rows of positions); vetoes are looked at here.
        decided: what people decided; a confirmed pair is joined whatever its score, a rejected one never.

    Returns:
        The cluster label of each person, and the confirmed pairs that could not be applied.
    """
    size = len(scorer.people)
    likely = likely[:, _mergeable(scorer, merge_at, scorer.compare(*likely))]
    refused = join_confirmed(_as_list(decided.confirmed), _as_list(decided.rejected))
    applied = np.delete(decided.confirmed, refused, axis=1)
    clusters = connected_components(size, *applied)
    said = clusters.copy()
    barred = _both_ways(decided.rejected)
    for groups in _groups(connected_components(size, *np.concatenate([likely, applied], axis=1))):
        for members, links in zip(groups, _links(scorer, merge_at, groups, barred), strict=True):
            joined = average_linkage(links, said[members])
            for label in np.unique(joined):
                clusters[members[joined == label]] = members[joined == label].min()
    return clusters, decided.confirmed[:, refused]


def _groups(label: IntArray) -> Iterator[list[IntArray]]:
    """The members of groups of two and more, in lots of bounded numbers of pairs."""
    _, counts = np.unique(label, return_counts=True)
    order = np.argsort(label, kind="stable")
    starts = np.cumsum(counts) - counts
    lot: list[IntArray] = []
    pairs = 0
    for number in np.flatnonzero((counts >= _TWO) & (counts <= LARGEST_GROUP)).tolist():
        more = int(counts[number]) ** 2 // 2
        if lot and pairs + more > _PAIRS_AT_A_TIME:
            yield lot
            lot, pairs = [], 0
        lot.append(order[starts[number] : starts[number] + counts[number]])
        pairs += more
    if lot:
        yield lot


def _links(
    scorer: Scorer, merge_at: float, groups: list[IntArray], barred: set[tuple[int, int]]
) -> Iterator[Links]:
    """Compares all pairs within each group."""
    ends = [np.triu_indices(len(people), 1) for people in groups]
    left = np.concatenate([people[one] for people, (one, _) in zip(groups, ends, strict=True)])
    right = np.concatenate([people[other] for people, (_, other) in zip(groups, ends, strict=True)])
    scored = scorer.compare(left, right)
    sure = _mergeable(scorer, merge_at, scored)
    clash = clashes(scored.pairs)
    if barred:
        pairs = zip(left.tolist(), right.tolist(), strict=True)
        clash |= np.fromiter((pair in barred for pair in pairs), dtype=np.bool_, count=len(left))
    start = 0
    for people, (one, other) in zip(groups, ends, strict=True):
        part = slice(start, start + len(one))
        score, surely, apart = (
            _square(len(people), one, other, values[part]) for values in (scored.score, sure, clash)
        )
        yield Links(score, surely > 0, apart > 0)
        start = part.stop


def _square(size: int, one: IntArray, other: IntArray, values: FloatArray | BoolArray) -> FloatArray:
    square = np.zeros((size, size))
    square[one, other] = square[other, one] = values
    return square


def _mergeable(scorer: Scorer, merge_at: float, scored: Scored) -> BoolArray:
    allowed: BoolArray = scored.score >= merge_at
    for forbidden in vetoes(scorer, scored).values():
        allowed &= ~forbidden
    return allowed


def _as_list(pairs: IntArray) -> list[tuple[int, int]]:
    left, right = pairs.tolist()
    return list(zip(left, right, strict=True))


def _both_ways(pairs: IntArray) -> set[tuple[int, int]]:
    return {*_as_list(pairs), *_as_list(pairs[::-1])}
