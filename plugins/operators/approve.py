"""Between deduplication and loading: what loading will do, and a person's approval of it where one is wanted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.standard.exceptions import HITLTimeoutError
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowSkipException

from include.core import messages
from include.core.approval import APPROVE, REJECT, Expected, plan_id, reasons, request, totals
from include.core.errors import MigrationError
from include.core.settings import whole_number
from plugins.hooks.approval import Approval
from plugins.hooks.notifications import run_link, tell
from plugins.hooks.run_lock import whole_run_process
from plugins.hooks.staging import StagingHook
from plugins.operators.preflight import chosen
from plugins.operators.step import MigrationOperator, Run

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

_UNATTENDED = "MIGRATION_APPROVE"
"""What a run without a scheduler does in place of asking: ``yes`` approves, ``wait`` waits for the pages of another
Airflow process over the same metadata database."""
_DAYS, _MOST_DAYS = 7, 90


def approval_days() -> int:
    """So many days a run waits for an answer.

    Raises:
        MigrationError: PARAM_INVALID.
    """
    days = whole_number(os.environ.get("MIGRATION_APPROVAL_DAYS") or str(_DAYS), 1, _MOST_DAYS)
    if days is None:
        raise MigrationError(
            "PARAM_INVALID", f"MIGRATION_APPROVAL_DAYS must be a whole number from 1 to {_MOST_DAYS}."
        )
    return days


class ExpectOperator(MigrationOperator):
    """Counts what loading will do, and decides whether a person must approve it."""

    def step(self, run: Run) -> dict[str, Any]:
        """Returns ``expected`` (see :class:`Expected`), ``reasons`` to ask and, if there are any, ``plan``, their id.

        A dry run is skipped: it predicts all of this exactly, and writes nothing.
        """
        if run.settings.dry_run:
            raise AirflowSkipException("a dry run writes nothing")
        approval_days()  # a wrong setting is told before anybody waits
        staging = StagingHook(run.run_id)
        with self.target(run) as target:
            approval = Approval(target, run.run_id)
            expected = [approval.expected(entity.name, staging) for entity in chosen(run.settings)]
            why = reasons(expected, run.settings)
            if why:
                expected = [one.with_new(approval.new_rows(one.entity, staging)) for one in expected]
        for one in expected:
            self._tell(one)
        self.progress(" ".join(["a person is asked:", *why]) if why else "nobody needs to be asked")
        return {
            "expected": [one.to_json() for one in expected],
            "reasons": why,
            "plan": plan_id(expected) if why else None,
        }

    def nothing_done(self, run: Run) -> dict[str, Any]:
        """As it ended in the run: a dry run is skipped."""
        if run.settings.dry_run:
            raise AirflowSkipException("a dry run writes nothing")
        return {"expected": [], "reasons": [], "plan": None}

    def _tell(self, one: Expected) -> None:
        new = "" if one.new is None else f", {one.new:,} of them new"
        self.progress(
            f"{one.entity}: {one.read:,} rows to load{new}, {one.rejected:,} rejected, {one.merged:,} to merge,"
            f" {one.deleted:,} to delete, {one.to_review:,} pairs to review",
            entity=one.entity,
            counts={name: count for name, count in one.to_json().items() if isinstance(count, int)},
        )


class ApproveOperator(MigrationOperator, HITLOperator):
    """Asks a person whether the run may load, and waits in ``awaiting_input``: without a worker, without a triggerer.

    Args:
        numbers: what :class:`ExpectOperator` returned.
    """

    template_fields = ("numbers",)

    def __init__(self, *, numbers: Any, **kwargs: Any) -> None:
        super().__init__(
            **{"subject": "May the run load?", "options": [APPROVE, REJECT], "body": None, **kwargs}
        )
        self.numbers = numbers
        self._answer: Mapping[str, Any] | None = None

    def step(self, run: Run) -> dict[str, str]:
        """Returns who approved and when; skipped where nobody needs to be asked.

        Raises:
            MigrationError: APPROVAL_REJECTED, APPROVAL_TIMED_OUT, APPROVAL_UNATTENDED.
        """
        if not self.numbers or not self.numbers["reasons"]:
            raise AirflowSkipException("nobody needs to be asked")
        expected = [Expected(**one) for one in self.numbers["expected"]]
        asked = {**totals(expected), "plan": self.numbers["plan"]}
        with self.target(run) as target:
            approval = Approval(target, run.run_id)
            if self._answer is not None:
                return self._settle(approval, asked, self._answer)
            if approval.stands(asked["plan"]):
                self.progress("these numbers were approved before, in this run")
                return {"by": "an earlier approval", "plan": asked["plan"]}
            if whole_run_process() is not None:
                unattended = os.environ.get(_UNATTENDED, "")
                if unattended == "yes":
                    return self._settle(approval, asked, _said(APPROVE, f"{_UNATTENDED}=yes"))
                if unattended != "wait":
                    raise MigrationError("APPROVAL_UNATTENDED", " ".join(self.numbers["reasons"]))
            approval.wait(approval_days(), asked)
            tell(target, run.run_id, self._notice(run, expected))
        return self._ask(run, expected)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Somebody has answered, or the time is over: the step goes on with that."""
        self._answer = event
        return self.execute(context)

    def nothing_done(self, run: Run) -> dict[str, str]:
        """As it ended in the run: skipped where nobody was asked."""
        with self.target(run) as target:
            if Approval(target, run.run_id).was_given():
                return {"by": "an earlier approval"}
        raise AirflowSkipException("nobody was asked")

    def _notice(self, run: Run, expected: list[Expected]) -> messages.Message:
        return messages.approval(
            run.dag_id,
            run.run_id,
            self.numbers["reasons"],
            totals(expected),
            plan=self.numbers["plan"],
            link=run_link(run.dag_id, run.run_id),
        )

    def _ask(self, run: Run, expected: list[Expected]) -> NoReturn:
        """Write the question and park the task."""
        days = approval_days()
        settings = run.settings
        ai = (
            f"Embeddings are planned behind loading and cost at most {settings.ai_budget:g} US dollars (`ai_budget`)."
            if settings.enable_ai
            else "Nothing is embedded (`enable_ai` is off)."
        )
        facts = {"dag": run.dag_id, "run_id": run.run_id, "started_by": run.started_by, "ai": ai}
        self.subject, self.body = request(expected, self.numbers["reasons"], facts, days)
        self.response_timeout = timedelta(days=days)
        self.progress(f"waits for approval: {self.subject}")
        HITLOperator.execute(self, {"task_instance": run.task_instance})
        raise AssertionError("the question ends the task")

    def _settle(
        self, approval: Approval, asked: Mapping[str, Any], answer: Mapping[str, Any]
    ) -> dict[str, str]:
        """Record an answer; a rejection fails the task."""
        try:
            valid = HITLOperator.execute_complete(self, {}, dict(answer))
        except HITLTimeoutError:
            raise MigrationError("APPROVAL_TIMED_OUT", f"{approval_days()} days have passed.") from None
        by, at = _name(valid["responded_by_user"]), valid["responded_at"].isoformat(timespec="seconds")
        approved = valid["chosen_options"] == [APPROVE]
        approval.record(approved=approved, facts={**asked, "by": by, "at": at})
        if not approved:
            raise MigrationError("APPROVAL_REJECTED", f"Rejected by {by} at {at}.", plan=asked["plan"])
        self.progress(f"approved by {by}", approved_at=at)
        return {"by": by, "at": at, "plan": asked["plan"]}


def _said(option: str, by: str) -> dict[str, Any]:
    """An answer as Airflow gives it."""
    return {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": datetime.now(UTC),
        "responded_by_user": {"id": by, "name": by},
    }


def _name(user: Any) -> str:
    """Of who answered in Airflow."""
    return str(user["name"] or user["id"]) if isinstance(user, Mapping) else "unknown"
