"""Weighs the agreement of fields into a score, and says what forbids an automatic merge whatever the score.

Weights are bits (base-2 logarithms of likelihood ratios), chosen by hand and on the careful side; a score is
the probability they add up to. A model learnt from the data can take their place without a change elsewhere.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from include.matching.comparison import (
    BirthLevel,
    Comparison,
    EmailLevel,
    GenderLevel,
    NameFrequencyLevel,
    NameLevel,
)
from include.matching.normalise import BoolArray, IntArray

FloatArray = npt.NDArray[np.float64]

PRIOR = -10.5  # of a candidate pair before any field is looked at

_LEVELS: dict[str, Any] = {
    "first_name": NameLevel,
    "last_name": NameLevel,
    "name_frequency": NameFrequencyLevel,
    "birth_date": BirthLevel,
    "gender": GenderLevel,
    "email": EmailLevel,
}

# In the order of the levels. An UNRESOLVED name counts as the best it can turn out to be.
_WEIGHTS: dict[str, tuple[float, ...]] = {
    "first_name": (-3.0, -9.0, 1.0, 2.0, 4.0, 5.5, 6.0, 4.0),
    "last_name": (-3.0, -7.0, 1.0, 2.0, 5.0, 6.5, 7.0, 5.0),
    "name_frequency": (0.0, 0.0, -2.0, -4.0, -9.0),
    "birth_date": (0.0, -6.0, 0.0, 6.0, 7.0, 12.0),
    "gender": (0.0, -5.0, 1.0),
    "email": (0.0, 0.0, 0.0, 6.0),
}

_SURE_NAMES = (NameLevel.EQUAL, NameLevel.NEAR, NameLevel.REORDERED)


def score(pairs: Comparison) -> FloatArray:
    """The score of each pair, in [0, 1]."""
    bits = np.full(len(pairs), PRIOR)
    for field, weights in _WEIGHTS.items():
        bits += np.asarray(weights)[getattr(pairs, field)]
    probability: FloatArray = 1.0 / (1.0 + np.exp2(-bits))
    return probability


def vetoes(pairs: Comparison) -> dict[str, BoolArray]:
    """What keeps pairs from being merged without a person's decision, by reason.

    Only the same full name (but for slips), the same birth date and no clash of sex allow an automatic merge:
    twins, parent and child of one name, and siblings on one e-mail address all fail one of these.
    """
    missing = (pairs.first_name == NameLevel.MISSING) | (pairs.last_name == NameLevel.MISSING)
    sure_name = np.isin(pairs.first_name, _SURE_NAMES) & np.isin(pairs.last_name, _SURE_NAMES)
    return {
        "name_missing": missing,
        "name_differs": ~missing & ~sure_name,
        "birth_date_missing": pairs.birth_date == BirthLevel.MISSING,
        "birth_date_differs": (pairs.birth_date != BirthLevel.EQUAL)
        & (pairs.birth_date != BirthLevel.MISSING),
        "gender_differs": pairs.gender == GenderLevel.DIFFERENT,
    }


def mergeable(pairs: Comparison, scores: FloatArray, merge_at: float) -> BoolArray:
    """Whether a pair alone may be merged automatically."""
    allowed: BoolArray = scores >= merge_at
    for forbidden in vetoes(pairs).values():
        allowed &= ~forbidden
    return allowed


def clashes(pairs: Comparison) -> BoolArray:
    """Whether two members of one cluster cannot be the same person."""
    clash: BoolArray = (
        (pairs.first_name == NameLevel.DIFFERENT)
        | (pairs.last_name == NameLevel.DIFFERENT)
        | ((pairs.birth_date != BirthLevel.EQUAL) & (pairs.birth_date != BirthLevel.MISSING))
        | (pairs.gender == GenderLevel.DIFFERENT)
    )
    return clash


def explanations(pairs: Comparison, in_clash: BoolArray) -> list[str]:
    """JSON per pair: level and weight (bits) of each field, and the vetoes; never a value of a person.

    Args:
        pairs: compared pairs, names resolved.
        in_clash: pairs held back because they lead to a cluster of people who contradict each other.
    """
    levels = pd.DataFrame({field: getattr(pairs, field) for field in _LEVELS}).assign(clash=in_clash)
    kinds, first = _kinds(levels)
    reasons = {reason: held[first] for reason, held in vetoes(pairs).items()}
    reasons["cluster_clash"] = in_clash[first]
    texts = [
        _explanation(pairs, position, [reason for reason, held in reasons.items() if held[number]])
        for number, position in enumerate(first.tolist())
    ]
    return [texts[kind] for kind in kinds.tolist()]


def _kinds(levels: pd.DataFrame) -> tuple[IntArray, IntArray]:
    """Numbers equal rows alike; returns the number of each row and one position for each number."""
    kinds = np.asarray(levels.groupby(list(levels.columns), sort=False).ngroup(), dtype=np.int64)
    return kinds, np.unique(kinds, return_index=True)[1].astype(np.int64)


def _explanation(pairs: Comparison, position: int, reasons: list[str]) -> str:
    fields: dict[str, object] = {"prior": PRIOR}
    for field, levels in _LEVELS.items():
        level = int(getattr(pairs, field)[position])
        fields[field] = {"level": levels(level).name.lower(), "weight": _WEIGHTS[field][level]}
    return json.dumps(fields | {"vetoes": reasons})
