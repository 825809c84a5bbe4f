"""Partitions cover every key once; batches keep every row once, in order, and groups whole."""

from __future__ import annotations

import itertools
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.core.batches import (
    MOST_PARTITIONS,
    Partition,
    batch_name,
    batch_names,
    cut_groups,
    partition_rows,
    plan_partitions,
)
from tests.core.examples import examples

KEYS = st.integers(-(2**31), 2**31)


def holds(partition: Partition, key: int) -> bool:
    return (partition.low is None or key >= partition.low) and (
        partition.high is None or key < partition.high
    )


@examples(100)
@given(st.lists(KEYS), st.lists(KEYS))
def test_every_key_is_in_exactly_one_partition_and_partitions_ascend(
    cuts: list[int], keys: list[int]
) -> None:
    partitions = plan_partitions("patients", cuts)
    for key in [*keys, *cuts, *(cut - 1 for cut in cuts)]:
        assert sum(holds(partition, key) for partition in partitions) == 1
    assert [p.number for p in partitions] == list(range(len(partitions)))
    assert partitions[0].low is None
    assert partitions[-1].high is None
    for before, after in itertools.pairwise(partitions):
        assert before.high == after.low
    ranges = [(p.low, p.high) for p in partitions[1:-1]]
    assert all(low < high for low, high in ranges if low is not None and high is not None)


def test_an_empty_table_has_one_partition_open_on_both_sides() -> None:
    assert plan_partitions("cases", []) == [Partition("cases", 0, None, None)]


@examples(100)
@given(st.integers(0, 10**8), st.integers(1, 250_000), st.integers(1, 250_000))
def test_partitions_hold_whole_batches_and_stay_few(rows: int, batch_size: int, at_least: int) -> None:
    size = partition_rows(rows, batch_size, at_least)
    assert size % batch_size == 0
    assert size >= at_least
    assert -(-rows // size) <= MOST_PARTITIONS


def test_partitions_travel_through_json_and_names_sort_in_key_order() -> None:
    partitions = plan_partitions("cases", range(1, 200))
    for partition in partitions:
        sent = json.loads(json.dumps({**partition.to_json(), "label": partition.label}))
        assert Partition.from_json(sent) == partition
    names = [batch_name(p, number) for p in partitions for number in (0, 9, 10, 999)]
    assert names == sorted(names)
    assert len(set(names)) == len(names)


def test_a_manifest_names_its_batches_as_extraction_did() -> None:
    partition = Partition("cases", 3, 5, None)
    assert batch_names({**partition.to_json(), "batches": 3}) == [batch_name(partition, n) for n in range(3)]
    assert batch_names({**partition.to_json(), "batches": 0}) == []


@pytest.mark.parametrize(
    ("low", "high", "label"),
    [(None, None, "cases start to end"), (None, 7, "cases start to 7"), (7, None, "cases 7 to end")],
)
def test_labels_say_the_range(low: int | None, high: int | None, label: str) -> None:
    assert Partition("cases", 0, low, high).label == label


# Group sizes of an ordered column; a group without a key sorts last.
GROUPS = st.tuples(st.lists(st.integers(1, 6), max_size=12), st.integers(0, 3))


@examples(100)
@given(GROUPS, st.integers(1, 9), st.data())
def test_groups_are_never_split_and_nothing_is_lost(
    groups: tuple[list[int], int], chunk_rows: int, data: st.DataObject
) -> None:
    sizes, without_key = groups
    keys: list[str | None] = [str(100 + n) for n, size in enumerate(sizes) for _ in range(size)]
    keys += [None] * without_key
    table = pa.table({"row": pa.array([str(n) for n in range(len(keys))]), "g": pa.array(keys, pa.string())})
    chunks = [table.slice(start, chunk_rows) for start in range(0, len(keys), chunk_rows)]
    if data.draw(st.booleans()):
        chunks.insert(data.draw(st.integers(0, len(chunks))), table.slice(0, 0))

    batches = list(cut_groups(iter(chunks), "g"))

    assert [row for batch in batches for row in batch.column("row").to_pylist()] == table.column(
        "row"
    ).to_pylist()
    assert all(batch.num_rows for batch in batches)
    seen: set[str | None] = set()
    for batch in batches:
        mine = set(batch.column("g").to_pylist())
        assert not mine & seen
        seen |= mine


def test_a_group_of_rows_without_a_key_stays_whole_across_chunks() -> None:
    table = pa.table({"g": pa.array(["1", None, None, None])})
    assert [b.num_rows for b in cut_groups(iter([table.slice(0, 2), table.slice(2)]), "g")] == [1, 3]
