"""How far a piece of work is."""

from __future__ import annotations

import pytest

from include.core.progress import RHYTHM_SECONDS, Progress, Standing


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_says_nothing_between_the_beats(clock: Clock) -> None:
    progress, said = Progress(100, clock=clock), []
    for _ in range(100):
        clock.now += 0.2
        said.append(progress.advance(1))
    told = [number for number, standing in enumerate(said, start=1) if standing is not None]
    assert told == [25, 50, 75, 100]


def test_is_silent_no_longer_than_the_work_itself_is(clock: Clock) -> None:
    progress = Progress(3, clock=clock)
    clock.now += 60
    assert progress.advance(1) is not None
    assert progress.advance(1) is None
    clock.now += RHYTHM_SECONDS
    assert progress.advance(1) is not None


def test_names_share_rows_rate_and_time_left(clock: Clock) -> None:
    progress = Progress(4_000, clock=clock)
    clock.now += 10
    standing = progress.advance(1_000)
    assert standing == Standing(share=0.25, rows=1_000, seconds=10, seconds_left=30)
    assert standing.text == "25%, 1,000 rows, 100 rows/s, about 30 s left"
    assert standing.facts == {
        "rows": 1_000,
        "seconds": 10,
        "rows_per_second": 100,
        "percent": 25,
        "seconds_left": 30,
    }


def test_counts_rows_beside_the_work_they_are_in(clock: Clock) -> None:
    progress = Progress(10, clock=clock)
    clock.now += 8
    standing = progress.advance(2, rows=500)
    assert standing is not None
    assert (standing.share, standing.rows, standing.seconds_left) == (0.2, 500, 32)


def test_an_unknown_total_is_not_made_up(clock: Clock) -> None:
    progress = Progress(None, unit="files", clock=clock)
    clock.now += 5
    standing = progress.advance(20)
    assert standing is not None
    assert (standing.share, standing.seconds_left) == (None, None)
    assert standing.text == "20 files, 4 files/s"
    assert Progress(0, clock=clock).standing.share is None


def test_what_an_earlier_attempt_did_counts_for_the_share_alone(clock: Clock) -> None:
    progress = Progress(10, done=8, clock=clock)
    assert progress.standing.seconds_left is None
    clock.now += 6
    standing = progress.advance(1, rows=60)
    assert standing == Standing(share=0.9, rows=60, seconds=6, seconds_left=6)


def test_more_than_was_planned_is_all_of_it(clock: Clock) -> None:
    progress = Progress(10, clock=clock)
    clock.now += 5
    standing = progress.advance(15)
    assert standing == Standing(share=1.0, rows=15, seconds=5, seconds_left=0)


def test_no_time_at_all_is_no_infinite_rate(clock: Clock) -> None:
    assert Progress(1, clock=clock).standing.text == "0%, 0 rows, 0 rows/s"
