"""A real Airflow for the tests: API server, scheduler with LocalExecutor and DAG processor, driven over REST."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from local.environment import State, airflow_environment
from local.postgres import HOST
from local.processes import spawn
from local.ui import choose_port
from tests.end_to_end.runs import Databases
from tests.scheduler.sessions import kill_sessions, killed_with_parent

FULL = "mdw_full_migration"
INCREMENTAL = "mdw_incremental_migration"
START_SECONDS = 120.0
RUN_SECONDS = 180.0
POLL_SECONDS = 0.2

PARTS: Mapping[str, Sequence[str]] = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
}
_REPORTED = ("metadatabase", "scheduler", "dag_processor")
_SETTINGS = {
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    "AIRFLOW__CORE__PARALLELISM": "4",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
    # The files do not change: parsing them again would take the processor from the tasks.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
    "AIRFLOW__DAG_PROCESSOR__STALE_DAG_THRESHOLD": "7200",
    "AIRFLOW__API__MAXIMUM_PAGE_LIMIT": "1000",
}

Place = tuple[str, int]
"""A task and its map index; -1 for a task that is not mapped."""


@dataclass(frozen=True)
class Run:
    """A DAG run."""

    dag_id: str
    run_id: str


@dataclass(frozen=True)
class TaskInstance:
    """What became of one task instance; ``tries`` counts its starts."""

    state: str
    tries: int


class Scheduler:
    """Airflow's REST API, in the way that the buttons of its pages use it."""

    def __init__(self, address: str) -> None:
        token = httpx.get(f"{address}/auth/token", trust_env=False).raise_for_status().json()
        self._client = httpx.Client(
            base_url=f"{address}/api/v2",
            headers={"Authorization": f"Bearer {token['access_token']}"},
            timeout=30,
            trust_env=False,
        )

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def unpause(self, dag_id: str) -> None:
        """Lets the scheduler start runs; waits until the DAG is known."""

        def unpaused() -> bool:
            return self._client.patch(f"/dags/{dag_id}", json={"is_paused": False}).is_success

        await_true(unpaused, START_SECONDS, lambda: f"{dag_id} is unknown")

    def trigger(self, dag_id: str = FULL, **conf: Any) -> Run:
        """Triggers a run without a logical date."""
        body = {"logical_date": None, "conf": conf}
        return Run(dag_id, self._post(f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def state(self, run: Run) -> str:
        """Airflow's state of a run."""
        return str(self._get(_of(run))["state"])

    def finished(self, run: Run) -> str:
        """The state of a run once it has ended."""
        await_true(
            lambda: self.state(run) in ("success", "failed"),
            RUN_SECONDS,
            lambda: f"{run.run_id} has not ended: {self.instances(run)}",
        )
        return self.state(run)

    def instances(self, run: Run) -> dict[Place, TaskInstance]:
        """Every task instance of a run."""
        found = self._get(f"{_of(run)}/taskInstances", limit=1000)
        assert len(found["task_instances"]) == found["total_entries"]
        return {
            (ti["task_id"], ti["map_index"]): TaskInstance(str(ti["state"]), ti["try_number"])
            for ti in found["task_instances"]
        }

    def clear_failed(self, run: Run) -> None:
        """The run's button *Clear Run* with *Clear only failed tasks*."""
        self._post(f"{_of(run)}/clear", {"dry_run": False, "only_failed": True})

    def clear(
        self, run: Run, tasks: Collection[str | Place] | None = None, *, downstream: bool = False
    ) -> set[Place]:
        """The button *Clear Task Instance* for whole tasks, single mapped instances or (None) everything.

        Returns what was cleared: Airflow adds the first task and the report, its setup and its teardown.
        """
        body = {
            "dry_run": False,
            "dag_run_id": run.run_id,
            "only_failed": False,
            "include_downstream": downstream,
            "task_ids": None if tasks is None else [*tasks],
        }
        cleared = self._post(f"/dags/{run.dag_id}/clearTaskInstances", body)["task_instances"]
        return {(ti["task_id"], ti["map_index"]) for ti in cleared}

    def mark_success(self, run: Run, place: Place) -> None:
        """The button *Mark Task Instance as… success*."""
        where = f"{_of(run)}/taskInstances/{place[0]}" + (f"/{place[1]}" if place[1] >= 0 else "")
        self._client.patch(where, json={"new_state": "success"}).raise_for_status()

    def question(self, run: Run, task: str) -> Any:
        """What a waiting task asks: subject, body, options and, once it is answered, the answer."""
        return self._get(f"{_of(run)}/taskInstances/{task}/-1/hitlDetails")

    def answer(self, run: Run, task: str, option: str) -> None:
        """A button below *Required Actions*."""
        path = f"{_of(run)}/taskInstances/{task}/-1/hitlDetails"
        self._client.patch(path, json={"chosen_options": [option], "params_input": {}}).raise_for_status()

    def log(self, run: Run, place: Place) -> str:
        """The log of the last try."""
        task, index = place
        tries = self.instances(run)[place].tries
        lines = self._get(f"{_of(run)}/taskInstances/{task}/logs/{tries}", map_index=index)["content"]
        return "\n".join(str(line["event"]) for line in lines)

    def _get(self, path: str, **query: Any) -> Any:
        return self._client.get(path, params=query).raise_for_status().json()

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._client.post(path, json=body).raise_for_status().json()


@contextmanager
def running_scheduler(
    state: State,
    databases: Databases,
    parts: Mapping[str, Sequence[str]] = PARTS,
    changes: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Airflow's parts over two databases, ended with every task they run; yields the address at once.

    Args:
        changes: further variables, or other values of those that are set here.
    """
    port = choose_port(0)
    address = f"http://{HOST}:{port}"
    environment = {
        **airflow_environment(state, legacy_dsn=databases.source, target_dsn=databases.target),
        **_SETTINGS,
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        # Parts that start together in a new home would each make their own.
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
        "MIGRATION_EMBEDDING_PROVIDER": "hash",
        "MIGRATION_PARTITION_ROWS": "40",
        **(changes or {}),
    }
    with ExitStack() as stack:
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, processes)
        for name, arguments in parts.items():
            log = stack.enter_context((state.logs / f"{name}.log").open("wb"))
            command = [sys.executable, "-m", "tests.scheduler.preloaded", *arguments]
            processes.append(spawn(command, environment, log))
        stack.enter_context(killed_with_parent([process.pid for process in processes]))
        yield address


def await_healthy(address: str, state: State) -> None:
    """Waits until every part says that it works."""

    def unhealthy() -> list[str]:
        try:
            # Tasks speak to this part of the API. Its first answer takes seconds, in which a task would time out.
            httpx.get(f"{address}/execution/health", trust_env=False, timeout=START_SECONDS)
            health = httpx.get(f"{address}/api/v2/monitor/health", trust_env=False, timeout=5).json()
        except httpx.HTTPError:
            return [*_REPORTED]
        return [part for part in _REPORTED if (health.get(part) or {}).get("status") != "healthy"]

    await_true(lambda: not unhealthy(), START_SECONDS, lambda: f"{unhealthy()}; see {state.logs}")


def await_true(reached: Callable[[], bool], seconds: float, problem: Callable[[], str]) -> None:
    """Polls; fails with the problem when the time is over."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, problem()
        time.sleep(POLL_SECONDS)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    kill_sessions({process.pid for process in processes})
    for process in processes:
        process.wait()


def _of(run: Run) -> str:
    return f"/dags/{run.dag_id}/dagRuns/{run.run_id}"
