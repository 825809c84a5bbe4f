"""The DAG that undoes merges: its form, its manual, and what it refuses."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.serialization.serialized_objects import DagSerialization

from include.core.errors import REGISTRY, MigrationError
from include.entities import ENTITIES
from plugins.operators.undo_merge import Request

GOOD = {"entity": "patients", "legacy_ids": ["2"], "decided_by": "me", "reason": "why", "load_via": "auto"}


@pytest.fixture(scope="module")
def dag(bag: DagBag) -> DAG:
    found: DAG = bag.dags["mdw_undo_merge"]
    return found


def context(conf: dict[str, Any] | None = None, **params: Any) -> Any:
    return {"params": {**GOOD, **params}, "dag_run": SimpleNamespace(conf=conf)}


def test_it_is_one_task_started_by_hand(dag: DAG) -> None:
    assert (dag.task_ids, dag.schedule, dag.catchup) == (["undo_merge"], None, False)
    stored = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert stored.task_ids == ["undo_merge"]


def test_the_form_offers_what_is_deduplicated_and_explains_every_field(dag: DAG) -> None:
    assert dag.params.get_param("entity").schema["enum"] == [
        name for name, entity in ENTITIES.items() if entity.deduplicate
    ]
    for name in dag.params:
        assert len(dag.params.get_param(name).description or "") > 10, name


def test_the_manual_names_params_and_codes(dag: DAG) -> None:
    named = set(re.findall(r"`(\w+)`", dag.doc_md or ""))
    assert set(dag.params) <= named
    codes = {name for name in named if name.isupper()}
    assert codes
    assert codes <= set(REGISTRY)


def test_good_params_are_read() -> None:
    assert Request.of(context()) == Request("patients", ["2"], "me", "why", "auto")
    assert Request.of(context({"legacy_ids": ["7", "8"]})).legacy_ids == ["7", "8"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"entity": "cases"},
        {"legacy_ids": []},
        {"legacy_ids": "2"},
        {"legacy_ids": [2]},
        {"legacy_ids": ["2", "2"]},
        {"legacy_ids": [" "]},
        {"decided_by": ""},
        {"decided_by": None},
        {"reason": " "},
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
    with pytest.raises(MigrationError, match="Unknown: \\['survivor'\\]") as caught:
        Request.of(context({"survivor": "1"}))
    assert caught.value.code == "PARAM_UNKNOWN"


def test_an_error_that_nobody_expected_is_told_by_its_kind_and_place_alone(
    dag: DAG, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("of Mary Poppins")

    monkeypatch.setattr("plugins.operators.undo_merge.open_target", fail)
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)
    with pytest.raises(MigrationError) as caught:
        dag.get_task("undo_merge").execute(context())
    assert (caught.value.code, caught.value.facts["error"]) == ("UNEXPECTED", "RuntimeError")
    assert "Poppins" not in str(caught.value) + caplog.text
