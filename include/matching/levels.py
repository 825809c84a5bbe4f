"""The levels at which two values of a field can agree, from nothing to compare upwards."""

from __future__ import annotations

from enum import IntEnum


class TextLevel(IntEnum):
    """How two names, or two values of a further column, agree.

    NEAR is one slip (insertion, deletion, other letter, two letters in the wrong order) or another
    transliteration; PART is a shortened name or some of several words; INITIAL is a single letter.
    """

    MISSING = 0
    DIFFERENT = 1
    INITIAL = 2
    ALIKE = 3
    SIMILAR = 4
    PART = 5
    NICKNAME = 6
    NEAR = 7
    EQUAL = 8


class BirthLevel(IntEnum):
    """How two birth dates agree; TWO_PARTS: two of day, month and year are the same."""

    MISSING = 0
    DIFFERENT = 1
    TWO_DIGITS_OFF = 2
    TWO_PARTS = 3
    ONE_SLIP = 4
    DAY_MONTH_SWAPPED = 5
    EQUAL = 6


class SexLevel(IntEnum):
    """How two sexes agree, given whether the first names do: a first name nearly always tells the sex."""

    MISSING = 0
    DIFFERENT_WITH_OTHER_NAME = 1
    EQUAL_WITH_OTHER_NAME = 2
    DIFFERENT_WITH_ONE_NAME = 3
    EQUAL_WITH_ONE_NAME = 4


class EmailLevel(IntEnum):
    """How two e-mail addresses agree; ONE_SLIP only in addresses that are not made of the name."""

    MISSING = 0
    DIFFERENT = 1
    ONE_SLIP = 2
    EQUAL = 3


class OrderLevel(IntEnum):
    """Whether first and last name stand in the same places."""

    STRAIGHT = 0
    SWAPPED = 1


class FamilyLevel(IntEnum):
    """Whether two records may be two people of one family; told, not compared."""

    UNLIKELY = 0
    POSSIBLE = 1


LEVELS: dict[str, type[IntEnum]] = {
    "first_name": TextLevel,
    "last_name": TextLevel,
    "name_order": OrderLevel,
    "date_of_birth": BirthLevel,
    "gender": SexLevel,
    "email": EmailLevel,
    "family": FamilyLevel,
}


def levels_of(field: str) -> type[IntEnum]:
    """The levels of a field; further columns are compared as texts."""
    return LEVELS.get(field, TextLevel)
