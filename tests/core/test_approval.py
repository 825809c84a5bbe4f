"""When a person is asked, and what the person is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from include.core.approval import ALWAYS_ALLOWED, Expected, plan_id, reasons, request, totals
from include.core.settings import Settings, check, params

PATIENTS = Expected(
    "patients", read=10_000, rejected=20, stored=9_000, merged=0, deleted=0, to_review=7, new=980
)


def settings(**values: object) -> Settings:
    return check(values, params(("patients",), kind="full", environment={}))


def test_little_asks_nobody() -> None:
    assert reasons([replace(PATIENTS, merged=1_000, deleted=180)], settings()) == []


@pytest.mark.parametrize(
    ("fate", "rows", "share"),
    [("merged", 1_001, "1,001 of 10,000"), ("deleted", 181, "181 of 9,000")],
)
def test_much_asks_and_says_how_much(fate: str, rows: int, share: str) -> None:
    (reason,) = reasons([replace(PATIENTS, **{fate: rows})], settings())
    assert reason.startswith(f"patients: {share} rows would be {fate}")
    assert f"`approve_{fate}_above`" in reason


@pytest.mark.parametrize("fate", ["merged", "deleted"])
def test_a_share_of_a_small_table_says_nothing(fate: str) -> None:
    small = replace(PATIENTS, read=100, stored=100)
    limit = settings(**{f"approve_{fate}_above": 0})
    assert reasons([replace(small, **{fate: ALWAYS_ALLOWED})], limit) == []
    assert len(reasons([replace(small, **{fate: ALWAYS_ALLOWED + 1})], limit)) == 1


@pytest.mark.parametrize("fate", ["merged", "deleted"])
def test_a_share_of_one_never_asks(fate: str) -> None:
    # More than there are: merges and deletions are counted of what is known, which may be less.
    everything = replace(PATIENTS, **{fate: 20_000})
    assert reasons([everything], settings(**{f"approve_{fate}_above": 1})) == []


def test_whoever_requires_it_is_always_asked() -> None:
    assert reasons([PATIENTS], settings(require_approval=True)) == ["`require_approval` is set."]


def test_every_row_that_was_read_is_new_known_or_rejected() -> None:
    assert PATIENTS.known == 10_000 - 20 - 980
    assert totals([PATIENTS, replace(PATIENTS, merged=3, deleted=2)]) == {
        "new": 1_960,
        "known": 18_000,
        "merged": 3,
        "deleted": 2,
    }


def test_equal_numbers_are_one_plan_and_others_another() -> None:
    # What the target has, and what waits for a review, may change while the same is to be done.
    assert plan_id([PATIENTS]) == plan_id([replace(PATIENTS, stored=9_500, to_review=8)])
    others = [replace(PATIENTS, **{name: 1}) for name in ("read", "rejected", "new", "merged", "deleted")]
    assert len({plan_id([one]) for one in [PATIENTS, *others]}) == 6


def test_the_question_has_every_number_and_both_ways_on() -> None:
    run = {
        "dag": "mdw_full_migration",
        "run_id": "manual__1",
        "started_by": "Eva",
        "ai": "Nothing is embedded.",
    }
    subject, body = request([replace(PATIENTS, merged=12, deleted=3)], ["because"], run, 7)
    assert subject == "Load 980 new, 9,000 known, 12 merged and mark 3 as deleted?"
    assert "| patients | 10,000 | 980 | 9,000 | 20 | 12 | 3 | 7 |" in body
    assert "* because" in body
    for text in ("manual__1", "Eva", "Nothing is embedded.", "**Approve**", "**Reject**", "in 7 days"):
        assert text in body
