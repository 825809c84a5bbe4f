"""Completion: always runs, writes the report, closes the run with its true state."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import ObjectStoragePath

from include.core.errors import MigrationError
from include.core.report import as_html, as_text, build, headline
from include.entities import ENTITIES
from plugins.hooks.staging import StagingHook, report_root, run_folder
from plugins.hooks.target_postgres import TargetPostgresHook
from plugins.hooks.tracking import TrackingHook
from plugins.operators.step import LOG, MigrationOperator, Run

if TYPE_CHECKING:
    from collections.abc import Callable


class ReportOperator(MigrationOperator):
    """The teardown of a run. It cannot turn a failed run green: Airflow leaves teardowns out of the verdict."""

    tracked = False

    def step(self, run: Run) -> str:
        """Returns where the report was written."""
        failed = self._failed_tasks(run)
        folder = report_root() / run_folder(run.run_id)
        try:
            with TargetPostgresHook().session() as connection:
                report = _tracked_report(TrackingHook(connection, run.run_id), failed, str(folder))
        except MigrationError as error:
            # Most likely the very reason why the run failed; the report must still be written.
            LOG.warning("The tracking tables could not be read: %s", error)
            report = _untracked_report(failed)
        _write(folder, report)
        if report["status"] == "completed" and not run.settings.keep_staging:
            StagingHook(run.run_id).remove()
        self.progress(headline(report))
        self.progress(f"report: {folder}")
        return str(folder)

    def _failed_tasks(self, run: Run) -> list[str]:
        """Tasks that failed, written like the steps of tracking: ``loading.patients[0]``."""
        states: dict[str, Any] = run.task_instance.get_task_states(dag_id=run.dag_id, run_ids=[run.run_id])
        of_run = states.get(run.run_id, {})
        failed = [task for task, state in of_run.items() if str(state) == "failed" and task != self.task_id]
        return sorted(re.sub(r"_(\d+)$", r"[\1]", task) for task in failed)


def _tracked_report(tracking: TrackingHook, failed: list[str], location: str) -> dict[str, Any]:
    runs = tracking.facts("runs")
    # Causes first: tracking knows them from the tasks that were only stopped by them.
    causes = set(runs[0]["failed_steps"]) if runs else set()
    failed = sorted(failed, key=lambda task: (task not in causes, task))
    # A run that failed before it was opened has no row; one cleared later has.
    report = build(
        run=runs[0] if runs else None,
        batches=tracking.facts("batches"),
        checks=tracking.facts("checks"),
        findings=tracking.finding_counts(),
        failed_tasks=failed,
        order=list(ENTITIES),
        now=datetime.now(UTC),
    )
    if runs:
        tracking.close_run(report["status"], {"entities": report["entities"]}, location)
    return report


def _untracked_report(failed: list[str]) -> dict[str, Any]:
    return build(
        run=None, batches=[], checks=[], findings=[], failed_tasks=failed, order=[], now=datetime.now(UTC)
    )


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
