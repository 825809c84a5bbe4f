"""Texts of the manifest, in and out."""

from __future__ import annotations

import pytest

from include.files.manifest import (
    PLANNED_COLUMNS,
    FileCounts,
    FileShare,
    Outcome,
    PlannedFile,
    Status,
    outcome_table,
    readable_size,
)


def test_a_planned_file_is_read_from_texts():
    row = dict.fromkeys(PLANNED_COLUMNS)
    row |= {
        "legacy_id": "7",
        "bucket": "projects",
        "object_key": "7/x",
        "status": "copied",
        "expected_size": "5000000000",
    }
    planned = PlannedFile.of_row(row)
    assert planned == PlannedFile("7", None, "projects", "7/x", Status.COPIED, expected_size=5_000_000_000)


def test_outcomes_are_text_columns_and_keep_what_is_unknown():
    table = outcome_table([Outcome("7", "7/x", Status.VERIFIED, size=3), Outcome("8", "8/x", Status.MISSING)])
    assert set(map(str, table.schema.types)) == {"string"}
    assert table.column("size").to_pylist() == ["3", None]
    assert table.column("status").to_pylist() == ["verified", "missing"]
    assert outcome_table([]).num_rows == 0


def test_a_share_survives_xcom():
    share = FileShare("projects", None, "5", 1_234, 5_600_000)
    assert FileShare.from_json(share.to_json()) == share
    assert share.to_json()["label"] == "1,234 files from start, 5.6 MB"


def test_counts_of_tasks_are_added():
    one, two = FileCounts(files=2, found=2, copied=1, bytes=5), FileCounts(files=1, missing=1)
    assert FileCounts.total([one.to_json(), {**two.to_json(), "label": 3}]) == one + two
    assert FileCounts.total([]) == FileCounts()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (6_291_456, "6.3 MB"), (2.5e12, "2.5 TB")],
)
def test_sizes_as_people_write_them(size: float, text: str):
    assert readable_size(size) == text
