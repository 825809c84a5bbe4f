"""Notes of a run, and which source its row versions came from, in the tracking tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from include.core.errors import MigrationError
from plugins.hooks.run_notes import RunNotes
from plugins.hooks.source_identity import SourceIdentity
from plugins.hooks.source_memory import recall_identities
from plugins.hooks.tracking import TrackingHook
from tests.hooks.loading import Target

BOTH_WAYS = True
HELD: dict[str, Any] = {"user": "django", "database": "mdw", "age_seconds": None}
IDENTITY = SourceIdentity(1, 2, "mdw", 5, {"auth_user": 7}, "123", 1, 100, "2024-01-01 00:00:00")


def open_run(target: Target, name: str, **values: Any) -> TrackingHook:
    return target.tracking(name, **{"scope": "everything", "source_identity": None, **values})


@pytest.fixture
def notes(target: Target) -> RunNotes:
    open_run(target, "run-1")
    return RunNotes(target.api, "run-1")


class TestNotes:
    def test_are_kept_in_order(self, notes: RunNotes) -> None:
        notes.record("source_restored", reason="another server")
        notes.record("initial_full")
        assert [(note.code, note.facts) for note in notes.all()] == [
            ("source_restored", {"reason": "another server"}),
            ("initial_full", {}),
        ]

    def test_about_the_same_subject_are_replaced(self, notes: RunNotes) -> None:
        notes.record("horizon_held", pid=7, age_transactions=10, **HELD)
        notes.record("horizon_held", pid=8, age_transactions=10, **HELD)
        notes.record("horizon_held", pid=7, age_transactions=30, **HELD)
        assert [(n.facts["pid"], n.facts["age_transactions"]) for n in notes.all()] == [(7, 30), (8, 10)]

    def test_are_audited_once(self, target: Target, notes: RunNotes) -> None:
        for _ in range(2):
            notes.record("without_row_versions", table="dispatch_patient")
        written = target.image("migration.run_notes")
        notes.record("without_row_versions", table="dispatch_patient")
        assert target.image("migration.run_notes") == written  # repeated by a cleared task: no needless write
        assert target.all(
            "SELECT run_id, event, details FROM migration.audit_log WHERE event LIKE 'note %%'"
        ) == [("run-1", "note without_row_versions", {"table": "dispatch_patient"})]

    def test_belong_to_their_run(self, target: Target, notes: RunNotes) -> None:
        notes.record("redrive")
        TrackingHook(target.api, "run-1").close_run("failed", {}, "")
        open_run(target, "run-2")
        assert RunNotes(target.api, "run-2").all() == []

    def test_need_an_open_run_and_a_registered_code(self, target: Target, notes: RunNotes) -> None:
        with pytest.raises(MigrationError) as caught:
            RunNotes(target.api, "unknown").record("redrive")
        assert caught.value.code == "RUN_LOST"
        with pytest.raises(KeyError):
            notes.record("something_else")
        with pytest.raises(ValueError, match="source_restored takes"):
            notes.record("source_restored", name="a value that nobody asked for")
        assert notes.all() == []


class TestWhichSourceItWas:
    """Runs carry the log position as their identity, so that it tells them apart."""

    def run(self, target: Target, position: int, *, completed: bool, **values: Any) -> None:
        name = f"run-{position}"
        identity = replace(IDENTITY, wal_position=position).to_json()
        tracking = open_run(target, name, source_identity=identity, **values)
        tracking.close_run("completed" if completed else "failed", {}, "")

    def positions(self, target: Target) -> list[int | None]:
        return [identity.wal_position for identity in recall_identities(target.api)]

    def test_nothing_at_first(self, target: Target) -> None:
        assert self.positions(target) == []

    def test_is_that_of_the_last_complete_run_and_of_failed_ones_behind_it(self, target: Target) -> None:
        self.run(target, 1, completed=False)
        self.run(target, 2, completed=True)
        assert self.positions(target) == [2]
        self.run(target, 3, completed=True)
        self.run(target, 4, completed=False)
        self.run(target, 5, completed=True, parameters={"entities": ["practices"]})
        assert self.positions(target) == [3, 4, 5]

    def test_of_dry_runs_is_not_remembered(self, target: Target) -> None:
        self.run(target, 1, completed=True)
        self.run(target, 2, completed=True, dry_run=True)
        assert self.positions(target) == [1]

    def test_comes_back_as_it_was(self, target: Target) -> None:
        self.run(target, 100, completed=True)
        assert recall_identities(target.api) == [IDENTITY]

    def test_a_run_taken_up_again_keeps_what_its_first_attempt_found(self, target: Target) -> None:
        self.run(target, 1, completed=False)
        open_run(target, "run-1", source_identity=replace(IDENTITY, wal_position=50).to_json())
        assert self.positions(target) == [1]
