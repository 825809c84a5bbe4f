"""What deduplication reads and records in the target, and what a run remembers of the ones before."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from include.core.errors import MigrationError
from include.core.ids import target_id
from include.core.tracking import Fates
from include.matching.deduplicate import PAIRS_SCHEMA, SURVIVORS_SCHEMA
from plugins.hooks.decisions import COMPARED, Decisions, merged_ids
from plugins.hooks.plans import PlansHook
from plugins.hooks.source_memory import CompleteRun, last_complete_run, loaded_entities
from plugins.hooks.tracking import LedgerRow
from tests.hooks.loading import Target, patient, practice

BOTH_WAYS = True
RUN = "run-1"
PEOPLE = [
    patient(1, first_name="Ann", last_name='O"Hara, \n', date_of_birth="1980-02-29", gender="female",
            email="a@example.org", updated_at="2024-03-01 12:00:00.5+00"),
    patient(2, first_name="", last_name="Bo"),
    patient(10),
    patient(9, first_name="Cy"),
]  # fmt: skip
STORED = [
    ("1", "Ann", 'O"Hara, \n', "1980-02-29", "female", "a@example.org", "2024-03-01 12:00:00.5+00"),
    ("10", None, None, None, None, None, None),
    ("2", "", "Bo", None, None, None, None),
    ("9", "Cy", None, None, None, None, None),
]


SHOWN = [name for name in COMPARED if name not in ("suffix", "practice_id", "primary_doctor_id")]


def table(rows: list[tuple[str | None, ...]]) -> pa.Table:
    return pa.Table.from_pylist(
        [dict(zip(SHOWN, row, strict=True)) for row in rows], pa.schema({c: pa.string() for c in COMPARED})
    )


def keys(*names: str) -> pa.Array:
    return pa.array(names, pa.string())


@pytest.fixture
def decisions(target: Target) -> Decisions:
    target.load("patients", PEOPLE, run=RUN)
    return Decisions(target.api, RUN, "patients")


class TestCompared:
    def test_rows_come_as_text_in_the_order_of_their_keys(self, decisions: Decisions) -> None:
        assert decisions.stored().to_pylist() == table(STORED).to_pylist()

    def test_rows_that_are_not_there_are_left_out(self, target: Target, decisions: Decisions) -> None:
        target.connection.execute("UPDATE public.patients SET deleted_at = now() WHERE legacy_patient_id = 1")
        target.connection.execute("UPDATE migration.id_map SET state = 'quarantined' WHERE legacy_id = '2'")
        assert decisions.stored()["legacy_id"].to_pylist() == ["10", "9"]

    def test_of_nobody_there_is_a_table_without_rows(self, target: Target) -> None:
        assert Decisions(target.api, RUN, "patients").stored().schema.names == COMPARED

    def test_a_page_goes_on_behind_the_one_before(self, target: Target, decisions: Decisions) -> None:
        def page(after: str | None, most: int | None) -> list[str]:
            query = "SELECT legacy_id FROM migration_api.compared_rows('patients', %s, %s)"
            return [key for (key,) in target.all(query, [after, most])]

        assert page(None, 2) == ["1", "10"]
        assert page("10", 2) == ["2", "9"]
        assert page("9", 2) == []
        assert page("1", None) == ["10", "2", "9"]

    @pytest.mark.parametrize(
        ("rows", "read", "changed"),
        [
            (STORED, ["1", "2", "9", "10"], []),
            (STORED[:1], ["1"], []),
            ([], [], []),
            ([], ["77"], []),  # read and rejected, and no row of the target either
            ([], ["1"], ["1"]),
            ([("2", None, "Bo", None, None, None, None)], ["2"], ["2"]),
            ([("1", "Ann", "Other", *STORED[0][3:])], ["1"], ["1"]),
            ([(*STORED[0][:6], None)], ["1"], ["1"]),
            ([*STORED[:1], ("77", "New", None, None, None, None, None)], ["1", "77"], ["77"]),
            ([("9", "Cyd", None, None, None, None, None)], ["10", "2", "9"], ["10", "2", "9"]),
        ],
    )
    def test_rows_are_or_are_not_as_stored(
        self, decisions: Decisions, rows: list[tuple[str | None, ...]], read: list[str], changed: list[str]
    ) -> None:
        assert decisions.changed(table(rows), keys(*read)).to_pylist() == changed


def row() -> LedgerRow:
    return LedgerRow("patients", "deduplication", "all", "", Fates(4, undecided=4), 1, 0.5, 12.0)


def survivors(*pairs: tuple[str, str]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"legacy_id": a, "survivor_id": b, "score": 0.99} for a, b in pairs], SURVIVORS_SCHEMA
    )


def pairs(**decided: str) -> pa.Table:
    """`p1_2="pending"`: the pair of 1 and 2."""
    rows = []
    for name, decision in decided.items():
        left, right = name[1:].split("_")
        pair = {"left_id": left, "right_id": right, "score": 0.1 + 0.2, "decision": decision}
        rows.append({**pair, "explanation": '{"first_name": "same"}'})
    return pa.Table.from_pylist(rows, PAIRS_SCHEMA)


def recorded(target: Target) -> dict[str, Any]:
    return {
        f"{left}-{right}": status
        for left, right, status in target.all(
            "SELECT left_legacy_id, right_legacy_id, status FROM migration.duplicate_pairs"
        )
    }


def record(
    decisions: Decisions,
    merged: pa.Table,
    found: pa.Table,
    *,
    dry_run: bool = False,
    compared: list[str] | None = None,
    asked_again: str = "",
    model: dict[str, Any] | None = None,
) -> None:
    decisions.record(
        merged,
        found,
        row(),
        dry_run=dry_run,
        compared=None if compared is None else keys(*compared),
        asked_again=pairs(**dict.fromkeys(asked_again.split(), "confirmed")),
        model=model,
    )


class TestRecorded:
    def test_survivors_pairs_and_ledger(self, target: Target, decisions: Decisions) -> None:
        record(decisions, survivors(("2", "1")), pairs(p1_2="auto_merged", p9_10="pending"))
        assert target.all("SELECT run_id, entity, id::text, survivor_id::text FROM migration.survivors") == [
            (RUN, "patients", target_id("patients", "2"), target_id("patients", "1"))
        ]
        assert recorded(target) == {"1-2": "auto_merged", "9-10": "pending"}
        assert target.all("SELECT DISTINCT score, explanation, run_id FROM migration.duplicate_pairs") == [
            (0.1 + 0.2, {"first_name": "same"}, RUN)
        ]
        assert target.all(
            "SELECT extracted, seconds, memory_mb FROM migration.batches WHERE batch = 'all'"
        ) == [(4, 0.5, 12.0)]
        assert merged_ids(target.api, RUN, "patients").to_pylist() == [target_id("patients", "2")]

    def test_a_dry_run_keeps_neither_pairs_nor_a_model(self, target: Target, decisions: Decisions) -> None:
        record(decisions, survivors(("2", "1")), pairs(p1_2="auto_merged"), dry_run=True, model={"m": 1})
        assert recorded(target) == {}
        assert target.all("SELECT 1 FROM migration.match_models") == []
        assert len(merged_ids(target.api, RUN, "patients")) == 1

    def test_what_was_found_last_counts_and_what_a_person_decided_stays(
        self, target: Target, decisions: Decisions
    ) -> None:
        found = pairs(p1_2="auto_merged", p1_9="pending", p9_10="pending")
        record(decisions, survivors(("2", "1")), found)
        decided_by_hand(target, "9", "rejected")
        record(decisions, survivors(), pairs(p1_2="pending", p1_9="pending"))
        assert recorded(target) == {"1-2": "pending", "1-9": "rejected", "9-10": "stale"}
        assert merged_ids(target.api, RUN, "patients").to_pylist() == []
        record(decisions, survivors(), pairs(p9_10="pending"))
        assert recorded(target) == {"1-2": "stale", "1-9": "rejected", "9-10": "pending"}

    def test_a_decided_pair_has_the_score_found_last(self, target: Target, decisions: Decisions) -> None:
        record(decisions, survivors(), pairs(p1_9="pending"))
        decided_by_hand(target, "9", "confirmed")
        found = pairs(p1_9="confirmed")
        record(decisions, survivors(), found.set_column(2, "score", pa.array([0.75])))
        assert target.all("SELECT score, status, decided_by FROM migration.duplicate_pairs") == [
            (0.75, "confirmed", "eva")
        ]

    def test_of_a_decision_that_was_withdrawn_while_the_run_compared_a_pair_to_decide_is_left(
        self, target: Target, decisions: Decisions
    ) -> None:
        record(decisions, survivors(), pairs(p1_9="pending"))
        record(decisions, survivors(), pairs(p1_9="rejected", p1_2="confirmed"))
        assert recorded(target) == {"1-9": "pending", "1-2": "pending"}

    def test_only_pairs_that_were_looked_for_become_stale(self, target: Target, decisions: Decisions) -> None:
        record(decisions, survivors(), pairs(p1_2="pending", p2_9="auto_merged", p9_10="pending"))
        record(decisions, survivors(), pairs(), compared=[])
        assert set(recorded(target).values()) == {"pending", "auto_merged"}
        record(decisions, survivors(), pairs(p2_9="auto_merged"), compared=["9", "77"])
        assert recorded(target) == {"1-2": "pending", "2-9": "auto_merged", "9-10": "stale"}

    def test_a_pair_is_asked_again_until_it_is_decided_anew(
        self, target: Target, decisions: Decisions
    ) -> None:
        record(decisions, survivors(), pairs(p1_2="pending", p1_9="pending"))
        decided_by_hand(target, "9", "confirmed")
        record(decisions, survivors(), pairs(), compared=[], asked_again="p1_9 p1_2")
        asked = "SELECT right_legacy_id, asked_again_at FROM migration.duplicate_pairs WHERE asked_again_at IS NOT NULL"
        first = target.all(asked)
        assert [key for key, _ in first] == ["9"]
        record(decisions, survivors(), pairs(), compared=[], asked_again="p1_9")
        record(decisions, survivors(), pairs(), compared=[])
        assert target.all(asked) == first
        assert recorded(target)["1-9"] == "confirmed"

    def test_the_model_is_the_one_given_last(self, target: Target, decisions: Decisions) -> None:
        kept = "SELECT entity, model, run_id FROM migration.match_models"
        record(decisions, survivors(), pairs(), model={"weights": [0.1, 2], "text": "ü"})
        assert target.all(kept) == [("patients", {"weights": [0.1, 2], "text": "ü"}, RUN)]
        image = target.image("migration.match_models")
        record(decisions, survivors(), pairs(), model=None)
        record(decisions, survivors(), pairs(), model={"weights": [0.1, 2], "text": "ü"})
        assert target.image("migration.match_models") == image
        record(decisions, survivors(), pairs(), model={"weights": []})
        assert target.all(kept) == [("patients", {"weights": []}, RUN)]

    def test_what_is_found_again_is_not_written_again(self, target: Target, decisions: Decisions) -> None:
        found = pairs(p1_2="auto_merged", p1_9="pending", p9_10="pending")
        record(decisions, survivors(), found)
        decided_by_hand(target, "9", "rejected")
        record(decisions, survivors(), pairs(p1_2="auto_merged", p1_9="rejected"))
        image = target.image("migration.duplicate_pairs")
        record(decisions, survivors(), pairs(p1_2="auto_merged", p1_9="rejected"))
        assert target.image("migration.duplicate_pairs") == image

    def test_all_or_nothing(self, target: Target, decisions: Decisions) -> None:
        with pytest.raises(MigrationError):
            record(decisions, survivors(("2", "1")), pairs(p1_2="unheard of"), model={})
        for table in ("survivors", "duplicate_pairs", "match_models"):
            assert target.all(f"SELECT 1 FROM migration.{table}") == []
        assert target.all("SELECT 1 FROM migration.batches WHERE batch = 'all'") == []

    def test_a_run_that_lost_the_lock_decides_nothing(self, target: Target, decisions: Decisions) -> None:
        target.connection.execute("DELETE FROM migration.run_lock")
        with pytest.raises(MigrationError) as caught:
            record(decisions, survivors(("2", "1")), pairs())
        assert caught.value.code == "RUN_LOST"
        assert target.all("SELECT 1 FROM migration.survivors") == []


def decided_by_hand(target: Target, right: str, status: str) -> None:
    target.connection.execute(
        "UPDATE migration.duplicate_pairs SET status = %s, decided_at = now(), decided_by = 'eva'"
        " WHERE right_legacy_id = %s",
        [status, right],
    )


def test_ids_of_merged_rows_come_in_pages(target: Target) -> None:
    target.decide(RUN, dict.fromkeys(range(2, 7), 1))
    everyone = merged_ids(target.api, RUN, "patients").to_pylist()
    assert everyone == sorted(target_id("patients", str(key)) for key in range(2, 7))
    query = "SELECT id FROM migration_api.merged_rows(%s, 'patients', %s, 2)"
    first = target.all(query, [RUN, None])
    assert [key for (key,) in [*first, *target.all(query, [RUN, first[-1][0]])]] == everyone[:4]


class TestMemory:
    def test_of_an_empty_target(self, target: Target) -> None:
        assert last_complete_run(target.api) is None
        assert loaded_entities(target.api) == set()

    def test_of_the_last_complete_run_and_whether_it_still_is_the_last_that_loaded(
        self, target: Target
    ) -> None:
        target.tracking(
            "first", code_version="c", mapping_version="m", rules_version="r", source_horizon=7
        ).close_run("completed", {}, "")
        assert last_complete_run(target.api) == CompleteRun("first", 7, "m", "r", "c", undisturbed=True)
        target.tracking("rehearsal", dry_run=True).close_run("failed", {}, "")
        assert last_complete_run(target.api) == CompleteRun("first", 7, "m", "r", "c", undisturbed=True)
        target.tracking("second").close_run("failed", {}, "")
        assert last_complete_run(target.api) == CompleteRun("first", 7, "m", "r", "c", undisturbed=False)

    def test_of_what_was_loaded(self, target: Target) -> None:
        target.load("practices", [practice(1)])
        target.load("patients", [patient(1)])
        assert loaded_entities(target.api) == {"practices", "patients"}


class TestPlans:
    def test_the_first_plan_stays(self, target: Target) -> None:
        target.tracking(RUN)
        plans = PlansHook(target.api, RUN)
        assert (plans.scope(), plans.find("cases"), plans.source_rows()) == ("everything", None, {})
        first, second = [{"label": "first", "low": None}], [{"label": "second", "low": 5}]
        assert plans.record("cases", first, source_rows=10, selected=3, gone=1) == first
        assert plans.record("cases", second, source_rows=11, selected=4, gone=0) == first
        assert plans.find("cases") == first
        assert plans.source_rows() == {"cases": 10}

    def test_a_run_without_work_in_an_entity_plans_nothing(self, target: Target) -> None:
        target.tracking(RUN)
        plans = PlansHook(target.api, RUN)
        assert plans.record("cases", [], source_rows=0, selected=0, gone=0) == []
        assert plans.find("cases") == []

    def test_an_unknown_run_has_neither_scope_nor_plans(self, target: Target) -> None:
        plans = PlansHook(target.api, "unknown")
        with pytest.raises(MigrationError) as caught:
            plans.scope()
        assert caught.value.code == "RUN_STATE_MISSING"
        with pytest.raises(MigrationError) as caught:
            plans.record("cases", [], source_rows=0, selected=0, gone=0)
        assert caught.value.code == "RUN_LOST"
