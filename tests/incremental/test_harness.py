"""The tests' own instruments: the comparison sees every difference, the runner follows Airflow's rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from tests.end_to_end.runs import Databases
from tests.incremental import runner
from tests.incremental.compare import differences, read
from tests.incremental.conftest import MakeWorld
from tests.incremental.runner import Outcome
from tests.incremental.world import World

NOWHERE = Databases(*["postgresql://nobody:nothing@127.0.0.1:9/nothing"] * 3)


@pytest.fixture(scope="module")
def spoilt(make_world: MakeWorld) -> Iterator[World]:
    """A target in which every test leaves another thing wrong."""
    with make_world() as world:
        yield world


@pytest.mark.parametrize(
    ("statement", "seen"),
    [
        (
            "UPDATE public.patients SET suffix = 'xx' WHERE legacy_patient_id = 5",
            'public.patients [patients 5] differs: suffix: "xx" instead of "00BB"',
        ),
        (
            "UPDATE public.patients SET deleted_at = now() WHERE legacy_patient_id = 5",
            "public.patients [patients 5] missing",
        ),
        (
            "UPDATE public.case_embeddings SET embedding = (SELECT embedding FROM"
            " public.project_embeddings LIMIT 1) WHERE case_id ="
            " (SELECT id FROM public.cases WHERE legacy_instruction_id = 7)",
            "public.case_embeddings [cases 7 case_summary] differs: embedding: ",
        ),
        (
            "UPDATE migration.id_map SET content_hash = NULL WHERE entity = 'cases' AND legacy_id = '7'",
            "migration.id_map [cases 7] differs: content_hash: null instead of ",
        ),
        (
            "UPDATE migration.quarantine SET payload = payload || '{\"a\": 1}' WHERE entity = 'cases'",
            "migration.quarantine [cases 71] differs: payload: ",
        ),
        (
            "DELETE FROM migration.findings WHERE code = 'json_malformed' AND entity = 'cases'",
            "migration.findings [cases 11 json_malformed metadata.exports] missing",
        ),
        (
            "UPDATE migration.merges SET undone_at = now() WHERE merged_id ="
            " (SELECT id FROM public.patients WHERE legacy_patient_id = 41)",
            "migration.merges [patients patients 41] missing",
        ),
        (
            "UPDATE migration.duplicate_pairs SET status = 'pending' WHERE left_legacy_id = '1'",
            'migration.duplicate_pairs [patients 1 41] differs: status: "pending" instead of "auto_merged"',
        ),
        (
            "INSERT INTO public.practices (id, legacy_office_id) VALUES (gen_random_uuid(), 77)",
            "public.practices [",
        ),
    ],
)
def test_a_difference_is_seen_and_named(spoilt: World, statement: str, seen: str) -> None:
    before = read(spoilt.databases.target)
    assert differences(before, before) == []
    spoilt.target_sql(statement)
    (difference,) = differences(read(spoilt.databases.target), before)
    assert str(difference).startswith(seen)


class _Task(BaseOperator):
    """Does as its name says; passes on what it was given."""

    template_fields = ("given",)

    def __init__(self, *, does: str = "return", given: Any = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.does, self.given = does, given

    def execute(self, context: Any) -> Any:
        if self.does == "skip":
            raise AirflowSkipException
        if self.does == "fail":
            raise ValueError(self.given)
        return self.given


@pytest.fixture
def dag() -> DAG:
    return DAG("some")


def _run(dag: DAG, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    monkeypatch.setattr(runner, "dag_of", lambda _: dag)
    return runner.run("some", NOWHERE, folder)


def test_what_a_task_returns_reaches_the_next_and_maps_it(
    dag: DAG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dag:
        first = _Task(task_id="first", given=[1, 2])
        mapped = _Task.partial(task_id="mapped").expand(given=first.output)
        _Task(task_id="last", given={"a": mapped.output, "b": first.output})
    outcome = _run(dag, tmp_path, monkeypatch).raise_errors()
    assert outcome.results["last"] == {"a": [1, 2], "b": [1, 2]}
    assert outcome.states == dict.fromkeys(("first", "mapped", "last", "mapped[0]", "mapped[1]"), "success")


def test_nothing_to_map_over_skips_and_none_failed_goes_on(
    dag: DAG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dag:
        first = _Task(task_id="first", given=[])
        mapped = _Task.partial(task_id="mapped").expand(given=first.output)
        skips = _Task(task_id="skips", does="skip")
        goes_on = _Task(task_id="goes_on", trigger_rule="none_failed")
        all_success = _Task(task_id="all_success")
        [mapped, skips] >> goes_on
        skips >> all_success
    states = _run(dag, tmp_path, monkeypatch).raise_errors().states
    assert states["mapped"] == states["skips"] == states["all_success"] == "skipped"
    assert states["goes_on"] == "success"


def test_a_failure_stops_what_follows_but_not_the_teardown(
    dag: DAG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with dag:
        first = _Task(task_id="first")
        fails = _Task(
            task_id="fails",
            does="fail",
            given="why",
            on_failure_callback=lambda context: told.append(str(context["exception"])),
        )
        after = _Task(task_id="after", trigger_rule="none_failed")
        beside = _Task(task_id="beside")
        ends = _Task(task_id="ends", trigger_rule="all_done")
        first >> fails >> after >> ends.as_teardown(setups=first)
        first >> beside
    outcome = _run(dag, tmp_path, monkeypatch)
    assert [str(error) for error in outcome.errors] == told == ["why"]
    assert outcome.states == {
        **{"first": "success", "fails": "failed", "after": "upstream_failed"},
        **{"beside": "success", "ends": "success"},
    }
