"""The merge of batches, in a real target."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest

from include.core.errors import MigrationError
from include.core.ids import target_id
from include.core.tracking import Fates
from include.core.transform import FINDING_SCHEMA, REJECT_SCHEMA
from include.entities import ENTITIES
from plugins.hooks.batch_loader import BatchLoader, LoadBatch
from plugins.hooks.connect import TARGET, translated
from plugins.hooks.decisions import merged_ids
from plugins.hooks.target import naming
from plugins.hooks.target_postgres import PostgresTarget, session
from plugins.hooks.tracking import TrackingHook
from tests.hooks.loading import (
    Row,
    Target,
    case,
    clean_table,
    member,
    patient,
    performance,
    practice,
    profile,
    project,
    task,
    workflow,
)

BOTH_WAYS = True

SECRET = "Zweifelstein"


class TestFates:
    def test_new_rows_are_inserted_and_recorded(self, target: Target) -> None:
        assert target.load("practices", [practice(1), practice(2, name=None)]) == Fates(2, inserted=2)
        assert target.row("practices", 2)["name"] is None
        assert target.states("practices") == {"1": "live", "2": "live"}
        ledger = target.all("SELECT phase, batch, status, extracted, inserted FROM migration.batches")
        assert ledger == [("loading", "p000-b0000", "done", 2, 2)]

    def test_a_rerun_rewrites_nothing(self, target: Target) -> None:
        rows = [practice(key) for key in range(30)]
        target.load("practices", rows)
        before = target.image("public.practices"), target.image("migration.id_map")
        assert target.load("practices", rows, run="run-2") == Fates(30, unchanged=30)
        assert (target.image("public.practices"), target.image("migration.id_map")) == before

    def test_the_same_batch_again_in_one_run_counts_once(self, target: Target) -> None:
        for _ in range(2):
            target.load("practices", [practice(1)])
        assert target.all("SELECT extracted, inserted, unchanged, attempt FROM migration.batches") == [
            (1, 0, 1, 2)
        ]

    def test_one_changed_row_is_one_update(self, target: Target) -> None:
        rows = [practice(key) for key in range(5)]
        target.load("practices", rows)
        before = target.image("public.practices")
        fates = target.load("practices", [*rows[:4], practice(4, name="Renamed")], run="run-2")
        assert fates == Fates(5, updated=1, unchanged=4)
        assert len(set(before) - set(target.image("public.practices"))) == 1
        assert target.row("practices", 4)["name"] == "Renamed"
        assert target.all("SELECT legacy_id FROM migration.id_map WHERE last_run = 'run-2'") == [("4",)]

    def test_null_and_empty_text_are_different_content(self, target: Target) -> None:
        target.load("practices", [practice(1, phone=None)])
        assert target.load("practices", [practice(1, phone="")]).updated == 1
        assert target.row("practices", 1)["phone"] == ""

    def test_text_arrives_exactly(self, target: Target) -> None:
        text = "a \"quoted\", 'single' \\back\\slash\\n line\r\nbreak\ttab \\. naïve 漢字 🦷"
        target.load("practices", [practice(1, name=text), practice(2, name=r"\N"), practice(3, name="\\.")])
        assert [target.row("practices", key)["name"] for key in (1, 2, 3)] == [text, r"\N", "\\."]

    def test_a_row_that_someone_deleted_comes_back(self, target: Target) -> None:
        target.load("practices", [practice(1)])
        target.connection.execute("DELETE FROM public.practices")
        assert target.load("practices", [practice(1)]).inserted == 1

    def test_a_row_that_was_soft_deleted_comes_back(self, target: Target) -> None:
        target.load("practices", [practice(1)])
        target.connection.execute("UPDATE public.practices SET deleted_at = now()")
        assert target.load("practices", [practice(1)]).updated == 1
        assert target.row("practices", 1)["deleted_at"] is None

    def test_columns_that_the_entity_does_not_fill_are_left_alone(self, target: Target) -> None:
        target.load("profiles", [profile(1)])
        target.connection.execute("UPDATE public.profiles SET auth_user_id = gen_random_uuid()")
        target.load("profiles", [profile(1, username="new")])
        assert target.row("profiles", 1)["auth_user_id"] is not None

    def test_an_empty_batch_is_recorded(self, target: Target) -> None:
        assert target.load("practices", []) == Fates()
        assert target.all("SELECT extracted FROM migration.batches") == [(0,)]

    def test_findings_follow_the_row(self, target: Target) -> None:
        found = "SELECT legacy_id, code, run_id FROM migration.findings ORDER BY 1"
        rows = [practice(1), practice(2)]
        target.load("practices", rows, findings=[("1", "name_empty", "name"), ("2", "name_empty", "name")])
        target.load("practices", rows, run="run-2", findings=[("1", "name_empty", "name")])
        assert target.all(found) == [("1", "name_empty", "run-1")]

    def test_rejects_of_the_transformation_are_quarantined_once(self, target: Target) -> None:
        reject = ("9", "link_repeated", "profile_id", '{"t.id": "9"}')
        for run in ("run-1", "run-2"):
            fates = target.load("practices", [practice(1)], run=run, rejects=[reject])
            assert fates.rejected == 1
        assert target.quarantine("practices") == [("9", "link_repeated", "profile_id")]
        entry = target.all("SELECT reason <> '', how_to_fix <> '', payload, run_id FROM migration.quarantine")
        assert entry == [(True, True, {"t.id": "9"}, "run-1")]

    def test_a_row_that_is_rejected_later_is_no_longer_live(self, target: Target) -> None:
        target.load("practices", [practice(1)])
        target.load("practices", [], run="run-2", rejects=[("1", "value_refused", "name", "{}")])
        assert target.states("practices") == {"1": "quarantined"}
        target.load("practices", [practice(1)], run="run-3")
        assert target.states("practices") == {"1": "live"}
        assert target.quarantine("practices", "re-driven") == [("1", "value_refused", "name")]

    def test_rows_of_other_entities_may_have_the_same_key(self, target: Target) -> None:
        target.load("practices", [practice(1)])
        assert target.load("profiles", [profile(1)]).inserted == 1


class TestReferences:
    def test_a_child_waits_in_quarantine_for_its_parent(self, target: Target) -> None:
        target.load("patients", [patient(1)])
        children = [case(1, 1), case(2, 99)]
        assert target.load("cases", children) == Fates(2, inserted=1, rejected=1)
        assert target.quarantine("cases") == [("2", "parent_missing", "patient_id")]
        assert target.states("cases") == {"1": "live", "2": "quarantined"}

        target.load("patients", [patient(1), patient(99)], run="run-2")
        assert target.load("cases", children, run="run-2") == Fates(2, inserted=1, unchanged=1)
        assert target.quarantine("cases") == []
        resolved = target.all("SELECT status, resolved_run_id FROM migration.quarantine")
        assert resolved == [("re-driven", "run-2")]
        assert target.states("cases") == {"1": "live", "2": "live"}

    def test_a_child_that_waits_again_is_not_entered_twice(self, target: Target) -> None:
        for run in ("run-1", "run-2"):
            target.load("cases", [case(2, 99)], run=run)
        assert target.quarantine("cases") == [("2", "parent_missing", "patient_id")]

    def test_a_required_reference_without_value_is_rejected(self, target: Target) -> None:
        assert target.load("cases", [case(1, 1, patient_id=None)]).rejected == 1
        assert target.quarantine("cases") == [("1", "parent_missing", "patient_id")]

    def test_an_optional_reference_is_cleared_and_healed_later(self, target: Target) -> None:
        rows = [patient(1, practice_id=target_id("practices", "5"))]
        finding = "SELECT legacy_id, code, \"column\" FROM migration.findings WHERE entity = 'patients'"
        assert target.load("patients", rows) == Fates(1, inserted=1)
        assert target.row("patients", 1)["practice_id"] is None
        assert target.all(finding) == [("1", "reference_missing", "practice_id")]
        assert target.load("patients", rows, run="run-2") == Fates(1, unchanged=1)
        assert target.all(finding) == [("1", "reference_missing", "practice_id")]

        target.load("practices", [practice(5)], run="run-3")
        assert target.load("patients", rows, run="run-3") == Fates(1, updated=1)
        assert str(target.row("patients", 1)["practice_id"]) == target_id("practices", "5")
        assert target.all(finding) == []

    def test_two_cleared_references_heal_one_by_one(self, target: Target) -> None:
        rows = [
            patient(1, practice_id=target_id("practices", "5"), profile_id=target_id("profiles", "6")),
        ]
        target.load("patients", rows)
        target.load("practices", [practice(5)])
        assert target.load("patients", rows).updated == 1
        assert target.load("patients", rows).unchanged == 1
        target.load("profiles", [profile(6)])
        assert target.load("patients", rows).updated == 1
        found = target.row("patients", 1)
        assert None not in (found["practice_id"], found["profile_id"])

    def test_rows_of_one_batch_refer_to_each_other(self, target: Target) -> None:
        rows = [workflow(1, parent=3), workflow(2, parent=1), workflow(3), workflow(4, parent=4)]
        assert target.load("workflow_templates", rows) == Fates(4, inserted=4)
        parents = {key: target.row("workflow_templates", key)["parent_id"] for key in (1, 2, 3, 4)}
        assert {key: str(parent) for key, parent in parents.items() if parent} == {
            key: target_id("workflow_templates", str(parent)) for key, parent in ((1, 3), (2, 1), (4, 4))
        }

    def test_they_do_so_beside_a_row_that_is_refused(self, target: Target) -> None:
        rows = [workflow(key, parent=9) for key in range(1, 9)]
        rows += [workflow(9), workflow(10, metadata="no json")]
        assert target.load("workflow_templates", rows) == Fates(10, inserted=9, rejected=1)
        assert target.quarantine("workflow_templates") == [("10", "value_refused", "metadata")]
        assert target.all("SELECT count(*) FROM public.workflow_templates WHERE parent_id IS NULL") == [(1,)]
        assert target.all("SELECT count(*) FROM migration.findings") == [(0,)]

    def test_a_reference_to_a_refused_row_of_the_batch_is_cleared(self, target: Target) -> None:
        rows = [workflow(1, parent=2), workflow(2, metadata="no json")]
        assert target.load("workflow_templates", rows) == Fates(2, inserted=1, rejected=1)
        assert target.row("workflow_templates", 1)["parent_id"] is None

    def test_rows_may_change_places_within_a_batch(self, target: Target) -> None:
        target.load("workflow_templates", [workflow(1)])
        target.load("workflow_template_tasks", [task(1, 1, 1), task(2, 1, 2)])
        fates = target.load("workflow_template_tasks", [task(1, 1, 2), task(2, 1, 1)], run="run-2")
        assert fates == Fates(2, updated=2)

    def test_a_repeated_key_whose_first_row_has_no_parent_is_entered_once(self, target: Target) -> None:
        repeated = ("2", "key_repeated", "legacy_id", "{}")
        assert target.load("cases", [case(2, 99)], rejects=[repeated]) == Fates(2, rejected=2)
        assert [key for key, _, _ in target.quarantine("cases")] == ["2"]

    def test_of_a_repeated_key_one_row_loads(self, target: Target) -> None:
        repeated = ("2", "key_repeated", "legacy_id", "{}")
        fates = target.load("practices", [practice(2)], rejects=[repeated])
        assert fates == Fates(2, inserted=1, rejected=1)
        assert target.states("practices") == {"2": "live"}
        assert target.quarantine("practices") == [("2", "key_repeated", "legacy_id")]


def parents(target: Target) -> None:
    """What the rows below refer to."""
    target.load("practices", [practice(1), practice(2)])
    target.load("profiles", [profile(key) for key in range(1, 8)])
    target.load("patients", [patient(1)])
    target.load("cases", [case(1, 1)])
    target.load("workflow_templates", [workflow(key) for key in range(1, 8)])


def drop_declared_references(target: Target) -> None:
    target.connection.execute("UPDATE migration.entities SET refs = '[]' WHERE entity = 'projects'")


UID = "0e8c1d5c-9f55-4c6b-8f9f-1f0d7f3c7a01"
GOOD: dict[str, Callable[[], Sequence[Row]]] = {
    "practices": lambda: [practice(key) for key in range(11, 17)],
    "practice_members": lambda: [member(key, 1, key) for key in range(1, 7)],
    "patients": lambda: [patient(key) for key in range(11, 17)],
    "projects": lambda: [project(11, legacy_uid=UID), *(project(key) for key in range(12, 17))],
    "workflow_performance": lambda: [performance(key, 1) for key in range(1, 7)],
}
POISON = {
    "not null": ("practices", practice(99, address=None, name=SECRET), "address"),
    "check": (
        "patients",
        patient(99, merged_into=target_id("patients", "99"), first_name=SECRET),
        "patients_check",
    ),
    "unique": (
        "patients",
        patient(99, patient_number="P000011", first_name=SECRET),
        "patients_patient_number_key",
    ),
    "unique pair": ("practice_members", member(99, 1, 1), "practice_members_link"),
    "unique uuid": ("projects", project(99, legacy_uid=UID, name=SECRET), "projects_legacy_uid_key"),
    "foreign key": (
        "projects",
        project(99, case_id=target_id("cases", "404"), name=SECRET),
        "projects_case_id_fkey",
    ),
    "enum": ("patients", patient(99, gender=SECRET), "gender"),
    "numeric overflow": (
        "workflow_performance",
        performance(7, 1, completion_rate="12345.6"),
        "completion_rate",
    ),
    "integer overflow": ("practices", practice(99, legacy_office_id="9" * 20), "legacy_office_id"),
    "date out of range": ("patients", patient(99, date_of_birth="2023-02-30"), "date_of_birth"),
    "year out of range": ("patients", patient(99, date_of_birth="9999999-01-01"), "date_of_birth"),
    "no timestamp": ("patients", patient(99, submitted_at=SECRET), "submitted_at"),
    "no uuid": ("projects", project(99, legacy_uid=SECRET), "legacy_uid"),
    "no json": ("patients", patient(99, schemes=SECRET + "}"), "schemes"),
    "no boolean": ("practices", practice(99, is_active=SECRET), "is_active"),
    "no interval": (
        "workflow_performance",
        performance(7, 1, average_task_duration=SECRET),
        "average_task_duration",
    ),
    "no array": ("workflow_performance", performance(7, 1, bottleneck_tasks=SECRET), "bottleneck_tasks"),
}


class TestRefusedRows:
    @pytest.mark.parametrize("kind", POISON)
    def test_only_the_guilty_row_is_quarantined(
        self, target: Target, caplog: pytest.LogCaptureFixture, kind: str
    ) -> None:
        caplog.set_level(logging.DEBUG)
        entity, poison, column = POISON[kind]
        place = 6 if kind.startswith("unique") else 3  # of two equal values the first one loads
        parents(target)
        if kind == "foreign key":
            drop_declared_references(target)
        good = list(GOOD[entity]())
        fates = target.load(entity, [*good[:place], poison, *good[place:]])
        assert fates == Fates(7, inserted=6, rejected=1)
        assert target.quarantine(entity) == [(poison["legacy_id"], "value_refused", column)]
        states = target.states(entity)
        assert {row["legacy_id"] for row in good} <= {key for key, state in states.items() if state == "live"}
        assert states.get(str(poison["legacy_id"])) in (None, "quarantined")
        (payload,) = target.all("SELECT payload FROM migration.quarantine")[0]
        assert {name: payload[name] for name in poison} == poison
        assert SECRET not in caplog.text

    def test_of_two_equal_values_one_loads(self, target: Target) -> None:
        rows = [patient(1), patient(2, patient_number="P000001"), patient(3), patient(4)]
        assert target.load("patients", rows) == Fates(4, inserted=3, rejected=1)
        assert target.quarantine("patients") == [("2", "value_refused", "patients_patient_number_key")]

    def test_many_refused_rows(self, target: Target) -> None:
        rows = [
            practice(key, name=None, is_active="maybe") if key % 7 == 0 else practice(key)
            for key in range(60)
        ]
        findings = [("1", "name_empty", "name"), ("7", "name_empty", "name"), ("59", "name_empty", "name")]
        fates = target.load(
            "practices", rows, rejects=[("x", "key_missing", "legacy_id", "{}")], findings=findings
        )
        assert fates == Fates(61, inserted=51, rejected=10)
        refused = {key for key, code, _ in target.quarantine("practices") if code == "value_refused"}
        assert refused == {str(key) for key in range(0, 60, 7)}
        kept = target.all("SELECT legacy_id FROM migration.findings ORDER BY 1")
        assert kept == [("1",), ("59",)]  # a quarantined row keeps no findings

    def test_a_repaired_row_loads_and_closes_its_entry(self, target: Target) -> None:
        target.load("patients", [patient(1, gender=SECRET), patient(2)])
        fates = target.load("patients", [patient(1, gender="female"), patient(2)], run="run-2")
        assert fates == Fates(2, inserted=1, unchanged=1)
        assert target.quarantine("patients", "re-driven") == [("1", "value_refused", "gender")]

    def test_a_live_row_that_becomes_refused_stops_being_live(self, target: Target) -> None:
        target.load("patients", [patient(1), patient(2)])
        target.load("patients", [patient(1, gender=SECRET), patient(2)], run="run-2")
        assert target.states("patients") == {"1": "quarantined", "2": "live"}


class TestAtomicity:
    def test_nothing_stays_when_the_ledger_cannot_be_written(self, target: Target) -> None:
        target.connection.execute(
            "ALTER TABLE migration.batches ADD CONSTRAINT impossible CHECK (phase <> 'loading')"
        )
        with pytest.raises(MigrationError, match="sqlstate=23514"):
            target.load("practices", [practice(1)], rejects=[("2", "key_missing", "legacy_id", "{}")])
        for table in ("public.practices", "migration.id_map", "migration.quarantine", "migration.batches"):
            assert target.image(table) == []

    def test_a_row_without_fate_cannot_be_recorded(self, target: Target) -> None:
        target.tracking("run-1")
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            target.all(
                "INSERT INTO migration.batches (run_id, entity, phase, batch, extracted, inserted)"
                " VALUES ('run-1', 'cases', 'loading', 'b', 2, 1) RETURNING 1"
            )
        assert caught.value.diag.constraint_name == "every_row_has_one_fate"

    def test_a_system_error_names_no_value_and_loads_nothing(
        self, target_dsn: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)

        def fail() -> None:
            with session() as connection, naming(entity="practices"):
                Target(connection).load("practices", [practice(1, name=SECRET)])

        with psycopg.connect(target_dsn) as connection:
            connection.execute(
                "CREATE FUNCTION public.explode() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'saw %', NEW USING ERRCODE = 'P0001'; END $$;"
                "CREATE TRIGGER explode BEFORE INSERT ON public.practices"
                " FOR EACH ROW EXECUTE FUNCTION public.explode()"
            )
        with pytest.raises(MigrationError) as caught:
            fail()
        assert caught.value.code == "TARGET_QUERY_FAILED"
        assert caught.value.facts == {"sqlstate": "P0001", "entity": "practices"}
        printed = "".join(traceback.format_exception(caught.value))
        assert SECRET not in printed + caplog.text
        with session() as connection:
            assert Target(connection).image("public.practices") == []

    def test_a_cut_connection_is_transient_and_loads_nothing(self, target_dsn: str) -> None:
        def be_cut_off() -> None:
            with session() as connection:
                target = Target(connection)
                target.load("practices", [practice(1)])
                with psycopg.connect(target_dsn) as other:
                    other.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                target.load("practices", [practice(2)], batch="p000-b0001")

        with pytest.raises(MigrationError) as caught:
            be_cut_off()
        assert (caught.value.code, caught.value.transient) == ("TARGET_INTERRUPTED", True)
        with session() as connection:
            assert Target(connection).states("practices") == {"1": "live"}


Batches = Sequence[tuple[str, Sequence[Row]]]


def whole_run(target: Target, batches: Batches, run: str, *, dry_run: bool) -> list[Fates]:
    target.decide(run, {2: 3, 5: 4, 6: 3})
    return [
        target.load(entity, rows, run=run, batch=f"p000-b{number:04}", dry_run=dry_run)
        for number, (entity, rows) in enumerate(batches)
    ]


class TestDryRun:
    BUSINESS = ("practices", "profiles", "practice_members", "patients", "cases", "projects",
                "workflow_templates", "workflow_template_tasks")  # fmt: skip

    def before(self, target: Target) -> None:
        target.load("practices", [practice(1), practice(2)], run="run-0")
        target.load("patients", [patient(1), patient(2)], run="run-0")

    def batches(self) -> Batches:
        return [
            (
                "practices",
                [practice(1), practice(2, name="Renamed"), practice(3), practice(4, is_active="?")],
            ),
            ("profiles", [profile(1), profile(2)]),
            ("practice_members", [member(1, 3, 1), member(2, 4, 2), member(3, 3, 1)]),
            ("patients", [patient(1), patient(3, practice_id=target_id("practices", "3")), patient(4)]),
            ("patients", [patient(2), patient(5, gender="?"), patient(6)]),
            ("cases", [case(1, 3), case(2, 404), case(3, 6, practice_id=target_id("practices", "4"))]),
            ("workflow_templates", [workflow(1, parent=2), workflow(2), workflow(3, metadata="?")]),
            ("workflow_template_tasks", [task(1, 1, 1), task(2, 1, 1), task(3, 2, 1), task(4, 3, 1)]),
        ]

    def test_predicts_the_real_run_and_touches_no_business_table(self, target: Target) -> None:
        self.before(target)
        tables = [f"public.{name}" for name in self.BUSINESS]
        tables += ["migration.id_map", "migration.quarantine", "migration.findings", "migration.merges"]
        before = [target.image(table) for table in tables]
        predicted = whole_run(target, self.batches(), "dry", dry_run=True)
        assert [target.image(table) for table in tables] == before
        assert predicted == whole_run(target, self.batches(), "real", dry_run=False)

    def test_children_find_planned_parents(self, target: Target) -> None:
        batches = [("patients", [patient(1)]), ("cases", [case(1, 1)]), ("projects", [project(1)])]
        assert [f.inserted for f in whole_run(target, batches, "dry", dry_run=True)] == [1, 1, 1]

    def test_another_run_does_not_find_them(self, target: Target) -> None:
        target.load("patients", [patient(1)], run="dry", dry_run=True)
        assert target.load("cases", [case(1, 1)], run="other", dry_run=True).rejected == 1
        assert target.load("cases", [case(1, 1)], run="real").rejected == 1

    def test_the_plan_goes_with_the_run(self, target: Target) -> None:
        target.load("patients", [patient(1)], run="dry", dry_run=True)
        assert target.all("SELECT count(*) FROM migration.planned_ids") == [(1,)]
        TrackingHook(target.api, "dry").close_run("completed", {}, "")
        assert target.all("SELECT count(*) FROM migration.planned_ids") == [(0,)]

    def test_its_counts_are_in_the_ledger(self, target: Target) -> None:
        target.load("practices", [practice(1), practice(2)], run="dry", dry_run=True)
        assert target.all("SELECT run_id, extracted, inserted FROM migration.batches") == [("dry", 2, 2)]


class TestMerges:
    """Rows that deduplication merged, as it decided in the run (``Target.decide``)."""

    def test_a_merged_row_is_kept_beside_its_survivor(self, target: Target) -> None:
        target.decide("run-1", {2: 1})
        target.load("patients", [patient(1)])
        assert target.load("patients", [patient(2)], batch="merged") == Fates(1, merged=1)
        assert str(target.row("patients", 2)["merged_into"]) == target_id("patients", "1")
        assert target.states("patients") == {"1": "live", "2": "merged"}

    def test_without_a_new_decision_merges_stay(self, target: Target) -> None:
        target.decide("run-1", {2: 1})
        target.load("patients", [patient(1), patient(2)])
        assert target.load("patients", [patient(2)], run="run-2") == Fates(1, unchanged=1)
        assert target.all("SELECT count(*) FROM migration.merges") == [(1,)]
        assert merged_ids(target.api, "run-2", "patients").to_pylist() == [target_id("patients", "2")]

    def test_merging_an_existing_row_keeps_what_it_was_and_children_follow(self, target: Target) -> None:
        target.load("patients", [patient(1), patient(2, first_name="Ann")])
        target.load("cases", [case(1, 2)])
        target.decide("run-2", {2: 1})
        assert target.load("patients", [patient(2, first_name="Ann")], run="run-2") == Fates(1, merged=1)
        assert target.load("cases", [case(1, 2)], run="run-2") == Fates(1, updated=1)
        assert str(target.row("cases", 1)["patient_id"]) == target_id("patients", "1")
        assert target.load("cases", [case(1, 2)], run="run-2") == Fates(1, unchanged=1)
        (image,) = target.all("SELECT before_image FROM migration.merges")[0]
        assert (image["first_name"], image["merged_into"]) == ("Ann", None)

    def test_a_merge_is_undone_and_children_come_back(self, target: Target) -> None:
        target.decide("run-1", {2: 1})
        target.load("patients", [patient(1), patient(2)])
        target.load("cases", [case(1, 2)])
        target.decide("run-2", {})
        assert target.load("patients", [patient(2)], run="run-2") == Fates(1, updated=1)
        assert target.row("patients", 2)["merged_into"] is None
        assert target.states("patients") == {"1": "live", "2": "live"}
        assert target.all("SELECT survivor_id FROM migration.id_map WHERE legacy_id = '2'") == [(None,)]
        assert target.all("SELECT undone_at IS NOT NULL FROM migration.merges") == [(True,)]
        assert merged_ids(target.api, "run-2", "patients").to_pylist() == []
        assert target.load("cases", [case(1, 2)], run="run-2") == Fates(1, updated=1)
        assert target.all("SELECT count(*) FROM migration.redirects") == [(0,)]

    def test_a_merge_into_another_survivor_replaces_the_first(self, target: Target) -> None:
        target.load("patients", [patient(1), patient(3)])
        for run, survivor in (("run-1", 1), ("run-2", 3)):
            target.decide(run, {2: survivor})
            target.load("patients", [patient(2)], run=run, batch="merged")
        merges = target.all(
            "SELECT survivor_id::text, undone_at IS NULL FROM migration.merges ORDER BY merged_at, id"
        )
        assert merges == [(target_id("patients", "1"), False), (target_id("patients", "3"), True)]

    def test_a_merge_into_a_missing_survivor_waits(self, target: Target) -> None:
        target.decide("run-1", {2: 1})
        assert target.load("patients", [patient(2)]) == Fates(1, rejected=1)
        assert target.quarantine("patients") == [("2", "parent_missing", "merged_into")]

    def test_a_merged_row_that_changes_stays_merged(self, target: Target) -> None:
        target.decide("run-1", {2: 1})
        target.load("patients", [patient(1), patient(2)])
        assert target.load("patients", [patient(2, first_name="New")], run="run-2") == Fates(1, merged=1)
        assert target.row("patients", 2)["first_name"] == "New"
        assert target.all("SELECT count(*) FROM migration.merges WHERE undone_at IS NULL") == [(1,)]


def affected(target: Target, entity: str, run: str = "run-2", *, dry_run: bool = False) -> Fates:
    """Rows of the target whose references fit no more, merged again."""
    target.tracking(run, dry_run=dry_run)
    loader = BatchLoader(target.api, run, ENTITIES[entity], dry_run=dry_run)
    return loader.load_affected("a01", 100, 1)


def stored(target: Target, entity: str) -> list[tuple[Any, ...]]:
    """Everything kept of an entity, but for which run and when."""
    queries = (
        f"SELECT to_jsonb(t) FROM public.{entity} t WHERE deleted_at IS NULL ORDER BY id",
        "SELECT legacy_id, content_hash, source_version, state FROM migration.id_map"
        f" WHERE entity = '{entity}' ORDER BY 1",
        f"SELECT legacy_id, code, payload FROM migration.quarantine WHERE entity = '{entity}'"
        " AND status = 'open' ORDER BY 1",
        f"SELECT legacy_id, code FROM migration.findings WHERE entity = '{entity}' ORDER BY 1, 2",
        f"SELECT legacy_id, original_id FROM migration.redirects WHERE entity = '{entity}' ORDER BY 1, 2",
    )
    return [row for query in queries for row in target.all(query)]


class TestAffectedRows:
    """What becomes of rows that did not change while what they refer to did: the same as if they were loaded."""

    CREATOR = target_id("profiles", "5")

    def test_nothing_is_affected_where_nothing_changed(self, target: Target) -> None:
        target.load("patients", [patient(1)])
        target.load("cases", [case(1, 1)])
        target.load("projects", [project(1, creator_id=self.CREATOR)])
        images = [target.image(f"public.{entity}") for entity in ("cases", "projects")]
        assert [affected(target, entity) for entity in ("patients", "cases", "projects")] == [Fates()] * 3
        assert [target.image(f"public.{entity}") for entity in ("cases", "projects")] == images
        assert target.all("SELECT count(*) FROM migration.batches WHERE phase = 'references'") == [(0,)]

    def test_children_of_a_deleted_parent_go_to_quarantine(self, target: Target) -> None:
        target.load("patients", [patient(1), patient(2)])
        target.load("cases", [case(10, 1), case(20, 2)])
        target.delete("patients", "2", run="run-2")
        assert affected(target, "cases") == Fates(1, rejected=1)
        assert target.quarantine("cases") == [("20", "parent_missing", "patient_id")]
        assert affected(target, "cases") == Fates()
        followed = stored(target, "cases")
        assert target.load("cases", [case(10, 1), case(20, 2)], run="run-3").rejected == 1
        assert stored(target, "cases") == followed

    def test_an_optional_reference_is_cleared_and_comes_back(self, target: Target) -> None:
        target.load("profiles", [profile(5)])
        owned = project(1, creator_id=self.CREATOR)
        target.load("projects", [owned], findings=[("1", "owner_missing", "case_id")])
        before = stored(target, "projects")
        target.delete("profiles", "5", run="run-2")
        assert affected(target, "projects") == Fates(1, updated=1)
        assert target.row("projects", 1)["creator_id"] is None
        cleared = stored(target, "projects")
        finding = [("1", "owner_missing", "case_id")]
        assert target.load("projects", [owned], run="run-2", findings=finding) == Fates(1, unchanged=1)
        assert stored(target, "projects") == cleared
        target.load("profiles", [profile(5)], run="run-3")
        assert affected(target, "projects", "run-3") == Fates(1, updated=1)
        assert stored(target, "projects") == before

    def test_children_follow_a_merge_and_come_back(self, target: Target) -> None:
        target.load("patients", [patient(1), patient(2)])
        target.load("cases", [case(1, 1), case(2, 2)])
        before = stored(target, "cases")
        target.decide("run-2", {2: 1})
        assert affected(target, "patients") == Fates(1, merged=1)
        assert affected(target, "cases") == Fates(1, updated=1)
        assert str(target.row("cases", 2)["patient_id"]) == target_id("patients", "1")
        assert affected(target, "cases") == Fates()
        target.decide("run-3", {})
        assert affected(target, "patients", "run-3") == Fates(1, updated=1)
        assert affected(target, "cases", "run-3") == Fates(1, updated=1)
        assert stored(target, "cases") == before

    def test_the_survivor_is_deleted(self, target: Target) -> None:
        target.decide("run-1", {2: 1})
        target.load("patients", [patient(1), patient(2)])
        target.load("cases", [case(1, 1), case(2, 2)])
        target.delete("patients", "1", run="run-2")
        target.decide("run-2", {})
        assert affected(target, "patients") == Fates(1, updated=1)
        assert affected(target, "cases") == Fates(2, updated=1, rejected=1)
        assert str(target.row("cases", 2)["patient_id"]) == target_id("patients", "2")
        assert target.quarantine("cases") == [("1", "parent_missing", "patient_id")]

    def test_a_dry_run_predicts_it_and_touches_nothing(self, target: Target) -> None:
        target.load("patients", [patient(1), patient(2), patient(3)])
        target.load("cases", [case(1, 1), case(2, 2), case(3, 3)])
        image = target.image("public.cases")
        target.decide("dry", {2: 1})
        target.delete("patients", "3", run="dry", dry_run=True)
        assert affected(target, "patients", "dry", dry_run=True) == Fates(1, merged=1)
        assert affected(target, "cases", "dry", dry_run=True) == Fates(2, updated=1, rejected=1)
        assert affected(target, "cases", "dry", dry_run=True) == Fates()
        assert target.image("public.cases") == image

    def test_many_are_taken_in_batches(self, target: Target) -> None:
        target.load("patients", [patient(1)])
        target.load("cases", [case(key, 1) for key in range(1, 8)])
        target.delete("patients", "1", run="run-2")
        target.tracking("run-2")
        loader = BatchLoader(target.api, "run-2", ENTITIES["cases"], dry_run=False)
        batches = [loader.load_affected(f"b{number}", 3, 1).extracted for number in range(4)]
        assert batches == [3, 3, 1, 0]


def test_a_killed_task_cancels_its_statement(target: Target) -> None:
    def wait() -> None:
        threading.Timer(0.3, PostgresTarget(target.connection).cancel).start()
        with translated(TARGET):
            target.connection.execute("SELECT pg_sleep(30)")

    with pytest.raises(MigrationError) as caught:
        wait()
    assert caught.value.facts["sqlstate"] == "57014"


def test_a_loader_takes_batches_of_any_name(target: Target) -> None:
    target.tracking("run-1")
    loader = BatchLoader(target.api, "run-1", ENTITIES["practices"], dry_run=False)
    batch = LoadBatch(
        "p000-b0007",
        "1..2",
        clean_table("practices", [practice(1)]),
        REJECT_SCHEMA.empty_table(),
        FINDING_SCHEMA.empty_table(),
    )
    _fates, seconds = loader.load(batch, attempt=3)
    assert seconds > 0
    recorded = target.all("SELECT batch, key_range, attempt, seconds FROM migration.batches")
    assert recorded == [("p000-b0007", "1..2", 3, pytest.approx(seconds))]
