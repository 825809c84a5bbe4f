"""Merged rows: what their survivors hold, what is compared of them, and how a merge is undone."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from include.core.errors import MigrationError
from include.core.ids import target_id
from plugins.hooks.decisions import COMPARED, Decisions
from plugins.hooks.merging import Settled, Unmerged, settle, unmerge, unmerge_rows
from plugins.operators.undo_merge import UndoMergeOperator
from tests.hooks.loading import Row, Target, case, patient, practice, profile

BOTH_WAYS = True
DOCTOR = target_id("profiles", "1")
OFFICE = target_id("practices", "1")
OTHER_OFFICE = target_id("practices", "2")

ANN = patient(1, first_name="Ann", email="", updated_at="2024-01-01 00:00:00+00", gender="female")
OLDER = patient(
    2, first_name="Anna", last_name="Old", email="old@example.org", practice_id=OFFICE,
    date_of_birth="1980-02-29", updated_at="2023-01-01 00:00:00+00",
)  # fmt: skip
NEWER = patient(
    11, last_name="New", email="new@example.org", practice_id=OTHER_OFFICE, primary_doctor_id=DOCTOR,
    schemes='[{"a": 1.50}]', submitted_at="2020-01-01 00:00:00+00", updated_at="2023-06-01 00:00:00+00",
)  # fmt: skip
PEOPLE = [ANN, OLDER, NEWER]
MERGES = {2: 1, 11: 1}


def load(
    target: Target, run: str = "run-1", merges: Mapping[int, int] = MERGES, people: list[Row] = PEOPLE
) -> Settled:
    """A run: people, whose merges were decided, and cases of each of them."""
    target.load("practices", [practice(1), practice(2)], run=run)
    target.load("profiles", [profile(1)], run=run)
    target.decide(run, merges)
    ids = {str(key) for key in merges}
    target.load("patients", [row for row in people if row["legacy_id"] not in ids], run=run)
    target.load("patients", [row for row in people if row["legacy_id"] in ids], run=run, batch="merged")
    affected(target, "patients", run)
    target.load(
        "cases", [case(int(str(row["legacy_id"])), int(str(row["legacy_id"]))) for row in people], run=run
    )
    affected(target, "cases", run)
    return settle(target.api, run, "patients", dry_run=False)


def affected(target: Target, entity: str, run: str) -> int:
    """Rows whose references fit no more, loaded again."""
    versions = {"mapping": "test", "rules": "test"}
    fates = target.api.call(
        "load_batch",
        incoming={},
        run=run,
        entity=entity,
        batch={"phase": "loading", "batch": "affected"},
        versions=versions,
        dry_run=False,
        affected=1_000,
    )
    return int(fates["extracted"] - fates["unchanged"])


def merged_of(target: Target, key: int = 1) -> Any:
    return target.row("patients", key)["metadata"].get("merged")


class TestFill:
    def test_gaps_are_filled_and_what_differs_is_kept(self, target: Target) -> None:
        assert load(target) == Settled(survivors=1, filled=6, conflicts=4, written=1)
        survivor = target.row("patients", 1)
        assert (survivor["first_name"], survivor["last_name"]) == ("Ann", "New")
        assert (survivor["email"], survivor["date_of_birth"].isoformat()) == ("new@example.org", "1980-02-29")
        assert (str(survivor["practice_id"]), str(survivor["primary_doctor_id"])) == (OTHER_OFFICE, DOCTOR)
        assert (survivor["schemes"], survivor["gender"]) == ([{"a": 1.5}], "female")
        assert merged_of(target) == {
            "filled": {
                "last_name": "11", "email": "11", "practice_id": "11", "primary_doctor_id": "11",
                "date_of_birth": "2", "schemes": "11",
            },
            "gaps": {"email": ""},
            "conflicts": {
                "first_name": [{"legacy_id": "2", "value": "Anna"}],
                "last_name": [{"legacy_id": "2", "value": "Old"}],
                "email": [{"legacy_id": "2", "value": "old@example.org"}],
                "practice_id": [{"legacy_id": "2", "value": OFFICE}],
            },
        }  # fmt: skip

    def test_keys_and_dates_stay_the_survivors(self, target: Target) -> None:
        load(target)
        survivor = target.row("patients", 1)
        assert (survivor["patient_number"], survivor["submitted_at"]) == ("P000001", None)
        assert survivor["updated_at"].isoformat() == "2024-01-01T00:00:00+00:00"

    def test_merged_rows_hold_their_own_values(self, target: Target) -> None:
        load(target)
        assert merged_of(target, 2) is None
        assert target.row("patients", 2)["last_name"] == "Old"

    def test_a_second_time_nothing_is_written(self, target: Target) -> None:
        first = load(target)
        before = {
            table: target.image(table)
            for table in ("public.patients", "migration.id_map", "migration.merges")
        }
        assert settle(target.api, "run-1", "patients", dry_run=False) == Settled(
            first.survivors, first.filled, first.conflicts, 0
        )
        assert load(target, "run-2").written == 0
        assert {table: target.image(table) for table in before} == before

    def test_what_the_source_wrote_since_counts(self, target: Target) -> None:
        load(target)
        people = [{**ANN, "email": "ann@example.org"}, OLDER, NEWER]
        assert load(target, "run-2", people=[*people]).written == 1
        assert target.row("patients", 1)["email"] == "ann@example.org"
        assert "gaps" not in merged_of(target)
        assert [kept["legacy_id"] for kept in merged_of(target)["conflicts"]["email"]] == ["11", "2"]
        assert target.row("patients", 1)["last_name"] == "New"
        load(target, "run-3", people=[people[0], OLDER, {**NEWER, "last_name": None}])
        assert target.row("patients", 1)["last_name"] == "Old"

    def test_without_its_merged_rows_a_survivor_is_itself_again(self, target: Target) -> None:
        load(target, merges={})
        plain = target.all("SELECT to_jsonb(p) FROM public.patients p ORDER BY id")
        load(target, "run-2")
        assert target.all("SELECT to_jsonb(p) FROM public.patients p ORDER BY id") != plain
        load(target, "run-3", merges={})
        assert target.all("SELECT to_jsonb(p) FROM public.patients p ORDER BY id") == plain

    def test_a_survivor_that_is_merged_itself_gives_back_what_it_was_given(self, target: Target) -> None:
        load(target)
        load(target, "run-2", merges={1: 2, 11: 2})
        assert merged_of(target, 1) is None
        assert (target.row("patients", 1)["email"], target.row("patients", 1)["practice_id"]) == ("", None)
        assert target.row("patients", 2)["gender"] == "female"
        assert merged_of(target, 2)["filled"]["gender"] == "1"

    def test_without_a_load_survivors_that_fit_no_more_are_staged_as_they_are_themselves(
        self, target: Target
    ) -> None:
        load(target)
        target.decide("run-2", {1: 2, 11: 2})
        assert affected(target, "patients", "run-2") == 3
        assert affected(target, "patients", "run-2") == 0
        settle(target.api, "run-2", "patients", dry_run=False)
        assert (merged_of(target, 1), target.row("patients", 1)["email"]) == (None, "")
        assert merged_of(target, 2)["filled"] == {"gender": "1", "primary_doctor_id": "11", "schemes": "11"}
        assert [kept["legacy_id"] for kept in merged_of(target, 2)["conflicts"]["last_name"]] == ["11"]

    def test_a_reference_that_was_filled_is_no_change_of_the_source(self, target: Target) -> None:
        load(target)
        assert target.load("patients", [ANN], run="run-2").unchanged == 1
        assert affected(target, "patients", "run-2") == 0

    def test_a_filled_reference_goes_with_its_parent(self, target: Target) -> None:
        load(target)
        target.delete("practices", "2", run="run-2")
        affected(target, "patients", "run-2")
        settle(target.api, "run-2", "patients", dry_run=False)
        assert str(target.row("patients", 1)["practice_id"]) == OFFICE
        assert affected(target, "patients", "run-2") == 0
        assert settle(target.api, "run-2", "patients", dry_run=False).written == 0

    def test_a_merged_row_that_is_gone_gives_nothing(self, target: Target) -> None:
        load(target)
        target.delete("patients", "11", run="run-2")
        settle(target.api, "run-2", "patients", dry_run=False)
        assert target.row("patients", 1)["last_name"] == "Old"
        assert "11" not in merged_of(target)["filled"].values()

    def test_nothing_unique_is_filled(self, target: Target) -> None:
        target.connection.execute(
            "CREATE UNIQUE INDEX one ON public.patients (lower(email)) WHERE suffix IS NULL"
        )
        target.connection.execute("ALTER TABLE public.patients ADD CHECK (last_name <> 'New')")
        people = [ANN, OLDER, {**NEWER, "last_name": "Neu", "suffix": "Jr"}]
        load(target, people=people)
        survivor = target.row("patients", 1)
        assert (survivor["email"], survivor["suffix"], survivor["last_name"]) == ("", None, None)
        assert survivor["date_of_birth"] is not None

    def test_the_last_writing_counts_then_the_lower_id(self, target: Target) -> None:
        people = [patient(1), patient(9, suffix="nine"), patient(10, suffix="ten"), patient(2, suffix="two")]
        load(target, merges={9: 1, 10: 1, 2: 1}, people=people)
        assert target.row("patients", 1)["suffix"] == "two"
        assert [kept["value"] for kept in merged_of(target)["conflicts"]["suffix"]] == ["nine", "ten"]

    def test_a_dry_run_writes_nothing(self, target: Target) -> None:
        target.tracking("dry", dry_run=True)
        target.load("patients", PEOPLE, run="dry", dry_run=True)
        target.connection.execute(
            "INSERT INTO migration.survivors VALUES ('dry', 'patients', %s, %s)",
            [target_id("patients", "2"), target_id("patients", "1")],
        )
        assert settle(target.api, "dry", "patients", dry_run=True) == Settled(1, 0, 0, 0)
        assert target.all("SELECT 1 FROM public.patients") == []

    def test_a_run_that_lost_its_lock_settles_nothing(self, target: Target) -> None:
        target.tracking("run-1")
        target.connection.execute("DELETE FROM migration.run_lock")
        with pytest.raises(MigrationError) as caught:
            settle(target.api, "run-1", "patients", dry_run=False)
        assert caught.value.code == "RUN_LOST"

    def test_the_rows_before_are_kept(self, target: Target) -> None:
        load(target, merges={})
        before = [
            row
            for (row,) in target.all("SELECT to_jsonb(p) FROM public.patients p ORDER BY legacy_patient_id")
        ]
        load(target, "run-2")
        kept = target.all(
            "SELECT survivor_before, before_image FROM migration.merges g JOIN public.patients p ON p.id = g.merged_id"
            " ORDER BY legacy_patient_id"
        )
        assert kept == [(before[0], before[1]), (before[0], before[2])]

    def test_the_documents_of_a_survivor_are_due_again(self, target: Target) -> None:
        load(target, merges={})
        written = (
            "SELECT legacy_id FROM migration.id_map WHERE entity = 'patients' AND written_at >= %s ORDER BY 1"
        )
        (now,) = target.all("SELECT now()")[0]
        load(target, "run-2")
        assert target.all(written, [now]) == [("1",), ("11",), ("2",)]
        (now,) = target.all("SELECT now()")[0]
        load(target, "run-3", people=[ANN, OLDER, {**NEWER, "last_name": "Newer"}])
        assert target.all(written, [now]) == [("1",), ("11",)]


class TestChecks:
    def failed(self, target: Target) -> dict[str, list[str]]:
        checks = target.api.call("check_integrity", entity="patients")
        return {c["name"]: c["sample_keys"] for c in checks if c["expected"] != c["found"]}

    def test_survivors_are_as_their_merges_make_them(self, target: Target) -> None:
        load(target)
        assert self.failed(target) == {}

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE public.patients SET metadata = metadata - 'merged' WHERE legacy_patient_id = 1",
            "UPDATE public.patients SET last_name = 'Other' WHERE legacy_patient_id = 1",
            "UPDATE public.patients SET last_name = 'Other' WHERE legacy_patient_id = 11",
        ],
    )
    def test_others_are_named(self, target: Target, change: str) -> None:
        load(target)
        target.connection.execute(change.encode())
        assert self.failed(target) == {"merges_settled": ["1"]}


def people_table(*rows: Row) -> pa.Table:
    """Rows as they are staged."""
    found = [{name: row.get(name) for name in COMPARED} for row in rows]
    return pa.Table.from_pylist(found, pa.schema({name: pa.string() for name in COMPARED}))


class TestCompared:
    def changed(self, target: Target, rows: list[Row], read: list[str]) -> Any:
        incoming = {"rows": people_table(*rows), "read": pa.table({"legacy_id": pa.array(read, pa.string())})}
        return target.api.call("compared_changed", incoming=incoming, entity="patients")

    def test_rows_are_compared_by_what_they_have_themselves(self, target: Target) -> None:
        load(target)
        stored = Decisions(target.api, "run-1", "patients").stored()
        assert stored.to_pylist() == people_table(ANN, NEWER, OLDER).to_pylist()
        assert self.changed(target, PEOPLE, ["1", "2", "11"]) == []

    def test_references_are_compared_as_the_source_has_them(self, target: Target) -> None:
        lost = {**ANN, "practice_id": target_id("practices", "77")}
        load(target, people=[lost, OLDER, NEWER])
        assert str(target.row("patients", 1)["practice_id"]) == OTHER_OFFICE
        stored = Decisions(target.api, "run-1", "patients").stored()
        assert stored.to_pylist()[0] == people_table(lost).to_pylist()[0]
        assert self.changed(target, [lost], ["1"]) == []
        assert affected(target, "patients", "run-1") == 0

    @pytest.mark.parametrize("column", COMPARED[1:])
    def test_every_column_counts(self, target: Target, column: str) -> None:
        load(target)
        other = {"date_of_birth": "1999-09-09", "gender": "male", "practice_id": target_id("practices", "5"),
                 "primary_doctor_id": target_id("profiles", "5"), "updated_at": "2025-01-01 00:00:00+00"}  # fmt: skip
        assert self.changed(target, [{**ANN, column: other.get(column, "other")}], ["1"]) == ["1"]

    def test_new_rows_and_those_not_compared_any_more_are_named(self, target: Target) -> None:
        load(target)
        assert self.changed(target, [ANN, patient(3)], ["1", "11", "3", "99"]) == ["11", "3"]
        assert self.changed(target, [], []) == []


def stored(target: Target) -> dict[str, list[Any]]:
    """Everything that tells a target with a merge from one without."""
    queries = {
        table: f"SELECT to_jsonb(t) FROM public.{table} t ORDER BY id"
        for table in ("practices", "profiles", "patients", "cases")
    }
    queries["id_map"] = (
        "SELECT entity, legacy_id, target_id::text, survivor_id, content_hash, state FROM migration.id_map"
        " ORDER BY 1, 2"
    )
    for table in ("redirects", "findings", "quarantine", "survivors"):
        queries[table] = f"SELECT to_jsonb(t) FROM migration.{table} t ORDER BY 1"
    return {name: target.all(query) for name, query in queries.items()}


def over(target: Target) -> None:
    """The run that was under way has ended."""
    target.connection.execute("DELETE FROM migration.run_lock")


def pairs(target: Target) -> list[tuple[Any, ...]]:
    return target.all(
        "SELECT left_legacy_id, right_legacy_id, status, decided_by, decision_reason FROM migration.duplicate_pairs"
        " ORDER BY 1, 2"
    )


class TestUnmerge:
    @pytest.mark.parametrize("without", [{}, {2: 1}, {11: 1}])
    def test_the_target_is_what_it_would_have_been(self, target: Target, without: dict[int, int]) -> None:
        load(target, merges=without)
        target.connection.execute("DELETE FROM migration.survivors")
        expected = stored(target)
        load(target, "run-2")
        target.connection.execute("DELETE FROM migration.survivors")
        over(target)
        for key in MERGES.keys() - without.keys():
            undone = unmerge(target.api, "patients", str(key), "Dr. Who", "two people")
            assert (undone.survivor, undone.children) == ("1", 1)
        assert stored(target) == expected

    def test_a_run_with_the_decision_changes_nothing(self, target: Target) -> None:
        load(target)
        over(target)
        unmerge(target.api, "patients", "2", "Dr. Who", "two people")
        tables = (
            "public.patients",
            "public.cases",
            "migration.id_map",
            "migration.redirects",
            "migration.merges",
        )
        before = {table: target.image(table) for table in tables}
        assert load(target, "run-2", merges={11: 1}).written == 0
        assert {table: target.image(table) for table in tables} == before

    def test_the_row_is_rejected_as_a_duplicate_of_all_the_others(self, target: Target) -> None:
        load(target)
        over(target)
        assert unmerge(target.api, "patients", "2", "Dr. Who", "two people") == Unmerged("1", 1, 2)
        assert pairs(target) == [
            ("1", "2", "rejected", "Dr. Who", "two people"),
            ("2", "11", "rejected", "Dr. Who", "two people"),
        ]

    def test_what_happened_is_kept(self, target: Target) -> None:
        load(target)
        over(target)
        unmerge(target.api, "patients", "2", "Dr. Who", "two people")
        merges = "SELECT merged_id::text, undone_at IS NOT NULL FROM migration.merges ORDER BY id"
        assert dict(target.all(merges)) == {
            target_id("patients", "2"): True,
            target_id("patients", "11"): False,
        }
        ((details,),) = target.all("SELECT details FROM migration.audit_log WHERE event = 'merge undone'")
        assert details == {
            "entity": "patients", "legacy_id": "2", "survivor": "1", "by": "Dr. Who", "children": 1,
        }  # fmt: skip

    def test_what_came_back_is_due_again(self, target: Target) -> None:
        load(target)
        over(target)
        (now,) = target.all("SELECT clock_timestamp()")[0]
        unmerge(target.api, "patients", "11", "Dr. Who", "two people")
        written = "SELECT entity, legacy_id FROM migration.id_map WHERE written_at >= %s ORDER BY 1, 2"
        assert target.all(written, [now]) == [("cases", "11"), ("patients", "1"), ("patients", "11")]

    def test_a_failed_run_that_goes_on_merges_it_no_more(self, target: Target) -> None:
        load(target)
        over(target)
        unmerge(target.api, "patients", "2", "Dr. Who", "two people")
        target.tracking("run-1")
        assert target.load("patients", [OLDER], run="run-1").unchanged == 1
        assert target.states("patients") == {"1": "live", "11": "merged", "2": "live"}

    @pytest.mark.parametrize(
        ("asked", "code"),
        [
            (("patients", "1", "me", "why"), "NOT_MERGED"),
            (("patients", "77", "me", "why"), "NOT_MERGED"),
            (("cases", "2", "me", "why"), "REVIEW_ENTITY_UNKNOWN"),
            (("nonsense", "2", "me", "why"), "REVIEW_ENTITY_UNKNOWN"),
            (("patients", "2", "", "why"), "REVIEW_DECISION_INVALID"),
            (("patients", "2", "me", " \n"), "REVIEW_DECISION_INVALID"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, target: Target, asked: tuple[str, str, str, str], code: str
    ) -> None:
        load(target)
        over(target)
        before = stored(target)
        with pytest.raises(MigrationError) as caught:
            unmerge(target.api, *asked)
        assert caught.value.code == code
        assert (stored(target), pairs(target)) == (before, [])

    def test_twice_is_refused(self, target: Target) -> None:
        load(target)
        over(target)
        unmerge(target.api, "patients", "2", "me", "why")
        with pytest.raises(MigrationError, match="Row 2 is live") as caught:
            unmerge(target.api, "patients", "2", "me", "why")
        assert caught.value.code == "NOT_MERGED"

    def test_by_a_task(self, target: Target, caplog: pytest.LogCaptureFixture) -> None:
        load(target)
        over(target)
        asked = {"entity": "patients", "legacy_ids": ["2", "11"], "decided_by": "me", "reason": "why"}
        context: Any = {
            "params": {**asked, "load_via": target.api.way},
            "dag_run": SimpleNamespace(conf=asked),
        }
        task = UndoMergeOperator(task_id="undo_merge")
        assert task.execute(context) == {"rows": 2, "children": 2, "rejected": 3}
        assert set(target.states("patients").values()) == {"live"}
        with pytest.raises(MigrationError), caplog.at_level("ERROR"):
            task.execute(context)
        assert "NOT_MERGED" in caplog.text

    def test_of_several_rows_all_or_none(self, target: Target) -> None:
        load(target)
        over(target)
        before = stored(target)
        with pytest.raises(MigrationError, match="Row 1 is live"):
            unmerge_rows(target.api, "patients", ["2", "1", "11"], "me", "why")
        assert (stored(target), pairs(target)) == (before, [])
        undone = unmerge_rows(target.api, "patients", ["2", "11"], "me", "why")
        assert [each.rejected for each in undone] == [2, 1]
        assert [pair[:3] for pair in pairs(target)] == [
            ("1", "11", "rejected"), ("1", "2", "rejected"), ("2", "11", "rejected"),
        ]  # fmt: skip

    def test_no_run_begins_meanwhile(self, target: Target, target_dsn: str) -> None:
        load(target)
        over(target)
        with psycopg.connect(target_dsn) as undoing:
            undoing.execute("SELECT migration_api.unmerge('patients', '2', 'me', 'why')")
            target.connection.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                target.connection.execute(
                    "INSERT INTO migration.run_lock (run_id, host) VALUES ('run-1', 'here')"
                )
        assert target.states("patients")["2"] == "live"

    def test_while_a_run_is_under_way_it_is_refused(self, target: Target) -> None:
        load(target)
        with pytest.raises(MigrationError, match="run-1") as caught:
            unmerge(target.api, "patients", "2", "me", "why")
        assert caught.value.code == "RUN_LOCKED"
        assert target.states("patients")["2"] == "merged"
