import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.synthetic.draws import Draws, divided, free_ids, quota, quotas, shuffled, spread_ids


@given(st.integers(0, 500), st.integers(1, 300), st.integers(0, 2**32))
def test_a_row_has_the_same_values_in_any_chunk(start: int, count: int, seed: int):
    whole = Draws(seed, "table", 0, start + count)
    part = Draws(seed, "table", start, count)
    np.testing.assert_array_equal(whole.words("column")[start:], part.words("column"))
    np.testing.assert_array_equal(spread_ids(whole, 65)[start:], spread_ids(part, 65))


def test_columns_tables_and_seeds_are_independent():
    base = Draws(1, "table", 0, 1_000).uniform("column")
    others = [
        Draws(1, "table", 0, 1_000).uniform("other"),
        Draws(1, "other", 0, 1_000).uniform("column"),
        Draws(2, "table", 0, 1_000).uniform("column"),
    ]
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.1


def test_values_stay_within_their_limits():
    draws = Draws(1, "table", 0, 100_000)
    assert (draws.uniform("u").min() >= 0, draws.uniform("u").max() < 1) == (True, True)
    for values in (draws.below("b", 7), draws.skewed("s", 7)):
        assert set(values.tolist()) == set(range(7))
    assert draws.below("b", 7).mean() == pytest.approx(3, abs=0.05)
    assert np.bincount(draws.pick("p", [1, 0, 3])).tolist()[1] == 0
    assert draws.chance("c", 0.25).mean() == pytest.approx(0.25, abs=0.01)


def test_a_stream_is_the_same_on_every_machine():
    words = Draws(1, "auth_user", 3, 2).words("email")
    assert [f"{word:016x}" for word in words.tolist()] == ["4aa3560bb4d7d994", "4a4829cf736cbcd3"]


@given(st.integers(1, 2_000), st.lists(st.integers(0, 300), max_size=4))
def test_divided_gives_exact_sizes(count: int, sizes: list[int]):
    sizes = [min(size, count // (len(sizes) or 1)) for size in sizes]
    groups = divided(1, "name", count, sizes)
    assert [int((groups == number).sum()) for number in range(1, len(sizes) + 1)] == sizes


def test_shuffled_is_a_permutation():
    order = shuffled(1, "name", 1_000)
    assert sorted(order.tolist()) == list(range(1_000))
    assert not np.array_equal(order, np.arange(1_000))


@pytest.mark.parametrize(
    ("count", "share", "minimum", "expected"),
    [(10_000, 0.01, 3, 100), (10_000, 0.0001, 3, 3), (50, 0.0001, 3, 1), (2, 0.9, 3, 2), (0, 0.5, 3, 0)],
)
def test_quota(count: int, share: float, minimum: int, expected: int):
    assert quota(count, share, minimum) == expected


def test_quotas_never_exceed_the_rows():
    assert quotas(10, [0.6, 0.6, 0.6]) == [6, 4, 0]


@given(st.sets(st.integers(1, 300), min_size=1))
def test_free_ids_belong_to_no_row(present: set[int]):
    free = free_ids(np.array(sorted(present)))
    assert len(free) > 0
    assert not present & set(free.tolist())
