from __future__ import annotations

import pytest

from tests.matching.people import Row, match, merges, person

BORN = "1985-03-04"
OLD, NEW = "2020-01-01 00:00:00+00", "2024-05-01 10:00:00.123+00"


@pytest.mark.parametrize(
    ("rows", "survivor"),
    [
        ([person(1, "Anna Berg", BORN, updated_at=NEW), person(2, "Anna Berg", BORN, gender="female")], "2"),
        ([person(1, "Anna Berg", BORN, updated_at=OLD), person(2, "Anna Berg", BORN, updated_at=NEW)], "2"),
        ([person(1, "Anna Berg", BORN), person(2, "Anna Berg", BORN, updated_at=OLD)], "2"),
        (
            [
                person(1, "Anna Berg", BORN, updated_at="infinity"),
                person(2, "Anna Berg", BORN, updated_at=OLD),
            ],
            "2",
        ),
        ([person(9, "Anna Berg", BORN), person(10, "Anna Berg", BORN)], "9"),
        ([person(9, "Anna Berg", BORN, updated_at=NEW), person(10, "Anna Berg", BORN, updated_at=NEW)], "9"),
    ],
    ids=["most complete", "last changed", "never changed", "no moment", "lowest id", "lowest id of equals"],
)
def test_the_survivor(rows: list[Row], survivor: str) -> None:
    (merged,) = {"1", "2", "9", "10"} & {row["legacy_id"] for row in rows} - {survivor}
    assert merges(match(*rows)) == {merged: survivor}


def test_all_of_a_cluster_go_to_one_survivor() -> None:
    rows = [person(number, "Anna Berg", BORN) for number in (3, 5, 20)]
    result = match(*rows, person(4, "Eva Holm", BORN))
    assert merges(result) == {"5": "3", "20": "3"}
    assert result.survivors.column_names == ["legacy_id", "survivor_id", "score"]
    assert min(result.survivors["score"].to_pylist()) >= 0.99
