"""The rules of docs/legacy-mdw.md sections 1.2, 1.4 and 1.21, one small case each."""

from __future__ import annotations

import json

import pytest

from include.core.errors import MigrationError
from include.matching.deduplicate import MatchSettings
from tests.matching.people import Row, decisions, match, merges, person

BORN = "1985-03-04"
PAIR = ("1", "2")


@pytest.mark.parametrize(
    "other",
    [
        person(2, "Anna Hansen", BORN),
        person(2, " ANNA  hansen", BORN) | {"first_name": " ANNA", "last_name": "hansen "},
        person(2, "Ánna Hansén", BORN),
        person(2, "Hansen Anna", BORN),
        person(2, "Anna Hannsen", BORN),
        person(2, "Anna Jansen", BORN),
        person(2, "Anna Hansen", BORN, gender="female", email="anna@example.org"),
    ],
    ids=["equal", "spaces and case", "accents", "swapped", "doubled letter", "one slip", "more known"],
)
def test_the_same_person_is_merged(other: Row) -> None:
    assert decisions(match(person(1, "Anna Hansen", BORN), other)) == {PAIR: "auto_merged"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (person(1, "Anna Berg", BORN), person(2, "Anna Berg")),
        (person(1, "Anna Berg"), person(2, "Anna Berg")),
        (person(1, "Anna Berg", "9999-12-31"), person(2, "Anna Berg", "9999-12-31")),
        (person(1, "Anna Berg", BORN), person(2, "Anna Berg", "1985-04-03")),
        (person(1, "Anna Berg", BORN), person(2, "Anna Berg", "1986-03-04")),
        (person(1, "Anna Berg", BORN, gender="male"), person(2, "Anna Berg", BORN, gender="female")),
        (person(1, "Anna Berg", BORN), person(2, "A Berg", BORN)),
        (person(1, "A Berg", BORN), person(2, "A Berg", BORN)),
        (person(1, "Martin Berg", BORN), person(2, "Marvin Berg", BORN)),
        (person(1, "Anna Berg", BORN), person(2, "Anna Berg Holm", BORN)),
        (
            person(1, "Anna Berg", BORN, email="a@example.org"),
            person(2, "Anna Castellanos", BORN, email="a@example.org"),
        ),
        (
            person(1, "Anna Berg", BORN, email="a@example.org"),
            person(2, "Anna Berg", "1957-11-20", email="a@example.org"),
        ),
    ],
    ids=[
        "birth date missing once", "birth date missing twice", "impossible birth date",
        "day and month swapped", "one digit off", "sex clashes", "initial", "two initials",
        "twins with similar names", "double surname", "new surname, same address",
        "same name and address, other birth date",
    ],
)  # fmt: skip
def test_what_looks_alike_without_being_certain_waits_for_a_decision(one: Row, other: Row) -> None:
    result = match(one, other)
    assert decisions(result) == {PAIR: "pending"}
    assert merges(result) == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (person(1, "Anna Berg", BORN), person(2, "Peter Berg", BORN)),
        (person(1, "Anna Berg", BORN), person(2, "Anna Berg", "1957-11-20")),
        (
            person(1, "Anna Berg", "2010-03-04", email="family@example.org"),
            person(2, "Peter Berg", "2012-07-21", email="family@example.org"),
        ),
        (
            person(1, "Anna Berg", BORN, email="family@example.org"),
            person(2, "Peter Berg", BORN, email="family@example.org"),
        ),
        (person(1, None, BORN, email="a@example.org"), person(2, None, BORN, email="a@example.org")),
        (person(1, "Unknown Unknown", BORN), person(2, "Unknown Unknown", BORN)),
        (person(1, "- -", BORN), person(2, "- -", BORN)),
        (person(1, "佐藤 翼", BORN), person(2, "斎藤 愛", BORN)),
        (person(1, "Test1 Patient1"), person(2, "Test2 Patient2")),
    ],
    ids=[
        "twins", "parent and child", "siblings on one address", "twins on one address", "no names",
        "placeholder names", "punctuation", "Japanese names", "numbered test accounts",
    ],
)  # fmt: skip
def test_different_people_are_not_even_reported(one: Row, other: Row) -> None:
    assert decisions(match(one, other)) == {}


def test_an_empty_first_name_is_never_merged() -> None:
    result = match(*[person(number, None, BORN) | {"last_name": "Berg"} for number in (1, 2)])
    assert merges(result) == {}


def test_three_test_accounts_without_birth_date_wait_for_a_decision() -> None:
    result = match(*[person(number, "Test Patient") for number in (1, 2, 3)])
    assert set(decisions(result)) == {("1", "2"), ("1", "3"), ("2", "3")}
    assert set(decisions(result).values()) == {"pending"}


def test_a_placeholder_birth_date_joins_nobody() -> None:
    crowd = [person(100 + number, f"{chr(97 + number)}va Holm", "1970-01-01") for number in range(10)]
    result = match(person(1, "Anna Berg", "1970-01-01"), person(2, "Anna Berg", "1970-01-01"), *crowd)
    assert decisions(result) == {PAIR: "pending"}


def test_a_very_common_name_needs_more_than_name_and_birth_date() -> None:
    others = [person(100 + year, "Anna Berg", f"{1920 + year}-11-27") for year in range(45)]
    pair = [person(number, "Anna Berg", BORN, email="a@example.org") for number in (1, 2)]
    assert decisions(match(pair[0], pair[1] | {"email": None}, *others))[PAIR] == "pending"
    assert decisions(match(*pair, *others))[PAIR] == "auto_merged"


def test_a_chain_over_an_unknown_sex_is_given_up_as_a_whole() -> None:
    rows = [person(n, "Kim Berg", BORN, gender=sex) for n, sex in ((1, "male"), (2, None), (3, "female"))]
    result = match(*rows, person(4, "Eva Holm", BORN), person(5, "Eva Holm", BORN))
    assert merges(result) == {"5": "4"}
    assert {pair for pair, decision in decisions(result).items() if decision == "pending"} == {
        ("1", "2"),
        ("1", "3"),
        ("2", "3"),
    }
    explained = {row["left_id"] + row["right_id"]: row["explanation"] for row in result.pairs.to_pylist()}
    assert json.loads(explained["12"])["vetoes"] == ["cluster_clash"]
    assert json.loads(explained["13"])["vetoes"] == ["gender_differs"]


def test_a_cluster_too_large_to_be_checked_is_given_up() -> None:
    names = ["Annamaria Hansen", "Annammaria Hansen", "Annamaria Hansem"]
    rows = [person(number, name, BORN) for number, name in enumerate(names)]
    assert merges(match(*rows)) == {"1": "0", "2": "0"}
    assert merges(match(*rows, settings=MatchSettings(max_block=2))) == {}


def test_members_of_a_cluster_are_all_reported_as_merged() -> None:
    rows = [
        person(1, "Philipp Hansen", BORN),
        person(2, "Philip Hansen", BORN),
        person(3, "Phiilp Hansen", BORN),
    ]
    assert set(decisions(match(*rows)).values()) == {"auto_merged"}


def test_the_explanation_holds_levels_and_weights_but_no_value() -> None:
    result = match(
        person(1, "Anna Berg", BORN, gender="female", email="a@example.org"),
        person(2, "Anna Berg", gender="female", email="a@example.org"),
    )
    (text,) = result.pairs["explanation"].to_pylist()
    explanation = json.loads(text)
    assert {field: entry["level"] for field, entry in explanation.items() if isinstance(entry, dict)} == {
        "first_name": "equal",
        "last_name": "equal",
        "name_frequency": "rare",
        "birth_date": "missing",
        "gender": "equal",
        "email": "equal",
    }
    assert explanation["vetoes"] == ["birth_date_missing"]
    bits = explanation["prior"] + sum(e["weight"] for e in explanation.values() if isinstance(e, dict))
    assert result.pairs["score"].to_pylist() == [pytest.approx(1 / (1 + 2**-bits))]
    assert not any(value in text.casefold() for value in ("anna", "berg", "1985", "@", "example"))


def test_ids_are_compared_as_numbers() -> None:
    assert set(decisions(match(person(10, "Anna Berg", BORN), person(9, "Anna Berg", BORN)))) == {("9", "10")}


def test_thresholds_move_decisions() -> None:
    rows = [person(1, "Anna Berg", BORN), person(2, "Anna Berg", BORN), person(3, "Anna Berg")]
    assert decisions(match(*rows, settings=MatchSettings(merge_at=1.0)))[PAIR] == "pending"
    assert set(decisions(match(*rows, settings=MatchSettings(review_at=0.95)))) == {PAIR}


@pytest.mark.parametrize("rows", [[], [person(1, "Anna Berg", BORN)], [person(1, None), person(2, None)]])
def test_nothing_to_compare_gives_empty_tables(rows: list[Row]) -> None:
    result = match(*rows)
    assert (result.pairs.num_rows, result.survivors.num_rows) == (0, 0)
    assert result.pairs.column_names == ["left_id", "right_id", "score", "explanation", "decision"]


@pytest.mark.parametrize(
    "values", [{"merge_at": 1.1}, {"review_at": -0.1}, {"merge_at": 0.5, "review_at": 0.6}, {"max_block": 1}]
)
def test_settings_outside_their_limits_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(MigrationError) as caught:
        MatchSettings(**values)  # type: ignore[arg-type]
    assert caught.value.code == "PARAM_INVALID"


def test_a_key_shared_by_too_many_is_counted_and_logged_without_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    result = match(*[person(n, "Anna Berg", BORN) for n in range(5)], settings=MatchSettings(max_block=4))
    assert result.blocking[0].skipped_people == 5
    assert "5 people" in caplog.text
    assert "anna" not in caplog.text.casefold()


def test_many_people_of_few_names_stay_within_the_bound() -> None:
    rows = [
        person(
            n, f"Anna{chr(97 + n % 5)} Berg{chr(97 + n % 7)}", f"{1930 + n % 80}-0{n % 9 + 1}-{n % 27 + 1:02}"
        )
        for n in range(3_000)
    ]
    result = match(*rows, settings=MatchSettings(max_block=30))
    assert all(counts.pairs <= 3_000 * 30 / 2 for counts in result.blocking)
