"""Mapped instances stay few and labelled, however large the tables are: a graph is read by people."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions.mappedoperator import MappedOperator

from include.core.batches import MOST_PARTITIONS, most_partitions, partition_rows
from include.core.settings import MOST_MATCH_SHARES
from include.entities import ENTITIES
from plugins.operators import files, plan_embeddings

FEW = 200
LARGEST = 100_000_000
SIZES: dict[str, Mapping[str, int]] = {
    "empty": dict.fromkeys(ENTITIES, 0),
    "one row each": dict.fromkeys(ENTITIES, 1),
    "all huge": dict.fromkeys(ENTITIES, LARGEST),
    **{f"{name} alone is huge": {**dict.fromkeys(ENTITIES, 1_000), name: LARGEST} for name in ENTITIES},
    **{
        f"by chance {seed}": {
            name: int(10 ** random.Random(f"{seed}{name}").uniform(0, 8)) for name in ENTITIES
        }
        for seed in range(20)
    },
}


def planned(rows: Mapping[str, int], batch_size: int = 25_000, at_least: int = 250_000) -> dict[str, int]:
    """Partitions of each entity, as preparation cuts them."""
    most = most_partitions(rows)
    return {
        name: max(1, -(-count // partition_rows(count, batch_size, at_least, most[name])))
        for name, count in rows.items()
    }


def instances(dag: DAG, partitions: Mapping[str, int]) -> int:
    """Mapped instances of a run: of each mapped task as many as it may have at most."""
    most = {
        "copy_files": files.MOST_SHARES,
        "patients_compare": MOST_MATCH_SHARES,
        **{
            f"ai_enhancement.{name}": plan_embeddings.MOST_SHARES
            for name, e in ENTITIES.items()
            if e.embeddings
        },
    }
    total = 0
    for task in dag.tasks:
        if isinstance(task, MappedOperator):
            own = task.task_id.rsplit(".", 1)[-1]
            total += most.get(task.task_id) or most.get(own) or partitions[own.removesuffix("_merged")]
    return total


@pytest.mark.parametrize("rows", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("batch_size", "at_least"), [(25_000, 250_000), (1, 1)])
def test_a_run_has_few_at_any_size(dag: DAG, rows: Mapping[str, int], batch_size: int, at_least: int) -> None:
    assert instances(dag, planned(rows, batch_size, at_least)) < FEW


def test_the_largest_table_gets_most() -> None:
    most = most_partitions({**dict.fromkeys(ENTITIES, 1_000), "projects": LARGEST})
    assert most["projects"] == MOST_PARTITIONS
    assert min(most.values()) >= 1


def test_equal_tables_get_the_same_but_for_a_remainder() -> None:
    most = most_partitions(dict.fromkeys(ENTITIES, LARGEST))
    assert max(most.values()) - min(most.values()) <= 1


def test_every_mapped_instance_is_labelled(dag: DAG) -> None:
    mapped = [task for task in dag.tasks if isinstance(task, MappedOperator)]
    assert mapped
    for task in mapped:
        assert task.map_index_template == "{{ task.partition['label'] }}", task.task_id


def test_every_group_says_what_it_is_for(dag: DAG) -> None:
    for name, group in dag.task_group.get_task_group_dict().items():
        if name is not None:
            assert len(group.tooltip) > 10, name
