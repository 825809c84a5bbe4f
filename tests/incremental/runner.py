"""Runs a migration's DAG in this process: the real operators, in the order of the DAG, without a scheduler.

The tasks are those of the DAG file, walked along its dependencies; mapped tasks are expanded over what the
task before returned; `execute` is called with a context that holds what the operators ask of Airflow.
Trigger rules, skips, failures, failure callbacks, setups and teardowns count as they do in Airflow, and what
one task hands to another passes through JSON.

Left out is everything that makes a run of Airflow slow: its scheduler, its metadata database, a process per
task, retries (the first failure of a task is its last), templates other than references between tasks; and
database sessions are not closed between tasks but reset. The tests of `tests/end_to_end` run the same DAGs in
Airflow itself.
"""

from __future__ import annotations

import contextvars
import functools
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import psycopg
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.bases.operator import BaseOperator, ExecutorSafeguard
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.definitions.xcom_arg import XComArg
from airflow.sdk.exceptions import AirflowSkipException, TaskAwaitingInput

from local.environment import PROJECT
from tests.end_to_end.runs import Databases

FULL, INCREMENTAL = "mdw_full_migration", "mdw_incremental_migration"

SUCCESS, FAILED, SKIPPED, UPSTREAM_FAILED = "success", "failed", "skipped", "upstream_failed"
_BAD = {FAILED, UPSTREAM_FAILED}

Operator = BaseOperator | MappedOperator


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        states: task id, with ``[map index]`` where it is mapped → state.
        results: task id → what it returned; of a mapped task one value per instance.
        errors: exceptions of failed tasks in the order of their failure.
        questions: what a person was asked, headline and text.
    """

    run_id: str
    states: Mapping[str, str]
    results: Mapping[str, Any]
    errors: tuple[Exception, ...]
    questions: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Whether no task failed."""
        return not self.errors

    def raise_errors(self) -> Outcome:
        """Itself.

        Raises:
            Exception: what failed first.
        """
        if self.errors:
            raise self.errors[0]
        return self


def dag_exists(dag_id: str) -> bool:
    """Whether there is such a DAG file."""
    return (PROJECT / "dags" / f"{dag_id}.py").exists()


@functools.cache
def dag_of(dag_id: str) -> DAG:
    """The DAG as Airflow parses its file."""
    bag = DagBag(PROJECT / "dags" / f"{dag_id}.py")
    assert bag.import_errors == {}
    found: DAG = bag.dags[dag_id]
    return found


def run(
    dag_id: str,
    databases: Databases,
    folder: Path,
    *,
    run_id: str = "",
    without: str = "",
    environment: Mapping[str, str] | None = None,
    configuration: Mapping[str, Any] | None = None,
    answer: str = "Approve",
    **conf: Any,
) -> Outcome:
    """One run from its first task to its teardown.

    Args:
        folder: where rows are staged and reports written.
        run_id: an existing run's to clear and repeat all its tasks.
        without: a group of tasks to leave out.
        environment: further variables of this run.
        configuration: params by any name, as conf.
        answer: what a person answers who is asked.
        conf: params that differ from the DAG's defaults.
    """
    conf |= configuration or {}
    dag = dag_of(dag_id)
    variables = {
        **{name: value for name, value in databases.variables().items() if value is not None},
        "MIGRATION_EMBEDDING_PROVIDER": "hash",
        "MIGRATION_STAGING_URI": f"file://{folder / 'staging'}",
        "MIGRATION_REPORT_URI": f"file://{folder / 'reports'}",
        **(environment or {}),
    }
    params = {**dag.params.dump(), **conf}
    with _variables(variables), _Sessions().kept():
        return _Walk(dag, run_id or f"test__{uuid.uuid4().hex}", conf, params, without, answer).finish()


@contextmanager
def _variables(changes: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Sessions:
    """Sessions of the tasks of one run: what is closed is reset, as `DISCARD ALL` does, and used again."""

    def __init__(self) -> None:
        self._idle: dict[str, list[psycopg.Connection[Any]]] = {}

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While it lasts, `psycopg.connect` gives such sessions; then all are closed."""
        idle, connect = self._idle, psycopg.Connection.connect

        class Session(psycopg.Connection[Any]):
            key = ""

            def close(self) -> None:
                try:
                    self.rollback()
                    self.autocommit = True
                    self.execute("DISCARD ALL")
                    self.autocommit = False
                except psycopg.Error:  # broken, or left in the middle of something: it ends, as in a task
                    super().close()
                else:
                    idle.setdefault(self.key, []).append(self)

        def open_session(conninfo: str = "", **arguments: Any) -> psycopg.Connection[Any]:
            key = repr((conninfo, sorted(arguments.items())))
            if idle.get(key):
                return idle[key].pop()
            session = connect.__func__(Session, conninfo, **arguments)  # type: ignore[attr-defined]
            session.key = key
            return session  # type: ignore[no-any-return]

        with patch("psycopg.connect", open_session):
            try:
                yield
            finally:
                for session in (session for sessions in idle.values() for session in sessions):
                    psycopg.Connection.close(session)


@dataclass
class _Walk:
    """A run under way."""

    dag: DAG
    run_id: str
    conf: Mapping[str, Any]
    params: Mapping[str, Any]
    without: str
    answer: str
    states: dict[str, str] = field(default_factory=dict)
    instances: dict[str, dict[int, str]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    errors: list[Exception] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    def finish(self) -> Outcome:
        """Every task once, those it depends on first; teardowns whatever happened."""
        tasks: dict[str, Operator] = self.dag.task_dict
        for task_id in TopologicalSorter(
            {t.task_id: t.upstream_task_ids for t in tasks.values()}
        ).static_order():
            task = tasks[task_id]
            self.states[task_id] = self._fate(task) or self._start(task)
        named = {
            task if index < 0 else f"{task}[{index}]": state
            for task, states in self.instances.items()
            for index, state in states.items()
        }
        return Outcome(
            self.run_id, {**self.states, **named}, self.results, tuple(self.errors), tuple(self.questions)
        )

    def _fate(self, task: Operator) -> str | None:
        """The state of a task that must not start, by its trigger rule; None if it may."""
        if self.without and task.task_id.startswith(f"{self.without}."):
            return SKIPPED
        before = {self.states[name] for name in task.upstream_task_ids if not self._is_teardown(name)}
        rule = task.trigger_rule  # a str, compared as one
        if task.is_teardown:
            setups = [name for name in task.upstream_task_ids if self.dag.task_dict[name].is_setup]
            ran = not setups or any(self.states[name] == SUCCESS for name in setups)
            return None if ran or rule == "all_done" else UPSTREAM_FAILED
        if rule == "all_done" or not before:
            return None
        if rule not in ("none_failed", "all_success"):
            raise NotImplementedError(f"{task.task_id}: trigger rule {rule}")
        if before & _BAD:
            return UPSTREAM_FAILED
        return SKIPPED if rule == "all_success" and SKIPPED in before else None

    def _is_teardown(self, task_id: str) -> bool:
        return bool(self.dag.task_dict[task_id].is_teardown)

    def _start(self, task: Operator) -> str:
        if not isinstance(task, MappedOperator):
            operator = task.prepare_for_execution()
            for name in operator.template_fields:
                setattr(operator, name, self._resolved(getattr(operator, name)))
            state, self.results[task.task_id] = self._execute(operator, -1)
            return state
        lists = {
            name: self._resolved(value) for name, value in task._get_specified_expand_input().value.items()
        }
        assert len(lists) == 1, f"{task.task_id} is mapped over more than one argument"
        ((argument, values),) = lists.items()
        done = [
            self._execute(task.unmap({argument: value}), index) for index, value in enumerate(values or ())
        ]
        self.results[task.task_id] = [result for state, result in done if state == SUCCESS]
        states = {state for state, _ in done} or {SKIPPED}
        return next(state for state in (FAILED, SUCCESS, SKIPPED) if state in states)

    def _resolved(self, value: Any) -> Any:
        """The value with every reference to a task replaced by what the task returned."""
        if isinstance(value, XComArg):
            ((operator, _),) = set(value.iter_references())
            return self.results.get(operator.task_id)
        if isinstance(value, Mapping):
            return {name: self._resolved(member) for name, member in value.items()}
        if isinstance(value, list | tuple):
            return [self._resolved(member) for member in value]
        return value

    def _execute(self, operator: BaseOperator, index: int) -> tuple[str, Any]:
        """State and result of one task instance."""
        context = self._context(operator, index)
        own = contextvars.copy_context()
        own.run(ExecutorSafeguard.tracker.set, operator)
        state, result = SUCCESS, None
        try:
            # What one task hands to the next is JSON in Airflow's database.
            result = json.loads(json.dumps(own.run(self._completed, operator, context)))
        except AirflowSkipException:
            state = SKIPPED
        except Exception as error:  # noqa: BLE001 - any failure is the run's result
            state = FAILED
            self.errors.append(error)
            for callback in _callbacks(operator):
                callback({**context, "exception": error})
        self.instances.setdefault(operator.task_id, {})[index] = state
        return state, result

    def _completed(self, operator: BaseOperator, context: Any) -> Any:
        """What the task returns; where it asks a person, behind the answer."""
        with patch("airflow.providers.standard.operators.hitl.upsert_hitl_detail", self._asked):
            try:
                return operator.execute(context)
            except TaskAwaitingInput as waiting:
                said = {
                    "chosen_options": [self.answer],
                    "params_input": {},
                    "responded_at": datetime.now(UTC),
                    "responded_by_user": {"id": "tests", "name": "tests"},
                }
                return getattr(operator, waiting.method_name)(context, event=said)

    def _asked(self, *, subject: str, body: str, **_: Any) -> None:
        self.questions.append(f"{subject}\n{body}")

    def _context(self, operator: BaseOperator, index: int) -> Any:
        instance = SimpleNamespace(
            id=uuid.uuid4(),
            task_id=operator.task_id,
            dag_id=self.dag.dag_id,
            run_id=self.run_id,
            map_index=index,
            try_number=1,
            max_tries=0,
            task=operator,
            get_task_states=self._task_states,
        )
        dag_run = SimpleNamespace(
            run_id=self.run_id, dag_id=self.dag.dag_id, conf=dict(self.conf), triggering_user_name="tests"
        )
        return {
            "ti": instance,
            "task_instance": instance,
            "task": operator,
            "dag": self.dag,
            "dag_run": dag_run,
            "run_id": self.run_id,
            "params": dict(self.params),
        }

    def _task_states(self, **_: Any) -> dict[str, dict[str, str]]:
        """As Airflow answers: the instances of a mapped task as ``task_0``."""
        states = {
            task if index < 0 else f"{task}_{index}": state
            for task, by_index in self.instances.items()
            for index, state in by_index.items()
        }
        return {self.run_id: {**{t: s for t, s in self.states.items() if t not in self.instances}, **states}}


def _callbacks(operator: BaseOperator) -> list[Any]:
    found = operator.on_failure_callback
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]


def run_in_child(environment: Mapping[str, str], orders: list[Mapping[str, Any]]) -> None:
    """Runs one after the other in a process of their own, for what is read when modules are imported.

    Args:
        environment: further variables of that process.
        orders: keyword arguments of :func:`run`, as JSON.

    Raises:
        AssertionError: a run failed; its log is the message.
    """
    child = subprocess.run(
        [sys.executable, "-m", "tests.incremental.runner"],
        input=json.dumps(orders),
        env={**os.environ, **environment, "PYTHONPATH": str(PROJECT)},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, (child.stdout + child.stderr)[-4000:]


def main() -> None:
    """Orders of :func:`run_in_child` on standard input."""
    for order in json.load(sys.stdin):
        databases = Databases(**order.pop("databases"))
        run(**{**order, "databases": databases, "folder": Path(order["folder"])}).raise_errors()


if __name__ == "__main__":
    main()
