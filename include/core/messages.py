"""What people are told of a run where they are told at all: counts, codes, task ids, next steps. No row, no detail."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.core.run_estimate import readable_seconds

EVENTS = ("started", "approval", "succeeded", "failed", "review")
_MOST_TASKS = 10
_LONGEST_TITLE = 200


@dataclass(frozen=True)
class Message:
    """Something that is told.

    Attributes:
        event: one of :data:`EVENTS`.
        title: one line.
        lines: what else there is to say, a sentence each.
        about: tells it from another message of its event; what is said twice about the same is told once.
        link: where to look; empty where nobody knows the address.
    """

    event: str
    title: str
    lines: tuple[str, ...]
    about: str = ""
    link: str = ""

    @property
    def subject(self) -> str:
        """The title on one line of bounded length, fit for the header of a mail."""
        return re.sub(r"\s+", " ", f"[MDW migration] {self.title}")[:_LONGEST_TITLE]

    def to_slack(self) -> str:
        """In Slack's own markup, where only three characters mean anything else than themselves."""
        title, *lines = (html.escape(line, quote=False) for line in (self.title, *self.lines))
        link = [f"<{html.escape(self.link, quote=False)}|Open the run>"] if self.link else []
        return "\n".join([f"*{title}*", *(f"• {line}" for line in lines), *link])

    def to_html(self) -> str:
        """As the body of a mail."""
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in self.lines)
        link = f'<p><a href="{html.escape(self.link)}">Open the run</a></p>' if self.link else ""
        return f"<p><strong>{html.escape(self.title)}</strong></p><ul>{lines}</ul>{link}"


def started(
    dag_id: str, run_id: str, *, mode: str, rows: int, entities: int, seconds: float, link: str = ""
) -> Message:
    """A run has planned its work and begins.

    Args:
        rows: that it takes up.
        seconds: that it is expected to take.
    """
    return Message(
        "started",
        f"{dag_id}: {mode} started, {rows:,} rows of {entities} entities",
        (
            f"Run {run_id}",
            f"Expected to take about {readable_seconds(seconds)}, without embeddings and files.",
        ),
        link=link,
    )


def ended(dag_id: str, report: Mapping[str, Any], link: str = "") -> Message:
    """A run has ended, as its report says: with counts where it succeeded, with guidance where it failed."""
    lines = [f"Run {report['run_id']}"] if report["run_id"] else []
    if report["status"] == "completed":
        lines += [*_counts(report), *(f"Next: {step}" for step in report["next_steps"])]
        return Message("succeeded", f"{dag_id}: {report['headline']}", tuple(lines), link=link)
    failed, causes = report["failed_tasks"], _causes(report["errors"])
    lines += [f"Failed: {_some(failed)}."] if failed else []
    lines += [f"{task}: [{code}] {next_step}" for task, code, next_step in causes]
    # What a code asks for was said with its task.
    lines += [f"Next: {step}" for step in report["next_steps"] if not (causes and step.startswith("["))]
    about = " ".join([*failed, *(code for _, code, _ in causes)])
    return Message("failed", f"{dag_id}: {report['headline']}", tuple(dict.fromkeys(lines)), about, link)


def approval(
    dag_id: str, run_id: str, reasons: Sequence[str], numbers: Mapping[str, int], *, plan: str, link: str = ""
) -> Message:
    """A run waits until somebody approves what loading will do.

    Args:
        reasons: why somebody is asked, a sentence each.
        numbers: what will be done → rows.
        plan: id of what is to be approved; another one is asked about anew.
    """
    rows = ", ".join(f"{count:,} {what}" for what, count in numbers.items())
    lines = (
        f"Run {run_id}",
        *reasons,
        f"Rows: {rows}.",
        "Next: approve or reject it under Required Actions.",
    )
    return Message("approval", f"{dag_id}: a run waits for approval", lines, plan, link)


def review(pairs: int, link: str = "") -> Message:
    """Pairs of patients wait for somebody to decide on them."""
    return Message(
        "review",
        f"{pairs:,} pairs of patients wait for a review",
        ("Until somebody decides, both patients of a pair stay. docs/reviewing-duplicates.md says how.",),
        str(pairs),
        link,
    )


def _counts(report: Mapping[str, Any]) -> list[str]:
    sums = {
        fate: sum(entity[fate] for entity in report["entities"])
        for fate in ("inserted", "updated", "merged", "rejected", "deleted")
    }
    waiting = sum(line["rows"] for line in report["findings"] if line["kind"] == "quarantine")
    rows = ", ".join(f"{count:,} {fate}" for fate, count in sums.items() if count) or "nothing to write"
    return [f"Rows: {rows}.", f"In quarantine: {waiting:,} rows."]


def _causes(errors: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Task, code and next step of what went wrong, each once; what was only stopped by it is left out."""
    told = dict.fromkeys(
        (str(error["task"]), str(error["code"]), str(error["next_step"]))
        for error in errors
        if error["code"] != "RUN_STOPPED"
    )
    return list(told)[:_MOST_TASKS]


def _some(tasks: Sequence[str]) -> str:
    more = len(tasks) - _MOST_TASKS
    return ", ".join(tasks[:_MOST_TASKS]) + (f" and {more:,} more" if more > 0 else "")
