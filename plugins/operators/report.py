"""Completion: the report and the true state of every run, and the end of its lock."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink, ObjectStoragePath
from airflow.sdk.exceptions import AirflowFailException

from include.core.errors import MigrationError
from include.core.messages import ended, review
from include.core.report import build, waiting_pairs
from include.core.report_html import as_html
from include.core.report_text import as_text
from include.core.settings import params
from include.entities import EMBEDDED, ENTITIES
from plugins.hooks.embedding_ledger import EmbeddingLedger
from plugins.hooks.metrics import count_run
from plugins.hooks.notifications import run_link, tell
from plugins.hooks.plans import PlansHook
from plugins.hooks.report_link import report_link
from plugins.hooks.rollback import drop_journals
from plugins.hooks.run_estimates import RunEstimates
from plugins.hooks.run_log import recorded_errors
from plugins.hooks.run_notes import RunNotes
from plugins.hooks.samples import Samples
from plugins.hooks.staging import StagingHook, report_root, run_folder
from plugins.hooks.target import Target
from plugins.hooks.tracking import TrackingHook
from plugins.operators.step import LOG, MigrationOperator, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from airflow.sdk import BaseOperator


class ReportLink(BaseOperatorLink):
    """The button on the page of a task that leads to the report of its run."""

    @property
    def name(self) -> str:
        """What the button says."""
        return "Migration report"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:  # noqa: ARG002 - the interface's signature
        """Address of the report; nothing of the run's data is in it."""
        return report_link(ti_key.dag_id, ti_key.run_id)


class CloseOperator(MigrationOperator):
    """The last task of a run that succeeded: reports, closes it as completed, empties staging, frees the lock.

    An ordinary task, so a failure of it fails the run, and one upstream keeps it from starting.
    """

    operator_extra_links: Collection[BaseOperatorLink] = (ReportLink(),)

    def step(self, run: Run) -> str:
        """Returns where the report was written; raises RUN_STOPPED where any task failed, RUN_LOST."""
        if failed := _failed_tasks(run, self.task_id):
            raise MigrationError("RUN_STOPPED", f"Failed: {', '.join(failed)}.", run=run.run_id)
        folder = report_root() / run_folder(run.run_id)
        with self.target(run) as target:
            tracking = TrackingHook(target, run.run_id)
            tracking.stop_if_failed(fail_fast=True)
            report = _report(run, target, tracking, [])
            _write(folder, report)
            if not run.settings.keep_staging:
                StagingHook(run.run_id).remove()
            tracking.close_run("completed", {"entities": report["entities"]}, str(folder))
            drop_journals(target)
            count_run(run.dag_id, report)
            self._tell(run, target, report)
        self.progress(report["headline"])
        self.progress(f"report: {folder}")
        return str(folder)

    @staticmethod
    def _tell(run: Run, target: Target, report: dict[str, Any]) -> None:
        link = run_link(run.dag_id, run.run_id)
        tell(target, run.run_id, ended(run.dag_id, report, link))
        pairs = waiting_pairs(RunNotes(target, run.run_id).all())
        if pairs:
            tell(target, run.run_id, review(pairs, link))


class ReportOperator(MigrationOperator):
    """The teardown of a run, for one that failed: reports, closes it as failed, frees the lock.

    It cannot turn a failed run green: Airflow leaves teardowns out of the verdict. It ends red itself, so that
    clearing the failed tasks of the run clears it as well: should they fail again, that is reported, too.

    Args:
        closing: the task that closes a run which succeeded.
    """

    tracked = False
    operator_extra_links: Collection[BaseOperatorLink] = (ReportLink(),)

    def __init__(self, *, closing: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.closing = closing

    def step(self, run: Run) -> str:
        """Returns where the report of a completed run is; raises where the run failed."""
        # One that was not closed has not succeeded, whatever its tasks were marked as.
        failed = _failed_tasks(run, self.task_id) or [self.closing]
        folder = report_root() / run_folder(run.run_id)
        try:
            with self.target(run) as target:
                tracking = TrackingHook(target, run.run_id)
                state = tracking.facts().run
                if state is not None and state["status"] == "completed":
                    self.progress(f"completed; report: {state['report_uri']}")
                    return str(state["report_uri"])
                if state is not None and state["status"] == "rolled_back":
                    # Its report says what was done, and undone.
                    raise AirflowFailException("The run was rolled back; its report stays as it is.")
                report = _report(run, target, tracking, failed)
                _write(folder, report)
                if state is not None:
                    tracking.close_run("failed", {"entities": report["entities"]}, str(folder))
                self._tell(run, target, report)
        except MigrationError as error:
            # Most likely the very reason why the run failed; the report must still be written.
            LOG.warning("The tracking tables could not be used: %s", error)
            report = _untracked_report(run, failed)
            _write(folder, report)
            self._tell(run, None, report)
        count_run(run.dag_id, report)
        self.progress(report["headline"])
        self.progress(f"report: {folder}")
        raise AirflowFailException("The run failed, and was reported.")

    @staticmethod
    def _tell(run: Run, target: Target | None, report: dict[str, Any]) -> None:
        tell(target, run.run_id, ended(run.dag_id, report, run_link(run.dag_id, run.run_id)))


def _failed_tasks(run: Run, but: str) -> list[str]:
    """Tasks that failed, written like the steps of tracking: ``loading.patients[0]``."""
    return sorted(step for step, state in run.states().items() if state == "failed" and step != but)


def _report(run: Run, target: Target, tracking: TrackingHook, failed: list[str]) -> dict[str, Any]:
    facts = tracking.facts()
    # Causes first: tracking knows them from the tasks that were only stopped by them.
    causes = set(facts.run["failed_steps"]) if facts.run else set()
    known = RunEstimates(target, tracking.run_id).facts()
    # A run that failed before it was opened has no row; one cleared later has.
    return build(
        run=facts.run,
        batches=facts.batches,
        checks=facts.checks,
        findings=tracking.finding_counts(),
        failed_tasks=sorted(failed, key=lambda task: (task not in causes, task)),
        order=list(ENTITIES),
        now=datetime.now(UTC),
        notes=RunNotes(target, tracking.run_id).all(),
        source_rows=PlansHook(target, tracking.run_id).source_rows(),
        embeddings=EmbeddingLedger.facts(target, tracking.run_id),
        embedded=list(EMBEDDED),
        samples=Samples(target, tracking.run_id).stored(),
        errors=recorded_errors(tracking.run_id) if failed else [],
        audit=target.call("seal_audit"),
        estimate=known["estimate"],
        defaults=_defaults(run),
        platform={**_platform(), "target": f"PostgreSQL {known['server']}"},
        run_id=run.run_id,
    )


def _untracked_report(run: Run, failed: list[str]) -> dict[str, Any]:
    return build(
        run=None,
        batches=[],
        checks=[],
        findings=[],
        failed_tasks=failed,
        order=[],
        now=datetime.now(UTC),
        errors=recorded_errors(run.run_id),
        platform=_platform(),
        run_id=run.run_id,
    )


def _defaults(run: Run) -> dict[str, Any]:
    """Of the parameters, whatever the environment says."""
    return {
        param.name: param.default
        for param in params(ENTITIES, kind=run.type, environment={}, embedded=EMBEDDED)
    }


def _platform() -> dict[str, str]:
    return {"airflow": version("apache-airflow-core"), "python": platform.python_version()}


def _write(folder: ObjectStoragePath, report: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ways: dict[str, Callable[[dict[str, Any]], str]] = {
        "report.json": lambda facts: json.dumps(facts, indent=2, default=str),
        "report.html": as_html,
        "summary.txt": as_text,
    }
    for name, way in ways.items():
        with (folder / name).open("wb") as sink:
            sink.write(way(report).encode())
