"""What loading will do, as the target knows it; the lock of a run that waits for an answer; the answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from include.core.errors import MigrationError
from plugins.hooks import run_lock
from plugins.hooks.approval import Approval
from plugins.hooks.run_lock import Holder, RunLock
from plugins.hooks.run_notes import RunNotes
from plugins.hooks.staging import StagingHook
from plugins.hooks.tracking import TrackingHook
from plugins.operators.approve import approval_days
from tests.hooks.loading import Target, patient

BOTH_WAYS = True

FACTS = {"by": "Eva", "at": "2026-01-02T03:04:05+00:00", "new": 1, "known": 2, "merged": 3, "deleted": 4}
WAITS = "SELECT awaits_until IS NOT NULL FROM migration.run_lock"


@pytest.fixture
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StagingHook:
    """Of run "second"."""
    monkeypatch.setenv("MIGRATION_STAGING_URI", f"file://{tmp_path}")
    return StagingHook("second")


def begin(target: Target, run: str) -> Approval:
    target.tracking(run)
    return Approval(target.api, run)


def stage(staging: StagingHook, *, gone: list[str], clean: list[str]) -> None:
    staging.write("gone", "patients", "all", pa.table({"legacy_id": pa.array(gone, pa.string())}))
    staging.write("clean", "patients", "p000-b0000", pa.table({"legacy_id": pa.array(clean, pa.string())}))


def test_rows_of_the_run_itself_are_new_whenever_they_were_loaded(
    target: Target, staging: StagingHook
) -> None:
    target.load("patients", [patient(1), patient(2)], run="first")
    target.tracking("first").close_run("completed", {}, "")
    approval = begin(target, "second")
    stage(staging, gone=["2"], clean=["1", "3"])
    target.api.call(
        "record_batch",
        run="second",
        row={
            "entity": "patients",
            "phase": "transformation",
            "batch": "p000-b0000",
            "extracted": 3,
            "rejected": 1,
        },
    )
    expected = approval.expected("patients", staging)
    assert (expected.read, expected.rejected, expected.stored, expected.deleted) == (3, 1, 2, 1)
    assert approval.new_rows("patients", staging) == 1
    target.load("patients", [patient(3)], run="second")
    assert approval.new_rows("patients", staging) == 1
    target.delete("patients", "2", run="second")
    assert approval.expected("patients", staging).deleted == 1


def test_keys_that_the_target_never_had_are_not_deleted(target: Target, staging: StagingHook) -> None:
    approval = begin(target, "second")
    stage(staging, gone=["8", "9"], clean=[])
    assert approval.expected("patients", staging).deleted == 0


def test_an_answer_is_a_note_and_in_the_audit_trail(target: Target) -> None:
    approval = begin(target, "second")
    assert not approval.stands("abc")
    approval.record(approved=False, facts={**FACTS, "plan": "abc"})
    assert not approval.stands("abc")
    approval.record(approved=True, facts={**FACTS, "plan": "abc"})
    assert approval.stands("abc")
    assert not approval.stands("abd")
    assert [note.code for note in RunNotes(target.api, "second").all()] == ["approval_rejected", "approved"]
    assert target.all(
        "SELECT event, details ->> 'by' FROM migration.audit_log WHERE event LIKE 'appro%%' ORDER BY id"
    ) == [("approval_rejected", "Eva"), ("approved", "Eva")]


class TestLock:
    def holder(self, target: Target) -> Holder:
        return Holder(**target.api.call("lock_holder"))

    def test_a_run_that_waits_is_not_dead_however_long_it_is_silent(self, target: Target) -> None:
        begin(target, "second").wait(7, {})
        target.connection.execute(
            "UPDATE migration.run_lock SET heartbeat_at = clock_timestamp() - interval '2 days' WHERE true"
        )
        holder = self.holder(target)
        assert holder.death(60) is None
        assert holder.silent < 0
        with pytest.raises(MigrationError) as caught:
            TrackingHook(target.api, "third").refuse_if_locked()
        assert caught.value.code == "RUN_LOCKED"
        assert "it waits for approval, until 20" in str(caught.value)

    def test_it_is_dead_some_time_after_an_answer_was_due(self, target: Target) -> None:
        begin(target, "second").wait(7, {})
        target.connection.execute(
            "UPDATE migration.run_lock SET heartbeat_at = clock_timestamp() - interval '8 days',"
            " awaits_until = clock_timestamp() - interval '1 hour' WHERE true"
        )
        assert "no sign of life" in str(self.holder(target).death(60))
        TrackingHook(target.api, "third").refuse_if_locked()

    def test_it_is_dead_when_airflow_calls_it_finished(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begin(target, "second").wait(7, {})
        monkeypatch.setattr(run_lock, "finished_in_airflow", lambda *_: True)
        assert replace(self.holder(target), dag_id="some").death(60) == "Airflow calls it finished"

    def test_the_next_step_ends_the_wait(self, target: Target) -> None:
        begin(target, "second").wait(7, {})
        assert target.all(WAITS) == [(True,)]
        RunLock(target.api, "second").begin_step("approval", "approval.gate")
        assert target.all(WAITS) == [(False,)]

    def test_who_lost_the_lock_cannot_wait(self, target: Target) -> None:
        approval = begin(target, "second")
        target.connection.execute("DELETE FROM migration.run_lock")
        with pytest.raises(MigrationError) as caught:
            approval.wait(7, {})
        assert caught.value.code == "RUN_LOST"


@pytest.mark.parametrize("text", ["0", "91", "1.5", "never"])
def test_a_wrong_number_of_days_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MIGRATION_APPROVAL_DAYS", text)
    with pytest.raises(MigrationError, match="MIGRATION_APPROVAL_DAYS"):
        approval_days()
