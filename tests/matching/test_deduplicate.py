"""What is merged, what waits and what is left alone: small cases from docs/legacy-mdw.md sections 1.2, 1.4, 1.21."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace

import numpy as np
import pytest

from include.core.errors import MigrationError
from include.matching import scoring
from include.matching.deduplicate import MatchSettings, compare, decide, learn
from include.matching.learning import learn_model
from include.matching.scoring import Scorer
from tests.matching.people import Row, decided, decisions, encoded, match, merges, person, table, vetoes

BORN = "1985-03-04"
PAIR = ("1", "2")
ANNA = person(1, "Anna Hansen", BORN, gender="female")


@pytest.mark.parametrize(
    "other",
    [
        person(2, "Anna Hansen", BORN),
        person(2, "ANNA  hansen", BORN) | {"first_name": " ANNA", "last_name": "hansen "},
        person(2, "Ánna Hansén", BORN),
        person(2, "Hansen Anna", BORN),
        person(2, "Anna Hannsen", BORN),
        person(2, "Anna Hansen", BORN, gender="female", email="sunny77@example.org"),
    ],
    ids=["equal", "spaces and case", "accents", "swapped", "doubled letter", "more known"],
)
def test_the_same_person_is_merged(other: Row) -> None:
    assert decisions(match(ANNA, other)) == {PAIR: "auto_merged"}


@pytest.mark.parametrize(
    ("one", "other", "veto"),
    [
        (ANNA, person(2, "Anna Hansen"), "birth_date_missing"),
        (ANNA, person(2, "Anna Hansen", "9999-12-31"), "birth_date_missing"),
        (ANNA, person(2, "Anna Hansen", BORN, gender="male"), "sex_differs"),
        (ANNA, person(2, "A Hansen", BORN), "first_name_initial"),
        (person(1, "A Berg", BORN), person(2, "A Berg", BORN), "first_name_initial"),
        (person(1, "Martin Berg", BORN), person(2, "Marvin Berg", BORN), "first_name_of_another"),
        (
            person(1, "Anna Berg", BORN, email="sunny77@example.org"),
            person(2, "Anna Berg", "1957-11-20", email="sunny77@example.org"),
            "birth_date_differs",
        ),
        (
            person(1, "Anna Berg", "1985-03-04", email="sunny77@example.org"),
            person(2, "Anna Berg", "1955-03-04", email="sunny77@example.org"),
            "birth_date_differs",
        ),
        (
            person(1, None, BORN, email="sunny77@example.org") | {"last_name": "Berg"},
            person(2, None, BORN, email="sunny77@example.org") | {"last_name": "Berg"},
            "name_missing",
        ),
    ],
    ids=[
        "no birth date", "impossible birth date", "sex", "initial", "two initials", "twins with similar names",
        "parent and child with one name and address", "a generation apart by one digit", "no first name",
    ],
)  # fmt: skip
def test_what_looks_alike_without_being_certain_waits_for_a_person(one: Row, other: Row, veto: str) -> None:
    result = match(one, other)
    assert decisions(result) == {PAIR: "pending"}
    assert merges(result) == {}
    assert veto in vetoes(result)[PAIR]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (person(1, "Anna Berg", BORN), person(2, "Peter Berg", BORN)),
        (
            person(1, "Anna Berg", BORN, email="family@example.org"),
            person(2, "Peter Berg", BORN, email="family@example.org"),
        ),
        (
            person(1, "Anna Berg", "2010-03-04", email="family@example.org"),
            person(2, "Peter Berg", "2012-07-21", email="family@example.org"),
        ),
        (person(1, "Anna Berg", BORN), person(2, "Anna Berg", "1957-11-20")),
        (
            person(1, "Anna Berg", BORN, email="family@example.org", practice_id="1", primary_doctor_id="2"),
            person(2, "Ida Berg", BORN, email="family@example.org", practice_id="1", primary_doctor_id="2"),
        ),
        (person(1, "佐藤 翼", BORN), person(2, "斎藤 愛", BORN)),
        (person(1, "Test1 Patient1"), person(2, "Test2 Patient2")),
        (person(1, "Unknown Unknown", BORN), person(2, "Unknown Unknown", BORN)),
    ],
    ids=[
        "twins", "twins on one address", "siblings on one address", "parent and child", "twins in all respects",
        "Japanese names", "numbered test accounts", "placeholder names",
    ],
)  # fmt: skip
def test_different_people_are_never_merged(one: Row, other: Row) -> None:
    for merge_at in (0.99, 0.06):
        assert merges(match(one, other, settings=MatchSettings(merge_at=merge_at))) == {}


def test_strangers_are_not_reported() -> None:
    assert decisions(match(ANNA, person(2, "Peter Castellanos", "1957-11-20"))) == {}
    assert decisions(match(ANNA, person(2, "Anna Berg", "1957-11-20"))) == {}


@pytest.mark.parametrize(
    ("score", "more", "held"),
    [
        (0.9995, {"email": "sunny77@example.org"}, False),
        (0.9995, {"suffix": "77QX"}, False),
        (0.9995, {}, True),
        (0.995, {"email": "sunny77@example.org"}, True),
    ],
    ids=["address", "suffix", "names alone", "not overwhelming"],
)
def test_a_missing_birth_date_is_outweighed_by_overwhelming_evidence_alone(
    score: float, more: dict[str, str], held: bool
) -> None:
    people = encoded(*[person(n, "Ottokar Zwackhals", **more) for n in (1, 2)])
    scorer = Scorer(people, learn_model(people, MatchSettings()))
    scored = replace(scorer.compare(np.array([0]), np.array([1])), score=np.array([score]))
    assert scoring.vetoes(scorer, scored)["birth_date_missing"].tolist() == [held]


def test_a_placeholder_birth_date_joins_nobody() -> None:
    crowd = [person(100 + number, f"{chr(97 + number)}va Holm", "1970-01-01") for number in range(10)]
    result = match(person(1, "Anna Berg", "1970-01-01"), person(2, "Anna Berg", "1970-01-01"), *crowd)
    assert merges(result) == {}
    assert vetoes(result)[PAIR] == ["birth_date_missing"]


def test_a_rare_name_says_more_than_a_common_one() -> None:
    years = range(1920, 1990)
    crowd = [person(100 + year, "Anna Smith", f"{year}-11-27") for year in years]
    rare = [person(1, "Ottokar Zwackhals", BORN), person(2, "Ottokar Zwackhals", None)]
    common = [person(3, "Anna Smith", BORN), person(4, "Anna Smith", None)]
    score = {
        (row["left_id"], row["right_id"]): row["score"]
        for row in match(*rare, *common, *crowd).pairs.to_pylist()
    }
    assert score["1", "2"] > 0.99
    assert score["3", "4"] < 0.8


def test_nobody_is_joined_over_a_third_who_agrees_with_both() -> None:
    rows = [
        person(n, "Kim Zwackhals", BORN, gender=sex) for n, sex in ((1, "male"), (2, None), (3, "female"))
    ]
    merged = merges(match(*rows))
    assert len(merged) == 1
    assert set(merged) | set(merged.values()) != {"1", "3"}


def test_ids_are_compared_as_numbers() -> None:
    assert set(decisions(match(person(10, "Anna Berg", BORN), person(9, "Anna Berg", BORN)))) == {("9", "10")}


def test_thresholds_move_decisions() -> None:
    rows = [ANNA, person(2, "Anna Hansen", BORN), person(3, "Anna Hansen")]
    assert decisions(match(*rows, settings=MatchSettings(merge_at=1.0)))[PAIR] == "pending"
    assert set(decisions(match(*rows, settings=MatchSettings(review_at=0.98)))) == {PAIR}


@pytest.mark.parametrize("rows", [[], [person(1, "Anna Berg", BORN)], [person(1, None), person(2, None)]])
def test_nothing_to_compare_gives_empty_tables(rows: list[Row]) -> None:
    result = match(*rows)
    assert (result.pairs.num_rows, result.survivors.num_rows, result.contradictions.num_rows) == (0, 0, 0)
    assert result.pairs.column_names == ["left_id", "right_id", "score", "explanation", "decision"]


@pytest.mark.parametrize(
    "values",
    [
        {"merge_at": 1.1},
        {"review_at": -0.1},
        {"merge_at": 0.5, "review_at": 0.6},
        {"workers": 0},
        {"crowded": 0},
        {"evidence": ("email",)},
        {"evidence": ("phone", "phone")},
    ],
)
def test_settings_outside_their_limits_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(MigrationError) as caught:
        MatchSettings(**values)  # type: ignore[arg-type]
    assert caught.value.code == "PARAM_INVALID"


def test_the_explanation_adds_up_and_holds_no_value() -> None:
    result = match(
        person(1, "Ottokar Zwackhals", BORN, gender="male", email="sunny77@example.org"),
        person(2, "Ottokar Zwackhals", gender="male", email="sunny77@example.org"),
        *[person(n, f"Eva{n} Holm{n}", f"19{n % 80 + 10}-01-02") for n in range(10, 90)],
    )
    (row,) = [row for row in result.pairs.to_pylist() if row["left_id"] == "1"]
    told = json.loads(row["explanation"])
    assert {field: entry["level"] for field, entry in told["fields"].items()} == {
        "first_name": "equal",
        "last_name": "equal",
        "name_order": "straight",
        "date_of_birth": "missing",
        "gender": "equal_with_one_name",
        "email": "equal",
        "suffix": "missing",
        "practice_id": "missing",
        "primary_doctor_id": "missing",
        "family": "possible",
    }
    assert told["fields"]["last_name"]["words"].startswith("same surname")
    assert f"({told['fields']['last_name']['weight']:+.1f})" in told["fields"]["last_name"]["words"]
    bits = told["prior"] + sum(entry["weight"] for entry in told["fields"].values())
    assert 1 / (1 + 2**-bits) == pytest.approx(row["score"], abs=1e-3)
    assert not any(
        value in row["explanation"].casefold() for value in ("ottokar", "zwackhals", "1985", "@", "sunny")
    )


def test_a_rare_surname_is_called_rare() -> None:
    crowd = [
        person(n, f"Eva{n} Smith", f"19{n % 80 + 10}-{n % 12 + 1:02}-{n % 28 + 1:02}")
        for n in range(10, 5_000)
    ]
    result = match(person(1, "Ottokar Zwackhals", BORN), person(2, "Ottokar Zwackhals", BORN), *crowd)
    (row,) = [row for row in result.pairs.to_pylist() if row["left_id"] == "1"]
    assert json.loads(row["explanation"])["fields"]["last_name"]["words"].startswith("same surname, rare (+")


def test_members_of_a_family_at_one_doctor_are_not_merged() -> None:
    generator, rows = random.Random(5), []
    for family in range(150):
        shared = {"practice_id": str(family % 7), "primary_doctor_id": str(family % 30)}
        shared["email"] = f"home{family}@example.org"
        for child in range(3):
            born = (
                f"{generator.randint(1950, 2015)}-{generator.randint(1, 12):02}-{generator.randint(1, 28):02}"
            )
            name = f"{generator.choice(['Anna', 'Ida', 'Eva', 'Ole', 'Jens', 'Nils'])} Sur{family}berg"
            rows.append(person(family * 10 + child, name, born, **shared))
            if child == 2:  # a twin
                rows.append(person(family * 10 + 5, f"Maja Sur{family}berg", born, **shared))
    result = match(*rows)
    by_id = {row["legacy_id"]: row for row in rows}
    for merged, survivor in merges(result).items():
        assert by_id[merged]["first_name"] == by_id[survivor]["first_name"]
        assert by_id[merged]["date_of_birth"] == by_id[survivor]["date_of_birth"]


@pytest.mark.parametrize(
    "row",
    [
        {"first_name": "Anna", "last_name": "Berg", "date_of_birth": BORN},
        {"first_name": "x" * 20_000, "last_name": "😀" * 300, "date_of_birth": BORN},
        {"first_name": "Anna", "last_name": "Berg", "practice_id": "1", "email": "office@example.org"},
    ],
    ids=["all people equal", "very long names", "no birth dates"],
)
def test_thousands_of_equal_rows_do_not_blow_up(row: Row) -> None:
    started = time.monotonic()
    rows = [
        person(number, None) | row for number in range(20_000 if len(row["first_name"] or "") < 9 else 300)
    ]
    match(*rows)
    assert time.monotonic() - started < 20


def test_one_birth_date_for_everybody_says_nothing() -> None:
    generator = random.Random(3)
    names = ["".join(generator.choices("abdefgiklmnorstu", k=generator.randint(4, 9))) for _ in range(2_000)]
    rows = [
        person(n, f"{generator.choice(names)} {generator.choice(names)}", "1980-01-02") for n in range(5_000)
    ]
    assert merges(match(*rows)) == {}


# --- decisions of people ---


def test_a_confirmed_pair_is_merged_whatever_its_score_or_veto() -> None:
    strangers = (person(1, "Anna Berg", BORN), person(2, "Peter Holm", "1957-11-20"))
    result = match(*strangers, said={("2", "1"): "confirmed"})
    assert decisions(result) == {PAIR: "confirmed"}
    assert merges(result) == {"2": "1"}
    assert json.loads(result.pairs["explanation"][0].as_py())["fields"]["first_name"]["level"] == "different"


def test_a_rejected_pair_is_never_merged_not_even_over_others() -> None:
    rows = [person(n, "Anna Hansen", BORN) for n in (1, 2, 3)]
    result = match(*rows, said={("1", "3"): "rejected"})
    assert decisions(result)["1", "3"] == "rejected"
    assert len(merges(result)) == 1


def test_a_rejection_wins_and_what_could_not_be_applied_is_told() -> None:
    rows = [person(n, f"{name} Berg", BORN) for n, name in ((1, "Anna"), (2, "Peter"), (3, "Ida"))]
    said = {("1", "2"): "confirmed", ("2", "3"): "confirmed", ("1", "3"): "rejected"}
    result = match(*rows, said=said)
    assert merges(result) == {"2": "1"}
    assert result.contradictions.to_pylist() == [{"left_id": "2", "right_id": "3"}]
    assert decisions(result) == said


def test_decisions_on_people_who_are_gone_are_left_out() -> None:
    result = match(
        ANNA, person(2, "Anna Hansen", BORN), said={("1", "9"): "confirmed", ("8", "9"): "rejected"}
    )
    assert decisions(result) == {PAIR: "auto_merged"}


def test_a_decision_is_one_of_two_words() -> None:
    with pytest.raises(MigrationError, match="confirmed or rejected"):
        match(ANNA, person(2, "Anna Hansen", BORN), said={PAIR: "maybe"})


def test_pairs_of_people_who_are_gone_are_left_out() -> None:
    rows = [person(n, "Anna Hansen", BORN) for n in (1, 2, 3)]
    model = learn(table(rows))
    pairs = compare(table(rows), model)
    result = decide(table(rows[:2]), model, MatchSettings(), pairs, decided({}))
    assert decisions(result) == {PAIR: "auto_merged"}
