"""The rows that a partition is planned to have: what its progress is a share of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from include.core.batches import plan_partitions
from plugins.operators.preflight import _planned_rows


@pytest.mark.parametrize(
    ("cuts", "rows", "expected"),
    [
        ([], 0, [0]),
        ([], 7, [7]),
        ([10], 15, [10, 5]),
        ([10, 20], 30, [10, 10, 10]),
        ([10, 20], 21, [10, 10, 1]),
        ([10, 10], 25, [None, None]),  # two cuts at one key, which has many rows
    ],
)
def test_whole_partitions_have_what_lies_between_the_cuts(
    cuts: list[int], rows: int, expected: list[int | None]
) -> None:
    planned = _planned_rows(plan_partitions("cases", cuts), rows, 10)
    assert planned == expected
    assert None in planned or sum(number or 0 for number in planned) == rows


def test_partitions_of_chosen_keys_have_these() -> None:
    parts = [
        replace(part, selected=number) for number, part in enumerate(plan_partitions("cases", [5]), start=3)
    ]
    assert _planned_rows(parts, 1_000, 10) == [3, 4]
