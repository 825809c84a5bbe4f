"""Chooses which record of a cluster stays."""

from __future__ import annotations

import numpy as np

from include.matching.normalise import IntArray, People


def choose_survivors(people: People, clusters: IntArray) -> IntArray:
    """The position of the survivor of each person's cluster; code 0, no cluster, means the person itself.

    The most complete record wins, then the one changed last, then the lowest legacy id: the same answer for
    any order of the input.
    """
    position = np.arange(len(people), dtype=np.int64)
    # ~ reverses the order as a minus sign does, but without overflow at "never".
    ranking = np.lexsort((position, ~people.updated, -people.filled, clusters))
    ranked = clusters[ranking]
    best = np.full(int(clusters.max(initial=0)) + 1, -1, dtype=np.int64)
    leads = np.append(True, ranked[1:] != ranked[:-1]) if len(ranked) else np.zeros(0, dtype=np.bool_)
    best[ranked[leads]] = ranking[leads]
    return np.where(clusters > 0, best[clusters], position)
