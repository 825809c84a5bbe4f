"""A person is asked before a run loads: with true numbers, only where that is wanted, and the answer counts."""

from __future__ import annotations

import pytest

from include.core.errors import MigrationError
from plugins.operators import approve
from tests.hooks.journal import Rows, journaled_rows
from tests.incremental.runner import FULL, INCREMENTAL, Outcome, run
from tests.incremental.world import CONF, World

GATE = "approval.gate"
ANSWERS = "SELECT event, details FROM migration.audit_log WHERE event LIKE 'appro%' ORDER BY id"
BUSINESS = ("public.", "migration.id_map", "migration.quarantine", "migration.merges")


@pytest.fixture
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small source has too few rows for shares."""
    monkeypatch.setattr("include.core.approval.ALWAYS_ALLOWED", 0)


def business(world: World) -> Rows:
    """What a run loads."""
    return {table: rows for table, rows in journaled_rows(world.read).items() if table.startswith(BUSINESS)}


def asked_numbers(outcome: Outcome) -> dict[str, dict[str, int]]:
    """What the person was told, by entity."""
    return {one["entity"]: one for one in outcome.results["approval.numbers"]["expected"]}


def test_the_numbers_are_those_that_loading_then_does(world: World) -> None:
    world.target_name = world.empty()
    outcome = run(FULL, world.databases, world.folder, require_approval=True, **CONF).raise_errors()
    (question,) = outcome.questions
    told = asked_numbers(outcome)
    loaded = world.read(
        "SELECT entity, sum(extracted), sum(inserted), sum(merged) FROM migration.batches"
        f" WHERE run_id = '{outcome.run_id}' AND phase = 'loading' GROUP BY entity ORDER BY entity"
    )
    assert loaded
    for entity, read, inserted, merged in loaded:
        # What loading itself finds, a missing parent, nobody can know before.
        assert told[entity]["read"] - told[entity]["rejected"] >= inserted + merged, entity
        assert (told[entity]["new"], told[entity]["merged"]) == (
            told[entity]["read"] - told[entity]["rejected"],
            merged,
        ), entity
        assert read >= inserted
        assert f"| {entity} | {told[entity]['read']:,} | {told[entity]['new']:,} |" in question
    assert told["patients"]["merged"] > 0


def test_nobody_is_asked_where_little_is_done(world: World) -> None:
    night = world.night().raise_errors()
    assert (night.states[GATE], night.questions) == ("skipped", ())
    assert night.states["approval.numbers"] == "success"
    assert night.states["loading.patients"] == "success"
    assert world.read(ANSWERS) == []


def test_a_dry_run_asks_nobody(world: World) -> None:
    night = world.night(dry_run=True, require_approval=True).raise_errors()
    assert (night.states[GATE], night.states["approval.numbers"]) == ("skipped", "skipped")
    assert night.questions == ()


def test_an_approval_is_in_report_and_audit(world: World) -> None:
    night = world.night(require_approval=True).raise_errors()
    assert night.states[GATE] == "success"
    (requested, details), (answered, facts) = world.read(ANSWERS)
    assert (requested, answered, facts["by"]) == ("approval requested", "approved", "tests")
    assert details.items() < facts.items()
    assert "approved" in world.notes(night)
    assert night.results[GATE]["by"] == "tests"


def test_a_rejected_run_writes_nothing_and_fails(world: World) -> None:
    world.source_sql("UPDATE dispatch_patient SET suffix = 'zz' WHERE id = 5")
    before = business(world)
    night = run(INCREMENTAL, world.databases, world.folder, answer="Reject", require_approval=True, **CONF)
    error = night.errors[0]
    assert isinstance(error, MigrationError)
    assert (error.code, night.states["loading.patients"]) == ("APPROVAL_REJECTED", "upstream_failed")
    assert "Rejected by tests at" in error.detail
    assert business(world) == before
    assert "approval_rejected" in world.notes(night)
    assert world.read("SELECT status FROM migration.runs ORDER BY started_at DESC LIMIT 1") == [("failed",)]
    assert world.read("SELECT run_id FROM migration.run_lock") == []


def test_who_clears_a_rejected_run_is_asked_again_but_not_for_what_was_approved(world: World) -> None:
    rejected = run(INCREMENTAL, world.databases, world.folder, answer="Reject", require_approval=True, **CONF)
    again = run(
        INCREMENTAL,
        world.databases,
        world.folder,
        run_id=rejected.run_id,
        require_approval=True,
        **CONF,
        without="completion",
    )
    assert (again.raise_errors().states[GATE], len(again.questions)) == ("success", 1)
    repeated = run(
        INCREMENTAL, world.databases, world.folder, run_id=rejected.run_id, require_approval=True, **CONF
    )
    assert (repeated.raise_errors().states[GATE], repeated.questions) == ("success", ())
    assert repeated.results[GATE]["by"] == "an earlier approval"


@pytest.mark.usefixtures("nothing_allowed")
def test_many_merges_ask_by_themselves(world: World) -> None:
    world.target_name = world.empty()
    outcome = run(FULL, world.databases, world.folder, approve_merged_above=0.01, **CONF).raise_errors()
    (question,) = outcome.questions
    assert "patients: " in question
    assert "more than `approve_merged_above` allows (1.0%)" in question


@pytest.mark.usefixtures("nothing_allowed")
@pytest.mark.parametrize(("limit", "asked"), [(0.001, 1), (1, 0)])
def test_many_deletions_ask_by_themselves(world: World, limit: float, asked: int) -> None:
    world.source_sql("DELETE FROM dispatch_state WHERE id = (SELECT max(id) FROM dispatch_state)")
    night = world.night(approve_deleted_above=limit, max_deleted=1.0).raise_errors()
    assert len(night.questions) == asked


class TestWithoutAScheduler:
    """`airflow dags test` runs everything in one process, and has nobody to ask."""

    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(approve, "whole_run_process", object)

    def test_it_is_refused(self, world: World) -> None:
        night = world.night(require_approval=True)
        error = night.errors[0]
        assert isinstance(error, MigrationError)
        assert (error.code, night.questions) == ("APPROVAL_UNATTENDED", ())
        assert "MIGRATION_APPROVE=yes" in str(error)

    def test_the_environment_approves_it(self, world: World) -> None:
        night = world.night({"MIGRATION_APPROVE": "yes"}, require_approval=True).raise_errors()
        assert (night.states[GATE], night.questions) == ("success", ())
        assert night.results[GATE]["by"] == "MIGRATION_APPROVE=yes"

    def test_it_waits_where_that_is_wanted(self, world: World) -> None:
        night = world.night({"MIGRATION_APPROVE": "wait"}, require_approval=True).raise_errors()
        assert len(night.questions) == 1
