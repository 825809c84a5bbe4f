"""Shipped expectations, for tables too small to learn from: shares of the levels in each kind of pair.

They say what is usual in registers of people: about nine of ten copies of a record agree exactly in a field;
one field in twenty to fifty holds a slip; members of a family share the surname.
"""

from __future__ import annotations

import numpy as np

from include.matching.model import FieldWeights

EXPECTED_DUPLICATES = 0.04
"""Partners per person that are the same person."""

MOST_DUPLICATES = 3.0
"""Partners per person beyond which nothing is believed: then values say too little to tell people apart."""

EXPECTED_FAMILIES = 0.1
"""Partners per person that are of one family."""

FEWEST_PEOPLE = 200
"""Smaller tables are taken for a part of a population of this size."""

PSEUDO_PAIRS = 3_000.0
"""How many random pairs the shipped shares of strangers count for."""


def _weights(
    match: list[float], women: list[float], family: list[float], unrelated: list[float]
) -> FieldWeights:
    return FieldWeights(np.array([match, women]), np.array(family), np.array(unrelated))


def _person(match: list[float], family: list[float], unrelated: list[float]) -> FieldWeights:
    return _weights(match, match, family, unrelated)


# Levels: missing, different, initial, alike, similar, part, nickname, near, equal. The unrelated shares of fuzzy
# levels are expectations of 2^(0.7 rarity).
SHIPPED = {
    "first_name": _person(
        [1, 0.02, 0.01, 0.01, 0.015, 0.015, 0.01, 0.06, 0.86],
        [1, 0.90, 0.01, 0.02, 0.01, 0.005, 0.005, 0.01, 0.04],
        [1, 0.95, 0.03, 2.0, 0.6, 0.4, 0.3, 0.25, 1],
    ),
    "last_name": _weights(
        [1, 0.02, 0.002, 0.01, 0.015, 0.02, 0.001, 0.06, 0.872],
        [1, 0.07, 0.002, 0.01, 0.015, 0.03, 0.001, 0.06, 0.812],
        [1, 0.02, 0.002, 0.005, 0.013, 0.02, 0.001, 0.02, 0.919],
        [1, 0.97, 0.03, 3.0, 1.0, 0.4, 0.3, 0.3, 1],
    ),
    "name_order": _person([0.98, 0.02], [0.999, 0.001], [1, 1]),
    # Levels: missing, different, two digits off, two parts, one slip, swapped, equal.
    "date_of_birth": _person(
        [1, 0.015, 0.01, 0.02, 0.05, 0.015, 0.89],
        [1, 0.92, 0.015, 0.01, 0.006, 0.001, 0.048],
        [1, 0.975, 0.02, 0.003, 0.0015, 0.0003, 1],
    ),
    # Levels: missing, different and equal with another first name, different and equal with one first name.
    "gender": _person([1, 0.04, 0.96, 0.015, 0.985], [1, 0.5, 0.5, 0.03, 0.97], [1, 0.5, 0.5, 0.03, 0.97]),
    # Levels: missing, different, one slip, equal.
    "email": _person([1, 0.45, 0.03, 0.52], [1, 0.7, 0.01, 0.29], [1, 0.9999, 0.0001, 1]),
    # Any further column.
    "suffix": _person(
        [1, 0.25, 0.001, 0.005, 0.005, 0.001, 0.001, 0.03, 0.707],
        [1, 0.5, 0.001, 0.005, 0.005, 0.001, 0.001, 0.01, 0.477],
        [1, 0.93, 0.01, 2.0, 1.0, 0.1, 0.1, 1.0, 1],
    ),
}
