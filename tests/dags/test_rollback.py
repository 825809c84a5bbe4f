"""The DAG that rolls runs back: its form, its manual, and what it refuses."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from include.core.errors import REGISTRY, MigrationError
from plugins.operators.rollback import Request

GOOD: dict[str, Any] = {
    "run_id": "manual__2026-01-01T00:00:00+00:00",
    "decided_by": "me",
    "reason": "why",
    "with_later_runs": False,
    "overwrite_foreign": False,
    "load_via": "auto",
}


@pytest.fixture(scope="module")
def dag(bag: DagBag) -> DAG:
    found: DAG = bag.dags["mdw_rollback"]
    return found


def context(conf: dict[str, Any] | None = None, **params: Any) -> Any:
    return {"params": {**GOOD, **params}, "dag_run": SimpleNamespace(conf=conf)}


def test_it_is_one_task_started_by_hand(dag: DAG) -> None:
    assert (dag.task_ids, dag.schedule, dag.catchup) == (["roll_back"], None, False)
    stored = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert stored.task_ids == ["roll_back"]


def test_nothing_is_overridden_by_default(dag: DAG) -> None:
    assert (dag.params["with_later_runs"], dag.params["overwrite_foreign"]) == (False, False)


def test_the_form_explains_every_field(dag: DAG) -> None:
    for name in dag.params:
        assert len(dag.params.get_param(name).description or "") > 10, name


def test_the_manual_names_params_and_codes(dag: DAG) -> None:
    named = set(re.findall(r"`(\w+)`", dag.doc_md or ""))
    assert set(dag.params) <= named
    codes = {name for name in named if name.isupper() and not name.startswith("MIGRATION_")}
    assert codes <= set(REGISTRY)
    assert {code for code in REGISTRY if code.startswith("ROLLBACK_")} <= codes


def test_good_params_are_read() -> None:
    assert Request.of(context()) == Request(**GOOD)
    assert Request.of(context({"with_later_runs": True})).with_later_runs is True


@pytest.mark.parametrize(
    "wrong",
    [
        {"run_id": ""},
        {"run_id": " "},
        {"run_id": "run\n1"},
        {"run_id": "r" * 251},
        {"run_id": None},
        {"decided_by": ""},
        {"decided_by": None},
        {"reason": " "},
        {"with_later_runs": "yes"},
        {"overwrite_foreign": 1},
        {"load_via": "carrier pigeon"},
    ],
)
@pytest.mark.parametrize("by", ["form", "conf"])
def test_others_are_refused_and_not_quoted(wrong: dict[str, Any], by: str) -> None:
    with pytest.raises(MigrationError) as caught:
        Request.of(context(**wrong) if by == "form" else context(wrong))
    assert (caught.value.code, caught.value.facts["param"]) == ("PARAM_INVALID", next(iter(wrong)))
    assert "pigeon" not in str(caught.value)


def test_unknown_params_are_refused() -> None:
    with pytest.raises(MigrationError, match="Unknown: \\['dry_run'\\]") as caught:
        Request.of(context({"dry_run": True}))
    assert caught.value.code == "PARAM_UNKNOWN"
