"""Joins pairs into clusters, and gives up clusters that would join different people by a chain."""

from __future__ import annotations

import numpy as np

from include.matching.normalise import IntArray


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


def cluster_codes(components: IntArray, max_size: int) -> tuple[IntArray, IntArray]:
    """Turns component labels into cluster codes from 1, 0 for people on their own.

    Returns:
        The codes, and the codes of clusters above ``max_size``: too large to be checked pair by pair.
    """
    _, codes, sizes = np.unique(components, return_inverse=True, return_counts=True)
    several = sizes > 1
    numbers = np.where(several, np.cumsum(several), 0)
    return numbers[codes.reshape(-1)].astype(np.int64), numbers[several & (sizes > max_size)].astype(np.int64)
