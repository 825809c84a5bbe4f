"""Says in words why a pair has its score: levels, weights in bits and vetoes, never a value of a person."""

from __future__ import annotations

import json

import numpy as np

from include.matching.levels import levels_of
from include.matching.scoring import Scored, Scorer, vetoes
from include.matching.texts import BoolArray, FloatArray, IntArray

_NOUNS = {
    "first_name": "first name",
    "last_name": "surname",
    "name_order": "order of the names",
    "date_of_birth": "birth date",
    "gender": "sex",
    "email": "e-mail address",
    "practice_id": "practice",
    "primary_doctor_id": "doctor",
    "family": "two people of one family",
}
_PHRASES = {
    "missing": "{} not compared",
    "different": "different {}",
    "initial": "{} only as an initial",
    "alike": "somewhat similar {}",
    "similar": "similar {}",
    "part": "{} is a part of the other",
    "nickname": "{} is another form of the same name",
    "near": "{} one slip apart",
    "equal": "same {}",
    "two_digits_off": "{} with two digits off",
    "two_parts": "{} with two of day, month and year the same",
    "one_slip": "{} one slip apart",
    "day_month_swapped": "{} with day and month swapped",
    "straight": "{} the same",
    "unlikely": "hardly {}",
    "possible": "perhaps {}",
    "swapped": "{} swapped",
    "different_with_other_name": "different {}",
    "equal_with_other_name": "same {}",
    "different_with_one_name": "different {} with one first name",
    "equal_with_one_name": "same {}, which the first name tells already",
}
_COMMON, _RARE = 7.0, 11.0  # bits: one in 128 people, one in 2,048
_FAMILY_BITS = (1.0,)
_DEGREES = (", common", "", ", rare")
_MOST_HUNDREDTHS = 1_000_000


def explanations(scorer: Scorer, scored: Scored) -> list[str]:
    """JSON per pair: prior and weights add up to the log-odds of the score, in bits.

    A field's weight is for one person against two strangers; "family" takes off what speaks for two people of one
    family instead.
    """
    evidence = scorer.evidence(scored.pairs)
    fields = [*evidence.match, "family"]
    size = len(scored.pairs)
    family = np.log2(scorer.model.prior_family) + sum(evidence.family.values(), np.zeros(size))
    # log2(1 + 2^x) without overflow
    weights = evidence.match | {"family": -np.logaddexp2(0.0, family)}
    levels = scored.pairs.level | {"family": np.digitize(-weights["family"], _FAMILY_BITS)}
    rarities = scored.pairs.rarity | {"family": np.zeros(size)}
    prior = round(float(np.log2(scorer.model.prior_match)), 2)
    held = vetoes(scorer, scored)
    told = zip(
        *(_told_of_pairs(field, levels[field], weights[field], rarities[field]) for field in fields),
        strict=True,
    )
    return [
        f'{{"prior": {prior}, "fields": {{{", ".join(parts)}}}, "vetoes": {json.dumps(stop)}}}'
        for parts, stop in zip(told, _reasons(held, size), strict=True)
    ]


def _reasons(held: dict[str, BoolArray], size: int) -> list[list[str]]:
    reasons: list[list[str]] = [[] for _ in range(size)]
    for reason, applies in held.items():
        for place in np.flatnonzero(applies).tolist():
            reasons[place].append(reason)
    return reasons


def _told_of_pairs(field: str, level: IntArray, weight: FloatArray, rarity: FloatArray) -> list[str]:
    """What is told of a field, for each pair, as JSON; most pairs have company in the same words."""
    degree = np.searchsorted((_COMMON, _RARE), rarity, side="right")
    hundredths = np.round(weight * 100).astype(np.int64)
    packed = (hundredths + _MOST_HUNDREDTHS) * 64 + level * 4 + degree
    kinds, first, position = np.unique(packed, return_index=True, return_inverse=True)
    texts = np.array(
        [
            json.dumps(f"{field}")
            + ": "
            + json.dumps(_told(field, int(level[n]), hundredths[n] / 100, int(degree[n])))
            for n in first
        ],
        dtype=object,
    )
    told: list[str] = texts[position.reshape(-1)].tolist() if len(kinds) else []
    return told


def _told(field: str, level: int, weight: float, degree: int) -> dict[str, object]:
    name = levels_of(field)(level).name.lower()
    noun = _NOUNS.get(field, field.replace("_", " "))
    words = _PHRASES[name].format(noun)
    if name == "equal":
        words += _DEGREES[degree]
    return {"level": name, "weight": float(weight), "words": f"{words} ({weight:+.1f})"}
