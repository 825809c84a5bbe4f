"""People decide on pairs: what they are shown, what is kept, and what a later run reads of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from include.core.errors import MigrationError
from include.core.ids import target_id
from plugins.hooks.decisions import COMPARED, Decisions
from plugins.hooks.review import (
    CONFIRMED,
    DECISIONS,
    EARLIER_PAIRS,
    REJECTED,
    SHOWN,
    STATUSES,
    WITHDRAWN,
    Decision,
    Pair,
    Review,
    asked_again,
    compared_hashes,
)
from tests.hooks.loading import Row, Target, patient, practice

BOTH_WAYS = True
RUN = "run-1"
WORDS = {"prior": -10.5, "fields": {"last_name": {"level": "same", "weight": 9.1, "words": "same surname"}}}
PEOPLE = [
    patient(2, first_name="Zoë", last_name='O"Hara, \n', date_of_birth="1980-02-29", gender="female",
            email="z@example.org", suffix="", practice_id=target_id("practices", "7"),
            updated_at="2024-03-01 12:00:00+00"),
    patient(9, first_name="Zoe", last_name="O'Hara\t", date_of_birth="1980-02-29", suffix="=1+1"),
    patient(10, first_name="李", last_name="🦷 = 1:2"),
    patient(11, first_name="", last_name=""),
    patient(12),
]  # fmt: skip


@pytest.fixture
def review(target: Target) -> Review:
    """A queue of three pairs: 2-9 and 9-10 wait, 2-10 was merged."""
    target.load("practices", [practice(7)], run=RUN)
    target.load("patients", PEOPLE, run=RUN)
    found(target, (2, 9, 0.5, "pending"), (9, 10, None, "pending"), (2, 10, 1, "auto_merged"))
    return Review(target.api, "patients")


def found(target: Target, *pairs: tuple[int, int, float | None, str]) -> None:
    """What a run found."""
    for left, right, score, status in pairs:
        target.connection.execute(
            "INSERT INTO migration.duplicate_pairs (entity, left_legacy_id, right_legacy_id, score, explanation,"
            " status, run_id) VALUES ('patients', %s, %s, %s, %s::jsonb, %s, %s)",
            [
                str(left),
                str(right),
                score,
                '{"fields": {}}' if score is None else json.dumps(WORDS),
                status,
                RUN,
            ],
        )


def changed(target: Target, key: int, **values: str | None) -> None:
    """A person of PEOPLE as the source has them now, loaded."""
    (row,) = [row for row in PEOPLE if row["legacy_id"] == str(key)]
    target.load("patients", [{**row, **values}], run=RUN, batch=f"changed-{key}")


def say(left: int | str, right: int | str, decision: str, **values: Any) -> Decision:
    given = Decision(str(left), str(right), decision, "Eva", "asked her", f"line {left}-{right}")
    return replace(given, **values)


def statuses(target: Target) -> dict[str, str]:
    return {
        f"{left}-{right}": status
        for left, right, status in target.all(
            "SELECT left_legacy_id, right_legacy_id, status FROM migration.duplicate_pairs"
        )
    }


def audited(target: Target, event: str) -> list[dict[str, Any]]:
    query = "SELECT details FROM migration.audit_log WHERE event LIKE %s ORDER BY id"
    return [details for (details,) in target.all(query, [event])]


def refused(review: Review, *decisions: Decision) -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        review.decide(decisions)
    return caught.value


class TestQueue:
    def test_what_waits_comes_without_names(self, target: Target, review: Review) -> None:
        first, second = review.queue()
        assert first == Pair(
            left_id="2", right_id="9", score=0.5, explanation=WORDS, status="pending", asked_again_at=None,
            decided_by=None, decided_at=None, decision_reason=None, seen=first.seen, left=None, right=None,
        )  # fmt: skip
        assert (second.left_id, second.right_id, second.score) == ("9", "10", None)
        assert audited(target, "names%") == []

    def test_names_come_where_they_are_asked_for_and_it_is_kept_who_looked(
        self, target: Target, review: Review
    ) -> None:
        pair = next(iter(review.queue(names_for="Eva")))
        assert pair.left is not None
        assert pair.right is not None
        assert set(pair.left) == set(pair.right) == set(SHOWN)
        assert (pair.left["first_name"], pair.left["last_name"]) == ("Zoë", 'O"Hara, \n')
        assert pair.left["practice_id"] == target_id("practices", "7")
        assert (pair.right["last_name"], pair.right["email"]) == ("O'Hara\t", None)
        assert audited(target, "names read") == [{"entity": "patients", "by": "Eva", "pairs": 2}]

    def test_of_an_empty_queue_nobody_saw_names(self, target: Target, review: Review) -> None:
        assert list(review.queue(["stale"], names_for="Eva")) == []
        assert audited(target, "names read") == []

    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            (["auto_merged"], ["2 10"]),
            (["pending", "auto_merged"], ["2 10", "2 9", "9 10"]),
            (["confirmed", "stale", "asked_again"], []),
        ],
    )
    def test_other_statuses_are_shown_on_demand(
        self, review: Review, asked: list[str], expected: list[str]
    ) -> None:
        assert [f"{pair.left_id} {pair.right_id}" for pair in review.queue(asked)] == expected

    def test_a_row_that_is_gone_is_shown_as_such(self, target: Target, review: Review) -> None:
        target.connection.execute("UPDATE public.patients SET deleted_at = now() WHERE legacy_patient_id = 9")
        pair = next(iter(review.queue(names_for="Eva")))
        assert (pair.left is None, pair.right, pair.seen) == (False, None, None)

    def test_a_page_goes_on_behind_the_one_before(self, target: Target, review: Review) -> None:
        query = (
            "SELECT pair FROM migration_api.review_queue('patients', '{pending,auto_merged}', false, %s, %s)"
        )
        assert target.all(query, [None, 2]) == [("2 10",), ("2 9",)]
        assert target.all(query, ["2 9", 2]) == [("9 10",)]
        for function in ("earlier_pairs", "decisions"):
            query = f"SELECT pair FROM migration_api.{function}('patients', %s, 1)"
            assert len(target.all(query, [None])) == (function == "earlier_pairs")
            assert target.all(query, ["2 9"]) == []

    def test_unknown_statuses_and_nameless_readers_are_refused(self, review: Review) -> None:
        for status, by in ((["unheard of"], None), ([], " ")):
            with pytest.raises(MigrationError) as caught:
                list(review.queue(status, names_for=by))
            assert caught.value.code == "PARAM_INVALID"

    def test_counts(self, target: Target, review: Review) -> None:
        review.decide([say(2, 9, REJECTED)])
        target.connection.execute(
            "UPDATE migration.duplicate_pairs SET asked_again_at = now() WHERE decided_at IS NOT NULL"
        )
        counts = review.counts()
        assert set(counts) == set(STATUSES)
        assert {status: count for status, count in counts.items() if count} == {
            "pending": 1, "auto_merged": 1, "rejected": 1, "asked_again": 1,
        }  # fmt: skip

    @pytest.mark.parametrize("entity", ["practices", "unheard_of"])
    def test_there_is_none_for_what_is_never_merged(self, target: Target, entity: str) -> None:
        for ask in (
            lambda review: review.counts(),
            lambda review: list(review.queue()),
            lambda review: review.decide([say(1, 2, CONFIRMED)]),
        ):
            with pytest.raises(MigrationError) as caught:
                ask(Review(target.api, entity))
            assert caught.value.code == "REVIEW_ENTITY_UNKNOWN"
            assert "patients" in str(caught.value)


class TestDeciding:
    def test_is_kept_with_who_and_why(self, target: Target, review: Review) -> None:
        counts = review.decide([say(9, 2, CONFIRMED), say(9, 10, REJECTED), say(2, 10, REJECTED)])
        assert counts == {"confirmed": 1, "rejected": 2, "pending": 0, "unchanged": 0}
        assert statuses(target) == {"2-9": "confirmed", "9-10": "rejected", "2-10": "rejected"}
        assert target.all("SELECT DISTINCT decided_by, decision_reason FROM migration.duplicate_pairs") == [
            ("Eva", "asked her")
        ]
        assert [(entry["left"], entry["right"], entry["by"]) for entry in audited(target, "pair %")] == [
            ("2", "10", "Eva"),
            ("2", "9", "Eva"),
            ("9", "10", "Eva"),
        ]
        assert list(review.queue()) == []

    def test_twice_the_same_changes_nothing(self, target: Target, review: Review) -> None:
        review.decide([say(2, 9, CONFIRMED), say(9, 10, REJECTED)])
        images = [target.image(f"migration.{table}") for table in ("duplicate_pairs", "audit_log")]
        assert review.decide([say(2, 9, CONFIRMED), say(9, 10, REJECTED)])["unchanged"] == 2
        assert review.decide([]) == {"confirmed": 0, "rejected": 0, "pending": 0, "unchanged": 0}
        assert [target.image(f"migration.{table}") for table in ("duplicate_pairs", "audit_log")] == images

    def test_a_second_look_keeps_the_former_one_in_the_log(self, target: Target, review: Review) -> None:
        review.decide([say(2, 9, CONFIRMED)])
        review.decide([say(2, 9, REJECTED, decided_by="Uwe", reason="twins")])
        assert statuses(target)["2-9"] == "rejected"
        assert [(e["by"], e["before"], e["before_by"]) for e in audited(target, "pair %")] == [
            ("Eva", "pending", None),
            ("Uwe", "confirmed", "Eva"),
        ]
        logged = target.all("SELECT details::text FROM migration.audit_log")
        assert not [text for (text,) in logged if "twins" in text or "Zo" in text]

    def test_a_decision_can_be_withdrawn(self, target: Target, review: Review) -> None:
        pairs = "SELECT to_jsonb(d) - 'reviewed_at' FROM migration.duplicate_pairs d ORDER BY 1"
        before = target.all(pairs)
        review.decide([say(2, 9, CONFIRMED)])
        assert review.decide([say(2, 9, WITHDRAWN)])["pending"] == 1
        assert target.all(pairs) == before
        assert review.decide([say(2, 9, WITHDRAWN)])["unchanged"] == 1

    def test_decisions_that_contradict_each_other_through_a_third_are_kept(
        self, target: Target, review: Review
    ) -> None:
        review.decide([say(2, 9, CONFIRMED), say(9, 10, CONFIRMED), say(2, 10, REJECTED)])
        assert statuses(target) == {"2-9": "confirmed", "9-10": "confirmed", "2-10": "rejected"}

    @pytest.mark.parametrize(
        ("wrong", "code"),
        [
            (say(2, 9, "maybe"), "REVIEW_DECISION_INVALID"),
            (say(2, 9, CONFIRMED, reason=" "), "REVIEW_DECISION_INVALID"),
            (say(2, 9, CONFIRMED, decided_by=""), "REVIEW_DECISION_INVALID"),
            (say(9, 2, REJECTED, reason="no"), "REVIEW_DECISION_INVALID"),  # the other one confirms it
            (say(11, 12, CONFIRMED), "REVIEW_PAIR_UNKNOWN"),
            (say(2, 77, CONFIRMED), "REVIEW_PAIR_UNKNOWN"),
            (say(2, 2, CONFIRMED), "REVIEW_PAIR_UNKNOWN"),
            (say("", "x'", CONFIRMED), "REVIEW_PAIR_UNKNOWN"),
            (say(9, 10, CONFIRMED, seen="v0"), "REVIEW_PAIR_CHANGED"),
        ],
    )
    def test_what_cannot_be_is_refused_with_its_place_and_nothing_is_kept(
        self, target: Target, review: Review, wrong: Decision, code: str
    ) -> None:
        image = target.image("migration.duplicate_pairs")
        error = refused(review, say(2, 9, CONFIRMED), replace(wrong, label="line 3"))
        assert error.code == code
        assert "line 3" in error.detail
        assert target.image("migration.duplicate_pairs") == image

    def test_of_many_wrong_lines_ten_are_named(self, review: Review) -> None:
        wrong = [say(2, 9, "no", label=f"line {number}") for number in range(2, 14)]
        assert refused(review, *wrong).detail.endswith("line 10, line 11 and 2 more.")

    def test_a_pair_that_was_looked_at_in_another_state_is_refused(
        self, target: Target, review: Review
    ) -> None:
        seen = {(pair.left_id, pair.right_id): pair.seen for pair in review.queue()}
        review.decide([say(2, 9, CONFIRMED, seen=seen["2", "9"])])
        changed(target, 10, last_name="Other")
        assert refused(review, say(9, 10, CONFIRMED, seen=seen["9", "10"])).code == "REVIEW_PAIR_CHANGED"
        review.decide([say(9, 10, CONFIRMED)])
        assert statuses(target)["9-10"] == "confirmed"

    def test_a_pair_with_a_row_that_is_gone_can_only_be_withdrawn(
        self, target: Target, review: Review
    ) -> None:
        review.decide([say(2, 9, CONFIRMED)])
        target.connection.execute("UPDATE public.patients SET deleted_at = now() WHERE legacy_patient_id = 9")
        assert refused(review, say(2, 9, REJECTED)).code == "REVIEW_PAIR_UNKNOWN"
        assert review.decide([say(2, 9, WITHDRAWN)])["pending"] == 1

    def test_one_pair_by_itself(self, target: Target, review: Review) -> None:
        def decide(**values: str) -> Any:
            given: dict[str, Any] = {
                "left": "9",
                "right": "2",
                "decision": "confirmed",
                "by": "Eva",
                "reason": "seen",
                **values,
            }
            return target.api.call("decide_pair", entity="patients", **given)

        assert decide()["confirmed"] == 1
        assert decide()["unchanged"] == 1
        assert decide(decision="pending")["pending"] == 1
        with pytest.raises(MigrationError) as caught:
            decide(right="77")
        assert caught.value.code == "REVIEW_PAIR_UNKNOWN"
        assert "pair 9 and 77" in str(caught.value)
        assert statuses(target)["2-9"] == "pending"

    def test_of_two_rows_that_were_never_a_pair_one_is_made_by_who_undoes_a_merge(
        self, target: Target, review: Review
    ) -> None:
        for _ in range(2):
            target.connection.execute(
                "SELECT migration.decide('patients', '12', '9', 'rejected', 'Eva', 'two people')"
            )
        assert statuses(target)["9-12"] == "rejected"
        assert len(audited(target, "pair rejected")) == 1
        (decided,) = review.decisions().to_pylist()
        assert (decided["left_id"], decided["right_id"], decided["decision"]) == ("9", "12", "rejected")
        assert next(iter(review.queue(["rejected"]))).score is None


class TestForRuns:
    def test_earlier_pairs_are_the_undecided_ones_with_a_score(self, target: Target, review: Review) -> None:
        found(target, (10, 11, 0.25, "stale"), (11, 12, 0.125, "pending"))
        review.decide([say(11, 12, REJECTED)])
        pairs = review.earlier_pairs()
        assert pairs.schema.names == list(EARLIER_PAIRS)
        assert [
            (row["left_id"], row["right_id"], row["score"], row["status"]) for row in pairs.to_pylist()
        ] == [
            ("2", "10", 1.0, "auto_merged"),
            ("2", "9", 0.5, "pending"),
        ]

    def test_of_an_empty_target(self, target: Target) -> None:
        review = Review(target.api, "patients")
        assert review.model() is None
        assert review.earlier_pairs().schema.names == list(EARLIER_PAIRS)
        assert review.decisions().schema.names == list(DECISIONS)
        assert asked_again(review_people([]), review.decisions()).num_rows == 0

    def test_the_model_comes_back_as_it_was_kept(self, target: Target, review: Review) -> None:
        target.connection.execute(
            """INSERT INTO migration.match_models VALUES ('patients', '{"weights": [0.1, 1e-9], "ü": null}', 'r')"""
        )
        assert review.model() == {"weights": [0.1, 1e-9], "ü": None}

    def test_a_decision_since_the_last_complete_run_is_noticed_and_one_taken_back_too(
        self, target: Target, review: Review
    ) -> None:
        def complete(run: str) -> None:
            target.tracking(run).close_run("completed", {}, "")

        decisions = Decisions(target.api, RUN, "patients")
        assert not decisions.decided_since_complete()
        review.decide([say(2, 9, CONFIRMED)])
        assert decisions.decided_since_complete()
        assert review.reopened_rows().to_pylist() == []
        complete("run-2")
        assert not decisions.decided_since_complete()
        review.decide([say(2, 9, WITHDRAWN)])
        assert decisions.decided_since_complete()
        assert sorted(review.reopened_rows().to_pylist()) == ["2", "9"]
        complete("run-3")
        assert not decisions.decided_since_complete()
        assert review.reopened_rows().to_pylist() == []


def review_people(rows: Sequence[Row]) -> pa.Table:
    schema = pa.schema({column: pa.string() for column in COMPARED})
    return pa.Table.from_pylist([{name: row.get(name) for name in COMPARED} for row in rows], schema)


class TestAskedAgain:
    def test_sql_and_python_agree_on_what_a_row_is(self, target: Target, review: Review) -> None:
        ids = [row["legacy_id"] for row in PEOPLE]
        in_sql = dict(
            target.all(
                "SELECT legacy_id, migration.compared_hash(compared)"
                " FROM migration.compared_values('patients', %s)",
                [ids],
            )
        )
        assert in_sql == compared_hashes(Decisions(target.api, RUN, "patients").stored())
        assert in_sql == compared_hashes(review_people(PEOPLE))
        # Nothing and an empty text are not the same.
        assert len(set(in_sql.values())) == len(PEOPLE)

    @pytest.mark.parametrize("column", SHOWN)
    def test_every_compared_column_counts_but_when_the_row_was_written(
        self, target: Target, review: Review, column: str
    ) -> None:
        review.decide([say(2, 9, CONFIRMED)])
        people = review_people(PEOPLE)
        assert asked_again(people, review.decisions()).num_rows == 0
        rows = [{**row, column: "other"} if row["legacy_id"] == "2" else row for row in people.to_pylist()]
        again = asked_again(review_people(rows), review.decisions()).to_pylist()
        assert again == ([] if column == "updated_at" else [{"left_id": "2", "right_id": "9"}])

    def test_one_with_a_row_gone_or_asked_already_is_not(self, target: Target, review: Review) -> None:
        review.decide([say(2, 9, CONFIRMED), say(9, 10, REJECTED)])
        rows = [{**row, "suffix": "Jr."} for row in PEOPLE]
        assert asked_again(review_people(rows), review.decisions()).num_rows == 2
        assert asked_again(review_people(rows[:2]), review.decisions()).to_pylist() == [
            {"left_id": "2", "right_id": "9"}
        ]
        target.connection.execute(
            "UPDATE migration.duplicate_pairs SET asked_again_at = now() WHERE left_legacy_id = '9'"
        )
        assert asked_again(review_people(rows), review.decisions()).to_pylist() == [
            {"left_id": "2", "right_id": "9"}
        ]
        assert [pair.status for pair in review.queue() if pair.asked_again_at] == ["rejected"]

    def test_the_old_decision_holds_until_it_is_decided_anew(self, target: Target, review: Review) -> None:
        review.decide([say(9, 10, REJECTED)])
        changed(target, 10, last_name="Other")
        again = asked_again(Decisions(target.api, RUN, "patients").stored(), review.decisions())
        assert again.num_rows == 1
        target.connection.execute(
            "UPDATE migration.duplicate_pairs SET asked_again_at = now() WHERE left_legacy_id = '9'"
        )
        (decided,) = review.decisions().to_pylist()
        assert (decided["decision"], decided["asked_again"]) == ("rejected", True)
        # The same once more is a decision too, for it is about other rows.
        assert review.decide([say(9, 10, REJECTED)])["rejected"] == 1
        (decided,) = review.decisions().to_pylist()
        assert decided["asked_again"] is False
        assert asked_again(
            Decisions(target.api, RUN, "patients").stored(), review.decisions()
        ).num_rows == 0  # fmt: skip


def test_none_of_it_is_for_signed_in_users(target: Target) -> None:
    functions = target.all(
        "SELECT oid::regprocedure::text, has_function_privilege('authenticated', oid, 'EXECUTE')"
        " OR has_function_privilege('anon', oid, 'EXECUTE') FROM pg_proc"
        " WHERE pronamespace IN ('migration_api'::regnamespace, 'migration'::regnamespace)"
        " AND proname IN ('review_queue', 'decide_pair', 'decide_pairs', 'decide', 'compared_values')"
    )
    assert len(functions) == 5
    assert not [name for name, allowed in functions if allowed]
