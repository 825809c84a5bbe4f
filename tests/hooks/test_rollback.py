"""Rolling a run back: the target is what it was before, byte for byte, or nothing happens."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from include.core.errors import MigrationError
from include.core.ids import target_id
from plugins.hooks.merging import settle, unmerge
from plugins.hooks.review import Decision, Review
from plugins.hooks.rollback import Counts, RolledBack, drop_journals, roll_back
from plugins.hooks.tracking import TrackingHook
from plugins.operators.rollback import RollBackOperator
from tests.hooks.journal import Rows, journaled_rows
from tests.hooks.loading import Target, case, patient, practice, profile, task, workflow

BOTH_WAYS = True

# Tables of the target that no run is rolled back in: a run's own, what was paid, what is deployed, what passes through.
NOT_JOURNALED = {
    "migration.audit_log", "migration.audit_seals", "migration.batches", "migration.calls", "migration.case_contents",
    "migration.checks", "migration.differences", "migration.embedding_accounts", "migration.embedding_estimates",
    "migration.embedding_jobs", "migration.embedding_requests", "migration.embedding_spending", "migration.entities",
    "migration.finding_kinds", "migration.former_decisions", "migration.incoming", "migration.journal",
    "migration.notifications", "migration.patient_contents", "migration.planned_ids", "migration.plans",
    "migration.project_contents", "migration.run_estimates", "migration.run_lock", "migration.run_notes",
    "migration.runs", "migration.samples", "migration.schema_objects", "migration.schema_versions",
    "migration.survivors", "migration.workflow_template_contents",
}  # fmt: skip


def fingerprint(target: Target) -> Rows:
    return journaled_rows(target.all)


def close(target: Target, run: str, status: str = "completed") -> None:
    """The end of a run: nobody holds the lock."""
    target.tracking(run).close_run(status, {}, "")


def write(target: Target, run: str, *statements: str) -> None:
    """What a function that a run calls may do, in one transaction."""
    target.tracking(run)
    with target.connection.transaction():
        target.connection.execute("SELECT migration.hold_lock(%s)", [run])
        for statement in statements:
            target.connection.execute(statement.encode())


def others_write(target: Target, *statements: str) -> None:
    """What somebody else does."""
    for statement in statements:
        target.connection.execute(statement.encode())


def undo(target: Target, run: str, **options: bool) -> RolledBack:
    return roll_back(
        target.api, run, "Eva", "wrong mapping", **{"with_later": False, "overwrite": False, **options}
    )


def refused(target: Target, run: str, **options: bool) -> str:
    """Code of the refusal, which changes nothing."""
    before = fingerprint(target)
    with pytest.raises(MigrationError) as caught:
        undo(target, run, **options)
    assert fingerprint(target) == before
    return caught.value.code


def first(target: Target, run: str = "run-1") -> None:
    """A run that loads some of everything."""
    target.load("practices", [practice(1), practice(2)], run=run)
    target.load("profiles", [profile(1)], run=run)
    target.load(
        "patients",
        [
            patient(key, first_name=f"Ann{key}", practice_id=target_id("practices", "1"))
            for key in range(1, 6)
        ],
        run=run,
        rejects=[("9", "value_refused", "email", '{"id": "9"}')],
        findings=[("1", "email_malformed", "email")],
    )
    target.load("cases", [case(key, key, price="1.50") for key in range(1, 6)] + [case(7, 77)], run=run)
    target.load("workflow_templates", [workflow(1), workflow(2, 1)], run=run)
    target.load("workflow_template_tasks", [task(1, 1, 0), task(2, 1, 1)], run=run)
    close(target, run)


def second(target: Target, run: str = "run-2") -> None:
    """Rows that are new, changed, exchanged, gone, refused, repaired, merged."""
    target.load("practices", [practice(1, name="Renamed", tax_rate="7.50"), practice(3)], run=run)
    target.decide(run, {2: 1})
    people = [
        patient(1, first_name=None, metadata='{"a": 1.0}'),
        patient(2, first_name="Anna", email="x@example.org"),
        patient(9, first_name="Nine"),
    ]
    target.load("patients", [people[0], people[2]], run=run, rejects=[("3", "value_refused", "email", "{}")])
    target.load("patients", [people[1]], run=run, batch="merged")
    target.delete("patients", "4", run=run)
    target.load("cases", [case(1, 1, price="1.5"), case(2, 2), case(8, 9)], run=run)
    target.load("workflow_template_tasks", [task(1, 1, 1), task(2, 1, 0), task(3, 2, 0)], run=run)
    settle(target.api, run, "patients", dry_run=False)
    close(target, run)


def test_what_is_rolled_back_is_every_table_that_runs_build_on(target: Target) -> None:
    tables = {
        name
        for (name,) in target.all(
            "SELECT concat(schemaname, '.', tablename) FROM pg_tables WHERE schemaname IN ('public', 'migration')"
        )
    }
    assert set(fingerprint(target)) == tables - NOT_JOURNALED, (
        "let the table keep the journal, or name it here"
    )


def test_a_first_load(target: Target) -> None:
    empty = fingerprint(target)
    assert not any(empty.values())
    first(target)
    undone = undo(target, "run-1")
    assert fingerprint(target) == empty
    assert undone.runs == ("run-1",)
    assert undone.tables["public.patients"] == Counts(removed=5, restored=0)


def test_a_later_run(target: Target) -> None:
    first(target)
    before = fingerprint(target)
    second(target)
    assert fingerprint(target) != before
    undone = undo(target, "run-2")
    assert fingerprint(target) == before
    assert (undone.decisions_kept, undone.overwritten) == (0, 0)
    assert undone.tables["public.patients"] == Counts(removed=1, restored=4)


def test_values_come_back_byte_by_byte(target: Target) -> None:
    people = "UPDATE public.patients SET schemes = {}, metadata = '{{\"a\": {}}}', email = '{}' WHERE true"
    price = "UPDATE public.cases SET price = {} WHERE true"
    first(target)
    write(target, "run-2", people.format("'null'", "1.0", ""), price.format("2.50"))
    close(target, "run-2")
    before = fingerprint(target)
    write(target, "run-3", people.format("NULL", "1.00", "NULL"), price.format("2.5"))
    write(target, "run-3", "UPDATE public.patients SET email = NULL WHERE true")
    close(target, "run-3")
    undone = undo(target, "run-3", overwrite=True)
    assert fingerprint(target) == before
    assert undone.tables["public.cases"] == Counts(removed=0, restored=5)


def test_what_was_removed_comes_back_with_its_number(target: Target) -> None:
    first(target)
    before = fingerprint(target)
    write(
        target, "run-2", "DELETE FROM migration.quarantine WHERE true",
        "INSERT INTO migration.quarantine (entity, legacy_id, code, \"column\", reason, how_to_fix, run_id)"
        " SELECT 'patients', '9', code, '', '', '', 'run-2' FROM migration.finding_kinds LIMIT 1",
    )  # fmt: skip
    close(target, "run-2")
    undo(target, "run-2")
    assert fingerprint(target) == before


def test_rows_that_exchanged_a_unique_value_get_theirs_back(target: Target) -> None:
    first(target)
    entry = (
        "INSERT INTO migration.files (entity, legacy_id, bucket, object_key, target_id, run_id, withdrawn_at)"
        " VALUES ('projects', '1', 'b', '{0}', gen_random_uuid(), 'run-2', {1})"
    )
    write(target, "run-2", entry.format("a", "NULL"), entry.format("b", "now()"))
    close(target, "run-2")
    for turn in ("run-3", "run-4"):  # one way, and the other
        before = fingerprint(target)
        write(
            target, turn,
            "UPDATE migration.files SET withdrawn_at = now(), object_key = object_key WHERE withdrawn_at IS NULL"
            " RETURNING set_config('test.was', object_key, true)",
            "UPDATE migration.files SET withdrawn_at = NULL WHERE object_key <> current_setting('test.was')",
        )  # fmt: skip
        close(target, turn)
        assert fingerprint(target)["migration.files"] != before["migration.files"]
        undo(target, turn)
        assert fingerprint(target) == before
        write(target, f"{turn}-again",
            "UPDATE migration.files SET withdrawn_at = now() WHERE withdrawn_at IS NULL"
            " RETURNING set_config('test.was', object_key, true)",
            "UPDATE migration.files SET withdrawn_at = NULL WHERE object_key <> current_setting('test.was')",
        )  # fmt: skip
        close(target, f"{turn}-again")


class TestNothingIsNoted:
    def test_of_a_dry_run(self, target: Target) -> None:
        first(target)
        noted = target.image("migration.journal")
        target.load("patients", [patient(1, first_name="New"), patient(8)], run="dry", dry_run=True)
        target.delete("patients", "2", run="dry", dry_run=True)
        assert target.image("migration.journal") == noted

    def test_outside_of_runs(self, target: Target) -> None:
        first(target)
        noted = target.image("migration.journal")
        others_write(
            target,
            "UPDATE public.patients SET first_name = 'Eve' WHERE true",
            "DELETE FROM public.cases WHERE true",
        )
        assert target.image("migration.journal") == noted

    def test_where_nothing_changes(self, target: Target) -> None:
        first(target)
        noted = len(target.image("migration.journal"))
        write(target, "run-2", "UPDATE public.patients SET first_name = first_name WHERE true",
            "DELETE FROM public.cases WHERE false")  # fmt: skip
        assert len(target.image("migration.journal")) == noted


class TestRuns:
    def test_one_that_is_not_known_or_was_a_dry_run(self, target: Target) -> None:
        first(target)
        assert refused(target, "run-x") == "ROLLBACK_RUN_UNKNOWN"
        target.load("practices", [practice(7)], run="dry", dry_run=True)
        close(target, "dry")
        assert refused(target, "dry") == "ROLLBACK_RUN_UNKNOWN"

    def test_one_that_is_under_way(self, target: Target) -> None:
        first(target)
        target.load("practices", [practice(7)], run="run-2")
        assert refused(target, "run-2") == "RUN_LOCKED"
        assert refused(target, "run-1", with_later=True) == "RUN_LOCKED"

    def test_without_name_or_reason(self, target: Target) -> None:
        first(target)
        for by, reason in (("", "why"), ("me", " ")):
            with pytest.raises(MigrationError) as caught:
                roll_back(target.api, "run-1", by, reason, with_later=False, overwrite=False)
            assert caught.value.code == "PARAM_INVALID"

    def test_a_second_time_nothing_is_done(self, target: Target) -> None:
        first(target)
        undo(target, "run-1")
        first(target, "run-2")
        before = fingerprint(target)
        assert undo(target, "run-1", with_later=True) == RolledBack((), {}, 0, 0)
        assert fingerprint(target) == before

    def test_it_is_marked_and_not_taken_up_again(self, target: Target) -> None:
        first(target)
        undo(target, "run-1")
        assert target.all(
            "SELECT status, rolled_back_by, rollback_reason, rolled_back_at IS NOT NULL FROM migration.runs"
        ) == [("rolled_back", "Eva", "wrong mapping", True)]
        assert target.all(
            "SELECT run_id, details ->> 'by' FROM migration.audit_log WHERE event = 'rolled back'"
        ) == [("run-1", "Eva")]
        for again in (
            lambda: target.tracking("run-1"),
            lambda: TrackingHook(target.api, "run-1").enter("loading", "loading.patients", fail_fast=True),
            lambda: TrackingHook(target.api, "run-1").close_run("failed", {}, ""),
        ):
            with pytest.raises(MigrationError) as caught:
                again()
            assert caught.value.code == "RUN_ROLLED_BACK"
        assert target.all("SELECT status FROM migration.runs") == [("rolled_back",)]

    def test_it_is_no_complete_run(self, target: Target) -> None:
        first(target)
        assert target.api.call("last_complete_run") is not None
        second(target)
        complete = target.all("SELECT run_id FROM migration.watermarks WHERE name = 'source'")
        undo(target, "run-2")
        assert (
            target.all("SELECT run_id FROM migration.watermarks WHERE name = 'source'")
            == [("run-1",)]
            != complete
        )
        undo(target, "run-1")
        assert target.api.call("last_complete_run") is None

    def test_later_ones_stop_it_or_go_too(self, target: Target) -> None:
        empty = fingerprint(target)
        first(target)
        second(target)
        assert refused(target, "run-1") == "ROLLBACK_BLOCKED"
        assert undo(target, "run-1", with_later=True).runs == ("run-2", "run-1")
        assert fingerprint(target) == empty
        assert target.all("SELECT DISTINCT status FROM migration.runs") == [("rolled_back",)]

    def test_one_that_went_on_behind_a_later_one_goes_with_it(self, target: Target) -> None:
        first(target)
        before = fingerprint(target)
        name = "UPDATE public.practices SET name = '{}' WHERE legacy_office_id = 1"
        write(target, "run-2", name.format("two"))
        close(target, "run-2", "failed")
        write(target, "run-3", name.format("three"))
        close(target, "run-3", "failed")
        write(target, "run-2", name.format("two again"))
        close(target, "run-2", "failed")
        assert refused(target, "run-2", overwrite=True) == "ROLLBACK_BLOCKED"
        assert refused(target, "run-3", overwrite=True) == "ROLLBACK_BLOCKED"
        assert set(undo(target, "run-3", with_later=True, overwrite=True).runs) == {"run-2", "run-3"}
        assert fingerprint(target) == before

    def test_what_failed_before_stays_outdated(self, target: Target) -> None:
        first(target)
        target.load("practices", [practice(1, name="failed")], run="run-2")
        close(target, "run-2", "failed")
        second(target, "run-3")
        undo(target, "run-3")
        with pytest.raises(MigrationError) as caught:
            target.tracking("run-2")
        assert caught.value.code == "RUN_SUPERSEDED"


class TestOthers:
    def test_rows_that_were_changed_stop_it_unless_they_may_be_lost(self, target: Target) -> None:
        first(target)
        before = fingerprint(target)
        second(target)
        others_write(target, "UPDATE public.practices SET name = 'Theirs' WHERE legacy_office_id = 1")
        assert refused(target, "run-2") == "ROLLBACK_FOREIGN_WRITES"
        assert undo(target, "run-2", overwrite=True).overwritten == 1
        assert fingerprint(target) == before

    def test_rows_that_were_removed_stop_it(self, target: Target) -> None:
        first(target)
        second(target)
        others_write(target, "DELETE FROM public.practices WHERE legacy_office_id = 3")
        assert refused(target, "run-2") == "ROLLBACK_FOREIGN_WRITES"
        undo(target, "run-2", overwrite=True)
        assert target.all("SELECT legacy_office_id FROM public.practices ORDER BY 1") == [(1,), (2,)]

    def test_rows_that_the_run_did_not_touch_do_not(self, target: Target) -> None:
        first(target)
        second(target)
        others_write(target, "UPDATE public.practices SET name = 'Theirs' WHERE legacy_office_id = 2")
        undo(target, "run-2")
        assert target.row("practices", 2)["name"] == "Theirs"

    def test_columns_that_no_run_writes_stay(self, target: Target) -> None:
        first(target)
        target.load("profiles", [profile(1, username="new")], run="run-2")
        close(target, "run-2")
        others_write(target, "UPDATE public.profiles SET auth_user_id = gen_random_uuid() WHERE true")
        account = target.row("profiles", 1)["auth_user_id"]
        undo(target, "run-2")
        assert (target.row("profiles", 1)["username"], target.row("profiles", 1)["auth_user_id"]) == (
            None,
            account,
        )

    def test_columns_that_came_since_stay(self, target: Target) -> None:
        first(target)
        second(target)
        others_write(
            target,
            "ALTER TABLE public.patients ADD COLUMN note text",
            "UPDATE public.patients SET note = 'x' WHERE true",
        )
        undo(target, "run-2")
        assert target.all("SELECT note FROM public.patients") == [("x",)] * 5

    def test_rows_that_refer_to_what_would_go_stop_it(self, target: Target) -> None:
        first(target)
        second(target)
        others_write(
            target,
            "INSERT INTO public.practice_members (id, legacy_office_doctor_id, practice_id, profile_id, role)"
            " SELECT gen_random_uuid(), 99, p.id, o.id, 'doctor' FROM public.practices p, public.profiles o"
            " WHERE p.legacy_office_id = 3",
        )
        assert refused(target, "run-2", overwrite=True) == "ROLLBACK_BLOCKED"


class TestPeople:
    def test_a_merge_that_was_undone_since_cannot_come_back_by_half(self, target: Target) -> None:
        first(target)
        second(target)
        unmerge(target.api, "patients", "2", "Eva", "cousins")
        assert refused(target, "run-2", overwrite=True, with_later=True) == "ROLLBACK_IMPOSSIBLE"

    def test_one_that_was_undone_before_does_not_matter(self, target: Target) -> None:
        first(target)
        second(target)
        unmerge(target.api, "patients", "2", "Eva", "cousins")
        before = fingerprint(target)
        target.load("practices", [practice(4)], run="run-3")
        close(target, "run-3")
        undo(target, "run-3")
        assert fingerprint(target) == before

    def test_decisions_stay(self, target: Target) -> None:
        first(target)
        pair = (
            "INSERT INTO migration.duplicate_pairs (entity, left_legacy_id, right_legacy_id, score, explanation,"
            " status, run_id) VALUES ('patients', '{}', '{}', 0.7, '{{\"why\": 1}}', 'pending', '{}')"
        )
        write(target, "run-2", *(pair.format(*ids, "run-2") for ids in ((1, 2), (2, 3), (3, 4))))
        close(target, "run-2")
        write(
            target,
            "run-3",
            *(pair.format(*ids, "run-3") for ids in ((1, 3), (1, 4))),
            "UPDATE migration.duplicate_pairs SET score = 0.8, status = 'stale', run_id = 'run-3'"
            " WHERE run_id = 'run-2'",
        )
        close(target, "run-3")
        said = [
            ("1", "2", "confirmed"),
            ("2", "3", "rejected"),
            ("2", "3", "pending"),
            ("1", "3", "rejected"),
        ]
        for left, right, decision in said:
            Review(target.api, "patients").decide(
                [Decision(left, right, decision, "Eva", "looked", "line 1")]
            )
        assert undo(target, "run-3").decisions_kept == 3
        assert target.all(
            "SELECT left_legacy_id, right_legacy_id, score, explanation, status, run_id, decided_by"
            " FROM migration.duplicate_pairs ORDER BY 1, 2"
        ) == [
            ("1", "2", 0.7, {"why": 1}, "confirmed", "run-2", "Eva"),
            ("1", "3", None, {}, "rejected", None, "Eva"),
            ("2", "3", 0.7, {"why": 1}, "pending", "run-2", None),
            ("3", "4", 0.7, {"why": 1}, "pending", "run-2", None),
        ]


class TestJournals:
    def test_those_of_the_last_runs_are_kept(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        first(target)
        second(target)
        monkeypatch.setenv("MIGRATION_ROLLBACK_RUNS", "1")
        assert drop_journals(target.api) == 1
        assert drop_journals(target.api) == 0
        assert target.all("SELECT DISTINCT run_id FROM migration.journal") == [("run-2",)]
        undo(target, "run-2")
        assert refused(target, "run-1") == "ROLLBACK_IMPOSSIBLE"

    def test_ten_by_default(self, target: Target) -> None:
        for number in range(12):
            target.load("practices", [practice(number)], run=f"run-{number}")
        assert drop_journals(target.api) == 2
        assert target.all(
            "SELECT count(DISTINCT run_id), bool_or(run_id IN ('run-0', 'run-1')) FROM migration.journal"
        ) == [(10, False)]

    def test_one_without_those_in_between_is_dropped_too(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = "INSERT INTO migration.match_models VALUES ('{}', '{{}}', 'r')"
        for number, run in enumerate(("run-1", "run-2", "run-1", "run-3")):
            write(target, run, name.format(number))
            close(target, run, "failed")
        monkeypatch.setenv("MIGRATION_ROLLBACK_RUNS", "2")
        assert drop_journals(target.api) == 2
        assert target.all("SELECT run_id FROM migration.runs WHERE journal_kept") == [("run-3",)]

    @pytest.mark.parametrize("wrong", ["-1", "many", "1.5", "10000000"])
    def test_a_wrong_number_is_refused(
        self, target: Target, monkeypatch: pytest.MonkeyPatch, wrong: str
    ) -> None:
        monkeypatch.setenv("MIGRATION_ROLLBACK_RUNS", wrong)
        with pytest.raises(MigrationError, match="MIGRATION_ROLLBACK_RUNS") as caught:
            drop_journals(target.api)
        assert caught.value.code == "PARAM_INVALID"

    def test_what_was_rolled_back_is_kept_no_more(self, target: Target) -> None:
        first(target)
        undo(target, "run-1")
        assert target.all("SELECT count(*) FROM migration.journal") == [(0,)]

    def test_nobody_but_the_service_reads_them(self, target: Target) -> None:
        for role in ("anon", "authenticated"):
            with target.connection.transaction(force_rollback=True):
                target.connection.execute(f"SET LOCAL ROLE {role}".encode())
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    target.connection.execute("SELECT FROM migration.journal")


class TestOperator:
    def test_it_says_what_it_did(self, target: Target, caplog: pytest.LogCaptureFixture) -> None:
        first(target)
        second(target)
        params = {
            "run_id": "run-1", "decided_by": "Eva", "reason": "wrong mapping", "with_later_runs": True,
            "overwrite_foreign": False, "load_via": target.api.way,
        }  # fmt: skip
        context: Any = {"params": params, "dag_run": SimpleNamespace(conf={})}
        with caplog.at_level(logging.INFO):
            done = RollBackOperator(task_id="roll_back").execute(context)
        assert (done["runs"], done["overwritten"]) == (2, 0)
        assert "rolled back: run-2, run-1" in caplog.text
        assert "public.patients: 6 rows removed, 0 put back" in caplog.text
