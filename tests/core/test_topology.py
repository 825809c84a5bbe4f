"""Order of predecessors: complete, stable, and forced only on a cycle."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.core.topology import ordered
from tests.core.examples import examples

GRAPH = st.dictionaries(st.integers(0, 9), st.sets(st.integers(0, 12), max_size=4), max_size=10)


def on_cycle(node: int, predecessors: dict[int, set[int]], members: set[int]) -> bool:
    reached, todo = set(), [p for p in predecessors.get(node, ()) if p in members and p != node]
    while todo:
        current = todo.pop()
        if current not in reached:
            reached.add(current)
            todo += [p for p in predecessors.get(current, ()) if p in members and p != current]
    return node in reached


@examples(300)
@given(st.sets(st.integers(0, 9)), GRAPH)
def test_the_order_holds_every_node_once_after_its_predecessors(
    members: set[int], predecessors: dict[int, set[int]]
) -> None:
    order, forced = ordered(members, predecessors)
    assert sorted(order) == sorted(members)
    place = {node: i for i, node in enumerate(order)}
    for node in members - forced:
        assert all(place[p] < place[node] for p in predecessors.get(node, set()) & members - {node})
    assert all(on_cycle(node, predecessors, members) for node in forced)
    inner = {node: predecessors.get(node, set()) & members - {node} for node in members}
    try:
        TopologicalSorter(inner).prepare()
    except CycleError:
        assert forced
    else:
        assert not forced


@pytest.mark.parametrize(
    ("nodes", "predecessors", "order", "forced"),
    [
        ([], {}, [], set()),
        ([3, 1, 2], {}, [1, 2, 3], set()),
        ([1, 2, 3], {1: [3]}, [2, 3, 1], set()),
        ([1, 2, 3], {1: [2], 2: [1]}, [3, 1, 2], {1}),
        # 1 only waits for the cycle of 2 and 3: it is not on it and keeps its place behind it.
        ([1, 2, 3], {1: [2], 2: [3], 3: [2]}, [2, 1, 3], {2}),
        ([1, 2, 3], {1: [3], 2: [3], 3: [2]}, [2, 3, 1], {2}),
        ([5, 6], {5: [5]}, [5, 6], set()),
        ([5, 6], {5: [99]}, [5, 6], set()),
        ([1, 2, 3, 4], {1: [2], 2: [1], 3: [4], 4: [3]}, [1, 2, 3, 4], {1, 3}),
    ],
)
def test_ties_go_by_number_and_cycles_begin_at_their_lowest(
    nodes: list[int], predecessors: dict[int, list[int]], order: list[int], forced: set[int]
) -> None:
    assert ordered(nodes, predecessors) == (order, forced)


def test_links_given_twice_count_once() -> None:
    assert ordered([1, 2], {1: [2, 2]}) == ([2, 1], set())
