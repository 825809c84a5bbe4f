"""The benchmark of matching: its invented people, its arithmetic, and one small round of it."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from benchmarks import slips
from benchmarks.dedup.__main__ import arguments_of, headings, lines, peer_python, quality_of_pairs, table
from benchmarks.dedup.data import data_sets
from benchmarks.dedup.processes import MeasurementError, measured
from benchmarks.dedup.quality import Agreement, Judge, best_f1, calibration_error
from benchmarks.names import vocabulary
from benchmarks.people import ERRORS, LabelledPeople, Plan, generate, german, legacy, synthetic
from include.matching.deduplicate import COMPARED

ROWS = 3_000


def _frame(people: LabelledPeople) -> pd.DataFrame:
    return people.table.to_pandas().assign(person=people.person)


@pytest.mark.parametrize("make", [german, legacy, synthetic])
def test_people_depend_on_size_and_seed_alone(make: Callable[..., LabelledPeople]) -> None:
    people = make(ROWS, seed=7)
    assert people.table.num_rows == len(people.person) == ROWS
    assert people.table.equals(make(ROWS, seed=7).table)
    assert not people.table.equals(make(ROWS, seed=8).table)
    assert set(people.table.column_names) <= set(COMPARED)
    ids = people.table["legacy_id"].cast(pa.int64()).to_numpy()
    assert (np.diff(ids) > 0).all()


def test_every_tenth_german_record_is_a_copy_with_a_slip() -> None:
    frame = _frame(german(ROWS))
    sizes = frame.groupby("person").size()
    assert sizes.value_counts().to_dict() == {1: ROWS - 600, 2: 300}
    compared = ["first_name", "last_name", "date_of_birth"]
    same = frame[frame["person"].isin(sizes[sizes == 2].index)].duplicated(["person", *compared])
    # A few slips find no place ("c" for "k" in a name without k).
    assert same.sum() < 30


def test_legacy_people_have_families_of_different_people() -> None:
    frame = _frame(legacy())
    assert frame["email"].notna().mean() == pytest.approx(0.14, abs=0.03)
    one_each = frame.drop_duplicates("person")
    assert one_each.duplicated(["last_name", "date_of_birth"]).sum() > 30, "twins"
    assert one_each.duplicated(["first_name", "last_name"]).sum() > 30, "namesakes"
    assert one_each.dropna(subset=["email"]).duplicated(["last_name", "email"]).sum() > 30, "shared addresses"


def test_names_are_as_common_as_in_a_register() -> None:
    surnames = vocabulary("english", 20_000, 2_000).surnames
    drawn = surnames.draw(np.random.default_rng(1), 100_000)
    counts = np.bincount(drawn, minlength=20_000)
    assert 0.005 < counts[0] / 100_000 < 0.02
    assert (counts > 0).sum() > 10_000
    assert len(set(surnames.texts.tolist())) == 20_000


@pytest.mark.parametrize(
    ("slip", "text", "possible"),
    [
        (slips.other_form, "Robert", {"Bob", "Rob"}),
        (
            slips.misheard,
            "Sophie",
            {"Sofie", "Sophy", "Zophie", "Soph", "Sopie", "Sophje", "Sophye", "Ssophie"},
        ),
        (slips.plain_letters, "Jürgen Groß", {"Juergen Gross"}),
        (slips.initial, "Anna", {"A"}),
        (slips.shouted, "Anna", {"ANNA"}),
        (slips.cut_off, "Brockhaus", {"Broc", "Brock", "Brockh", "Brockha"}),
    ],
)
def test_a_slip_makes_what_it_says(slip: slips.Slip, text: str, possible: set[str]) -> None:
    assert {slip(text, random.Random(seed)) for seed in range(30)} <= possible


@pytest.mark.parametrize("slip", [slips.typo, slips.wrong_key])
def test_a_typing_error_is_one_letter_off(slip: slips.Slip) -> None:
    made = [slip("Katharina", random.Random(seed)) for seed in range(50)]
    assert sum(text != "Katharina" for text in made) > 40
    assert all(abs(len(text) - 9) <= 1 for text in made)


@pytest.mark.parametrize(
    "slip", [slips.typo, slips.wrong_key, slips.misread, slips.misheard, slips.other_form]
)
def test_a_slip_leaves_text_without_a_place_for_it(slip: slips.Slip) -> None:
    assert slip("", random.Random(1)) == ""


def _values(errors: dict[str, float]) -> list[list[str]]:
    plan = Plan("german", 400, 0.1, 0.2, 900, 300, errors, relatives=0.4)
    table = generate(plan, seed=3).table.drop_columns(["legacy_id", "updated_at"])
    assert table.num_rows == 400
    return sorted([str(value) for value in row.values()] for row in table.to_pylist())


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_changes_records_and_loses_none(error: str) -> None:
    assert _values({error: 1.0}) != _values({})


@pytest.mark.parametrize(
    ("name", "pairs"), [("febrl1", 500), ("febrl2", 1_934), ("febrl3", 6_538), ("febrl4", 5_000)]
)
def test_febrl_has_its_published_number_of_duplicates(name: str, pairs: int) -> None:
    assert data_sets(0)[name]().true_pairs == pairs


def _judge() -> Judge:
    # Persons: 0 has three records, 1 two, 2 one.
    ids = pa.chunked_array([["10", "11", "12", "20", "21", "30"]])
    return Judge(ids, np.array([0, 0, 0, 1, 1, 2]))


def _pairs(*pairs: tuple[str, str, float]) -> pa.Table:
    left, right, score = zip(*pairs, strict=True)
    return pa.table({"left_id": left, "right_id": right, "score": score})


def test_clusters_are_judged_by_all_their_pairs() -> None:
    judge = _judge()
    assert judge.true_pairs == 4
    cluster = judge.clusters(pa.table({"legacy_id": ["10", "20", "30"], "survivor_id": ["11", "21", "21"]}))
    assert judge.of_clusters(cluster) == Agreement(precision=2 / 4, recall=2 / 4)
    assert judge.found(_pairs(("12", "10", 0.5), ("30", "10", 0.5)), cluster) == 3 / 4


def test_an_unknown_record_is_an_error() -> None:
    with pytest.raises(KeyError):
        _judge().right(_pairs(("10", "99", 0.5)))


def test_pairs_are_judged_by_thresholds() -> None:
    scored = _pairs(
        ("10", "11", 0.999), ("20", "21", 0.96), ("10", "30", 0.96), ("11", "12", 0.2), ("20", "30", 0.01)
    )
    quality = quality_of_pairs(_judge(), scored)
    assert quality.merges[0.99] == Agreement(1.0, 1 / 4)
    assert quality.merges[0.95] == Agreement(2 / 3, 2 / 4)
    assert quality.found == 3 / 4
    assert quality.queue == pytest.approx(1000 * 3 / 6)
    assert quality.best_f1 == pytest.approx(2 * 3 / (4 + 4))


def test_a_threshold_cannot_part_pairs_of_one_score() -> None:
    score, right = np.array([0.9, 0.9]), np.array([True, False])
    assert best_f1(score, right, 1) == pytest.approx(2 / 3)
    assert best_f1(np.empty(0), np.empty(0, np.bool_), 1) == 0.0


def test_calibration_is_the_distance_of_score_and_truth() -> None:
    assert calibration_error(np.full(4, 0.75), np.array([True, True, True, False])) == pytest.approx(0.0)
    assert calibration_error(np.array([0.95, 0.15]), np.array([False, False])) == pytest.approx(0.55)


def test_agreement_of_nothing() -> None:
    assert Agreement.of(0, 0, 5).f1 == 0.0


def test_a_measurement_reports_time_and_memory() -> None:
    program = "import time; x = bytearray(50_000_000); time.sleep(.5); print('{\"seconds\": [3, 1, 2]}')"
    result = measured([sys.executable, "-c", program], {})
    assert result.seconds == 2
    assert 50 < result.megabytes < 150


def test_a_failed_measurement_says_why() -> None:
    with pytest.raises(MeasurementError, match="no such thing"):
        measured([sys.executable, "-c", "raise SystemExit('no such thing')"], {})


def test_a_round_without_peers(tmp_path: Path) -> None:
    assert peer_python(tmp_path) is None
    arguments = arguments_of(["--data", "synthetic", "--fields", "names", "--rows", "600", "--rounds", "1"])
    said: list[str] = []
    (line,) = lines(arguments, None, said.append)
    assert said == []
    assert line.matcher == "ours"
    assert 0.5 < line.quality.best_f1 <= 1
    assert line.blocking is not None
    assert line.blocking > 0.9
    heading, row = table([line]).splitlines()
    assert len(line.cells()) == len(headings())
    assert heading.startswith("data")
    assert row.startswith("synthetic 600")


def test_a_peer_that_fails_is_said_aloud(tmp_path: Path) -> None:
    arguments = arguments_of(["--data", "synthetic", "--fields", "names", "--rows", "300", "--rounds", "1"])
    said: list[str] = []
    # This project's own Python has no Splink.
    assert len(list(lines(arguments, Path(sys.executable), said.append))) == 1
    assert len(said) == 1
    assert said[0].startswith("NOT MEASURED: Splink on synthetic")
