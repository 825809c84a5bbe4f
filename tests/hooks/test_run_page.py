"""What the pages ask of the target: the run, the state, the quarantine, and who looked at values."""

from __future__ import annotations

from typing import Any

import pytest

from include.core.errors import MigrationError
from include.core.tracking import Check
from plugins.hooks import run_page
from plugins.hooks.run_notes import RunNotes
from plugins.hooks.run_page import RunPage
from plugins.hooks.tracking import TrackingHook
from plugins.ui.target import page_target
from tests.hooks.loading import Target, case, patient, practice

BOTH_WAYS = True
FULL = "mdw_full_migration"
RUN = "manual__2024-05-01T02:00:00+00:00"


@pytest.fixture
def page(target: Target) -> RunPage:
    return RunPage(target.api)


@pytest.fixture
def loaded(target: Target, page: RunPage) -> RunPage:
    """A run that loaded a practice and two patients, and put three cases of patients it does not know aside."""
    target.tracking(RUN, dag_id=FULL)
    target.load("practices", [practice(7)], run=RUN)
    target.load("patients", [patient(1), patient(2)], run=RUN)
    target.load("cases", [case(key, 99) for key in (5, 6, 70)], run=RUN)
    target.tracking(RUN, parameters={"entities": [], "ai_budget": 10})
    return page


def run_of(page: RunPage) -> dict[str, Any]:
    found = page.run(FULL, RUN)
    assert found is not None
    return found


class TestRun:
    def test_fates_are_of_the_ledger(self, loaded: RunPage) -> None:
        fates = {row["entity"]: (row["inserted"], row["rejected"]) for row in run_of(loaded)["fates"]}
        assert fates == {"practices": (1, 0), "patients": (2, 0), "cases": (0, 3)}

    def test_entities_come_parents_first(self, loaded: RunPage) -> None:
        assert [row["entity"] for row in run_of(loaded)["fates"]] == ["practices", "patients", "cases"]

    def test_says_nothing_of_parameters_but_the_budget(self, loaded: RunPage) -> None:
        run = run_of(loaded)["run"]
        assert run["ai_budget"] == 10
        assert run["status"] == "running"
        assert {"parameters", "counts", "source_identity"}.isdisjoint(run)

    def test_a_failed_batch_comes_with_what_to_do(self, target: Target, loaded: RunPage) -> None:
        TrackingHook(target.api, RUN).fail_batch("projects", "loading", "p000-b0001", "TARGET_INTERRUPTED")
        (error,) = run_of(loaded)["errors"]
        assert error["code"] == "TARGET_INTERRUPTED"
        assert "clear the failed task" in error["next_step"]

    def test_checks_are_counted_by_level_and_listed_failures_first(
        self, target: Target, loaded: RunPage
    ) -> None:
        TrackingHook(target.api, RUN).record_checks(
            [
                Check("rows", "patients", 1, "2", "2", passed=True),
                Check("orphans", "cases", 4, "0", "1", passed=False, severity="warn", sample_keys=("5",)),
                Check("keys", "cases", 4, "0", "1", passed=False, sample_keys=("6",)),
            ]
        )
        levels = {
            one["level"]: (one["passed"], one["failed"], one["warned"]) for one in run_of(loaded)["checks"]
        }
        assert levels == {1: (1, 0, 0), 4: (0, 1, 1)}
        assert [check["name"] for check in loaded.checks(FULL, RUN)] == ["keys", "orphans", "rows"]

    def test_notes_are_sentences(self, target: Target, loaded: RunPage) -> None:
        RunNotes(target.api, RUN).record("initial_full")
        assert run_of(loaded)["notes"] == [
            {"severity": "info", "text": "No complete run came before this one, so it loaded everything."}
        ]

    def test_is_shown_to_those_who_may_see_its_dag(self, loaded: RunPage) -> None:
        assert loaded.run("mdw_incremental_migration", RUN) is None
        assert loaded.checks("mdw_incremental_migration", RUN) == []

    def test_of_which_nothing_is_known_is_none(self, page: RunPage) -> None:
        assert page.run(FULL, "x") is None


class TestState:
    def test_of_an_empty_target(self, page: RunPage) -> None:
        found = page.state()
        assert (found["lock"], found["follows"]) == (None, None)
        assert found["quarantine"] == found["pairs"] == found["runs"] == []

    def test_counts_what_waits(self, target: Target, loaded: RunPage) -> None:
        target.connection.execute(
            "INSERT INTO migration.duplicate_pairs (entity, left_legacy_id, right_legacy_id, score, explanation,"
            " status) SELECT 'patients', '1', i::text, 0.5, '{}', 'pending' FROM generate_series(2, 4) i"
        )
        found = loaded.state()
        (held,) = [found["lock"]]
        assert (held["run_id"], held["dag_id"]) == (RUN, FULL)
        assert "host" not in held
        (aside,) = found["quarantine"]
        assert (aside["entity"], aside["code"], aside["rows"]) == ("cases", "parent_missing", 3)
        assert aside["how_to_fix"]
        assert found["pairs"] == [{"entity": "patients", "pending": 3, "asked_again": 0}]

    def test_the_history_tells_how_old_the_data_was(self, target: Target, loaded: RunPage) -> None:
        TrackingHook(target.api, RUN).close_run("completed", {}, "")
        target.tracking("run-2", dag_id=FULL)
        latest, first = loaded.state()["runs"]
        assert (first["run_id"], first["rows"], first["rejected"]) == (RUN, 6, 3)
        assert first["followed"] is None
        assert latest["followed"] == first["started_at"] == loaded.state()["follows"]


class TestQuarantine:
    def test_is_read_in_pages_without_values(self, loaded: RunPage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run_page, "PAGE_ROWS", 2)
        first = loaded.quarantine(None, None, None)
        last = {name: first[-1][name] for name in ("code", "entity", "legacy_id")}
        rest = loaded.quarantine(None, None, last)
        assert [row["legacy_id"] for row in [*first, *rest]] == ["5", "6", "70"]
        assert {"payload", "reason"}.isdisjoint(first[0])

    @pytest.mark.parametrize(
        ("entity", "code", "rows"),
        [("cases", None, 3), ("patients", None, 0), (None, "parent_missing", 3), ("cases", "other", 0)],
    )
    def test_is_filtered(self, loaded: RunPage, entity: str | None, code: str | None, rows: int) -> None:
        assert len(loaded.quarantine(entity, code, None)) == rows

    def test_a_page_is_read_from_the_index(self, target: Target, loaded: RunPage) -> None:
        assert loaded.quarantine(None, None, None)
        target.connection.execute("SET enable_seqscan = off")
        plan = target.all(
            "EXPLAIN SELECT id FROM migration.quarantine q WHERE q.status = 'open'"
            " AND (q.code, q.entity, q.legacy_id) > ('a', 'b', 'c') ORDER BY q.code, q.entity, q.legacy_id LIMIT 100"
        )
        assert "quarantine_page" in str(plan)
        assert "Sort" not in str(plan)


class TestValues:
    def test_who_looks_is_kept(self, target: Target, loaded: RunPage) -> None:
        row = loaded.quarantine(None, None, None)[0]
        values = loaded.quarantined_values(row["id"], "anna")
        assert values is not None
        assert values["case_number"] == "C000005"
        looks = target.all(
            "SELECT event, details FROM migration.audit_log WHERE event = 'quarantined values read'"
        )
        assert looks == [("quarantined values read", {"by": "anna", "entity": "cases", "legacy_id": "5"})]

    def test_nobody_looks_without_a_name(self, loaded: RunPage) -> None:
        with pytest.raises(MigrationError, match="PARAM_INVALID"):
            loaded.quarantined_values(loaded.quarantine(None, None, None)[0]["id"], " ")

    def test_of_a_row_that_left_are_none_and_nobody_looked(self, target: Target, loaded: RunPage) -> None:
        assert loaded.quarantined_values("12345", "anna") is None
        assert target.all("SELECT 1 FROM migration.audit_log WHERE event = 'quarantined values read'") == []


def test_a_page_reaches_the_target_by_the_way_that_is_configured(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    if target.api.way == "rest":
        monkeypatch.delenv("AIRFLOW_CONN_SUPABASE_DB")
    with page_target() as reached:
        assert reached.way == target.api.way
        assert RunPage(reached).state()["runs"] == []
