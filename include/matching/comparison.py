"""Compares pairs of people field by field: the level of agreement, and how rare what they agree in is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from include.matching.levels import BirthLevel, EmailLevel, OrderLevel, SexLevel, TextLevel
from include.matching.people import People
from include.matching.rarity import Rarity
from include.matching.spelling import possibly_alike, spelling_levels
from include.matching.texts import BoolArray, CodeArray, FloatArray, IntArray, Texts

UNRESOLVED = -1
_ONE_LETTER = 2  # bits by which the letters of two texts differ if one letter was replaced
_DIGITS = np.int64(0x11111111)


@dataclass(frozen=True)
class Compared:
    """Pairs (positions) with, for each field, the level and the rarity in bits; all of one length."""

    left: IntArray
    right: IntArray
    level: dict[str, IntArray]
    rarity: dict[str, FloatArray]

    def __len__(self) -> int:
        return len(self.left)

    def take(self, chosen: BoolArray | IntArray) -> Compared:
        """The chosen pairs only."""
        return Compared(
            self.left[chosen],
            self.right[chosen],
            {field: values[chosen] for field, values in self.level.items()},
            {field: values[chosen] for field, values in self.rarity.items()},
        )


def concatenate(parts: list[Compared]) -> Compared:
    """Puts comparisons of different pairs into one; needs at least one part."""
    return Compared(
        np.concatenate([part.left for part in parts]),
        np.concatenate([part.right for part in parts]),
        {field: np.concatenate([part.level[field] for part in parts]) for field in parts[0].level},
        {field: np.concatenate([part.rarity[field] for part in parts]) for field in parts[0].rarity},
    )


def compare_codes(people: People, rarity: Rarity, left: IntArray, right: IntArray) -> Compared:
    """Compares everything but the spelling of unequal texts, which stays UNRESOLVED where it can matter."""
    level: dict[str, IntArray] = {}
    rare: dict[str, FloatArray] = {}
    one_date = (people.birth[left] == people.birth[right]) & (people.birth[left] > 0)
    for field, codes in (("first_name", people.first), ("last_name", people.last)):
        one, other = codes[left], codes[right]
        level[field] = _text_level(people.names, one, other)
        rare[field] = rarity.of_texts(field, one, other, one_date)
    level["date_of_birth"] = birth_level(people.birth[left], people.birth[right])
    rare["date_of_birth"] = rarity.of_birth[left]
    one, other = people.email.code[left], people.email.code[right]
    level["email"] = _email_level(people, left, right)
    rare["email"] = rarity.of_texts("email", one, other, one_date)
    for field, column in people.evidence.items():
        one, other = column.code[left], column.code[right]
        level[field] = _text_level(column.texts, one, other)
        rare[field] = rarity.of_texts(field, one, other, one_date)
    return Compared(left, right, level, rare)


def resolve(people: People, rarity: Rarity, implied: dict[str, tuple[str, ...]], pairs: Compared) -> Compared:
    """Compares the spelling of UNRESOLVED texts, and what depends on it: swapped names, sex, implied columns."""
    level, rare = dict(pairs.level), dict(pairs.rarity)
    left, right = pairs.left, pairs.right
    for field, codes in (("first_name", people.first), ("last_name", people.last)):
        level[field] = _spelt(people.names, level[field], codes[left], codes[right], of_people=True)
    level["last_name"] = np.where(
        level["last_name"] == TextLevel.NICKNAME, TextLevel.SIMILAR, level["last_name"]
    )
    for field, column in people.evidence.items():
        one, other = column.code[left], column.code[right]
        level[field] = _spelt(column.texts, level[field], one, other, of_people=False)
    level["email"] = _email_slips(people, pairs)
    for field, givers in implied.items():
        known = np.zeros(len(pairs), dtype=np.bool_)
        for giver in givers:
            known |= level[giver] == TextLevel.EQUAL
        level[field] = np.where(known, TextLevel.MISSING, level[field])
    _swap_names(people, rarity, pairs, level, rare)
    level["gender"] = _sex_level(people, left, right, level["first_name"])
    rare["gender"] = np.zeros(len(pairs))
    return Compared(left, right, level, rare)


def _text_level(texts: Texts, one: CodeArray, other: CodeArray) -> IntArray:
    level = np.full(len(one), int(TextLevel.DIFFERENT), dtype=np.int64)
    equal = texts.hash[one] == texts.hash[other]
    open_pairs = np.flatnonzero(~equal)
    alike = possibly_alike(texts, one[open_pairs], other[open_pairs])
    level[open_pairs[alike]] = UNRESOLVED
    level[equal] = TextLevel.EQUAL
    # Two people abbreviated alike need not have the same name.
    level[equal & texts.initial[one]] = TextLevel.INITIAL
    level[(one == 0) | (other == 0)] = TextLevel.MISSING
    return level


def _spelt(texts: Texts, level: IntArray, one: CodeArray, other: CodeArray, *, of_people: bool) -> IntArray:
    open_pairs = np.flatnonzero(level == UNRESOLVED)
    spelt = level.copy()
    spelt[open_pairs] = spelling_levels(texts, one[open_pairs], other[open_pairs], of_people=of_people)
    return spelt


def birth_level(left: IntArray, right: IntArray) -> IntArray:
    """The level of two birth dates (decimal digits, four bits each; 0 is missing)."""
    level = np.full(len(left), int(BirthLevel.DIFFERENT), dtype=np.int64)
    missing = (left == 0) | (right == 0)
    equal = left == right
    doubtful = np.flatnonzero(~missing & ~equal)
    a, b = left[doubtful], right[doubtful]
    difference = a ^ b
    digits = (difference | difference >> 1 | difference >> 2 | difference >> 3) & _DIGITS
    off = np.bitwise_count(digits)
    swapped_digits = (off == 2) & _adjacent_swapped(a, b, digits)  # noqa: PLR2004
    parts = (
        (difference >> 16 != 0).astype(np.int8)
        + (difference >> 8 & 0xFF != 0).astype(np.int8)
        + (difference & 0xFF != 0).astype(np.int8)
    )
    exchanged = (a >> 16 == b >> 16) & (a >> 8 & 0xFF == b & 0xFF) & (b >> 8 & 0xFF == a & 0xFF)
    level[doubtful[off == 2]] = BirthLevel.TWO_DIGITS_OFF  # noqa: PLR2004
    level[doubtful[parts == 1]] = BirthLevel.TWO_PARTS
    level[doubtful[(off == 1) | swapped_digits]] = BirthLevel.ONE_SLIP
    level[doubtful[exchanged]] = BirthLevel.DAY_MONTH_SWAPPED
    level[equal] = BirthLevel.EQUAL
    level[missing] = BirthLevel.MISSING
    return level


def _adjacent_swapped(a: IntArray, b: IntArray, digits: IntArray) -> BoolArray:
    swapped = np.zeros(len(a), dtype=np.bool_)
    for place in range(0, 28, 4):
        two = digits == (0x11 << place)
        swapped |= (
            two
            & ((a >> place & 0xF) == (b >> (place + 4) & 0xF))
            & ((b >> place & 0xF) == (a >> (place + 4) & 0xF))
        )
    return swapped


def years_apart(people: People, pairs: Compared) -> IntArray:
    """The difference of the years of birth; 0 where one is missing."""
    left, right = people.birth[pairs.left], people.birth[pairs.right]
    apart = np.abs(_year(left) - _year(right))
    years: IntArray = np.where((left == 0) | (right == 0), 0, apart)
    return years


def _year(birth: IntArray) -> IntArray:
    digits = [birth >> 28, birth >> 24 & 0xF, birth >> 20 & 0xF, birth >> 16 & 0xF]
    year: IntArray = digits[0] * 1000 + digits[1] * 100 + digits[2] * 10 + digits[3]
    return year


def _email_level(people: People, left: IntArray, right: IntArray) -> IntArray:
    one, other = people.email.code[left], people.email.code[right]
    level = np.full(len(one), int(EmailLevel.DIFFERENT), dtype=np.int64)
    level[one == other] = EmailLevel.EQUAL
    level[(one == 0) | (other == 0)] = EmailLevel.MISSING
    return level


def _email_slips(people: People, pairs: Compared) -> IntArray:
    """Finds addresses one slip apart. An address made of the name repeats the slip in the name, so it says
    nothing new."""
    level = pairs.level["email"].copy()
    texts, code = people.email.texts, people.email.code
    strange = ~people.named_address[pairs.left] & ~people.named_address[pairs.right]
    open_pairs = np.flatnonzero((level == EmailLevel.DIFFERENT) & strange)
    one, other = code[pairs.left[open_pairs]], code[pairs.right[open_pairs]]
    near = np.bitwise_count(texts.letters[one] ^ texts.letters[other]) <= _ONE_LETTER
    near &= np.abs(texts.length[one] - texts.length[other]) <= 1
    open_pairs, one, other = open_pairs[near], one[near], other[near]
    spelt = spelling_levels(texts, one, other, of_people=False)
    level[open_pairs[spelt == TextLevel.NEAR]] = EmailLevel.ONE_SLIP
    return level


def _swap_names(
    people: People,
    rarity: Rarity,
    pairs: Compared,
    level: dict[str, IntArray],
    rare: dict[str, FloatArray],
) -> None:
    """Compares first with last name where that agrees and the straight comparison does not."""
    order = np.full(len(pairs), int(OrderLevel.STRAIGHT), dtype=np.int64)
    names, first, last = people.names, people.first, people.last
    crossed = crossing(people, pairs.left, pairs.right)
    crossed &= (level["first_name"] < TextLevel.ALIKE) & (level["last_name"] < TextLevel.ALIKE)
    open_pairs = np.flatnonzero(crossed)
    left, right = pairs.left[open_pairs], pairs.right[open_pairs]
    sides = {"first_name": (first[left], last[right]), "last_name": (last[left], first[right])}
    spelt = {
        field: _spelt(names, _text_level(names, one, other), one, other, of_people=True)
        for field, (one, other) in sides.items()
    }
    agree = (spelt["first_name"] >= TextLevel.ALIKE) | (spelt["last_name"] >= TextLevel.ALIKE)
    order[open_pairs[agree]] = OrderLevel.SWAPPED
    for field, (one, other) in sides.items():
        level[field] = level[field].copy()
        rare[field] = rare[field].copy()
        level[field][open_pairs[agree]] = spelt[field][agree]
        rare[field][open_pairs[agree]] = rarity.of_crossed(one, other)[agree]
    level["name_order"] = order
    rare["name_order"] = np.zeros(len(pairs))


def crossing(people: People, left: IntArray, right: IntArray) -> BoolArray:
    """Whether the first name of one person may be the last name of the other."""
    loose = people.names.loose
    first, last = loose[people.first], loose[people.last]
    crossed: BoolArray = ((first[left] == last[right]) & (first[left] > 0)) | (
        (last[left] == first[right]) & (last[left] > 0)
    )
    return crossed


def _sex_level(people: People, left: IntArray, right: IntArray, first_name: IntArray) -> IntArray:
    one, other = people.gender[left], people.gender[right]
    same_name = first_name >= TextLevel.SIMILAR
    level = np.where(
        one == other,
        np.where(same_name, SexLevel.EQUAL_WITH_ONE_NAME, SexLevel.EQUAL_WITH_OTHER_NAME),
        np.where(same_name, SexLevel.DIFFERENT_WITH_ONE_NAME, SexLevel.DIFFERENT_WITH_OTHER_NAME),
    )
    sex: IntArray = np.where((one == 0) | (other == 0), int(SexLevel.MISSING), level)
    return sex
