"""The benchmark's arithmetic, and that it refuses to time a run that did not do its work."""

from __future__ import annotations

import pytest

from benchmarks.incremental import (
    CHANGED,
    FULL,
    ROWS,
    UNCHANGED,
    Measured,
    WrongResultError,
    check,
    measured,
    size_of,
    table,
)

REPORT = {
    "seconds": 100.0,
    "phases": [
        {"phase": "extraction", "wall_seconds": 20.0},
        {"phase": "loading", "wall_seconds": 50.0},
    ],
    "entities": [
        {"read": 60, "inserted": 40, "updated": 9, "deleted": 1, "unchanged": 11},
        {"read": 5, "inserted": 5, "updated": 0, "deleted": 0, "unchanged": 0},
    ],
}


def test_what_no_phase_took_is_preparation_and_the_rest() -> None:
    result = measured(REPORT, command=120.0)
    assert set(result.seconds) == set(ROWS)
    assert result.seconds["preparation and the rest"] == 30
    assert (result.seconds["loading"], result.seconds["validation"]) == (50, 0)
    assert (result.seconds["whole run"], result.seconds["with Airflow's start"]) == (100, 120)
    assert (result.read, result.written) == (65, 55)


def test_the_table_shows_medians_and_shares_of_the_full_run() -> None:
    def of(*seconds: float) -> list[Measured]:
        return [Measured(dict.fromkeys(ROWS, second), read=10, written=5) for second in seconds]

    lines = table({FULL: of(100, 300, 200), CHANGED: of(20, 20, 90), UNCHANGED: of(5, 10, 15)}).splitlines()
    assert lines[0].split() == ["seconds", "(median)", "full", "1", "%", "changed", "unchanged"]
    assert [line.split()[-3:] for line in lines if line.startswith("whole run")] == [
        ["200.0", "20.0", "10.0"]
    ]
    assert lines[-1].split()[-3:] == ["100.0%", "10.0%", "5.0%"]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("kind", "read", "written"),
    [
        (FULL, 2_000, 10),  # into a target that was not empty
        (CHANGED, 2_000, 20),  # read everything
        (CHANGED, 5, 5),  # missed changes
        (CHANGED, 30, 0),
        (UNCHANGED, 0, 1),
    ],
)
def test_a_run_that_did_something_else_is_refused(kind: str, read: int, written: int) -> None:
    with pytest.raises(WrongResultError):
        check(kind, Measured({}, read, written), rows=1_000, changed=20)


@pytest.mark.parametrize(
    ("kind", "read", "written"), [(FULL, 2_000, 1_990), (CHANGED, 30, 29), (UNCHANGED, 3, 0)]
)
def test_a_run_as_it_should_be_counts(kind: str, read: int, written: int) -> None:
    check(kind, Measured({}, read, written), rows=1_000, changed=20)


@pytest.mark.parametrize("rows", [40, 5_000, 1_000_000])
def test_the_source_has_as_many_users_as_patients_but_for_the_doctors(rows: int) -> None:
    size = size_of(rows)
    assert size.patients == rows
    assert rows < size.users <= rows * 1.25
