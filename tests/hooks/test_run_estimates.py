"""Estimates in the target: made from plans and the last complete run most like this one, and kept as they were."""

from __future__ import annotations

from typing import Any

import pytest

from include.core.run_estimate import DEFAULT_RATES
from include.core.tracking import Fates
from include.entities import ENTITIES
from plugins.hooks.plans import PlansHook
from plugins.hooks.run_estimates import RunEstimates
from plugins.hooks.tracking import LedgerRow, TrackingHook
from tests.hooks.loading import Target

BOTH_WAYS = True
CHOSEN = [ENTITIES["practices"], ENTITIES["patients"]]


def planned(target: Target, name: str, rows: int, **values: Any) -> TrackingHook:
    """A run that has planned so many rows of patients."""
    tracking = target.tracking(name, **values)
    PlansHook(target.api, name).record("patients", [], source_rows=rows, selected=rows, gone=0)
    return tracking


def completed(target: Target, name: str, rows: int, seconds: float, **values: Any) -> None:
    """A run that took so long for loading, and for comparing nobody."""
    tracking = planned(target, name, rows, **values)
    for phase in ("extraction", "loading"):
        row = LedgerRow("patients", phase, "p000", "", Fates(rows, inserted=rows), 1, seconds)
        tracking.record_batch(row)
    tracking.close_run("completed", {}, "")


def seconds_of(estimate: dict[str, Any]) -> dict[str, float]:
    return {phase["phase"]: phase["seconds"] for phase in estimate["phases"]}


def test_without_an_earlier_run_documented_rates_are_taken(target: Target) -> None:
    planned(target, "first", 15_000)
    made = RunEstimates(target.api, "first").make(CHOSEN, "postgres")
    assert made["based_on"] is None
    assert seconds_of(made)["loading"] == pytest.approx(0.5 + 15_000 / DEFAULT_RATES["loading"], abs=0.001)
    assert {phase["rows"] for phase in made["phases"]} == {15_000}


def test_rates_are_those_of_the_complete_run_most_like_it(target: Target) -> None:
    completed(target, "full", 10_000, 100.0)
    completed(target, "dry", 10_000, 70.0, dry_run=True)
    completed(target, "night", 6_000, 3.0, scope="changes")
    planned(target, "next", 12_000, scope="changes")
    made = RunEstimates(target.api, "next").make(CHOSEN, "postgres")
    assert made["based_on"] == "night"
    assert seconds_of(made)["loading"] == pytest.approx(6.0)
    target.tracking("next").close_run("failed", {}, "")
    planned(target, "again", 20_000)
    assert RunEstimates(target.api, "again").make(CHOSEN, "postgres")["based_on"] == "full"


def test_the_first_estimate_stays(target: Target) -> None:
    planned(target, "run", 1_000)
    estimates = RunEstimates(target.api, "run")
    assert estimates.recorded() is None
    first = estimates.make(CHOSEN, "postgres")
    assert first["recorded_at"]
    assert estimates.make(CHOSEN, "rest") == first == estimates.recorded()
    assert int(estimates.facts()["server"].split(".")[0]) >= 16
