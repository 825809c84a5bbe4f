"""Chooses which record of a cluster stays."""

from __future__ import annotations

import numpy as np

from include.matching.people import People
from include.matching.texts import IntArray


def choose_survivors(people: People, clusters: IntArray) -> IntArray:
    """The position of the survivor of each person's cluster; clusters are equal labels.

    The most complete record wins, then the one changed last, then the lowest legacy id: the same answer for
    any order of the input.
    """
    position = np.arange(len(people), dtype=np.int64)
    # ~ reverses the order as a minus sign does, but without overflow at "never".
    ranking = np.lexsort((position, ~people.updated, -people.filled, clusters))
    ranked = clusters[ranking]
    leads = np.append(True, ranked[1:] != ranked[:-1])[: len(ranked)]
    best = np.zeros(int(clusters.max(initial=0)) + 1, dtype=np.int64)
    best[ranked[leads]] = ranking[leads]
    return best[clusters]
