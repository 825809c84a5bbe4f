from __future__ import annotations

import pytest

from include.matching.levels import BirthLevel, EmailLevel, OrderLevel, SexLevel, TextLevel
from tests.matching.people import Row, compared, person


def named(first: str | None, last: str | None, legacy_id: int) -> Row:
    return person(legacy_id, None) | {"first_name": first, "last_name": last}


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        ("Anna", "ANNA", TextLevel.EQUAL),
        ("Anna-Maria", "Annamaria", TextLevel.EQUAL),
        ("René", "Rene", TextLevel.EQUAL),
        ("Michael", "Micheal", TextLevel.NEAR),
        ("Philipp", "Philip", TextLevel.NEAR),
        ("Martin", "Marvin", TextLevel.NEAR),
        ("Jürgen", "Juergen", TextLevel.NEAR),
        ("Søren", "Soeren", TextLevel.NEAR),
        ("Arnold", "Amold", TextLevel.NEAR),
        ("Charlotte", "Charl0tte", TextLevel.NEAR),
        ("William", "Bill", TextLevel.NICKNAME),
        ("Robert", "Bob", TextLevel.NICKNAME),
        ("Alexander", "Alexand", TextLevel.PART),
        ("Anna", "Anna Maria", TextLevel.PART),
        ("Maria", "Anna Maria", TextLevel.PART),
        ("A", "Anna", TextLevel.INITIAL),
        ("A.", "A", TextLevel.INITIAL),
        ("B", "Anna", TextLevel.DIFFERENT),
        ("翼", "翼", TextLevel.EQUAL),
        ("Сергей", "Сергеи", TextLevel.NEAR),
        ("محمد", "محمود", TextLevel.NEAR),
        ("佐藤", "斎藤", TextLevel.DIFFERENT),
        ("Anna", "Peter", TextLevel.DIFFERENT),
        ("Test1", "Test2", TextLevel.DIFFERENT),
        ("Anna", None, TextLevel.MISSING),
        ("Unknown", "Unknown", TextLevel.MISSING),
    ],
)
def test_first_names(one: str | None, other: str | None, level: TextLevel) -> None:
    for left, right in ((one, other), (other, one)):
        pair = compared(named(left, "Berg", 1), named(right, "Berg", 2))
        assert pair.level["first_name"].tolist() == [level]


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        ("Hansen", "Jansen", TextLevel.NEAR),
        ("Weiß", "Weiss", TextLevel.EQUAL),
        ("Berg", "Berg-Holm", TextLevel.PART),
        ("van der Berg", "Vanderberg", TextLevel.EQUAL),
        ("Gonzalez", "Gonsales", TextLevel.SIMILAR),
        ("Patient1", "Patient2", TextLevel.DIFFERENT),
        ("Berg", "Castellanos", TextLevel.DIFFERENT),
    ],
)
def test_last_names(one: str, other: str, level: TextLevel) -> None:
    pair = compared(named("Anna", one, 1), named("Anna", other, 2))
    assert pair.level["last_name"].tolist() == [level]


def test_swapped_names_are_compared_crosswise() -> None:
    pair = compared(named("Anna", "Hansen", 1), named("Hanssen", "Anna", 2))
    assert pair.level["name_order"].tolist() == [OrderLevel.SWAPPED]
    assert pair.level["first_name"].tolist() == [TextLevel.EQUAL]
    assert pair.level["last_name"].tolist() == [TextLevel.NEAR]


def test_names_that_agree_where_they_stand_are_not_swapped() -> None:
    pair = compared(named("Martin", "Paul", 1), named("Paul", "Paul", 2))
    assert pair.level["name_order"].tolist() == [OrderLevel.STRAIGHT]


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        ("1985-03-04", "1985-03-04", BirthLevel.EQUAL),
        ("1985-03-04", "1985-04-03", BirthLevel.DAY_MONTH_SWAPPED),
        ("1985-03-04", "1986-03-04", BirthLevel.ONE_SLIP),
        ("1985-03-04", "1958-03-04", BirthLevel.ONE_SLIP),
        ("1985-03-12", "1985-03-21", BirthLevel.ONE_SLIP),
        ("1985-03-04", "1985-03-31", BirthLevel.TWO_PARTS),
        ("1985-03-04", "1995-03-14", BirthLevel.TWO_DIGITS_OFF),
        ("1985-03-04", "1957-11-20", BirthLevel.DIFFERENT),
        ("1985-13-44", "1985-13-44", BirthLevel.EQUAL),
        ("1985-03-04", None, BirthLevel.MISSING),
        ("9999-12-31", "9999-12-31", BirthLevel.MISSING),
    ],
)
def test_birth_dates(one: str, other: str | None, level: BirthLevel) -> None:
    for left, right in ((one, other), (other, one)):
        pair = compared(person(1, "Anna Berg", left), person(2, "Anna Berg", right))
        assert pair.level["date_of_birth"].tolist() == [level]


@pytest.mark.parametrize(
    ("name", "one", "other", "level"),
    [
        ("Anna", "male", "male", SexLevel.EQUAL_WITH_ONE_NAME),
        ("Anna", "male", "female", SexLevel.DIFFERENT_WITH_ONE_NAME),
        ("Peter", "male", "male", SexLevel.EQUAL_WITH_OTHER_NAME),
        ("Peter", "male", "female", SexLevel.DIFFERENT_WITH_OTHER_NAME),
        ("Anna", "male", "other", SexLevel.MISSING),
        ("Anna", None, None, SexLevel.MISSING),
    ],
)
def test_sexes_are_compared_given_the_first_names(
    name: str, one: str | None, other: str | None, level: SexLevel
) -> None:
    pair = compared(person(1, "Anna Berg", gender=one), person(2, f"{name} Berg", gender=other))
    assert pair.level["gender"].tolist() == [level]


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        ("sunny77@example.org", "Sunny77@example.org", EmailLevel.EQUAL),
        ("sunny77@example.org", "suny77@example.org", EmailLevel.ONE_SLIP),
        ("anna.berg@example.org", "ana.berg@example.org", EmailLevel.DIFFERENT),
        ("sunny77@example.org", "cloud@example.org", EmailLevel.DIFFERENT),
        ("none@none.com", "none@none.com", EmailLevel.MISSING),
        ("not an address", "not an address", EmailLevel.MISSING),
        ("sunny77@example.org", None, EmailLevel.MISSING),
    ],
    ids=["equal", "slip", "slip in the name", "different", "placeholder", "no address", "missing"],
)
def test_a_slip_in_an_address_made_of_the_name_is_no_evidence(
    one: str, other: str | None, level: EmailLevel
) -> None:
    pair = compared(person(1, "Anna Berg", email=one), person(2, "Anna Berg", email=other))
    assert pair.level["email"].tolist() == [level]


def test_the_rarity_of_a_shared_name_leaves_the_pair_out() -> None:
    others = [person(number, f"Eva{number} Smith", f"19{number}-01-02") for number in range(10, 60)]
    rare = compared(
        person(1, "Anna Zwackhals", "1950-01-02"), person(2, "Anna Zwackhals", "1950-01-02"), *others
    )
    lone = compared(
        person(1, "Anna Zwackhals", "1950-01-02"), person(2, "Anna Zwackhols", "1950-01-02"), *others
    )
    common = compared(person(1, "Anna Smith", "1950-01-02"), person(2, "Anna Smith", "1950-01-02"), *others)
    assert rare.rarity["last_name"] == pytest.approx(lone.rarity["last_name"], abs=0.01)
    assert rare.rarity["last_name"] > common.rarity["last_name"] + 3
