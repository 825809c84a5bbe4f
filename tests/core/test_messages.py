"""What people are told: counts where a run succeeded, guidance where it failed, and nothing that could be a row's."""

from __future__ import annotations

from typing import Any

from include.core.messages import Message, approval, ended, review, started

REPORT: dict[str, Any] = {
    "run_id": "r1",
    "status": "completed",
    "headline": "REAL RUN completed",
    "entities": [
        {"inserted": 1_200, "updated": 0, "merged": 3, "rejected": 2, "deleted": 0},
        {"inserted": 5, "updated": 1, "merged": 0, "rejected": 0, "deleted": 4},
    ],
    "findings": [
        {"kind": "quarantine", "rows": 2},
        {"kind": "finding", "rows": 70},
    ],
    "next_steps": ["Look at the 2 rows in quarantine."],
    "failed_tasks": [],
    "errors": [],
}
ERROR = {"task": "loading.cases", "code": "TARGET_UNREACHABLE", "next_step": "Check it.", "detail": "secret"}


def failed(**changes: Any) -> Message:
    facts = {
        "status": "failed",
        "failed_tasks": ["loading.cases[0]"],
        "errors": [ERROR, ERROR, {**ERROR, "task": "loading.projects", "code": "RUN_STOPPED"}],
        "next_steps": ["Open the log.", "[TARGET_UNREACHABLE] Check it."],
    }
    return ended("mdw", {**REPORT, **facts, **changes})


def test_a_start_says_how_much_there_is_to_do() -> None:
    message = started("mdw", "r1", mode="dry run", rows=12_345, entities=3, seconds=300)
    assert message.title == "mdw: dry run started, 12,345 rows of 3 entities"
    assert "about 5 min" in message.lines[1]


def test_success_has_counts_and_the_next_step() -> None:
    message = ended("mdw", REPORT)
    assert (message.event, message.title) == ("succeeded", "mdw: REAL RUN completed")
    assert message.lines == (
        "Run r1",
        "Rows: 1,205 inserted, 1 updated, 3 merged, 2 rejected, 4 deleted.",
        "In quarantine: 2 rows.",
        "Next: Look at the 2 rows in quarantine.",
    )


def test_failure_has_each_cause_once_and_what_to_do_but_no_detail() -> None:
    message = failed()
    assert message.lines == (
        "Run r1",
        "Failed: loading.cases[0].",
        "loading.cases: [TARGET_UNREACHABLE] Check it.",
        "Next: Open the log.",
    )
    assert "secret" not in message.to_html() + message.to_slack()


def test_failures_differ_by_tasks_and_codes() -> None:
    assert failed().about == failed().about
    assert failed().about != failed(failed_tasks=["loading.patients"]).about
    assert failed().about != failed(errors=[{**ERROR, "code": "TARGET_FULL"}]).about


def test_many_failed_tasks_are_counted() -> None:
    tasks = [f"loading.patients[{n}]" for n in range(24)]
    assert failed(failed_tasks=tasks).lines[1].endswith("loading.patients[9] and 14 more.")


def test_a_subject_is_one_line() -> None:
    message = Message("failed", "a\r\nBcc: x@y.test " + "z" * 300, ())
    assert message.subject.startswith("[MDW migration] a Bcc: x@y.test zzz")
    assert len(message.subject) == 200


def test_an_approval_says_why_and_what() -> None:
    message = approval("mdw", "r1", ["Much is merged."], {"new": 1_000, "merged": 70}, plan="p1")
    assert (message.event, message.about) == ("approval", "p1")
    assert message.lines[1:3] == ("Much is merged.", "Rows: 1,000 new, 70 merged.")


def test_a_review_is_about_the_number_of_pairs() -> None:
    assert (review(7).about, review(1_234).title) == ("7", "1,234 pairs of patients wait for a review")
