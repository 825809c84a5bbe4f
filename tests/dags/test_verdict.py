"""A run whose tasks failed must end as failed, whatever becomes of the report."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.models.dagrun import DagRun

from local.environment import PROJECT


@dataclass(frozen=True)
class TaskInstance:
    """As much of one as Airflow looks at when it chooses those that decide."""

    task_id: str
    state: str = "success"


@pytest.fixture(scope="module")
def dag():
    return DagBag(PROJECT / "dags").dags["mdw_full_migration"]


def test_the_report_has_no_say_in_the_state_of_the_run(dag):
    every = [TaskInstance(task_id) for task_id in dag.task_ids]

    deciding = DagRun._tis_for_dagrun_state(None, dag=dag, tis=every)

    assert {task.task_id for task in deciding} == {"completion.close"}


def test_a_failure_of_any_task_reaches_the_deciding_one(dag):
    before = dag.get_task("completion.close").get_flat_relative_ids(upstream=True)

    assert before == set(dag.task_ids) - {"completion.close", "completion.report"}
    assert dag.get_task("completion.close").trigger_rule == "none_failed"
