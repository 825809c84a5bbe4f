"""A process that imports Airflow once and runs the DAG as often as it is told.

``python -m tests.end_to_end.airflow_worker FD`` reads one JSON object per line from standard input
(``conf``, ``environment``) and answers on file descriptor FD; everything that Airflow logs goes to standard
output and error, as with ``airflow dags test``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

# The variables are complete before Airflow is imported: the parent sets them.
from airflow.dag_processing.dagbag import DagBag

DAG_ID = "mdw_full_migration"
_LONGEST_WAIT_SECONDS = 0.05
_sleep = time.sleep


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


def _run(conf: Mapping[str, Any]) -> dict[str, Any]:
    """Parses the DAG anew, so that defaults come from the environment of this run."""
    bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    if bag.import_errors:
        return {"run_id": None, "state": "unparsable", "refusal": str(bag.import_errors)}
    try:
        # dag.test() waits a second for each level of tasks that will not run any more.
        with patch("time.sleep", lambda seconds: _sleep(min(seconds, _LONGEST_WAIT_SECONDS))):
            run = bag.dags[DAG_ID].test(run_conf=dict(conf))
    except ValueError as refused:  # Airflow's own check of a param against the form
        return {"run_id": None, "state": "refused", "refusal": str(refused)}
    states = {f"{ti.task_id}[{ti.map_index}]": str(ti.state) for ti in run.get_task_instances()}
    return {"run_id": run.run_id, "state": str(run.state), "refusal": "", "tasks": states}


def main() -> None:
    """Answers until standard input ends."""
    with os.fdopen(int(sys.argv[1]), "w") as answers:
        for line in sys.stdin:
            order = json.loads(line)
            with _environment(order["environment"]):
                answer = _run(order["conf"])
            answer["modules"] = sorted({name.split(".")[0] for name in sys.modules})
            sys.stdout.flush()
            sys.stderr.flush()
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
