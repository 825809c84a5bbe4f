from __future__ import annotations

import numpy as np
import pytest

from include.matching.comparison import (
    BirthLevel,
    Comparison,
    EmailLevel,
    GenderLevel,
    NameFrequencyLevel,
    NameLevel,
    compare_codes,
    resolve,
)
from tests.matching.people import Row, encoded, person


def compared(*rows: Row, crowded_email: int = 8) -> Comparison:
    """The comparison of the first two rows."""
    people = encoded(*rows, crowded_email=crowded_email)
    return resolve(people, compare_codes(people, np.array([0]), np.array([1])))


def named(first: str | None, last: str | None, legacy_id: int) -> Row:
    return person(legacy_id, None) | {"first_name": first, "last_name": last}


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        ("Anna", "ANNA", NameLevel.EQUAL),
        ("Anna-Maria", "Annamaria", NameLevel.EQUAL),
        ("René", "Rene", NameLevel.EQUAL),
        ("Michael", "Micheal", NameLevel.NEAR),
        ("Philipp", "Philip", NameLevel.NEAR),
        ("Martin", "Marvin", NameLevel.SIMILAR),
        ("Christian", "Christina", NameLevel.SIMILAR),
        ("Daniel", "Daniela", NameLevel.SIMILAR),
        ("Anna", "Anna Maria", NameLevel.SIMILAR),
        ("A", "Anna", NameLevel.INITIAL),
        ("A.", "A", NameLevel.INITIAL),
        ("翼", "翼", NameLevel.EQUAL),
        ("Anna", "Peter", NameLevel.DIFFERENT),
        ("佐藤", "斎藤", NameLevel.DIFFERENT),
        ("Test1", "Test2", NameLevel.DIFFERENT),
        ("Anna", None, NameLevel.MISSING),
        (None, None, NameLevel.MISSING),
        ("Unknown", "Unknown", NameLevel.MISSING),
    ],
)
def test_first_names(one: str | None, other: str | None, level: NameLevel) -> None:
    assert compared(named(one, "Berg", 1), named(other, "Berg", 2)).first_name.tolist() == [level]
    assert compared(named(other, "Berg", 1), named(one, "Berg", 2)).first_name.tolist() == [level]


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        ("Hansen", "Jansen", NameLevel.NEAR),
        ("Schmidt", "Schmitt", NameLevel.NEAR),
        ("Berg", "Burg", NameLevel.SIMILAR),
        ("Berg", "Berg Holm", NameLevel.SIMILAR),
        ("van der Berg", "Vanderberg", NameLevel.EQUAL),
        ("Patient1", "Patient2", NameLevel.DIFFERENT),
        ("Berg", "Castellanos", NameLevel.DIFFERENT),
    ],
)
def test_last_names(one: str, other: str, level: NameLevel) -> None:
    assert compared(named("Anna", one, 1), named("Anna", other, 2)).last_name.tolist() == [level]


@pytest.mark.parametrize(
    ("one", "other"),
    [(("Anna", "Berg"), ("Berg", "Anna")), (("Anna Maria", "Berg"), ("Anna", "Maria Berg"))],
)
def test_the_same_words_in_other_places_are_reordered(one: tuple[str, str], other: tuple[str, str]) -> None:
    pair = compared(named(*one, 1), named(*other, 2))
    assert pair.first_name.tolist() == pair.last_name.tolist() == [NameLevel.REORDERED]


def test_a_swapped_initial_is_no_whole_name() -> None:
    pair = compared(named("J", "Smith", 1), named("Smith", "J", 2))
    assert NameLevel.REORDERED not in (pair.first_name[0], pair.last_name[0])


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        ("1985-03-04", "1985-03-04", BirthLevel.EQUAL),
        ("1985-03-04", "1985-04-03", BirthLevel.DAY_MONTH_SWAPPED),
        ("1985-03-04", "1986-03-04", BirthLevel.ONE_DIGIT_OFF),
        ("1985-03-04", "1985-03-31", BirthLevel.TWO_DIGITS_OFF),
        ("1985-03-04", "1957-11-20", BirthLevel.DIFFERENT),
        ("1985-03-04", None, BirthLevel.MISSING),
        ("9999-12-31", "9999-12-31", BirthLevel.MISSING),
    ],
)
def test_birth_dates(one: str | None, other: str | None, level: BirthLevel) -> None:
    assert compared(person(1, "Anna Berg", one), person(2, "Anna Berg", other)).birth_date.tolist() == [level]


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        ("male", "male", GenderLevel.EQUAL),
        ("male", "female", GenderLevel.DIFFERENT),
        ("male", "other", GenderLevel.DIFFERENT),
        ("male", None, GenderLevel.MISSING),
        (None, None, GenderLevel.MISSING),
    ],
)
def test_sexes(one: str | None, other: str | None, level: GenderLevel) -> None:
    pair = compared(person(1, "Anna Berg", gender=one), person(2, "Anna Berg", gender=other))
    assert pair.gender.tolist() == [level]


@pytest.mark.parametrize(
    ("name", "address", "level"),
    [
        ("Anna Berg", "A@example.org", EmailLevel.EQUAL),
        ("Anna Holm", "a@example.org", EmailLevel.EQUAL),
        ("Peter Berg", "a@example.org", EmailLevel.SHARED),
        ("Anna Berg", "b@example.org", EmailLevel.DIFFERENT),
        ("Anna Berg", None, EmailLevel.MISSING),
    ],
)
def test_an_equal_address_counts_only_with_a_compatible_name(
    name: str, address: str | None, level: EmailLevel
) -> None:
    pair = compared(person(1, "Anna Berg", email="a@example.org"), person(2, name, email=address))
    assert pair.email.tolist() == [level]


def test_an_address_of_many_names_is_shared_whoever_has_it() -> None:
    rows = [person(number, f"{chr(97 + number)}nna Berg", email="office@example.org") for number in range(4)]
    rows.insert(0, person(-1, "anna Berg", email="office@example.org"))
    assert compared(*rows, crowded_email=3).email.tolist() == [EmailLevel.SHARED]
    assert compared(*rows, crowded_email=4).email.tolist() == [EmailLevel.EQUAL]


@pytest.mark.parametrize(
    ("dates", "level"),
    [
        (0, NameFrequencyLevel.RARE),
        (2, NameFrequencyLevel.RARE),
        (3, NameFrequencyLevel.REPEATED),
        (10, NameFrequencyLevel.COMMON),
        (40, NameFrequencyLevel.VERY_COMMON),
    ],
)
def test_the_frequency_of_a_name_is_the_number_of_its_birth_dates(
    dates: int, level: NameFrequencyLevel
) -> None:
    rows = [person(1, "Anna Berg"), person(2, "Anna Berg")]
    rows += [person(10 + number, "Anna Berg", f"{1920 + number}-05-06") for number in range(dates)]
    assert compared(*rows).name_frequency.tolist() == [level]
    assert compared(person(0, "Eva Holm"), *rows).name_frequency.tolist() == [NameFrequencyLevel.OTHER]
