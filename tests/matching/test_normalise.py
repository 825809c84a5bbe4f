from __future__ import annotations

import pytest

from include.core.errors import MigrationError
from include.matching.learning import find_placeholders
from include.matching.nicknames import nickname_root
from include.matching.normalise import (
    birth_code,
    email_key,
    fold_latin_accents,
    loose_key,
    name_key,
    sound_key,
)
from include.matching.people import encode, without_placeholders
from tests.matching.people import Row, encoded, person, table


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
    "address", ["none@none.com", "no-reply", "", "@", "test@x.org", "unknown1@y.org", "a@"]
)
def test_placeholder_addresses_have_no_key(address: str) -> None:
    assert email_key(address) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Jürgen", "Juergen"), ("Jürgen", "Jurgen"), ("Sørensen", "Soerensen"), ("Ångström", "Aangstroem"),
        ("Groß", "Gross"), ("Groß", "Gros"), ("Turner", "Tumer"), ("Philipp", "Philip"), ("M0rris", "Moris"),
    ],
)  # fmt: skip
def test_transliterated_and_misread_names_have_one_loose_key(one: str, other: str) -> None:
    assert loose_key(name_key(one)) == loose_key(name_key(other)) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Meyer", "Maier"),
        ("Schmidt", "Schmitt"),
        ("Philip", "Filip"),
        ("Catherine", "Kathrin"),
        ("Knut", "Nut"),
    ],
)
def test_names_that_sound_alike_have_one_sound_key(one: str, other: str) -> None:
    assert sound_key(name_key(one)) == sound_key(name_key(other)) != ""


@pytest.mark.parametrize(
    ("one", "other"), [("佐藤", "斎藤"), ("Иван", "Игор"), ("محمد", "أحمد"), ("Berg", "Holm")]
)
def test_looser_keys_keep_scripts_apart(one: str, other: str) -> None:
    assert loose_key(name_key(one)) != loose_key(name_key(other))
    assert sound_key(name_key(one)) != sound_key(name_key(other))


def test_every_form_of_a_name_leads_to_one_root() -> None:
    assert nickname_root("bill") == nickname_root("wilhelm") == nickname_root("william")
    assert nickname_root("bob maria") == nickname_root("robert")
    assert nickname_root("anselm") == "anselm"


@pytest.mark.parametrize(
    "date",
    ["9999-12-31", "0999-01-01", "0044-03-15 BC", "1900-01-01", "1899-12-30", "infinity", "12345-01-01", ""],
)
def test_what_is_no_birth_date_counts_as_missing(date: str) -> None:
    assert birth_code(date) == 0


def test_a_date_is_its_digits() -> None:
    assert birth_code("1985-03-04") == 0x19850304


def test_a_birth_date_far_above_its_expected_frequency_counts_as_missing() -> None:
    rows = [person(number, f"Anna{chr(97 + number)} Berg", "1970-01-01") for number in range(9)]
    rows.append(person(99, "Eva Holm", "1970-02-01"))
    assert _births(*rows) == [0] * 9 + [0x19700201]


def test_a_birth_date_of_few_people_or_of_one_person_many_times_is_kept() -> None:
    few = [person(number, f"Anna{chr(97 + number)} Berg", "1970-01-01") for number in range(7)]
    one = [person(number, "Anna Berg", "1970-01-01") for number in range(30)]
    assert 0 not in _births(*few)
    assert 0 not in _births(*one)


def test_a_frequent_birth_date_is_kept_where_the_whole_year_is_as_frequent() -> None:
    rows = [
        person(n, f"{chr(97 + n % 10)}nna{chr(97 + n // 280)} B{chr(97 + n // 10 % 26)}rg", day)
        for n, day in enumerate(
            f"2001-{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 29) for _ in range(10)
        )
    ]
    assert 0 not in _births(*rows)


def test_an_address_of_many_names_counts_as_missing() -> None:
    def addresses(count: int) -> list[int]:
        rows = [person(n, f"{chr(97 + n)}nna Berg", email="office@example.org") for n in range(count)]
        people = encoded(*rows)
        return without_placeholders(people, find_placeholders(people, 8)).email.code.tolist()

    assert addresses(8) == [1] * 8
    assert addresses(9) == [0] * 9


def _births(*rows: Row) -> list[int]:
    people = encoded(*rows)
    return without_placeholders(people, find_placeholders(people, 8)).birth.tolist()


def test_people_are_ordered_by_the_number_in_their_id() -> None:
    rows = [person(number, "Anna Berg") for number in (10, -1, 9)]
    assert encoded(*rows).legacy_id.tolist() == ["-1", "9", "10"]


@pytest.mark.parametrize("ids", [["1", "1"], ["1", "x"], ["1", None], ["1", "1.5"]])
def test_ids_that_are_no_distinct_integers_are_an_error(ids: list[str | None]) -> None:
    rows = [person(0, "Anna Berg") | {"legacy_id": legacy_id} for legacy_id in ids]
    with pytest.raises(MigrationError, match="legacy_id") as caught:
        encoded(*rows)
    assert caught.value.code == "TRANSFORM_FAILED"


def test_a_missing_column_is_all_null() -> None:
    people = encode(table([person(1, "Anna Berg", email="a@example.org")]).select(["legacy_id"]), ("suffix",))
    assert (people.first.tolist(), people.email.code.tolist(), people.filled.tolist()) == ([0], [0], [0])
