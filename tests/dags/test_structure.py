"""What the DAG promises to its readers: names, order, barriers, the report at the end."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from airflow.task.trigger_rule import TriggerRule

from include.core.settings import params
from include.entities import EMBEDDED as DEFAULTS
from include.entities import ENTITIES

PHASES = (
    "preparation",
    "extraction",
    "transformation",
    "deduplication",
    "approval",
    "loading",
    "ai_enhancement",
    "validation",
    "completion",
)
PREPARATION = (
    *("check_settings", "check_storage", "check_source", "check_files", "deploy_target", "open_run"),
    "compare_target",
)
NESTED = {
    "projects": "phase_2a_projects",
    "instruction_states": "phase_2b_states",
    "state_analytics": "phase_2b_states",
    "workflow_templates": "phase_2c_templates",
    "workflow_template_tasks": "phase_2c_templates",
    "workflow_performance": "phase_2c_templates",
}
EMBEDDED = ("projects", "cases", "workflow_template_tasks", "patients")
VALIDATION = ("counts", "key_sets", "content", "integrity", "embeddings", "files", "samples")
FILES = ("plan_files", "copy_files", "file_manifest")
CLOSE, REPORT = "completion.close", "completion.report"


def expected_tasks() -> set[str]:
    """Every task id, made from the names of the entities."""
    tasks = {f"preparation.{name}" for name in (*PREPARATION, "estimate")} | {
        f"validation.{name}" for name in VALIDATION
    }
    for name in ENTITIES:
        tasks |= {f"preparation.plan.{name}", f"transformation.{name}", f"loading.{name}"}
        tasks.add(".".join(part for part in ("extraction", NESTED.get(name, ""), name) if part))
    tasks |= {f"ai_enhancement.{name}{end}" for name in EMBEDDED for end in ("_plan", "", "_index")}
    tasks |= {f"loading.{name}_references" for name, entity in ENTITIES.items() if entity.references}
    tasks |= {f"loading.phase_2a_files.{name}" for name in FILES}
    return tasks | {
        "deduplication.patients_plan",
        "deduplication.patients_compare",
        "deduplication.patients",
        "approval.numbers",
        "approval.gate",
        "loading.deleted_rows",
        "loading.patients_merged",
        "loading.patients_survivors",
        CLOSE,
        REPORT,
    }


def before(dag: DAG, task_id: str) -> set[str]:
    """Everything that a task waits for, directly or not."""
    return set(dag.get_task(task_id).get_flat_relative_ids(upstream=True))


def phase(task_id: str) -> str:
    return task_id.split(".", 1)[0]


def test_task_ids_are_phase_and_entity(dag: DAG) -> None:
    assert set(dag.task_ids) == expected_tasks()


def test_every_entity_is_declared_here(dag: DAG) -> None:
    assert set(NESTED) < set(ENTITIES)
    assert {name for name, entity in ENTITIES.items() if entity.group} == set(NESTED)
    assert {name for name, entity in ENTITIES.items() if entity.embeddings} == set(EMBEDDED)


def test_every_phase_is_a_barrier(dag: DAG) -> None:
    for earlier, later in pairwise(PHASES):
        needed = {task for task in dag.task_ids if phase(task) == earlier}
        roots = [task for task in dag.task_ids if phase(task) == later]
        for task in roots:
            assert needed <= before(dag, task), f"{task} can start before {earlier} is over"


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("extraction", "transformation"),
        ("transformation", "deduplication"),
        ("deduplication", "approval"),
        ("deduplication", "loading"),
        ("approval", "loading"),
        ("loading", "ai_enhancement"),
        ("loading", "completion"),
    ],
)
def test_barriers_hold_behind_entities_that_were_not_chosen(dag: DAG, earlier: str, later: str) -> None:
    """Their mapped tasks are skipped at once and wait for nobody, so a way through them is none."""
    for task in dag.tasks:
        if phase(task.task_id) == later:
            kept = certain_upstream(dag, task.task_id)
            needed = {other for other in dag.task_ids if phase(other) == earlier}
            assert needed <= kept, task.task_id


def certain_upstream(dag: DAG, task_id: str) -> set[str]:
    """What a task of a chosen entity waits for, on ways through no mapped task of another entity."""
    found: set[str] = set()
    waiting = [task_id]
    while waiting:
        for upstream in dag.get_task(waiting.pop()).upstream_task_ids - found:
            found.add(upstream)
            if not dag.get_task(upstream).is_mapped or entity_of(upstream) == entity_of(task_id):
                waiting.append(upstream)
    return found


def entity_of(task_id: str) -> str:
    if "phase_2a_files" in task_id:
        return "projects"
    return re.sub("_(references|merged|survivors|index)$", "", task_id.rsplit(".", 1)[-1])


def test_parents_load_before_children(dag: DAG) -> None:
    references = {(name, parent) for name, entity in ENTITIES.items() for parent in entity.parents}
    assert len(references) > len(ENTITIES)
    for name, parent in references:
        assert f"loading.{parent}" in before(dag, f"loading.{name}")


def test_children_of_patients_wait_for_merged_patients_too(dag: DAG) -> None:
    assert "loading.patients" in before(dag, "loading.patients_merged")
    assert "loading.patients_merged" in before(dag, "loading.cases")


def test_an_index_is_built_behind_its_vectors(dag: DAG) -> None:
    for name in EMBEDDED:
        assert f"ai_enhancement.{name}" in before(dag, f"ai_enhancement.{name}_index")


def test_nothing_precedes_the_check_of_settings(dag: DAG) -> None:
    assert [task.task_id for task in dag.roots] == ["preparation.check_settings"]
    assert before(dag, "preparation.plan.patients") == {f"preparation.{name}" for name in PREPARATION}


def test_the_estimate_is_made_before_any_row_is_read(dag: DAG) -> None:
    plans = {f"preparation.plan.{name}" for name in ENTITIES}
    assert plans < before(dag, "preparation.estimate")
    extracting = [task for task in dag.task_ids if phase(task) == "extraction"]
    assert len(extracting) == len(ENTITIES)
    assert all("preparation.estimate" in before(dag, task) for task in extracting)


def test_the_report_is_the_teardown_of_the_run(dag: DAG) -> None:
    report = dag.get_task(REPORT)
    assert [task.task_id for task in dag.tasks if task.is_teardown] == [REPORT]
    assert [task.task_id for task in dag.tasks if task.is_setup] == ["preparation.check_settings"]
    assert report.trigger_rule == TriggerRule.ALL_DONE_SETUP_SUCCESS
    assert not report.downstream_task_ids
    # Directly: a failure reaches the task before it at once, while others still write.
    assert report.upstream_task_ids == set(dag.task_ids) - {REPORT}


def test_success_is_recorded_by_an_ordinary_task_behind_all_others(dag: DAG) -> None:
    close = dag.get_task(CLOSE)
    assert not close.is_teardown
    assert close.downstream_task_ids == {REPORT}
    assert before(dag, CLOSE) == set(dag.task_ids) - {CLOSE, REPORT}


def test_the_report_cannot_turn_a_failed_run_green(dag: DAG) -> None:
    """Airflow judges a run by its last tasks; a teardown that counts would be the only one of them."""
    assert not dag.get_task(REPORT).on_failure_fail_dagrun


def test_skipped_mapped_tasks_stop_nobody_but_failed_ones_do(dag: DAG) -> None:
    rules = {task.task_id: task.trigger_rule for task in dag.tasks if task.task_id != REPORT}
    strict = {task for task, rule in rules.items() if rule == TriggerRule.ALL_SUCCESS}
    assert strict == {"preparation.check_storage"}
    assert {rules[task] for task in rules if task not in strict} == {TriggerRule.NONE_FAILED}


@pytest.mark.parametrize("name", ["extraction", "transformation", "loading", "ai_enhancement"])
def test_tasks_that_handle_rows_are_mapped_over_partitions(dag: DAG, name: str) -> None:
    tasks = [
        task
        for task in dag.tasks
        if phase(task.task_id) == name
        and not task.task_id.endswith(
            ("_index", "_plan", ".deleted_rows", "_references", "_survivors", ".plan_files", ".file_manifest")
        )
    ]
    assert tasks
    assert all(task.is_mapped for task in tasks)


def test_the_dag_survives_serialization(dag: DAG) -> None:
    stored = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert set(stored.task_ids) == set(dag.task_ids)


def test_it_starts_by_hand_only(dag: DAG) -> None:
    assert (dag.schedule, dag.catchup) == (None, False)
    assert not dag.fail_fast  # it would turn failed runs into successes


def test_a_second_run_is_let_in_to_be_told_who_holds_the_lock(dag: DAG) -> None:
    """Held back by Airflow it would wait in silence, and another Airflow would hold nothing back."""
    assert dag.max_active_runs > 1


class TestForm:
    def test_it_offers_the_params_of_settings_and_no_other(self, dag: DAG) -> None:
        declared = {
            param.name: param.default
            for param in params(ENTITIES, kind="full", environment={}, embedded=DEFAULTS)
        }
        assert dag.params.dump() == declared

    def test_the_risky_one_defaults_to_a_dry_run(self, dag: DAG) -> None:
        assert dag.params["dry_run"] is True

    def test_limits_and_choices_are_those_of_the_second_check(self, dag: DAG) -> None:
        for param in params(ENTITIES, kind="full", environment={}, embedded=DEFAULTS):
            shown = dag.params.get_param(param.name).schema
            assert (shown["type"], shown["title"]) == (param.kind, param.title)
            assert (shown.get("minimum"), shown.get("maximum")) == (param.minimum, param.maximum)
            offered = shown["items"]["enum"] if param.kind == "array" else shown.get("enum", [])
            assert offered == [*param.choices]
            if param.kind == "array":
                assert shown["examples"] == [*param.choices]  # makes it a multiple choice

    def test_every_field_is_explained(self, dag: DAG) -> None:
        for name in dag.params:
            assert len(dag.params.get_param(name).description or "") > 20, name


class TestManual:
    def test_it_names_every_param(self, dag: DAG) -> None:
        assert set(dag.params) <= set(re.findall(r"`(\w+)`", dag.doc_md or ""))

    def test_it_names_every_phase_that_can_fail(self, dag: DAG) -> None:
        named = set(re.findall(r"`(\w+)\.[\w*]+`", dag.doc_md or ""))
        assert set(PHASES) <= named

    def test_it_names_both_connections(self, dag: DAG) -> None:
        assert {"legacy_mdw", "supabase_db"} <= set(re.findall(r"`(\w+)`", dag.doc_md or ""))


def test_mapped_tasks_are_retried_and_reported_like_all_others(dag: DAG) -> None:
    """`partial` fills in Airflow's own defaults unless it is told otherwise."""
    plain, mapped = dag.get_task("preparation.plan.patients"), dag.get_task("loading.patients")
    for task in (plain, mapped):
        assert task.retries == 10
        assert task.has_retry_policy
        assert task.has_on_failure_callback
