"""The tracking tables of a run."""

from __future__ import annotations

import json

import pytest

from include.core.errors import MigrationError
from include.core.tracking import Check, Fates
from plugins.hooks.tracking import LedgerRow, TrackingHook
from tests.hooks.loading import Target, practice

BOTH_WAYS = True

RUN = "manual__2026-01-01T00:00:00+00:00"


@pytest.fixture
def tracking(target: Target) -> TrackingHook:
    return target.tracking(RUN)


def run_row(target: Target, columns: str) -> tuple[object, ...]:
    return target.all(f"SELECT {columns} FROM migration.runs WHERE run_id = %s", [RUN])[0]


class TestRun:
    def test_opens_as_running(self, target: Target, tracking: TrackingHook) -> None:
        assert run_row(target, "status, phase, dry_run, source_horizon, ended_at") == (
            "running",
            "preparation",
            False,
            7,
            None,
        )

    def test_opening_again_takes_it_up(self, target: Target, tracking: TrackingHook) -> None:
        target.load("practices", [practice(1)], run=RUN)
        tracking.fail_step("loading.practices")
        tracking.close_run("failed", {}, "")
        started = run_row(target, "started_at")
        target.tracking(RUN, source_horizon=99, parameters={"entities": [], "batch_size": 5})
        assert run_row(target, "started_at") == started
        assert run_row(
            target, "status, failed_steps, ended_at, source_horizon, parameters -> 'batch_size'"
        ) == (
            "running",
            [],
            None,
            7,  # what was extracted already was read behind the first horizon
            5,
        )
        assert tracking.done_batches("practices", "loading", "p000") == {"p000-b0000"}

    def test_closing_records_the_end(self, target: Target, tracking: TrackingHook) -> None:
        tracking.close_run("completed", {"entities": [1]}, "file:///reports/x")
        assert run_row(target, "status, counts, report_uri, ended_at >= started_at") == (
            "completed",
            {"entities": [1]},
            "file:///reports/x",
            True,
        )

    def test_every_change_of_state_is_in_the_audit_log(self, target: Target, tracking: TrackingHook) -> None:
        tracking.fail_step("loading.cases")
        tracking.enter("loading", "loading.cases", fail_fast=True)
        tracking.close_run("completed", {}, "")
        events = target.all(
            "SELECT event, details -> 'failed_steps', actor FROM migration.audit_log WHERE run_id = %s ORDER BY id",
            [RUN],
        )
        actor = {"postgres": "postgres", "rest": "service_role"}[target.api.way]
        assert events == [
            ("run running", [], actor),
            ("run running", ["loading.cases"], actor),
            ("run running", [], actor),
            ("run completed", [], actor),
        ]


class TestWatermark:
    HORIZON = "SELECT name, horizon, run_id FROM migration.watermarks"

    def test_a_complete_real_run_leaves_its_horizon(self, target: Target, tracking: TrackingHook) -> None:
        tracking.close_run("completed", {}, "")
        assert target.all(self.HORIZON) == [("source", 7, RUN)]

    def test_the_next_one_replaces_it(self, target: Target, tracking: TrackingHook) -> None:
        tracking.close_run("completed", {}, "")
        target.tracking("next", source_horizon=8).close_run("completed", {}, "")
        assert target.all(self.HORIZON) == [("source", 8, "next")]

    @pytest.mark.parametrize(
        ("status", "values"),
        [
            ("failed", {}),
            ("completed", {"dry_run": True}),
            ("completed", {"parameters": {"entities": ["practices"]}}),
            ("completed", {"source_horizon": None}),
        ],
        ids=["failed", "dry run", "some entities", "no horizon"],
    )
    def test_any_other_run_leaves_none(self, target: Target, status: str, values: dict[str, object]) -> None:
        target.tracking(RUN, **values).close_run(status, {}, "")
        assert target.all(self.HORIZON) == []


class TestFailFast:
    def test_other_steps_stop_behind_a_failure(self, tracking: TrackingHook) -> None:
        tracking.fail_step("loading.cases[2]")
        tracking.fail_step("loading.cases[2]")
        with pytest.raises(MigrationError) as caught:
            tracking.stop_if_failed(fail_fast=True)
        assert caught.value.code == "RUN_STOPPED"
        assert str(caught.value).count("loading.cases[2]") == 1
        with pytest.raises(MigrationError):
            tracking.enter("loading", "loading.projects", fail_fast=True)

    def test_without_fail_fast_they_go_on(self, tracking: TrackingHook) -> None:
        tracking.fail_step("loading.cases")
        tracking.stop_if_failed(fail_fast=False)
        tracking.enter("loading", "loading.projects", fail_fast=False)

    def test_a_step_that_starts_again_forgets_its_own_failure_only(
        self, target: Target, tracking: TrackingHook
    ) -> None:
        tracking.fail_step("loading.cases")
        tracking.enter("loading", "loading.cases", fail_fast=True)
        tracking.stop_if_failed(fail_fast=True)
        tracking.fail_step("loading.cases[1]")
        tracking.fail_step("loading.cases[2]")
        with pytest.raises(MigrationError):
            tracking.enter("loading", "loading.cases[1]", fail_fast=True)
        assert run_row(target, "failed_steps") == (["loading.cases[2]"],)

    def test_entering_moves_the_phase(self, target: Target, tracking: TrackingHook) -> None:
        tracking.enter("extraction", "extraction.cases", fail_fast=True)
        assert run_row(target, "phase") == ("extraction",)
        changed = target.image("migration.runs")
        tracking.enter("extraction", "extraction.cases", fail_fast=True)
        assert target.image("migration.runs") == changed  # many tasks enter: no needless write

    @pytest.mark.parametrize("fail_fast", [True, False])
    def test_a_run_that_was_never_opened_is_refused(self, target: Target, fail_fast: bool) -> None:
        unknown = TrackingHook(target.api, "unknown")
        for call in (
            lambda: unknown.stop_if_failed(fail_fast=fail_fast),
            lambda: unknown.enter("loading", "loading.cases", fail_fast=fail_fast),
        ):
            with pytest.raises(MigrationError) as caught:
                call()
            assert caught.value.code == "RUN_STATE_MISSING"


class TestLedger:
    def test_sums_and_names(self, tracking: TrackingHook) -> None:
        fates = [Fates(3, inserted=2, rejected=1), Fates(4, merged=1, unchanged=3)]
        for number, some in enumerate(fates):
            tracking.record_batch(LedgerRow("cases", "loading", f"p000-b{number:04}", "1..9", some, 1, 0.5))
        tracking.record_batch(
            LedgerRow("cases", "extraction", "p001-b0000", "", Fates(9, undecided=9), 1, 0.5, 80.0)
        )
        assert tracking.fates("cases") == sum(fates, Fates())
        assert (tracking.rows("cases", "loading"), tracking.rows("cases", "extraction")) == (7, 9)
        assert tracking.done_batches("cases", "loading", "p000") == {"p000-b0000", "p000-b0001"}
        assert tracking.done_batches("cases", "loading", "p001") == set()
        assert tracking.fates("projects") == Fates()
        recorded = tracking.facts().batches
        assert [(row["phase"], row["memory_mb"]) for row in recorded][:1] == [("extraction", 80.0)]

    def test_underscores_in_names_are_no_wildcards(self, tracking: TrackingHook) -> None:
        tracking.record_batch(LedgerRow("cases", "loading", "p000xb", "", Fates(), 1, 0.1))
        assert tracking.done_batches("cases", "loading", "p000_") == set()

    def test_of_another_run_nothing_is_told(self, target: Target, tracking: TrackingHook) -> None:
        tracking.record_batch(LedgerRow("cases", "loading", "p000-b0000", "", Fates(1, inserted=1), 1, 0.1))
        other = target.tracking("other")
        assert (other.rows("cases", "loading"), other.facts().batches) == (0, [])

    def test_a_ledger_row_needs_an_open_run(self, target: Target) -> None:
        with pytest.raises(MigrationError, match="sqlstate=23503"):
            TrackingHook(target.api, "none").record_batch(
                LedgerRow("cases", "loading", "p000-b0000", "", Fates(), 1, 0.1)
            )


def test_a_repeated_check_replaces_its_own(tracking: TrackingHook) -> None:
    tracking.record_checks([Check("rows_stored", "cases", 1, "5", "4", False, sample_keys=("7",))])
    tracking.record_checks([Check("rows_stored", "cases", 1, "5", "5", True)])
    (check,) = tracking.facts().checks
    assert (check["found"], check["passed"], check["sample_keys"]) == ("5", True, [])


def test_finding_counts_tell_what_is_open_now(target: Target) -> None:
    target.load(
        "practices",
        [practice(1), practice(2)],
        run=RUN,
        rejects=[("7", "value_refused", "name", "{}"), ("8", "value_refused", "name", "{}")],
        findings=[("1", "name_empty", "name")],
    )
    target.load("practices", [practice(7)], run=RUN, batch="p000-b0001")
    assert TrackingHook(target.api, RUN).finding_counts() == [
        ("practices", "finding", "name_empty", 1),
        ("practices", "quarantine", "value_refused", 1),
    ]


def test_facts_of_a_run_can_be_written_as_json(tracking: TrackingHook) -> None:
    tracking.close_run("completed", {"entities": []}, "")
    assert json.loads(json.dumps(tracking.facts().run, default=str))["run_id"] == RUN
