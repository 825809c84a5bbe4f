"""The review queue as the page reads it: pages in an order, one pair with all there is, decisions on what was shown."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from include.core.errors import MigrationError
from include.core.ids import target_id
from plugins.hooks.review import CONFIRMED, ORDERS, REJECTED, SHOWN, STATUSES, WITHDRAWN, Review, Wanted
from tests.hooks.loading import Target, case, project
from tests.hooks.test_merging import load as load_merged
from tests.hooks.test_review import audited, changed, found, review, say, statuses

__all__ = ["review"]  # a fixture

BOTH_WAYS = True
DECISIONS = "SELECT to_jsonb(d) - 'reviewed_at' FROM migration.duplicate_pairs d ORDER BY 1"
LONG = "x" * 10_000


def keys(page: dict[str, Any]) -> list[str]:
    return [f"{pair['left']}-{pair['right']}" for pair in page["pairs"]]


def all_keys(review: Review, wanted: Wanted) -> list[str]:
    """Of every page, one after the other."""
    seen: list[str] = []
    while True:
        page = review.page(wanted)
        assert len(page["pairs"]) <= wanted.most
        seen += keys(page)
        if page["next"] is None:
            return seen
        wanted = replace(wanted, after=page["next"])


def shown(review: Review, left: int, right: int) -> dict[str, Any]:
    return review.pair(str(left), str(right), names_for="Eva")


def decide(review: Review, pair: dict[str, Any], decision: str, **values: str) -> dict[str, Any]:
    """On a pair as it was shown."""
    given = say(pair["left"], pair["right"], decision, seen=pair["seen"], **values)
    return review.decide_shown(given, pair["reviewed"])


def code_of(refusing: Any) -> str:
    with pytest.raises(MigrationError) as caught:
        refusing()
    return caught.value.code


class TestPages:
    @pytest.mark.parametrize(
        ("order", "expected"),
        [
            ("likely", ["3-5", "3-4", "2-9", "1-2", "10-11", "9-10"]),
            ("unlikely", ["9-10", "10-11", "1-2", "2-9", "3-4", "3-5"]),
            ("doubtful", ["2-9", "3-4", "3-5", "1-2", "10-11", "9-10"]),
        ],
    )
    def test_come_in_order_of_score_then_ids_each_behind_the_one_before(
        self, target: Target, review: Review, order: str, expected: list[str]
    ) -> None:
        found(target, (1, 2, 0.1, "pending"), (3, 4, 0.6, "pending"), (3, 5, 0.6, "pending"),
              (10, 11, 0.05, "pending"), (11, 12, 0.7, "stale"))  # fmt: skip
        for most in (1, 2, 3, 6, 50):
            assert all_keys(review, Wanted(order=order, most=most)) == expected
        assert audited(target, "names%") == []

    def test_of_scores_that_no_decimal_gives_back_none_is_left_out_or_comes_twice(
        self, target: Target, review: Review
    ) -> None:
        found(target, *((100, 101 + n, (n + 1) / 3e9, "pending") for n in range(9)))
        for order in ORDERS:
            listed = all_keys(review, Wanted(order=order, most=2))
            assert len(listed) == len(set(listed)) == 11

    def test_a_status_has_its_own_and_all_are_counted(self, target: Target, review: Review) -> None:
        review.decide([say(2, 9, CONFIRMED), say(9, 10, REJECTED)])
        target.connection.execute(
            "UPDATE migration.duplicate_pairs SET asked_again_at = now() WHERE right_legacy_id = '10'"
            " AND decided_at IS NOT NULL"
        )
        listed = {status: keys(review.page(Wanted(status=status))) for status in STATUSES}
        assert listed == {
            "pending": [], "asked_again": ["9-10"], "auto_merged": ["2-10"], "confirmed": ["2-9"],
            "rejected": ["9-10"], "stale": [],
        }  # fmt: skip
        page = review.page(Wanted(status="asked_again"))
        assert page["counts"] == review.counts()
        (pair,) = page["pairs"]
        assert (pair["status"], pair["decided_by"], pair["score"]) == ("rejected", "Eva", None)
        assert pair["asked_again_at"] is not None

    def test_only_some_scores_or_the_pairs_of_one_row(self, target: Target, review: Review) -> None:
        found(target, (1, 2, 0.1, "pending"), (3, 4, 0.6, "pending"))
        for order in ORDERS:
            assert keys(review.page(Wanted(order=order, lowest=0.2, highest=0.5))) == ["2-9"]
        assert keys(review.page(Wanted(lowest=0.2))) == ["3-4", "2-9"]
        assert keys(review.page(Wanted(id="2"))) == ["2-9", "1-2"]
        assert keys(review.page(Wanted(id="9"))) == ["2-9", "9-10"]
        assert all_keys(review, Wanted(id="9", most=1)) == ["2-9", "9-10"]
        assert keys(review.page(Wanted(id="'; DROP"))) == []

    def test_names_come_where_they_are_asked_for_and_it_is_kept_who_saw_whose(
        self, target: Target, review: Review
    ) -> None:
        first, second = review.page(Wanted(), names_for="Eva")["pairs"]
        assert first["left_name"] == {
            "first_name": "Zoë", "last_name": 'O"Hara, \n', "date_of_birth": "1980-02-29",
        }  # fmt: skip
        assert second["right_name"]["first_name"] == "李"
        assert audited(target, "names read") == [
            {"entity": "patients", "by": "Eva", "pairs": 2, "ids": ["2 9", "9 10"]}
        ]
        without = review.page(Wanted())["pairs"][0]
        assert set(first) - set(without) == {"left_name", "right_name"}
        assert "Zo" not in json.dumps(without)

    def test_an_endless_name_is_cut_in_a_list(self, target: Target, review: Review) -> None:
        changed(target, 2, last_name=LONG)
        pair = review.page(Wanted(), names_for="Eva")["pairs"][0]
        assert len(pair["left_name"]["last_name"]) == 100
        assert shown(review, 2, 9)["rows"][0]["values"]["last_name"] == LONG

    def test_of_an_empty_page_nobody_saw_names(self, target: Target, review: Review) -> None:
        page = review.page(Wanted(status="stale"), names_for="Eva")
        assert (page["pairs"], page["next"]) == ([], None)
        assert audited(target, "names read") == []

    @pytest.mark.parametrize(
        "wanted", [Wanted(status="unheard of"), Wanted(order="random"), Wanted(status="decided_at")]
    )
    def test_what_there_is_not_is_refused(self, review: Review, wanted: Wanted) -> None:
        assert code_of(lambda: review.page(wanted)) == "PARAM_INVALID"

    def test_nobody_reads_names_without_a_name(self, review: Review) -> None:
        assert code_of(lambda: review.page(Wanted(), names_for=" ")) == "PARAM_INVALID"
        assert code_of(lambda: review.pair("2", "9", names_for="")) == "PARAM_INVALID"

    def test_there_is_none_for_what_is_never_merged(self, target: Target) -> None:
        practices = Review(target.api, "practices")
        for ask in (
            lambda: practices.page(Wanted()),
            lambda: practices.pair("1", "2", names_for="Eva"),
            lambda: practices.decide_shown(say(1, 2, CONFIRMED), ""),
            lambda: practices.undo("1", "2", "Eva"),
        ):
            assert code_of(ask) == "REVIEW_ENTITY_UNKNOWN"


class TestOnePair:
    def test_both_rows_side_by_side_with_what_they_refer_to(self, target: Target, review: Review) -> None:
        pair = shown(review, 9, 2)
        assert (pair["left"], pair["right"], pair["score"], pair["status"]) == ("2", "9", 0.5, "pending")
        assert pair["explanation"]["fields"]["last_name"]["weight"] == 9.1
        left, right = pair["rows"]
        assert set(left["values"]) == set(right["values"]) == set(SHOWN)
        assert (left["values"]["first_name"], right["values"]["last_name"]) == ("Zoë", "O'Hara\t")
        assert left["names"] == {"practice_id": "Office 7"}
        assert left["beside"]["patient_number"] == "P000002"
        assert (left["state"], right["names"], pair["merges"]) == ("live", {}, [])
        assert next(iter(review.queue())).seen == pair["seen"]

    def test_each_look_is_kept(self, target: Target, review: Review) -> None:
        shown(review, 2, 9)
        assert audited(target, "names read") == [
            {"entity": "patients", "by": "Eva", "pairs": 1, "ids": ["2 9"]}
        ]

    def test_a_pair_that_was_never_found_shows_nobody(self, target: Target, review: Review) -> None:
        assert code_of(lambda: shown(review, 11, 12)) == "REVIEW_PAIR_UNKNOWN"
        assert audited(target, "names read") == []

    def test_a_row_that_is_gone_is_shown_as_such(self, target: Target, review: Review) -> None:
        target.delete("patients", "9")
        pair = shown(review, 2, 9)
        assert [row["state"] for row in pair["rows"]] == ["live", "deleted"]
        assert (pair["rows"][1]["values"], pair["seen"]) == (None, None)

    def test_what_is_merged_with_either_row_and_how_much_work_hangs_on_it(self, target: Target) -> None:
        load_merged(target)
        target.load(
            "projects",
            [project(5, case_id=target_id("cases", "2")), project(6, case_id=target_id("cases", "1"))],
        )
        found(target, (1, 2, 0.9, "auto_merged"), (2, 11, 0.8, "auto_merged"))
        review = Review(target.api, "patients")
        for pair in (shown(review, 1, 2), shown(review, 2, 11)):
            assert [(member["legacy_id"], member["survivor"]) for member in pair["merges"]] == [
                ("1", None), ("2", "1"), ("11", "1"),
            ]  # fmt: skip
            assert pair["merges"][0]["merged_at"] is None
            assert pair["merges"][1]["merged_at"] is not None
            # What the survivor has itself, not what it was given.
            assert [member["name"]["last_name"] for member in pair["merges"]] == [None, "Old", "New"]
        (first, second) = shown(review, 1, 2)["rows"]
        assert [row["state"] for row in (first, second)] == ["live", "merged"]
        assert [(row["cases"], row["projects"]) for row in (first, second)] == [(1, 1), (1, 1)]
        assert first["values"]["last_name"] is None
        target.connection.execute("UPDATE public.profiles SET first_name = 'Una', last_name = 'Doc'")
        (_, third) = shown(review, 2, 11)["rows"]
        assert third["names"] == {"practice_id": "Office 2", "primary_doctor_id": "Una Doc"}

    def test_cases_that_are_gone_do_not_count(self, target: Target, review: Review) -> None:
        target.load("cases", [case(1, 2), case(2, 2), case(3, 9)])
        target.delete("cases", "2")
        assert [row["cases"] for row in shown(review, 2, 9)["rows"]] == [1, 1]


class TestDeciding:
    def test_is_the_same_as_by_the_command(self, target: Target, review: Review) -> None:
        pair = shown(review, 2, 9)
        assert decide(review, pair, CONFIRMED)["changed"] is True
        by_page = target.all(DECISIONS.replace("- 'reviewed_at'", "- '{reviewed_at,decided_at}'::text[]"))
        entries = audited(target, "pair %")
        review.undo("2", "9", "Eva")
        review.decide([say(2, 9, CONFIRMED)])
        assert (
            target.all(DECISIONS.replace("- 'reviewed_at'", "- '{reviewed_at,decided_at}'::text[]"))
            == by_page
        )
        assert audited(target, "pair confirmed")[-1] == entries[0]

    def test_counts_come_back(self, review: Review) -> None:
        kept = decide(review, shown(review, 2, 9), REJECTED)
        assert (kept["counts"]["pending"], kept["counts"]["rejected"]) == (1, 1)
        assert kept["counts"] == review.counts()

    def test_a_row_that_changed_since_it_was_shown_is_to_be_looked_at_anew(
        self, target: Target, review: Review
    ) -> None:
        pair = shown(review, 9, 10)
        changed(target, 10, last_name="Other")
        assert code_of(lambda: decide(review, pair, CONFIRMED)) == "REVIEW_PAIR_CHANGED"
        assert decide(review, shown(review, 9, 10), CONFIRMED)["changed"]

    def test_somebody_elses_decision_in_between_is_not_overruled_unseen(
        self, target: Target, review: Review
    ) -> None:
        pair = shown(review, 2, 9)
        review.decide([say(2, 9, REJECTED, decided_by="Uwe")])
        for decision in (CONFIRMED, REJECTED, WITHDRAWN):
            assert code_of(lambda decision=decision: decide(review, pair, decision)) == "REVIEW_PAIR_CHANGED"
        assert statuses(target)["2-9"] == "rejected"
        review.decide([say(2, 9, WITHDRAWN, decided_by="Uwe")])
        assert code_of(lambda: decide(review, pair, CONFIRMED)) == "REVIEW_PAIR_CHANGED"

    def test_what_cannot_be_is_refused(self, review: Review) -> None:
        pair = shown(review, 2, 9)
        for wrong in ({"reason": " "}, {"decided_by": ""}):
            assert (
                code_of(lambda wrong=wrong: decide(review, pair, CONFIRMED, **wrong))
                == "REVIEW_DECISION_INVALID"
            )
        assert code_of(lambda: decide(review, pair, "maybe")) == "REVIEW_DECISION_INVALID"
        assert code_of(lambda: review.decide_shown(say(11, 12, CONFIRMED), "")) == "REVIEW_PAIR_UNKNOWN"

    def test_twice_the_same_is_known(self, review: Review) -> None:
        decide(review, shown(review, 2, 9), CONFIRMED)
        assert decide(review, shown(review, 2, 9), CONFIRMED)["changed"] is False


class TestUndoing:
    @pytest.mark.parametrize("key", ["2-9", "2-10"])
    @pytest.mark.parametrize("decision", [CONFIRMED, REJECTED])
    def test_the_pair_is_what_it_was(self, target: Target, review: Review, key: str, decision: str) -> None:
        before = target.all(DECISIONS)
        left, right = map(int, key.split("-"))
        decide(review, shown(review, left, right), decision)
        undone = review.undo(str(right), str(left), "Eva")
        assert target.all(DECISIONS) == before
        assert undone["status"] == statuses(target)[key]
        assert undone["counts"] == review.counts()
        assert audited(target, "pair decision undone") == [
            {"entity": "patients", "left": str(left), "right": str(right), "by": "Eva", "before": decision,
             "after": undone["status"]}
        ]  # fmt: skip

    def test_a_second_look_is_undone_to_the_first(self, target: Target, review: Review) -> None:
        review.decide([say(2, 9, REJECTED, decided_by="Uwe", reason="twins")])
        target.connection.execute(
            "UPDATE migration.duplicate_pairs SET asked_again_at = now() WHERE decided_at IS NOT NULL"
        )
        before = target.all(DECISIONS)
        for decision in (CONFIRMED, REJECTED, WITHDRAWN):
            decide(review, shown(review, 2, 9), decision)
            review.undo("2", "9", "Eva")
            assert target.all(DECISIONS) == before

    def test_once_and_by_who_decided_alone(self, target: Target, review: Review) -> None:
        assert code_of(lambda: review.undo("2", "9", "Eva")) == "REVIEW_NOTHING_TO_UNDO"
        decide(review, shown(review, 2, 9), CONFIRMED)
        assert code_of(lambda: review.undo("2", "9", "Uwe")) == "REVIEW_NOTHING_TO_UNDO"
        review.undo("2", "9", "Eva")
        assert code_of(lambda: review.undo("2", "9", "Eva")) == "REVIEW_NOTHING_TO_UNDO"

    def test_not_behind_somebody_elses_decision(self, target: Target, review: Review) -> None:
        decide(review, shown(review, 2, 9), CONFIRMED)
        review.decide([say(2, 9, REJECTED, decided_by="Uwe")])
        assert code_of(lambda: review.undo("2", "9", "Eva")) == "REVIEW_NOTHING_TO_UNDO"
        assert statuses(target)["2-9"] == "rejected"

    def test_the_next_run_hears_of_it(self, target: Target, review: Review) -> None:
        decide(review, shown(review, 2, 10), REJECTED)
        target.tracking("run-2").close_run("completed", {}, "")
        review.undo("2", "10", "Eva")
        assert sorted(review.reopened_rows().to_pylist()) == ["10", "2"]

    def test_a_pair_that_undoing_a_merge_made_stays(self, target: Target, review: Review) -> None:
        target.connection.execute(
            "SELECT migration.decide('patients', '12', '9', 'rejected', 'Eva', 'two people')"
        )
        assert code_of(lambda: review.undo("9", "12", "Eva")) == "REVIEW_NOTHING_TO_UNDO"


def test_none_of_it_is_for_signed_in_users(target: Target) -> None:
    functions = target.all(
        "SELECT oid::regprocedure::text, has_function_privilege('authenticated', oid, 'EXECUTE')"
        " OR has_function_privilege('anon', oid, 'EXECUTE') FROM pg_proc"
        " WHERE pronamespace = 'migration_api'::regnamespace"
        " AND proname IN ('review_page', 'review_pair', 'decide_shown', 'undo_decision')"
    )
    assert len(functions) == 4
    assert not [name for name, allowed in functions if allowed]
