"""Joins pairs into clusters by average linkage, without ever chaining different people together.

Average linkage (Sokal and Michener 1958) joins two groups by the mean score of all pairs between them, so one
lucky pair cannot pull two people together; and no join is made across a clash.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from include.matching.texts import BoolArray, FloatArray, IntArray

JOIN_AT = 0.5
"""Lowest mean score of the pairs between two groups that are joined."""

_PAIR = 2

LARGEST_GROUP = 400
"""Groups of more people are not clustered: that many records of one person are no person's."""


@dataclass(frozen=True)
class Links:
    """All pairs within one group of connected people, as square matrices."""

    score: FloatArray
    sure: BoolArray
    forbidden: BoolArray


def connected_components(size: int, left: IntArray, right: IntArray) -> IntArray:
    """Labels ``size`` positions with the lowest position each is connected to by the given pairs."""
    label = np.arange(size, dtype=np.int64)
    while True:
        lowest = np.minimum(label[left], label[right])
        if (lowest == label[left]).all() and (lowest == label[right]).all():
            return label
        # Hook the roots as well as the ends, so that long chains collapse in few rounds.
        for ends in (left, right):
            np.minimum.at(label, label[ends], lowest)
            np.minimum.at(label, ends, lowest)
        label = _compressed(label)


def _compressed(label: IntArray) -> IntArray:
    while True:
        shorter = label[label]
        if (shorter == label).all():
            return label
        label = shorter


def join_confirmed(confirmed: list[tuple[int, int]], rejected: list[tuple[int, int]]) -> list[int]:
    """Joins confirmed pairs in their order and returns the places of those that would put a rejected pair into
    one cluster; the clusters follow from the others."""
    members = {place: {place} for pair in confirmed for place in pair}
    apart: defaultdict[int, set[int]] = defaultdict(set)
    for one, other in rejected:
        apart[one].add(other)
        apart[other].add(one)
    refused = []
    for place, (one, other) in enumerate(confirmed):
        small, large = sorted((members[one], members[other]), key=len)
        if small is large:
            continue
        if any(apart[member] & large for member in small):
            refused.append(place)
            continue
        large |= small
        for member in small:
            members[member] = large
    return refused


def average_linkage(links: Links, start: IntArray) -> IntArray:
    """Cluster labels of one group of at least one person.

    Args:
        links: all pairs of the group.
        start: labels to begin with: equal for those a person said are one.
    """
    if len(start) == _PAIR:  # nearly all groups are pairs
        joined = links.sure[0, 1] & ~links.forbidden[0, 1] & (links.score[0, 1] >= JOIN_AT)
        return np.zeros(_PAIR, np.int64) if joined or start[0] == start[1] else np.arange(_PAIR)
    _, label = np.unique(start, return_inverse=True)
    label = label.reshape(-1)
    groups = np.zeros((int(label.max()) + 1, len(label)))
    groups[label, np.arange(len(label))] = 1
    sizes = groups.sum(axis=1)
    total = groups @ links.score @ groups.T
    sure = (groups @ links.sure @ groups.T) > 0
    barred = (groups @ links.forbidden @ groups.T) > 0
    np.fill_diagonal(barred, True)
    while True:
        mean = np.where(sure & ~barred, total / np.outer(sizes, sizes), -1.0)
        best = int(mean.argmax())
        one, other = divmod(best, len(mean))
        if mean[one, other] < JOIN_AT:
            return label
        one, other = min(one, other), max(one, other)
        label = np.where(label == other, one, label)
        total[one] += total[other]
        total[:, one] += total[:, other]
        sizes[one] += sizes[other]
        for matrix in (sure, barred):
            matrix[one] |= matrix[other]
            matrix[:, one] |= matrix[:, other]
        barred[other] = barred[:, other] = True
        barred[one, one] = True
