"""The phases of a migration as TaskGroups; DAGs put them together.

Groups follow each other as barriers: nothing is written to the target before everything was extracted and
transformed. Within loading, parents come before children.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from airflow.sdk import TaskGroup, chain

from include.core.spec import Entity
from include.entities import ENTITIES
from plugins.operators.approve import ApproveOperator, ExpectOperator
from plugins.operators.compare_target import CompareTargetOperator
from plugins.operators.deduplicate import (
    ComparePairsOperator,
    DeduplicateOperator,
    PlanMatchingOperator,
    SettleMergesOperator,
)
from plugins.operators.delete import DeleteOperator
from plugins.operators.embed import BuildIndexOperator, EmbedOperator
from plugins.operators.estimate import EstimateOperator
from plugins.operators.extract import ExtractOperator
from plugins.operators.files import (
    CheckFilesOperator,
    CopyFilesOperator,
    FileManifestOperator,
    PlanFilesOperator,
)
from plugins.operators.load import LoadOperator, ReferencesOperator
from plugins.operators.open_validation import OpenValidationOperator
from plugins.operators.plan_embeddings import PlanEmbeddingsOperator
from plugins.operators.preflight import (
    CheckSettingsOperator,
    CheckSourceOperator,
    CheckStorageOperator,
    DeployTargetOperator,
    OpenRunOperator,
    PlanOperator,
)
from plugins.operators.report import CloseOperator, ReportOperator
from plugins.operators.step import MigrationOperator
from plugins.operators.transform import TransformOperator
from plugins.operators.validate import (
    ContentOperator,
    CountsOperator,
    EmbeddingsOperator,
    FilesOperator,
    IntegrityOperator,
    KeySetsOperator,
    SamplesOperator,
)

_POOL = "MIGRATION_EMBEDDING_POOL"
"""Names the Airflow pool of the tasks that send texts; it must exist, for a task of a pool that does not never runs."""
_LABEL = "{{ task.partition['label'] }}"
_NESTED = {
    "phase_2a_projects": "2A: projects, which have the 3D files",
    "phase_2b_states": "2B: states of cases, and what is reckoned from them",
    "phase_2c_templates": "2C: workflow templates, their tasks, and how they were worked on",
}
Mapped = dict[str, Any]
"""Entity → its mapped task."""


def migration() -> None:
    """All phases in their order, for the DAG being defined; full and incremental runs differ in what they read."""
    prepared, first, plans = preparation()
    extracting, extracted = extraction(plans)
    transforming, transformed = transformation(extracted)
    loading_group = loading(transformed)
    chain(
        prepared,
        extracting,
        transforming,
        deduplication(transformed),
        approval(),
        loading_group,
        ai_enhancement(transformed, loading_group),
        validation(),
        completion(first, loading_group),
    )


def preparation() -> tuple[TaskGroup, CheckSettingsOperator, Mapped]:
    """Parameters, source, target, run, plan; returns the group, the first task and the plans."""
    with TaskGroup("preparation", tooltip="Know that all is right before anything is written") as group:
        first = CheckSettingsOperator(task_id="check_settings")
        opened = OpenRunOperator(task_id="open_run")
        with TaskGroup("plan", tooltip="What is to be read of each entity, cut into partitions") as planning:
            plans = {
                name: PlanOperator(task_id=name, entity=name, most_partitions=opened.output)
                for name in ENTITIES
            }
        chain(
            first,
            # What follows a setup task must wait for its success, says Airflow.
            CheckStorageOperator(task_id="check_storage", trigger_rule="all_success"),
            CheckSourceOperator(task_id="check_source"),
            CheckFilesOperator(task_id="check_files", entity="projects"),
            DeployTargetOperator(task_id="deploy_target"),
            opened,
            CompareTargetOperator(task_id="compare_target"),
            planning,
            EstimateOperator(task_id="estimate"),
        )
    return group, first, plans


def _mapped(
    operator: type[MigrationOperator], entity: str, before: Mapped, *, task_id: str = "", **arguments: Any
) -> Any:
    """One task per partition that the entity's task in ``before`` returned."""
    return operator.partial(
        task_id=task_id or entity,
        entity=entity,
        map_index_template=_LABEL,
        **operator.common_arguments(),
        **arguments,
    ).expand(partition=before[entity].output)


def extraction(plans: Mapped) -> tuple[TaskGroup, Mapped]:
    """Source rows into staging, in the groups that users know as 2A, 2B and 2C."""
    tasks: Mapped = {}
    nested: dict[str, TaskGroup] = {}
    with TaskGroup("extraction", tooltip="Source rows into staging") as group:
        for entity in ENTITIES.values():
            with _nested(entity, nested):
                tasks[entity.name] = _mapped(ExtractOperator, entity.name, plans)
    return group, tasks


def _nested(entity: Entity, groups: dict[str, TaskGroup]) -> AbstractContextManager[Any]:
    """The nested group of an entity, made once."""
    if not entity.group:
        return nullcontext()
    if entity.group not in groups:
        groups[entity.group] = TaskGroup(entity.group, tooltip=_NESTED[entity.group])
    return groups[entity.group]


def transformation(extracted: Mapped) -> tuple[TaskGroup, Mapped]:
    """Raw batches into clean rows, rejects and findings."""
    with TaskGroup("transformation", tooltip="Rules of each entity, batch by batch") as group:
        tasks = {name: _mapped(TransformOperator, name, extracted) for name in extracted}
    return group, tasks


def deduplication(transformed: Mapped) -> TaskGroup:
    """Which rows are the same person."""
    with TaskGroup("deduplication", tooltip="Find rows that are the same person") as group:
        for entity in ENTITIES.values():
            if entity.deduplicate:
                _deduplicate(entity.name, transformed)
    return group


def _deduplicate(entity: str, transformed: Mapped) -> None:
    plan = PlanMatchingOperator(
        task_id=f"{entity}_plan", entity=entity, partitions=transformed[entity].output
    )
    compared = _mapped(ComparePairsOperator, entity, {entity: plan}, task_id=f"{entity}_compare")
    DeduplicateOperator(task_id=entity, entity=entity, shares=plan.output, compared=compared.output)


def approval() -> TaskGroup:
    """What loading will do; where that is wanted or much, a person must approve it."""
    with TaskGroup("approval", tooltip="What loading will do, and whether a person approves it") as group:
        numbers = ExpectOperator(task_id="numbers")
        ApproveOperator(task_id="gate", numbers=numbers.output)
    return group


def loading(transformed: Mapped) -> TaskGroup:
    """Clean rows into the target, parents first; merged rows behind their survivors, then those they affect."""
    tasks: Mapped = {}
    last: Mapped = {}
    with TaskGroup("loading", tooltip="One transaction per batch") as group:
        deleted = DeleteOperator(task_id="deleted_rows")
        for entity in ENTITIES.values():
            tasks[entity.name] = _load(entity, transformed)
            last[entity.name] = tasks[entity.name]
            deleted >> tasks[entity.name]
            if entity.deduplicate:
                last[entity.name] = _load(entity, transformed, merged_rows=True)
                tasks[entity.name] >> last[entity.name]
            for parent in entity.parents:
                last[parent] >> tasks[entity.name]
            if entity.references:
                references = ReferencesOperator(task_id=f"{entity.name}_references", entity=entity.name)
                last[entity.name] >> references
                last[entity.name] = references
            if entity.deduplicate:
                survivors = SettleMergesOperator(task_id=f"{entity.name}_survivors", entity=entity.name)
                last[entity.name] >> survivors
                last[entity.name] = survivors
        last["projects"] >> _files("projects", transformed)
    return group


def _files(entity: str, transformed: Mapped) -> TaskGroup:
    """Files of an entity's rows into Storage."""
    with TaskGroup("phase_2a_files", tooltip="Projects' 3D files into Supabase Storage") as group:
        plan = PlanFilesOperator(task_id="plan_files", entity=entity, partitions=transformed[entity].output)
        copied = _mapped(CopyFilesOperator, entity, {entity: plan}, task_id="copy_files")
        plan >> FileManifestOperator(task_id="file_manifest", entity=entity, results=copied.output)
    return group


def _load(entity: Entity, transformed: Mapped, *, merged_rows: bool = False) -> Any:
    task_id = f"{entity.name}_merged" if merged_rows else entity.name
    return _mapped(LoadOperator, entity.name, transformed, task_id=task_id, merged_rows=merged_rows)


def ai_enhancement(transformed: Mapped, loading: TaskGroup) -> TaskGroup:
    """Which documents lack a vector, at what price; their texts into vectors; then the search index.

    Waits for every single load: behind those without partitions, which are skipped at once and wait for
    nobody, a barrier of last tasks would stand open.
    """
    with TaskGroup("ai_enhancement", tooltip="Embeddings of non-identifying documents") as group:
        for entity in ENTITIES.values():
            if entity.embeddings is not None:
                read = [entity.name, *entity.embeddings.document.columns_read()]
                plan = PlanEmbeddingsOperator(
                    task_id=f"{entity.name}_plan",
                    entity=entity.name,
                    staged={name: transformed[name].output for name in dict.fromkeys(read)},
                )
                plan.set_upstream(list(loading.iter_tasks()))
                embed = _mapped(
                    EmbedOperator,
                    entity.name,
                    {entity.name: plan},
                    pool=os.environ.get(_POOL) or "default_pool",
                )
                embed >> BuildIndexOperator(task_id=f"{entity.name}_index", entity=entity.name)
    return group


def validation() -> TaskGroup:
    """The source is read again and compared with the target."""
    with TaskGroup("validation", tooltip="Proof that nothing was lost") as group:
        # Side by side: none of them keeps the others from being seen.
        CountsOperator(task_id="counts")
        KeySetsOperator(task_id="key_sets")
        ContentOperator(task_id="content")
        IntegrityOperator(task_id="integrity")
        EmbeddingsOperator(task_id="embeddings")
        FilesOperator(task_id="files", entity="projects")
        SamplesOperator(task_id="samples")
    return group


def validation_alone() -> None:
    """Validation without a migration, for the DAG being defined."""
    with TaskGroup("preparation", tooltip="Parameters, source, and a run that keeps others out") as prepared:
        first = CheckSettingsOperator(task_id="check_settings")
        chain(
            first,
            CheckStorageOperator(task_id="check_storage", trigger_rule="all_success"),
            CheckSourceOperator(task_id="check_source"),
            OpenValidationOperator(task_id="open_validation"),
        )
    validating = validation()
    chain(prepared, validating, completion(first, validating))


def completion(first: CheckSettingsOperator, before: TaskGroup) -> TaskGroup:
    """Success is recorded by an ordinary last task, failure by a teardown, which always runs.

    The teardown waits for every single task: a failure reaches the last ones at once, while others still write.
    With on_failure_fail_dagrun it would be the one task that decides, and turn every failed run green.
    """
    with TaskGroup("completion", tooltip="Report and true state") as group:
        close = CloseOperator(task_id="close")
        report = ReportOperator(task_id="report", closing=close.task_id, trigger_rule="all_done").as_teardown(
            setups=first, on_failure_fail_dagrun=False
        )
        # As in ai_enhancement: what is skipped on the way here waits for nobody.
        close.set_upstream(list(before.iter_tasks()))
        report.set_upstream([task for task in before.dag.tasks if task is not report])
    return group
