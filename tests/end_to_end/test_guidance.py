"""What a failed task says last, in Airflow itself, and what it never says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from include.core.errors import REGISTRY
from local.environment import PROJECT
from plugins.hooks.run_log import ERRORS, EVERYTHING
from tests.end_to_end.runs import airflow_home

NAME = "Mustermann"

# Tasks that end in every way there is, run as `airflow dags test` runs them.
DAG = f"""
import psycopg.errors
from airflow.sdk import DAG, Param
from airflow.sdk.exceptions import AirflowSkipException
from include.core.errors import MigrationError
from plugins.operators import step

NOTE = "{NAME}"
ENDS = {{
    "unexpected": lambda: int(NOTE),
    "driver": lambda: psycopg.errors.lookup("22007"),
    "transient": lambda: MigrationError("SOURCE_INTERRUPTED", "It was cut.", entity="cases", batch="p000-b0001"),
    "permanent": lambda: MigrationError("SOURCE_DRIFT", "Missing: a.b."),
    "skipped": lambda: AirflowSkipException("not chosen"),
}}

class Ending(step.MigrationOperator):
    tracked = False

    def step(self, run):
        self.progress("it begins", entity="cases")
        end = ENDS[self.task_id.split(".")[1]]()
        try:
            raise end("invalid date: " + NOTE) if isinstance(end, type) else end
        except MigrationError as error:
            raise error from ValueError(NOTE)

step._FIRST_DELAY_SECONDS = 0.01
with DAG("mdw_full_migration", params={{"max_retries": Param(1, type="integer")}}) as dag:
    for name in ENDS:
        Ending(task_id=f"loading.{{name}}")

if __name__ == "__main__":
    dag.test()
"""


@dataclass(frozen=True)
class Ran:
    """What the run left behind: the log of each attempt of each task, and the files of the JSON log."""

    attempts: dict[str, list[list[str]]]
    files: dict[str, list[dict[str, Any]]]

    def errors(self, end: str) -> list[dict[str, Any]]:
        return [line for line in self.files[ERRORS] if line["task"] == f"loading.{end}"]


@pytest.fixture(scope="module")
def ran(metadata_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("guidance")
    (folder / "dags").mkdir()
    file = folder / "dags" / "ending.py"
    file.write_text(DAG)
    with airflow_home(folder / "home", metadata_template) as airflow:
        environment = {
            **airflow.environment,
            "AIRFLOW__CORE__DAGS_FOLDER": str(file.parent),
            "MIGRATION_LOG_DIR": str(folder / "logs"),
            "PYTHONPATH": str(PROJECT),
        }
        command = [sys.executable, str(file)]
        done = subprocess.run(  # noqa: S603 - a fixed command
            command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=300
        )
    text = done.stdout + done.stderr
    assert NAME not in text
    attempts: dict[str, list[list[str]]] = {}
    for name, said in re.findall(
        r"running task <TaskInstance: \S+?\.loading\.(\w+) (.*?)\[DAG TEST\] end task", text, re.S
    ):
        attempts.setdefault(name, []).append(said.splitlines())
    (logs,) = (folder / "logs").iterdir()
    contents = {path.name: path.read_text() for path in logs.iterdir()}
    assert NAME not in str(contents)
    return Ran(
        attempts,
        {name: [json.loads(line) for line in lines.splitlines()] for name, lines in contents.items()},
    )


def last_words(lines: list[str]) -> list[str]:
    """The task's last lines, without time and logger; of Airflow, only its end of a group follows."""
    mine = [number for number, line in enumerate(lines) if "::endgroup::" in line][-1]
    marked = [line.partition("[migration] ")[2].partition(" [mdw_migration]")[0] for line in lines[:mine]]
    start = next(i for i in range(len(marked) - 1, -1, -1) if "failed in attempt" in marked[i])
    return [re.sub(r"^loading +", "", line).rstrip() for line in marked[start:]]


@pytest.mark.parametrize(
    ("end", "code", "outcome"),
    [
        ("unexpected", "UNEXPECTED", "failed in attempt 1"),
        ("driver", "UNEXPECTED", "failed in attempt 1"),
        ("permanent", "SOURCE_DRIFT", "failed in attempt 1"),
        ("transient", "SOURCE_INTERRUPTED", "failed in attempt 2"),
    ],
)
def test_the_guidance_comes_last(ran: Ran, end: str, code: str, outcome: str) -> None:
    kind, words = REGISTRY[code], last_words(ran.attempts[end][-1])
    assert words[0] == f"loading.{end} {outcome} and is not repeated any more"
    assert words[1].startswith(f"[{code}] {kind.meaning}")
    assert words[-2].startswith(f"retry: {'automatic' if kind.transient else 'not automatic'}; ")
    assert words[-1] == f"next:  {kind.next_step}"


def test_a_task_that_is_repeated_says_so(ran: Ran) -> None:
    first, _ = ran.attempts["transient"]
    assert last_words(first)[:3] == [
        "loading.transient failed in attempt 1 and is repeated by itself",
        f"[SOURCE_INTERRUPTED] {REGISTRY['SOURCE_INTERRUPTED'].meaning} It was cut.",
        "where: entity=cases, batch=p000-b0001",
    ]


@pytest.mark.parametrize(("end", "error"), [("unexpected", "ValueError"), ("driver", "psycopg.errors.")])
def test_an_unexpected_exception_is_known_by_type_and_place(ran: Ran, end: str, error: str) -> None:
    (where,) = [line for line in last_words(ran.attempts[end][-1]) if line.startswith("where: ")]
    assert f"error={error}" in where
    # A test's folder may be inside the project's.
    assert re.search(r"(raised_in=|place=\S*)dags/ending\.py:\d+", where)
    assert ("sqlstate=22007" in where) is (end == "driver")


def test_a_skipped_task_needs_no_guidance(ran: Ran) -> None:
    (lines,) = ran.attempts["skipped"]
    assert "Skipping task" in "\n".join(lines)
    assert ran.errors("skipped") == []
    assert not [line for line in lines if "failed" in line]


def test_the_json_log_has_an_error_once_for_each_attempt(ran: Ran) -> None:
    assert [line["attempt"] for line in ran.errors("transient")] == [1, 2]
    line, _ = ran.errors("transient")
    assert (line["code"], line["detail"], line["where"], line["transient"]) == (
        "SOURCE_INTERRUPTED",
        "It was cut.",
        {"entity": "cases", "batch": "p000-b0001"},
        True,
    )
    begun = [line["task"] for line in ran.files[EVERYTHING] if line["message"] == "it begins"]
    assert sorted(begun) == sorted(f"loading.{end}" for end, tries in ran.attempts.items() for _ in tries)
