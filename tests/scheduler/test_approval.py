"""A run that asks a person, in a real scheduler: it waits without a worker, and the answer over REST counts."""

from __future__ import annotations

import time
from typing import Any

from tests.end_to_end.runs import Databases
from tests.scheduler.conftest import CONF, Target
from tests.scheduler.scheduler import Place, Run, Scheduler, await_true

GATE = "approval.gate"
PLACE: Place = (GATE, -1)
MOST_SECONDS = 60.0
# As long as nobody needs to read the question: an answer that is there before the scheduler has heard of the end of the
# process that asked is taken for a task that was killed, which asks again.
READING_SECONDS = 3.0
TABLES = ("practices", "profiles")


def await_question(scheduler: Scheduler, run: Run) -> Any:
    """The question, once the task waits."""
    await_true(
        lambda: scheduler.instances(run)[PLACE].state == "awaiting_input",
        MOST_SECONDS,
        lambda: f"{run.run_id} does not ask: {scheduler.instances(run)}",
    )
    time.sleep(READING_SECONDS)
    return scheduler.question(run, GATE)


def rows(databases: Databases) -> list[int]:
    """Of the business tables."""
    return [databases.read(f"SELECT count(*) FROM public.{table}")[0][0] for table in TABLES]


def audited(databases: Databases) -> list[tuple[str, str | None]]:
    """What the audit trail says of questions and answers."""
    return [
        (event, by)
        for event, by in databases.read(
            "SELECT event, details ->> 'by' FROM migration.audit_log WHERE event LIKE 'appro%' ORDER BY id"
        )
    ]


def test_it_waits_is_rejected_asked_again_and_approved(scheduler: Scheduler, target: Target) -> None:
    databases = target.make()
    run = scheduler.trigger(**{**CONF, "entities": [*TABLES], "require_approval": True})
    question = await_question(scheduler, run)
    assert question["options"] == ["Approve", "Reject"]
    assert "| practices |" in question["body"]
    states = {place[0]: instance.state for place, instance in scheduler.instances(run).items()}
    # No worker has it, and no triggerer runs here at all.
    assert "running" not in states.values()
    assert (states["approval.numbers"], scheduler.state(run)) == ("success", "running")
    assert rows(databases) == [0, 0]
    # The lock outlasts the silence, however short the grace of the one who asks for it.
    assert databases.read("SELECT awaits_until > now() + interval '6 days' FROM migration.run_lock") == [
        (True,)
    ]

    scheduler.answer(run, GATE, "Reject")
    assert scheduler.finished(run) == "failed"
    assert scheduler.instances(run)[PLACE].state == "failed"
    assert scheduler.instances(run)["loading.deleted_rows", -1].state == "upstream_failed"
    assert "[APPROVAL_REJECTED]" in scheduler.log(run, PLACE)
    assert rows(databases) == [0, 0]
    assert databases.read("SELECT status FROM migration.runs") == [("failed",)]
    assert databases.read("SELECT run_id FROM migration.run_lock") == []

    scheduler.clear_failed(run)
    await_question(scheduler, run)
    scheduler.answer(run, GATE, "Approve")
    assert scheduler.finished(run) == "success"
    assert all(count > 0 for count in rows(databases))
    (by,) = {by for event, by in audited(databases) if event == "approved"}
    assert by not in (None, "unknown")
    assert [event for event, _ in audited(databases)] == [
        "approval requested",
        "approval_rejected",
        "approval requested",
        "approved",
    ]
