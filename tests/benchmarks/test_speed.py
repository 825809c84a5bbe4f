"""The speed benchmarks: their arithmetic, and a round of each at a size that takes seconds."""

from __future__ import annotations

import sys

import psycopg
import pytest

from benchmarks.incremental import Measured
from benchmarks.plan import WHOLE, planned, rates, source_rows, table
from benchmarks.speed.contestants import LIMIT, ONE, Contestant
from benchmarks.speed.contestants import contestants as all_contestants
from benchmarks.speed.limit import COLUMNS, transforming_select
from benchmarks.speed.measured import MeasurementError, Sample, aligned, middle, of_process, ratios
from benchmarks.speed.pipeline import PHASES, PLAN, Loaded
from benchmarks.speed.repeated import AGAIN, FIRST, Round, _again_table
from include.core.report import BATCH_PHASES
from include.core.run_estimate import FIXED_SECONDS
from include.synthetic.sizes import SourceSize
from local.legacy_source import fill


def sample(rate: float) -> Sample:
    return Sample(1_000, 1_000 / rate, 0.01, 100.0)


def test_ratios_are_those_of_a_round() -> None:
    fast_and_slow = [sample(100), sample(1_000), sample(10)]
    twice = [sample(200), sample(2_000), sample(5)]
    assert ratios(twice, fast_and_slow) == pytest.approx(2)
    assert middle(fast_and_slow).rate == pytest.approx(100)


def test_a_client_tells_its_own_seconds_or_is_timed() -> None:
    told = of_process([sys.executable, "-c", 'print(\'{"seconds": 5, "cpu_seconds": 2}\')'], {}, 10)
    assert (told.seconds, told.cpu_seconds, told.rate) == (5, 2, 2)
    timed = of_process([sys.executable, "-c", "print('done')"], {}, 10)
    assert 0 < timed.seconds < 60


def test_a_client_that_fails_is_not_measured() -> None:
    with pytest.raises(MeasurementError, match="no such table"):
        of_process([sys.executable, "-c", "raise SystemExit('no such table')"], {}, 10)


def test_columns_are_aligned_words_left_numbers_right() -> None:
    assert aligned([("a", "1,000"), ("bc", "1")]) == "a   1,000\nbc      1"


def test_the_limit_is_measured_and_who_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGLOADER", raising=False)
    monkeypatch.setenv("PATH", "")
    said: list[str] = []
    found: list[Contestant] = all_contestants(None, said.append)
    assert [one.name for one in found][:2] == [LIMIT, ONE]
    assert [line.split(":")[0] for line in said] == ["NOT MEASURED"]


def test_the_limit_transforms_every_patient(database: str) -> None:
    """Of the synthetic source, with its dirt: as many rows and columns as the target takes."""
    fill(database, SourceSize.real().scaled(patients=300), 1, progress=lambda _: None)
    with psycopg.connect(database) as connection:
        cursor = connection.execute(transforming_select().encode())
        assert cursor.description is not None
        assert len(cursor.description) == len(COLUMNS)
        found = cursor.fetchall()
        ((patients,),) = connection.execute("SELECT count(*) FROM dispatch_patient").fetchall()
    assert len(found) == patients
    assert len({row[0] for row in found}) == patients


def loaded(loading: float, plan: float = 1.0) -> Loaded:
    seconds = {PLAN: plan, **dict.fromkeys(PHASES, 1.0), "loading": loading}
    return Loaded(100, seconds, 1.0, 100.0, 1)


def test_loading_again_is_compared_with_the_first_load() -> None:
    lines = _again_table([Round({FIRST: loaded(6.0), AGAIN: loaded(2.0)})]).splitlines()
    assert lines[1].split()[-3:] == ["9.00", "100.0%", "11"]
    assert lines[2].split()[-4:] == ["5.00", "55.6%", "20", "3.0"]


def test_a_plan_at_measured_rates_gives_back_what_was_measured() -> None:
    seconds = {**dict.fromkeys(BATCH_PHASES, 0.0), "extraction": 2.0, "loading": 8.0, "deduplication": 4.0}
    measured = Measured({**seconds, WHOLE: 30.0}, read=0, written=0)
    found = rates(measured, 1_000)
    again = planned(1_000, found)
    assert again.seconds["loading"] == pytest.approx(8.0)
    assert again.seconds["deduplication"] == pytest.approx(4.0)
    tenfold = planned(10_000, found)
    assert tenfold.seconds["extraction"] == pytest.approx(20.0, rel=0.05)
    assert tenfold.seconds[WHOLE] == pytest.approx(
        sum(s for phase, s in tenfold.seconds.items() if phase != WHOLE) + FIXED_SECONDS
    )
    assert source_rows(10_000)["dispatch_patient"] == 10_000
    shown = table(measured, 1_000, again, measured, tenfold).splitlines()
    assert shown[0].split()[:3] == ["seconds", "1,000", "measured"]
    assert next(line for line in shown if line.startswith("loading")).split()[1:5] == [
        "8.0",
        "8.0",
        "8.0",
        "100%",
    ]
