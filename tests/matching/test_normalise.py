from __future__ import annotations

import pytest

from include.core.errors import MigrationError
from include.matching.normalise import DateRules, email_key, encode, fold_latin_accents, name_key
from tests.matching.people import encoded, person, table


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("  Anna   Maria ", "anna maria"),
        ("MÜLLER", "muller"),
        ("Straße", "strasse"),
        ("Łukasz Sørensen", "lukasz sorensen"),
        ("O'Neil", "oneil"),
        ("O´Neil", "oneil"),
        ("Anna-Maria", "anna maria"),
        ("ＡＮＮＡ", "anna"),
        ("İpek", "ipek"),
        ("So\u00adphie\u200b", "sophie"),
    ],
)
def test_a_latin_name_loses_case_accents_and_punctuation(name: str, key: str) -> None:
    assert name_key(name) == key


@pytest.mark.parametrize(
    ("one", "other"), [("か", "が"), ("ハハ", "パパ"), ("佐藤", "斎藤"), ("ป่า", "ป้า"), ("й", "и"), ("ΐ", "ι")]
)
def test_marks_of_other_scripts_tell_names_apart(one: str, other: str) -> None:
    assert name_key(one) != name_key(other)
    assert fold_latin_accents(one) == one


def test_half_and_full_width_kana_are_one_name() -> None:
    assert name_key("ｻﾄｳ") == name_key("サトウ") != ""


@pytest.mark.parametrize(
    "name", ["", "  ", "-", "???", "123", "Unknown", "N/A", "n.a.", "NULL", "xxx", "不明", "ไม่ทราบ"]
)
def test_empty_and_placeholder_names_have_no_key(name: str) -> None:
    assert name_key(name) == ""


@pytest.mark.parametrize("name", ["Na", "Xu", "Li", "Ng", "翼"])
def test_short_real_names_keep_their_key(name: str) -> None:
    assert name_key(name) != ""


def test_addresses_differ_neither_in_case_nor_in_outer_spaces() -> None:
    assert email_key(" Anna@Example.ORG ") == "anna@example.org"


@pytest.mark.parametrize(
    "date",
    [
        None,
        "9999-12-31",
        "0999-01-01",
        "0044-03-15 BC",
        "1900-01-01",
        "1899-12-30",
        "infinity",
        "12345-01-01",
    ],
)
def test_impossible_birth_dates_count_as_missing(date: str | None) -> None:
    assert encoded(person(1, "Anna Berg", date)).birth.tolist() == [0]


def test_a_birth_date_far_above_its_expected_frequency_counts_as_missing() -> None:
    rows = [person(number, f"Anna{chr(97 + number)} Berg", "1970-01-01") for number in range(9)]
    rows.append(person(99, "Eva Holm", "1970-02-01"))
    assert encoded(*rows).birth.tolist() == [0] * 9 + [19700201]


def test_a_birth_date_of_few_people_or_of_one_person_many_times_is_kept() -> None:
    few = [person(number, f"Anna{chr(97 + number)} Berg", "1970-01-01") for number in range(7)]
    one = [person(number, "Anna Berg", "1970-01-01") for number in range(30)]
    assert 0 not in encoded(*few).birth
    assert 0 not in encoded(*one).birth


def test_a_frequent_birth_date_is_kept_where_the_whole_year_is_as_frequent() -> None:
    rules = DateRules(floor=2, factor=6.0)
    rows = [
        person(
            day * 10 + copy,
            f"{chr(97 + copy)}nna{chr(97 + month)} B{chr(97 + day)}rg",
            f"2001-{month:02}-{day:02}",
        )
        for month in range(1, 13)
        for day in range(1, 29)
        for copy in range(2)
    ]
    rows = [row | {"legacy_id": str(number)} for number, row in enumerate(rows)]
    assert 0 not in encoded(*rows, rules=rules).birth


def test_people_are_ordered_by_the_number_in_their_id() -> None:
    rows = [person(number, "Anna Berg") for number in (10, -1, 9)]
    assert encoded(*rows).legacy_id.tolist() == ["-1", "9", "10"]


@pytest.mark.parametrize("ids", [["1", "1"], ["1", "x"], ["1", None], ["1", "1.5"]])
def test_ids_that_are_no_distinct_integers_are_an_error(ids: list[str | None]) -> None:
    rows = [person(0, "Anna Berg") | {"legacy_id": legacy_id} for legacy_id in ids]
    with pytest.raises(MigrationError, match="legacy_id") as caught:
        encoded(*rows)
    assert caught.value.code == "TRANSFORM_FAILED"


def test_a_missing_column_is_named() -> None:
    with pytest.raises(MigrationError, match="email"):
        encode(table([person(1, "Anna Berg")]).drop_columns(["email"]), DateRules(), 8)
