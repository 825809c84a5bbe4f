"""Weighs the agreement of fields into a probability, and says what forbids an automatic merge whatever it is.

Fellegi and Sunter (1969) compare two explanations of a pair: one person, or strangers. Here a third one stands
beside them: two people of one family, who share surname, address and doctor but are not to be merged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from include.matching.comparison import (
    UNRESOLVED,
    Compared,
    compare_codes,
    concatenate,
    crossing,
    resolve,
    years_apart,
)
from include.matching.levels import BirthLevel, EmailLevel, OrderLevel, SexLevel, TextLevel, levels_of
from include.matching.model import MatchModel
from include.matching.people import GENDERS, People
from include.matching.rarity import Rarity
from include.matching.texts import BoolArray, FloatArray, IntArray

FUZZY_RARITY = 0.7
"""How much of the rarity of the rarer text counts where two texts differ a little (all of it if they are equal):
not all that looks like a slip is one."""

NAMESAKE_TWINS = -12.0
"""Bits against brothers and sisters with one first name and one birth date."""

_OVERWHELMING = 0.999  # score from which a missing birth date may be forgiven
_FEW_PEOPLE = 1_000  # too few to tell first names from slips
_GENERATION = 12  # years
_BLOCK_OF_PAIRS = 250_000


def rarity_exponents(field: str) -> FloatArray:
    """How much of the rarity counts at each level of a field."""
    kind = levels_of(field)
    exponents = np.zeros(len(kind))
    if kind is TextLevel:
        exponents[TextLevel.INITIAL : TextLevel.EQUAL] = FUZZY_RARITY
        exponents[TextLevel.INITIAL] = 0.0
        exponents[TextLevel.EQUAL] = 1.0
    elif kind in (BirthLevel, EmailLevel):
        exponents[-1] = 1.0
    return exponents


@dataclass(frozen=True)
class Evidence:
    """What speaks in bits, for each pair: ``match`` and ``family`` against strangers, by field."""

    match: dict[str, FloatArray]
    family: dict[str, FloatArray]


@dataclass(frozen=True)
class Scored:
    """Compared pairs with their probability of being one person."""

    pairs: Compared
    score: FloatArray

    def take(self, chosen: BoolArray | IntArray) -> Scored:
        """The chosen pairs only."""
        return Scored(self.pairs.take(chosen), self.score[chosen])


class Scorer:
    """Scores pairs of some people under a model."""

    def __init__(self, people: People, model: MatchModel, rarity: Rarity | None = None) -> None:
        self.people = people
        self.model = model
        self.rarity = rarity or Rarity.of(people, model.counts)
        self._exponents = {field: rarity_exponents(field) for field in model.weights}
        self._surprise = {field: _bits(1 / weights.unrelated) for field, weights in model.weights.items()}
        self._match = {field: _bits(weights.match) for field, weights in model.weights.items()}
        self._family = {field: _bits(weights.family) for field, weights in model.weights.items()}

    def compare(self, left: IntArray, right: IntArray) -> Scored:
        """Compares and scores some pairs in full."""
        parts = [
            self._resolved(compare_codes(self.people, self.rarity, left[start:end], right[start:end]))
            for start, end in _slices(len(left))
        ]
        return join_scored(parts)

    def compare_from(self, left: IntArray, right: IntArray, review_at: float) -> Scored:
        """Compares pairs and keeps those that reach a score; hopeless ones are left before their texts are
        compared."""
        pairs = compare_codes(self.people, self.rarity, left, right)
        hopeful = self._most_bits(pairs) >= np.log2(review_at / (1 - min(review_at, 1 - 1e-12)))
        hopeful |= crossing(self.people, left, right)
        scored = self._resolved(pairs.take(hopeful))
        return scored.take(scored.score >= review_at)

    def evidence(self, pairs: Compared) -> Evidence:
        """The bits of each field."""
        women = self.women(pairs)
        match: dict[str, FloatArray] = {}
        family: dict[str, FloatArray] = {}
        for field, level in pairs.level.items():
            surprise = self._surprise[field][level] + self._exponents[field][level] * pairs.rarity[field]
            match[field] = self._match[field][women, level] + surprise
            family[field] = self._family[field][level] + surprise
        namesakes = (pairs.level["first_name"] >= TextLevel.NICKNAME) & (
            pairs.level["date_of_birth"] == BirthLevel.EQUAL
        )
        family["first_name"] = family["first_name"] + np.where(namesakes, NAMESAKE_TWINS, 0.0)
        return Evidence(match, family)

    def women(self, pairs: Compared) -> IntArray:
        """1 for pairs of women as far as is known, 0 for all others."""
        one, other = self.people.gender[pairs.left], self.people.gender[pairs.right]
        female, male = GENDERS["female"], GENDERS["male"]
        women: IntArray = (((one == female) | (other == female)) & (one != male) & (other != male)).astype(
            np.int64
        )
        return women

    def _resolved(self, pairs: Compared) -> Scored:
        return self._scored(resolve(self.people, self.rarity, self.model.implied, pairs))

    def _scored(self, pairs: Compared) -> Scored:
        evidence = self.evidence(pairs)
        match = _total(evidence.match.values(), np.log2(self.model.prior_match), len(pairs))
        family = _total(evidence.family.values(), np.log2(self.model.prior_family), len(pairs))
        score, _ = posterior(match, family)
        # Rounded, so that no difference in the last bit between machines or chunks decides anything.
        return Scored(pairs, np.round(score, 9))

    def _most_bits(self, pairs: Compared) -> FloatArray:
        """The most that can come of a pair whose texts are not compared yet, for a match against strangers."""
        women = self.women(pairs)
        most = np.full(len(pairs), np.log2(self.model.prior_match))
        for field, level in pairs.level.items():
            bits = self._match[field] + self._surprise[field]
            exponents = self._exponents[field]
            known = np.maximum(level, 0)
            most += bits[women, known] + exponents[known] * pairs.rarity[field]
            if field == "email":
                slip = np.maximum(bits[:, EmailLevel.ONE_SLIP] - bits[:, EmailLevel.DIFFERENT], 0)
                most += np.where(level == EmailLevel.DIFFERENT, slip[women], 0)
                continue
            if levels_of(field) is not TextLevel:
                continue
            open_pairs = np.flatnonzero(level == UNRESOLVED)
            best = bits[:, TextLevel.DIFFERENT : TextLevel.EQUAL].max(axis=1)[women[open_pairs]]
            most[open_pairs] += (
                best + FUZZY_RARITY * pairs.rarity[field][open_pairs] - bits[women[open_pairs], 0]
            )
            if field in self.model.implied:
                most += np.maximum(-bits[women, known], 0)
        sex = self._match["gender"] + self._surprise["gender"]
        return most + max(0.0, float(sex.max())) + max(0.0, float((self._match["name_order"]).max()))


def posterior(match: FloatArray, family: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Probabilities of a match and of a family, from their bits against strangers."""
    top = np.maximum(np.maximum(match, family), 0.0)
    parts = [np.exp2(bits - top) for bits in (match, family, np.zeros(len(match)))]
    total = parts[0] + parts[1] + parts[2]
    return parts[0] / total, parts[1] / total


def join_scored(parts: list[Scored]) -> Scored:
    """Puts scored pairs into one; needs at least one part."""
    return Scored(
        concatenate([part.pairs for part in parts]),
        np.concatenate([part.score for part in parts]),
    )


def vetoes(scorer: Scorer, scored: Scored) -> dict[str, BoolArray]:
    """What keeps pairs from being merged without a person's decision, by reason."""
    pairs, people = scored.pairs, scorer.people
    first, last = pairs.level["first_name"], pairs.level["last_name"]
    birth, sex = pairs.level["date_of_birth"], pairs.level["gender"]
    missing = (first == TextLevel.MISSING) | (last == TextLevel.MISSING)
    undated = birth == BirthLevel.MISSING
    beyond = (scored.score >= _OVERWHELMING) & _agree_beyond_names(people, pairs)
    return {
        "name_missing": missing,
        "first_name_differs": first == TextLevel.DIFFERENT,
        "first_name_initial": first == TextLevel.INITIAL,
        "one_name_elsewhere": (last == TextLevel.DIFFERENT)
        & (pairs.level["name_order"] == OrderLevel.SWAPPED),
        "first_name_of_another": _names_of_two(scorer, pairs),
        "birth_date_missing": undated & ~beyond,
        "birth_date_differs": (birth == BirthLevel.DIFFERENT) | (years_apart(people, pairs) >= _GENERATION),
        "sex_differs": np.isin(sex, (SexLevel.DIFFERENT_WITH_ONE_NAME, SexLevel.DIFFERENT_WITH_OTHER_NAME)),
    }


def _agree_beyond_names(people: People, pairs: Compared) -> BoolArray:
    """Whether e-mail or a further column agrees in more than chance and family allow for."""
    agree: BoolArray = pairs.level["email"] == EmailLevel.EQUAL
    for field in people.evidence:
        agree |= pairs.level[field] == TextLevel.EQUAL
    return agree


def _names_of_two(scorer: Scorer, pairs: Compared) -> BoolArray:
    """Twins: unequal first names, both of them names that other people bear, and one birth date.

    Where too few people are known to tell names from slips, every unequal first name counts, but for doubled
    letters and the like.
    """
    people, first = scorer.people, pairs.level["first_name"]
    borne = scorer.model.counts["first_name"]
    known = borne.of(people.names.hash) > 0
    one, other = people.first[pairs.left], people.first[pairs.right]
    both: BoolArray = known[one] & known[other]
    if scorer.model.people < _FEW_PEOPLE:
        loose = people.names.loose
        both |= loose[one] != loose[other]
    unequal = np.isin(first, (TextLevel.ALIKE, TextLevel.SIMILAR, TextLevel.NEAR))
    straight = pairs.level["name_order"] == OrderLevel.STRAIGHT
    twins: BoolArray = both & unequal & straight & (pairs.level["date_of_birth"] >= BirthLevel.TWO_DIGITS_OFF)
    return twins


def clashes(pairs: Compared) -> BoolArray:
    """Whether two members of one cluster cannot be the same person."""
    clash: BoolArray = (
        (pairs.level["first_name"] == TextLevel.DIFFERENT)
        | (pairs.level["date_of_birth"] == BirthLevel.DIFFERENT)
        | (pairs.level["gender"] == SexLevel.DIFFERENT_WITH_ONE_NAME)
        | (pairs.level["gender"] == SexLevel.DIFFERENT_WITH_OTHER_NAME)
    )
    return clash


def _bits(shares: FloatArray) -> FloatArray:
    bits: FloatArray = np.log2(shares)
    return bits


def _total(parts: Iterable[FloatArray], prior: float, size: int) -> FloatArray:
    total = np.full(size, prior)
    for part in parts:
        total += part
    return total


def _slices(size: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BLOCK_OF_PAIRS, size)) for start in range(0, max(size, 1), _BLOCK_OF_PAIRS)]
