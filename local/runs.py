"""`make run` and `make retry`: runs in the Airflow that `make ui` serves, started and cleared as its buttons do.

    python -m local.runs trigger mdw_full_migration [--conf JSON] [--timeout SECONDS]
    python -m local.runs retry [--timeout SECONDS]

Both wait for the end of the run. Exit code: 0 after success, 1 after a failure, whose guidance is printed; 124 when
it took too long (the run goes on).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from local.demo import (
    DEFAULT_TIMEOUT,
    INTERRUPTED,
    MARKER,
    TIMED_OUT,
    Stopwatch,
    conf_argument,
    newest_summary,
    show,
)
from local.environment import State
from local.processes import CommandError, terminate_like_interrupt
from local.ui import Login, served_login

DAG_PREFIX = "mdw_"
_POLL_SECONDS = 1.0
# Of an ended task; skipped ones have ended, too.
_ENDED = ("success", "failed", "skipped", "upstream_failed", "removed")


class Run(NamedTuple):
    """A run of Airflow's."""

    dag_id: str
    run_id: str

    @property
    def path(self) -> str:
        """In the API."""
        return f"/dags/{self.dag_id}/dagRuns/{self.run_id}"


class Runs:
    """Airflow's REST API, with the login of the served pages."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    @classmethod
    @contextmanager
    def of(cls, login: Login) -> Iterator[Runs]:
        """Signed in.

        Raises:
            CommandError: nobody answers, or not with a token.
        """
        with httpx.Client(base_url=login.address, timeout=30, trust_env=False) as client:
            try:
                body = {"username": login.user, "password": login.password}
                token = client.post("/auth/token", json=body).raise_for_status().json()["access_token"]
            except httpx.HTTPError as error:
                raise CommandError(f"Airflow does not answer at {login.address}: make ui") from error
            client.headers["Authorization"] = f"Bearer {token}"
            yield cls(client)

    def trigger(self, dag_id: str, conf: Mapping[str, Any]) -> Run:
        """Starts a run, with its DAG unpaused."""
        self._ask("PATCH", f"/dags/{dag_id}", json={"is_paused": False})
        run = self._ask("POST", f"/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": dict(conf)})
        return Run(dag_id, run["dag_run_id"])

    def last_failed(self) -> Run:
        """The run that failed last.

        Raises:
            CommandError: there is none.
        """
        query = {"state": "failed", "order_by": "-start_date", "limit": 50}
        runs = self._ask("GET", "/dags/~/dagRuns", params=query)["dag_runs"]
        mine = [Run(run["dag_id"], run["dag_run_id"]) for run in runs if run["dag_id"].startswith(DAG_PREFIX)]
        if not mine:
            raise CommandError("No run has failed: there is nothing to clear.")
        return mine[0]

    def clear_failed(self, run: Run) -> None:
        """*Clear Dag Run* with *Clear only failed tasks*."""
        self._ask("POST", f"{run.path}/clear", json={"dry_run": False, "only_failed": True})

    def state(self, run: Run) -> str:
        """Airflow's state of a run."""
        return str(self._ask("GET", run.path)["state"])

    def tasks(self, run: Run) -> list[dict[str, Any]]:
        """Every task instance of a run."""
        tasks: list[dict[str, Any]] = []
        while True:
            query = {"limit": 100, "offset": len(tasks)}
            page = self._ask("GET", f"{run.path}/taskInstances", params=query)
            tasks += page["task_instances"]
            if len(tasks) >= page["total_entries"] or not page["task_instances"]:
                return tasks

    def guidance(self, run: Run, task: Mapping[str, Any]) -> list[str]:
        """The last words of a failed task: what is marked as ours at the end of its log."""
        path = f"{run.path}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        lines = self._ask("GET", path, params={"map_index": task["map_index"]})["content"]
        said: list[str] = []
        for event in reversed([str(line["event"]) for line in lines]):
            if MARKER in event:
                said.append(event.partition(MARKER)[2].strip())
            elif said:
                break
        return said[::-1]

    def _ask(self, method: str, path: str, **how: Any) -> Any:
        answer = self._client.request(method, f"/api/v2{path}", **how)
        if answer.is_error:
            raise CommandError(f"Airflow refused {method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json()


def follow(runs: Runs, run: Run, timeout: float, progress: Callable[[str], None]) -> str:
    """Waits for the end of a run and says which phases have ended; returns its state, or running after the time."""
    deadline, told = time.monotonic() + timeout, set[str]()
    while time.monotonic() < deadline:
        state = runs.state(run)
        for phase, text in _ended_phases(runs.tasks(run)).items():
            if phase not in told:
                told.add(phase)
                progress(f"{phase}: {text}")
        if state in ("success", "failed"):
            return state
        time.sleep(_POLL_SECONDS)
    return "running"


def _ended_phases(tasks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Phase to how its tasks ended, of the phases all of whose tasks have."""
    phases: dict[str, Counter[str]] = {}
    for task in tasks:
        phases.setdefault(task["task_id"].split(".")[0], Counter())[str(task["state"])] += 1
    return {
        phase: ", ".join(f"{number} {state}" for state, number in states.items())
        for phase, states in phases.items()
        if set(states) <= set(_ENDED)
    }


def _tell(runs: Runs, run: Run, ended: str, summary: Path | None) -> int:
    """The report of a run that ended, or what its failed tasks say; returns the exit code."""
    if ended == "running":
        show(f"{run.run_id} goes on: see the pages of make ui.")
        return TIMED_OUT
    if ended == "failed":
        for task in runs.tasks(run):
            if task["state"] == "failed" and not task["task_id"].startswith("completion."):
                show("\n" + "\n".join(runs.guidance(run, task)))
    if summary is not None:
        show("\n" + summary.read_text().rstrip() + "\n")
        show(f"Report: {summary.parent}")
    return 0 if ended == "success" else 1


def main(arguments: Sequence[str] | None = None, state: State | None = None) -> int:
    """Command line."""
    options = _parser().parse_args(arguments)
    state = state or State()
    terminate_like_interrupt()
    progress, since = Stopwatch(), time.time()
    try:
        with Runs.of(served_login(state)) as runs:
            if options.command == "trigger":
                run = runs.trigger(options.dag, options.conf)
                progress(f"{run.dag_id}: {run.run_id} with {json.dumps(options.conf)}")
            else:
                run = runs.last_failed()
                runs.clear_failed(run)
                progress(f"{run.dag_id}: {run.run_id}, its failed tasks cleared")
            ended = follow(runs, run, options.timeout, progress)
            return _tell(runs, run, ended, newest_summary(state.reports, since))
    except CommandError as error:
        show(str(error))
        return 1
    except KeyboardInterrupt:
        show("Interrupted; the run goes on.")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m local.runs")
    parser.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT, help="seconds to wait for the end")
    commands = parser.add_subparsers(dest="command", required=True)
    trigger = commands.add_parser("trigger", help="start a run and wait for its end")
    trigger.add_argument("dag")
    trigger.add_argument("--conf", type=conf_argument, default={}, help="parameters of the run, JSON")
    commands.add_parser(
        "retry", help="clear the failed tasks of the run that failed last, and wait for its end"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
