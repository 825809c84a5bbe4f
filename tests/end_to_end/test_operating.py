"""A run as its operators meet it: what they are told, what is measured, and the report with its button."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from email.message import Message as Mail
from typing import Any

import pytest

from plugins.hooks.notifications import MAIL_TO, SLACK, SMTP
from tests.end_to_end.canary import EVERYTHING, Search, plant
from tests.end_to_end.conftest import MakeDatabases
from tests.end_to_end.runs import Airflow, Outcome
from tests.sinks import SECRET, MailServer, Slack, mail_text, serving, statsd

PEOPLE = ["practices", "profiles", "patients"]
SMALL = {"entities": PEOPLE, "enable_ai": False, "copy_files": False}


@dataclass(frozen=True)
class Told:
    """A run that succeeded, one that failed, and what came of both."""

    done: Outcome
    failed: Outcome
    slack: list[str]
    mails: list[Mail]
    metrics: dict[str, float]
    links: dict[str, str]


@pytest.fixture(scope="module")
def told(own_airflow: Airflow, make_databases: MakeDatabases) -> Told:
    """Both by the command line, over a source full of values that must not be found anywhere."""
    slack, mail, databases = Slack(), MailServer(), make_databases()
    plant(databases.source_admin)
    with serving(slack.server), serving(mail.server), statsd() as (port, lines):
        environment = {
            "AIRFLOW_CONN_SLACK_OPS": slack.connection,
            "AIRFLOW_CONN_MAIL_OPS": mail.connection,
            SLACK: "slack_ops",
            SMTP: "mail_ops",
            MAIL_TO: "ops@clinic.test",
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(port),
        }
        done = own_airflow.run_command(databases, environment=environment, dry_run=False, **SMALL)
        # What these rows refer to was never loaded, which is found out before anything is read.
        orphans = {**SMALL, "entities": ["workflow_performance"]}
        failed = own_airflow.run_command(databases, environment=environment, dry_run=False, **orphans)
        links = _links(own_airflow)
    return Told(done, failed, [post["text"] for post in slack.posted], mail.mails, _metrics(lines), links)


def _links(airflow: Airflow) -> dict[str, str]:
    """Task → address of its button."""
    with closing(
        sqlite3.connect(f"file:{airflow.state.airflow / 'airflow.db'}?mode=ro", uri=True)
    ) as connection:
        found = connection.execute(
            "SELECT task_id, value FROM xcom WHERE key = '_link_ReportLink'"
        ).fetchall()
    return {task: json.loads(value) for task, value in found}


def _metrics(lines: list[str]) -> dict[str, float]:
    """Name → sum of counters, last value of gauges and timers."""
    sums: Counter[str] = Counter()
    last: dict[str, float] = {}
    for line in lines:
        if matched := re.fullmatch(r"airflow\.(migration\.[\w.-]+):([\d.]+)\|(c|ms|g)", line):
            name, value, kind = matched.groups()
            if kind == "c":
                sums[name] += float(value)  # type: ignore[assignment]
            else:
                last[name] = float(value)
    return {**last, **sums}


def first_lines(told: Told) -> list[str]:
    return [text.splitlines()[0].strip("*") for text in told.slack]


def test_both_runs_ended_as_they_were_to(told: Told) -> None:
    assert told.done.exit_code == 0, told.done.log[-3_000:]
    assert told.failed.exit_code == 1


def test_people_are_told_of_start_end_and_review(told: Told) -> None:
    headline = told.done.report["headline"]
    waiting = next(
        note["facts"]["pending"] for note in told.done.report["notes"] if "pending" in note["facts"]
    )
    lines = first_lines(told)
    assert lines[0].startswith("mdw_full_migration: real run started, ")
    assert lines[1] == f"mdw_full_migration: {headline}"
    assert lines[2] == f"{waiting:,} pairs of patients wait for a review"
    assert len(told.mails) == len(lines)


def test_a_failure_is_told_with_its_code_and_what_to_do(told: Told) -> None:
    text = told.slack[-1]
    ending = "RUN failed before it was opened: nothing was read or written"
    assert text.splitlines()[0] == f"*mdw_full_migration: {ending}*"
    assert "Failed: preparation.deploy_target." in text
    assert "preparation.deploy_target: [ENTITY_PARENT_MISSING] Add the named entity to `entities`" in text


def test_metrics_are_those_of_the_report(told: Told) -> None:
    for entity in told.done.report["entities"]:
        name = f"migration.rows.loading.{entity['entity']}"
        assert told.metrics.get(f"{name}.inserted", 0) == entity["inserted"]
    assert told.metrics["migration.runs.completed"] == 1
    assert told.metrics["migration.runs.failed"] == 1
    assert told.metrics["migration.checks.passed"] == sum(
        outcome.report["checks"]["passed"] for outcome in (told.done, told.failed)
    )


def test_the_estimate_was_made_before_and_is_held_against_reality(told: Told) -> None:
    estimate = told.done.report["estimate"]
    by_phase: dict[str, Any] = {line["phase"]: line for line in estimate["phases"]}
    assert estimate["recorded_at"] > str(told.done.report["started_at"]).replace(" ", "T")
    assert by_phase["loading"]["rows"] == sum(entity["read"] for entity in told.done.report["entities"])
    assert by_phase["loading"]["measured_seconds"] > 0


def test_the_report_has_a_button_on_its_tasks(told: Told) -> None:
    assert set(told.links) == {"completion.close", "completion.report"}
    assert all(
        re.fullmatch(r"/migration/dags/mdw_full_migration/runs/[\w%.-]+/report", link)
        for link in told.links.values()
    )


def test_nobodys_data_and_no_secret_is_in_what_was_sent(told: Told) -> None:
    search = Search((*EVERYTHING, SECRET.rpartition("/")[2]))
    sent = [*told.slack, *(mail["Subject"] + mail_text(mail) for mail in told.mails)]
    assert [hit for text in (*sent, *told.metrics) for hit in search.found(text)] == []
    assert search.in_files(told.done.report_folder) == {}  # type: ignore[arg-type]
