"""How far a run is, from plans and ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from include.core.run_estimate import DEFAULT_RATES
from include.core.run_progress import PHASES, LedgerSum, Part, Standing, standing

BEGIN = datetime(2024, 5, 1, 2, 0, tzinfo=UTC)
SELECTED = {"patients": 100_000, "cases": 50_000}


def row(phase: str, entity: str, rows: int, seconds: float = 10, **values: Any) -> LedgerSum:
    """Done in so many seconds since the run began."""
    ended = BEGIN + timedelta(seconds=seconds)
    return LedgerSum(
        phase, entity, **{"batches": 1, "failed": 0, "rows": rows, "begun": BEGIN, "ended": ended, **values}
    )


def stands(phase: str, *ledger: LedgerSum, **values: Any) -> Standing:
    given = {"kind": "full", "status": "running", "selected": SELECTED, **values}
    return standing(phase=phase, ledger=ledger, **given)


def part(found: Standing, phase: str, entity: str = "") -> Part:
    return next(one for one in found.parts if (one.phase, one.entity) == (phase, entity))


def test_a_phase_is_as_far_as_its_rows() -> None:
    found = stands("extraction", row("extraction", "patients", 60_000), row("extraction", "cases", 15_000))
    whole = part(found, "extraction")
    assert (whole.state, whole.rows, whole.total, whole.share) == ("running", 75_000, 150_000, 0.5)
    assert whole.rate == pytest.approx(7_500)
    assert whole.seconds_left == pytest.approx(10)  # as much again as was done in ten seconds
    assert part(found, "extraction", "patients").share == pytest.approx(0.6)


def test_each_phase_is_followed_by_its_entities() -> None:
    found = stands("extraction", row("extraction", "patients", 60_000))
    assert [one.phase for one in found.parts if not one.entity] == [*PHASES]
    assert [one.entity for one in found.parts if one.phase == "loading"] == ["", "patients", "cases"]


def test_the_run_ends_when_the_phases_to_come_have_passed_at_the_rates_of_the_last_run() -> None:
    before = [
        row("extraction", "patients", 150_000, 10),
        row("transformation", "patients", 150_000, 15),
        row("deduplication", "patients", 100_000, 5),
        row("loading", "patients", 100_000, 50),
        row("validation", "patients", 300_000, 30),
    ]
    found = stands("extraction", row("extraction", "patients", 75_000, 10), before=before)
    left = {name: part(found, name).seconds_left for name in PHASES}
    assert left["extraction"] == pytest.approx(10)
    assert left["transformation"] == pytest.approx(15)  # 150,000 rows at 10,000 a second
    assert left["deduplication"] == pytest.approx(5)
    assert left["loading"] == pytest.approx(75)  # at 2,000 a second
    assert left["validation"] == pytest.approx(30)  # three times the patients, as then
    assert found.seconds_left == pytest.approx(135)


def test_without_a_run_before_the_documented_rates_count() -> None:
    assert part(stands("extraction"), "transformation").seconds_left == pytest.approx(
        150_000 / DEFAULT_RATES["transformation"]
    )


def test_few_rows_tell_no_rate() -> None:
    found = stands("loading", row("loading", "patients", 10, 10))
    assert part(found, "loading").seconds_left == pytest.approx(149_990 / DEFAULT_RATES["loading"])


def test_nobody_knows_before_anything_is_planned() -> None:
    found = stands("preparation", selected={})
    assert found.seconds_left is None
    assert part(found, "extraction") == Part("extraction", "", "waiting", 0, None, None, None, None)


def test_phases_behind_the_present_one_are_done() -> None:
    found = stands("loading", row("extraction", "patients", 100_000))
    states = [part(found, name).state for name in PHASES]
    assert states == [*["done"] * 5, "running", *["waiting"] * 3]
    assert part(found, "extraction").share == 1


def test_more_rows_than_planned_are_no_more_than_all() -> None:
    found = stands("extraction", row("extraction", "patients", 120_000), selected={"patients": 100_000})
    assert part(found, "extraction").share == 1
    assert part(found, "extraction").seconds_left == 0


def test_a_failed_batch_fails_its_phase_and_says_why() -> None:
    failed = row(
        "loading", "cases", 0, batches=0, failed=1, begun=None, ended=None, codes=("TARGET_INTERRUPTED",)
    )
    found = stands("loading", row("loading", "patients", 100_000), failed)
    assert part(found, "loading").state == part(found, "loading", "cases").state == "failed"
    assert part(found, "loading").codes == ("TARGET_INTERRUPTED",)
    assert part(found, "loading", "patients").state == "done"


def test_a_failed_run_never_came_to_what_follows() -> None:
    found = stands("loading", row("loading", "patients", 100_000), status="failed")
    assert part(found, "loading").state == "failed"
    assert part(found, "validation").state == "skipped"
    assert found.seconds_left is None


def test_a_complete_run_is_done() -> None:
    found = stands("completion", row("loading", "patients", 90_000), status="completed")
    assert {one.state for one in found.parts} == {"done"}
    assert {one.share for one in found.parts} == {1}
    assert found.seconds_left is None


def test_documents_are_what_the_embeddings_were_estimated_at() -> None:
    found = stands(
        "ai_enhancement", row("ai_enhancement", "cases", 250), embedded={"cases": 1_000, "projects": 0}
    )
    assert part(found, "ai_enhancement").share == pytest.approx(0.25)
    assert not [one for one in found.parts if one.entity == "projects"]


def test_validation_alone_has_no_other_phases() -> None:
    found = stands("validation", kind="validation", selected={})
    assert [one.phase for one in found.parts] == ["preparation", "validation", "completion"]


def test_the_ledger_is_read_as_the_target_tells_it() -> None:
    told = {"phase": "loading", "entity": "cases", "batches": 2, "failed": 1, "rows": 7, "codes": ["A"],
            "begun": "2024-05-01T02:00:00+00:00", "ended": None, "inserted": 7}  # fmt: skip
    assert LedgerSum.from_json(told) == LedgerSum("loading", "cases", 2, 1, 7, BEGIN, None, ("A",))
