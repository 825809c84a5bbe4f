"""Compares pairs of people field by field and states the level of agreement of each field.

Codes are compared first; only name pairs that can still matter reach the edit distances, each distinct pair
of names once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from rapidfuzz import fuzz
from rapidfuzz.distance import OSA, JaroWinkler
from rapidfuzz.process import cpdist

from include.matching.normalise import BoolArray, IntArray, Names, People

SIMILAR_FROM = 0.85  # Jaro-Winkler similarity
SHORTEST_LAST_NAME_WITH_SLIP = 5
SHORTEST_FIRST_NAME_WITH_SLIP = 4
SHORTEST_SIMILAR_NAME = 3  # one of two characters is half a name
DIGITS = 10 ** np.arange(8)


class NameLevel(IntEnum):
    """How two first or two last names agree.

    NEAR is a difference that is almost certainly a slip: for first names a doubled letter or two letters in
    the wrong order (one other letter may be a twin's name: Martin, Marvin), for surnames any single slip.
    REORDERED means that the full names hold the same words in other places, swapped first and last names
    above all. UNRESOLVED stands for "codes differ, text not compared yet".
    """

    MISSING = 0
    DIFFERENT = 1
    INITIAL = 2
    SIMILAR = 3
    NEAR = 4
    REORDERED = 5
    EQUAL = 6
    UNRESOLVED = 7


class BirthLevel(IntEnum):
    """How two birth dates agree."""

    MISSING = 0
    DIFFERENT = 1
    TWO_DIGITS_OFF = 2
    ONE_DIGIT_OFF = 3
    DAY_MONTH_SWAPPED = 4
    EQUAL = 5


class GenderLevel(IntEnum):
    """How two sexes agree; "other" is no wildcard, since the legacy code 0 has no certain meaning."""

    MISSING = 0
    DIFFERENT = 1
    EQUAL = 2


class EmailLevel(IntEnum):
    """How two e-mail addresses agree.

    SHARED: the same address, but of people with incompatible first names (families share addresses) or of a
    crowd (an office's address), hence evidence of nothing.
    """

    MISSING = 0
    DIFFERENT = 1
    SHARED = 2
    EQUAL = 3


class NameFrequencyLevel(IntEnum):
    """How many different birth dates are known under the full name that both people bear."""

    OTHER = 0
    RARE = 1
    REPEATED = 2
    COMMON = 3
    VERY_COMMON = 4


REPEATED_FROM, COMMON_FROM, VERY_COMMON_FROM = 3, 10, 40


@dataclass(frozen=True)
class Comparison:
    """Pairs of people (positions) with one agreement level per field; all arrays have the same length."""

    left: IntArray
    right: IntArray
    first_name: IntArray
    last_name: IntArray
    name_frequency: IntArray
    birth_date: IntArray
    gender: IntArray
    email: IntArray

    def __len__(self) -> int:
        return len(self.left)

    def take(self, chosen: BoolArray | IntArray) -> Comparison:
        """The chosen pairs only."""
        return Comparison(**{name: values[chosen] for name, values in vars(self).items()})


def concatenate(parts: list[Comparison]) -> Comparison:
    """Puts comparisons of different pairs into one; needs at least one part."""
    return Comparison(
        **{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])}
    )


def compare_codes(people: People, left: IntArray, right: IntArray) -> Comparison:
    """Compares everything but the spelling of unequal names, which stays UNRESOLVED."""
    same_words = (people.full[left] == people.full[right]) & (people.full[left] > 0)
    first = _name_codes_level(people.names, people.first[left], people.first[right], same_words)
    last = _name_codes_level(people.names, people.last[left], people.last[right], same_words)
    return Comparison(
        left=left,
        right=right,
        first_name=first,
        last_name=last,
        name_frequency=_name_frequency_level(people, left, same_words),
        birth_date=_birth_level(people.birth[left], people.birth[right]),
        gender=_equality(people.gender[left], people.gender[right], GenderLevel.EQUAL),
        email=_equality(people.email[left], people.email[right], EmailLevel.EQUAL),
    )


def resolve(people: People, pairs: Comparison) -> Comparison:
    """Compares the spelling of UNRESOLVED names, then judges equal e-mail addresses by the names."""
    first = _resolved(
        people.names, pairs.first_name, people.first[pairs.left], people.first[pairs.right], True
    )
    last = _resolved(people.names, pairs.last_name, people.last[pairs.left], people.last[pairs.right], False)
    incompatible = (first == NameLevel.DIFFERENT) | (first == NameLevel.MISSING)
    shared = (pairs.email == EmailLevel.EQUAL) & (incompatible | people.crowded[pairs.left])
    return replace(
        pairs, first_name=first, last_name=last, email=np.where(shared, EmailLevel.SHARED, pairs.email)
    )


def _equality(left: IntArray, right: IntArray, equal: IntEnum) -> IntArray:
    level = np.where(left == right, int(equal), 1)
    return np.where((left == 0) | (right == 0), 0, level)


def _name_codes_level(names: Names, left: IntArray, right: IntArray, same_words: BoolArray) -> IntArray:
    level = np.where(names.same[left] == names.same[right], NameLevel.EQUAL, NameLevel.UNRESOLVED)
    # Two people abbreviated alike need not have the same name.
    level = np.where((level == NameLevel.EQUAL) & names.initial[left], NameLevel.INITIAL, level)
    whole = ~names.initial[left] & ~names.initial[right]
    reordered = same_words & whole & (level == NameLevel.UNRESOLVED)
    level = np.where(reordered, NameLevel.REORDERED, level)
    return np.where((left == 0) | (right == 0), NameLevel.MISSING, level)


def _name_frequency_level(people: People, left: IntArray, same_words: BoolArray) -> IntArray:
    bounds = (REPEATED_FROM, COMMON_FROM, VERY_COMMON_FROM)
    level = NameFrequencyLevel.RARE + np.searchsorted(bounds, people.dates_of_name[left], side="right")
    return np.where(same_words, level, NameFrequencyLevel.OTHER)


def _birth_level(left: IntArray, right: IntArray) -> IntArray:
    level = np.full(len(left), int(BirthLevel.DIFFERENT), dtype=np.int64)
    missing = (left == 0) | (right == 0)
    equal = left == right
    doubtful = np.flatnonzero(~missing & ~equal)
    a, b = left[doubtful], right[doubtful]
    off = (a[:, None] // DIGITS % 10 != b[:, None] // DIGITS % 10).sum(axis=1)
    swapped = (a // 10_000 == b // 10_000) & (a // 100 % 100 == b % 100) & (b // 100 % 100 == a % 100)
    level[doubtful[off == 2]] = BirthLevel.TWO_DIGITS_OFF  # noqa: PLR2004
    level[doubtful[off == 1]] = BirthLevel.ONE_DIGIT_OFF
    level[doubtful[swapped]] = BirthLevel.DAY_MONTH_SWAPPED
    level[equal] = BirthLevel.EQUAL
    level[missing] = BirthLevel.MISSING
    return level


def _resolved(names: Names, level: IntArray, left: IntArray, right: IntArray, is_first: bool) -> IntArray:
    open_pairs = np.flatnonzero(level == NameLevel.UNRESOLVED)
    pairs, position = np.unique(np.stack([left[open_pairs], right[open_pairs]]), axis=1, return_inverse=True)
    resolved = level.copy()
    resolved[open_pairs] = _spelling_level(names, pairs[0], pairs[1], is_first)[position.reshape(-1)]
    return resolved


def _spelling_level(names: Names, left: IntArray, right: IntArray, is_first: bool) -> IntArray:
    slips = cpdist(
        names.compact[left], names.compact[right], scorer=OSA.distance, score_cutoff=1, dtype=np.int32
    )
    likeness = cpdist(names.compact[left], names.compact[right], scorer=JaroWinkler.similarity)
    numbered = names.digits[left] | names.digits[right]
    shorter = np.minimum(names.length[left], names.length[right])
    similar = (likeness >= SIMILAR_FROM) | ((slips == 1) & (shorter >= SHORTEST_SIMILAR_NAME))
    similar |= _words_contained(names, left, right)
    initial = (names.initial[left] | names.initial[right]) & (names.head[left] == names.head[right])
    slip = _first_name_slip if is_first else _surname_slip
    near = slip(names, left, right, slips == 1)
    level = np.where(similar, NameLevel.SIMILAR, NameLevel.DIFFERENT)
    # Names that differ only in a number (test accounts) are names of different accounts.
    level = np.where(near & ~numbered, NameLevel.NEAR, level)
    level = np.where(numbered, NameLevel.DIFFERENT, level)
    return np.where(initial, NameLevel.INITIAL, level)


def _words_contained(names: Names, left: IntArray, right: IntArray) -> BoolArray:
    """Whether all words of one name occur in the other: a second first name, half of a double surname."""
    contained = np.zeros(len(left), dtype=np.bool_)
    several = np.flatnonzero(names.several[left] | names.several[right])
    ratio = cpdist(names.spaced[left[several]], names.spaced[right[several]], scorer=fuzz.token_set_ratio)
    contained[several] = ratio == 100  # noqa: PLR2004
    return contained


def _surname_slip(names: Names, left: IntArray, right: IntArray, one_slip: BoolArray) -> BoolArray:
    shorter = np.minimum(names.length[left], names.length[right])
    slip: BoolArray = one_slip & (shorter >= SHORTEST_LAST_NAME_WITH_SLIP)
    return slip


def _first_name_slip(names: Names, left: IntArray, right: IntArray, one_slip: BoolArray) -> BoolArray:
    transposed = one_slip & (names.letters[left] == names.letters[right])
    doubled = names.undoubled[left] == names.undoubled[right]
    long_enough = np.minimum(names.length[left], names.length[right]) >= SHORTEST_FIRST_NAME_WITH_SLIP
    # The last letter tells Christian from Christina.
    slip: BoolArray = (transposed | doubled) & long_enough & (names.tail[left] == names.tail[right])
    return slip
