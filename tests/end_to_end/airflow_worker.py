"""A process that imports Airflow once and runs the DAGs as often as it is told.

``python -m tests.end_to_end.airflow_worker FD`` reads one JSON object per line from standard input and answers
on file descriptor FD; everything that Airflow logs goes to standard output and error, as with
``airflow dags test``. An order has ``conf`` and ``environment``, and may have

* ``dag_id``: which DAG;
* ``moment``: the run's logical date, which gives it a run id known beforehand (`run_id_of`);
* ``cleared``: take up the run of that moment again, all its tasks that did not succeed cleared;
* ``directly``: without Airflow's bookkeeping (`tests.incremental.runner`), a third of the work; ``cleared`` then
  stands for all tasks;
* ``embedded``: a file that notes every text sent to the embedding provider;
* ``leaks``: where errors tell of the rows at hand (`leaking`);
* ``crash``, ``disk_bytes``: run in a child process, which dies there (`crashing.Crash`), or whose staging is
  on a disk of so many bytes.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest.mock import patch

# The variables are complete before Airflow is imported: the parent sets them.
from airflow.dag_processing.dagbag import DagBag

from tests.end_to_end.crashing import Crash, recorded_texts, small_disk
from tests.end_to_end.leaking import leaking

DAG_ID = "mdw_full_migration"
_LONGEST_WAIT_SECONDS = 0.05
_sleep = time.sleep


def run_id_of(moment: str) -> str:
    """The id that a run gets from its logical date."""
    return f"manual__{moment}"


@contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Variables of one run; None removes one."""
    before = dict(os.environ)
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _check_schemas_once() -> None:
    """Airflow checks the schema of each param against JSON Schema's own some 5,000 times in a run."""
    from jsonschema.validators import Draft202012Validator  # noqa: PLC0415

    checked: set[str] = set()
    check = Draft202012Validator.check_schema

    def check_once(schema: Any, *arguments: Any, **options: Any) -> None:
        text = json.dumps(schema, sort_keys=True, default=repr)
        if text not in checked:
            check(schema, *arguments, **options)
            checked.add(text)

    Draft202012Validator.check_schema = check_once  # type: ignore[method-assign]


def _write_lazily() -> None:
    """Airflow's own database need not survive a failure of power."""
    from sqlalchemy import event  # noqa: PLC0415
    from sqlalchemy.engine import Engine  # noqa: PLC0415

    @event.listens_for(Engine, "connect")
    def _(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")


def _run(order: Mapping[str, Any]) -> dict[str, Any]:
    """Parses the DAG anew, so that defaults come from the environment of this run."""
    bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    if bag.import_errors:
        return {"run_id": None, "state": "unparsable", "refusal": str(bag.import_errors)}
    dates = {}
    if moment := order.get("moment"):
        dates = {name: datetime.fromisoformat(moment) for name in ("logical_date", "run_after")}
    try:
        with ExitStack() as stack:
            # dag.test() waits a second for each level of tasks that will not run any more.
            shortened = patch("time.sleep", lambda seconds: _sleep(min(seconds, _LONGEST_WAIT_SECONDS)))
            stack.enter_context(shortened)
            if order.get("cleared"):
                stack.enter_context(_taken_up_again())
            dag = bag.dags[order.get("dag_id") or DAG_ID]
            run = dag.test(run_conf=dict(order["conf"]), **dates)
    except ValueError as refused:  # Airflow's own check of a param against the form
        return {"run_id": None, "state": "refused", "refusal": str(refused)}
    states = {f"{ti.task_id}[{ti.map_index}]": str(ti.state) for ti in run.get_task_instances()}
    return {"run_id": run.run_id, "state": str(run.state), "refusal": "", "tasks": states}


def _run_directly(order: Mapping[str, Any]) -> dict[str, Any]:
    from plugins.hooks.run_lock import Process  # noqa: PLC0415
    from tests.incremental.runner import run  # noqa: PLC0415

    # As under `airflow dags test`, the whole run is one process.
    with patch("plugins.hooks.run_lock.whole_run_process", Process.current):
        outcome = run(
            order.get("dag_id") or DAG_ID,
            SimpleNamespace(variables=dict),  # type: ignore[arg-type] # they are in the environment
            Path(os.environ["AIRFLOW_HOME"]).parent,
            run_id=run_id_of(order["moment"]) if order.get("moment") else "",
            **order["conf"],
        )
    return {
        "run_id": outcome.run_id,
        "state": "success" if outcome.succeeded else "failed",
        "refusal": "\n".join(map(repr, outcome.errors)),
        "tasks": dict(outcome.states),
    }


@contextmanager
def _taken_up_again() -> Iterator[None]:
    """Lets ``dag.test()`` go on with the run of its logical date instead of replacing it.

    As after the death of a worker: the scheduler calls what was running failed, a person clears what did not
    succeed.
    """
    from airflow.models.dagrun import DagRun  # noqa: PLC0415
    from airflow.models.taskinstance import clear_task_instances  # noqa: PLC0415
    from airflow.utils.state import DagRunState, TaskInstanceState  # noqa: PLC0415
    from sqlalchemy import select  # noqa: PLC0415

    def find(*, dag: Any, run_id: str, session: Any, **_: Any) -> Any:
        run = session.scalars(select(DagRun).filter_by(dag_id=dag.dag_id, run_id=run_id)).one()
        run.dag = dag
        unfinished = [
            ti for ti in run.get_task_instances(session=session) if ti.state not in ("success", "skipped")
        ]
        for ti in unfinished:
            ti.state = TaskInstanceState.FAILED
        clear_task_instances(unfinished, session)
        run.state = DagRunState.RUNNING
        session.commit()
        return run

    with (
        patch("airflow.models.dagrun.get_or_create_dagrun", find),
        patch("airflow.serialization.definitions.dag.SerializedDAG.clear_dags"),
    ):
        yield


def _answer(order: Mapping[str, Any]) -> dict[str, Any]:
    with _environment(order["environment"]), ExitStack() as stack:
        if order.get("embedded"):
            stack.enter_context(recorded_texts(order["embedded"]))
        if order.get("leaks"):
            stack.enter_context(leaking(order["leaks"]))
        answer = _run_directly(order) if order.get("directly") else _run(order)
    answer["modules"] = sorted({name.split(".")[0] for name in sys.modules})
    return answer


def _answer_in_child(order: Mapping[str, Any], answers: IO[str]) -> None:
    """As `_answer`, by a process of its own that inherits what is imported; it may die."""
    from airflow import settings  # noqa: PLC0415
    from airflow.sdk.execution_time.supervisor import in_process_api_server  # noqa: PLC0415

    # Neither SQLite's connections nor the server's thread go across.
    settings.engine.dispose()
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        nothing = {"run_id": None, "refusal": "", "modules": []}
        if os.WIFSIGNALED(status):
            _send({"state": "killed", "signal": os.WTERMSIG(status), **nothing}, answers)
        elif status:
            _send({"state": "broken", **nothing}, answers)
        return
    code = 1
    try:
        in_process_api_server.cache_clear()
        if order.get("disk_bytes"):
            small_disk(Path(os.environ["MIGRATION_STAGING_URI"].removeprefix("file://")), order["disk_bytes"])
        if order.get("crash"):
            Crash(**order["crash"]).install()
        _send(_answer(order), answers)
        code = 0
    finally:
        if code:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)


def _send(answer: Mapping[str, Any], answers: IO[str]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def main() -> None:
    """Answers until standard input ends."""
    _check_schemas_once()
    _write_lazily()
    with os.fdopen(int(sys.argv[1]), "w") as answers:
        for line in sys.stdin:
            order = json.loads(line)
            if order.get("crash") or order.get("disk_bytes"):
                _answer_in_child(order, answers)
            else:
                _send(_answer(order), answers)


if __name__ == "__main__":
    main()
