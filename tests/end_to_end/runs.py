"""Runs of the migration for the tests: in a worker process that stays, or as `airflow dags test`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from local.environment import PROJECT, State, airflow_environment, connection_variable
from tests.end_to_end.airflow_worker import DAG_ID

CLI_SECONDS = 240


@dataclass(frozen=True)
class Databases:
    """The two ends of a migration.

    Attributes:
        source: DSN of a role that may only read.
        target: DSN of the target's owner.
        source_admin: DSN of the superuser in the source, for tests that change it.
    """

    source: str
    target: str
    source_admin: str

    def variables(self) -> dict[str, str | None]:
        """The Airflow connections."""
        return {
            "AIRFLOW_CONN_LEGACY_MDW": connection_variable(self.source),
            "AIRFLOW_CONN_SUPABASE_DB": connection_variable(self.target),
        }

    def read(self, query: str, *, source: bool = False) -> list[tuple[Any, ...]]:
        """Rows of the target, or of the source."""
        with psycopg.connect(self.source_admin if source else self.target) as connection:
            return connection.execute(query.encode()).fetchall()


@dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    Attributes:
        state: Airflow's state of the run; ``refused`` when Airflow itself refused a param.
        log: everything written while it ran.
        tasks: ``task_id[map index]`` → state (worker only).
        modules: top-level modules the process had imported at the end (worker only).
        signal: what killed the process, where the state is ``killed``.
        report: report.json, if there is one.
    """

    state: str
    log: str
    run_id: str | None = None
    exit_code: int | None = None
    tasks: Mapping[str, str] = field(default_factory=dict)
    modules: frozenset[str] = frozenset()
    signal: int | None = None
    report: Mapping[str, Any] | None = None
    report_folder: Path | None = None

    def fates(self) -> dict[str, dict[str, int]]:
        """Entity → source rows and fates, without what a clock measured."""
        assert self.report is not None, self.log[-4000:]
        timing = ("entity", "seconds", "rows_per_second")
        return {
            row["entity"]: {name: count for name, count in row.items() if name not in timing}
            for row in self.report["entities"]
        }


class Airflow:
    """One Airflow home and the processes that use it; one run at a time."""

    def __init__(self, state: State, metadata_template: Path) -> None:
        self.state = state
        state.create()
        copy_metadata(metadata_template, state.airflow / "airflow.db")
        nowhere = "postgresql://nobody:nothing@127.0.0.1:9/nothing"
        self.environment = airflow_environment(state, legacy_dsn=nowhere, target_dsn=nowhere)
        self.environment["MIGRATION_EMBEDDING_PROVIDER"] = "hash"
        self._log = state.logs / "worker.log"
        self._worker: subprocess.Popen[str] | None = None
        self._answers: Any = None

    def run(
        self,
        databases: Databases,
        *,
        environment: Mapping[str, str | None] | None = None,
        dag_id: str = DAG_ID,
        order: Mapping[str, Any] | None = None,
        **conf: Any,
    ) -> Outcome:
        """A run in the worker process.

        Args:
            order: what else the worker is told (see `airflow_worker`).
        """
        seen = self._reports()
        begin = self._log.stat().st_size if self._log.exists() else 0
        every = {**databases.variables(), **(environment or {})}
        told = {"dag_id": dag_id, "conf": conf, "environment": every, **(order or {})}
        answer = self._ask(told)
        with self._log.open("rb") as log:
            log.seek(begin)
            text = log.read().decode(errors="replace")
        return Outcome(
            state=answer["state"],
            run_id=answer["run_id"],
            log=text + answer["refusal"],
            tasks=answer.get("tasks", {}),
            modules=frozenset(answer["modules"]),
            signal=answer.get("signal"),
            **(self._report(seen) if answer["state"] != "killed" else {}),
        )

    def command(
        self,
        databases: Databases,
        *,
        environment: Mapping[str, str | None] | None = None,
        dag_id: str = DAG_ID,
        **conf: Any,
    ) -> subprocess.Popen[bytes]:
        """`airflow dags test` under way, in a process group of its own, logging to ``cli.log``."""
        every = {**self.environment, **databases.variables(), **(environment or {})}
        with (self.state.logs / "cli.log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - a fixed command
                [sys.executable, "-m", "airflow", "dags", "test", dag_id, "--conf", json.dumps(conf)],
                env={name: value for name, value in every.items() if value is not None},
                cwd=self.state.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run_command(
        self,
        databases: Databases,
        *,
        environment: Mapping[str, str | None] | None = None,
        dag_id: str = DAG_ID,
        **conf: Any,
    ) -> Outcome:
        """`airflow dags test` to its end."""
        seen = self._reports()
        process = self.command(databases, environment=environment, dag_id=dag_id, **conf)
        try:
            code = process.wait(CLI_SECONDS)
        finally:
            kill_group(process)
        log = (self.state.logs / "cli.log").read_text(errors="replace")
        state = "failed" if code else "success"
        return Outcome(state=state, log=log, exit_code=code, **self._report(seen))

    def close(self) -> None:
        """Ends the worker."""
        if self._worker is not None:
            assert self._worker.stdin is not None
            self._worker.stdin.close()
            self._worker.wait(30)
            self._answers.close()
            self._worker = None

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        worker = self._started()
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(order) + "\n")
        worker.stdin.flush()
        line = self._answers.readline()
        assert line, f"the worker died:\n{self._log.read_text(errors='replace')[-4000:]}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _started(self) -> subprocess.Popen[str]:
        if self._worker is None:
            reading, writing = os.pipe()
            with self._log.open("wb") as log:
                self._worker = subprocess.Popen(  # noqa: S603 - a fixed command
                    [sys.executable, "-m", "tests.end_to_end.airflow_worker", str(writing)],
                    env=self.environment,
                    cwd=PROJECT,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(writing,),
                    start_new_session=True,
                    text=True,
                )
            os.close(writing)
            self._answers = os.fdopen(reading)
        return self._worker

    def _reports(self) -> set[tuple[Path, int]]:
        """Every report with the time it was written."""
        return {(path, path.stat().st_mtime_ns) for path in self.state.reports.glob("*/report.json")}

    def _report(self, seen: set[tuple[Path, int]]) -> dict[str, Any]:
        """The report that was not there before."""
        new = [path for path, _ in self._reports() - seen]
        assert len(new) <= 1, new
        return {
            "report": next((json.loads(path.read_text()) for path in new), None),
            "report_folder": next((path.parent for path in new), None),
        }


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started at once; harmless when it has ended."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def copy_metadata(template: Path, copy: Path) -> None:
    """Copy a SQLite database that may have a write-ahead log."""
    import sqlite3  # noqa: PLC0415

    with closing(sqlite3.connect(template)) as connection:
        connection.execute("VACUUM INTO ?", [str(copy)])


@contextmanager
def airflow_home(folder: Path, metadata_template: Path) -> Iterator[Airflow]:
    """An Airflow home of its own, its worker ended afterwards."""
    airflow = Airflow(State(folder), metadata_template)
    try:
        yield airflow
    finally:
        airflow.close()
