"""The DAG of the preflight: one task for each area, one verdict, the form of the full migration."""

from __future__ import annotations

import re

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from airflow.task.trigger_rule import TriggerRule

from include.core.errors import REGISTRY
from include.core.preflight import AREAS
from plugins.operators.preflight_checks import PreflightOperator
from plugins.operators.step import record_failure


@pytest.fixture(scope="module")
def preflight(bag: DagBag) -> DAG:
    assert bag.import_errors == {}
    found: DAG = bag.dags["mdw_preflight"]
    return found


def test_it_has_a_task_for_every_area_and_a_verdict(preflight: DAG) -> None:
    assert preflight.task_ids == [*AREAS, "verdict"]
    assert (preflight.schedule, preflight.catchup) == (None, False)
    areas = {task.task_id: task.area for task in preflight.tasks if isinstance(task, PreflightOperator)}
    assert areas == {name: name for name in preflight.task_ids}


def test_parameters_come_first_and_the_verdict_last(preflight: DAG) -> None:
    assert [task.task_id for task in preflight.roots] == ["settings"]
    assert [task.task_id for task in preflight.leaves] == ["verdict"]
    upstream = {name: preflight.get_task(name).upstream_task_ids for name in AREAS}
    assert upstream["source"] == upstream["target"] == upstream["storage"] == upstream["ai"] == {"settings"}
    assert upstream["estimate"] == {"source", "target", "storage", "ai"}
    assert preflight.get_task("verdict").upstream_task_ids == set(AREAS)


def test_no_task_waits_for_the_success_of_another(preflight: DAG) -> None:
    assert {task.trigger_rule for task in preflight.tasks} == {TriggerRule.ALL_DONE}


def test_no_failure_is_recorded_in_a_target_that_is_only_looked_at(preflight: DAG) -> None:
    assert not any(record_failure in task.on_failure_callback for task in preflight.tasks)


def test_the_form_is_that_of_the_full_migration(preflight: DAG, dag: DAG) -> None:
    assert preflight.params.dump() == dag.params.dump()


def test_the_manual_names_codes_and_tasks_that_exist(preflight: DAG) -> None:
    named = set(re.findall(r"`\[?(\w+)\]?`", preflight.doc_md or ""))
    assert {"verdict", "PREFLIGHT_FAILED", "mdw_full_migration", "ai_budget"} <= named
    assert {name for name in named if name.isupper()} <= set(REGISTRY)


def test_it_survives_serialization(preflight: DAG) -> None:
    stored = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(preflight))
    assert stored.task_ids == preflight.task_ids
