from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from include.matching.clustering import Links, average_linkage, connected_components, join_confirmed

SIZE = 30
EDGES = st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE - 1)), max_size=40)


def codes(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


@given(EDGES)
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


@given(EDGES, EDGES)
def test_confirmed_pairs_never_join_rejected_ones(
    confirmed: list[tuple[int, int]], rejected: list[tuple[int, int]]
) -> None:
    rejected = [(a, b) for a, b in rejected if a != b]
    refused = join_confirmed(confirmed, rejected)
    applied = [pair for place, pair in enumerate(confirmed) if place not in refused]
    label = _by_search(applied)
    assert all(label[a] != label[b] for a, b in rejected)
    for place in refused:
        label = _by_search([*applied, confirmed[place]])
        assert any(label[a] == label[b] for a, b in rejected)


def links(score: list[list[float]], forbidden: list[tuple[int, int]] = ()) -> Links:  # type: ignore[assignment]
    matrix = np.array(score)
    barred = np.zeros(matrix.shape, dtype=bool)
    for a, b in forbidden:
        barred[a, b] = barred[b, a] = True
    return Links(matrix, matrix >= 0.99, barred)


CHAIN = [[0, 1.0, 0.0, 0.0], [1.0, 0, 0.995, 0.0], [0.0, 0.995, 0, 1.0], [0.0, 0.0, 1.0, 0]]


def test_a_chain_is_cut_where_most_pairs_disagree() -> None:
    assert average_linkage(links(CHAIN), np.arange(4)).tolist() == [0, 0, 2, 2]


def test_pairs_that_mostly_agree_are_one_cluster() -> None:
    score = [[0, 1.0, 0.7], [1.0, 0, 1.0], [0.7, 1.0, 0]]
    assert average_linkage(links(score), np.arange(3)).tolist() == [0, 0, 0]
    assert average_linkage(links(score, [(0, 2)]), np.arange(3)).tolist() == [0, 0, 2]


def test_what_people_joined_stays_joined() -> None:
    label = average_linkage(links(CHAIN), codes(0, 1, 2, 0))
    assert label[0] == label[3]


def test_two_records_are_joined_if_sure_or_said() -> None:
    sure, unsure = [[0, 1.0], [1.0, 0]], [[0, 0.6], [0.6, 0]]
    assert average_linkage(links(sure), codes(0, 1)).tolist() == [0, 0]
    assert average_linkage(links(sure, [(0, 1)]), codes(0, 1)).tolist() == [0, 1]
    assert average_linkage(links(unsure), codes(0, 1)).tolist() == [0, 1]
    assert average_linkage(links(unsure, [(0, 1)]), codes(5, 5)).tolist() == [0, 0]
