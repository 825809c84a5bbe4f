from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from include.matching.clustering import cluster_codes, connected_components

SIZE = 30


def codes(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(numbers, dtype=np.int64)


@given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE - 1)), max_size=40))
def test_components_equal_those_of_a_search(edges: list[tuple[int, int]]) -> None:
    left, right = codes(*[a for a, _ in edges]), codes(*[b for _, b in edges])
    assert connected_components(SIZE, left, right).tolist() == _by_search(edges)


def _by_search(edges: list[tuple[int, int]]) -> list[int]:
    label = list(range(SIZE))
    for _ in range(SIZE):
        for a, b in edges:
            label[a] = label[b] = min(label[a], label[b])
    return label


def test_a_long_chain_is_one_component() -> None:
    order = np.random.default_rng(7).permutation(5_000).astype(np.int64)
    assert set(connected_components(5_000, order[:-1], order[1:]).tolist()) == {0}


def test_people_on_their_own_are_in_no_cluster() -> None:
    clusters, unchecked = cluster_codes(codes(0, 1, 0, 3, 3, 3), 2)
    assert clusters.tolist() == [1, 0, 1, 2, 2, 2]
    assert unchecked.tolist() == [2]
