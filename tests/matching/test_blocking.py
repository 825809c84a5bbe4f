from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.matching.blocking import blocking_keys, candidate_pairs, pairs_in_blocks, too_common, usable_keys
from tests.matching.people import encoded, person

KEYS = st.lists(st.integers(0, 4), max_size=40)


@given(KEYS, st.integers(1, 20))
def test_pairs_of_equal_keys_are_listed_once_whatever_the_chunk(keys: list[int], at_once: int) -> None:
    chunks = list(pairs_in_blocks(np.array(keys, dtype=np.uint64), at_once))
    found = [pair for left, right in chunks for pair in zip(left.tolist(), right.tolist(), strict=True)]
    expected = {(a, b) for a, b in combinations(range(len(keys)), 2) if keys[a] == keys[b] > 0}
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert all(len(left) <= at_once + len(keys) for left, _ in chunks)


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=20), st.integers(1, 4), st.data())
def test_shares_are_disjoint_and_complete_also_of_changed_people(
    rows: list[tuple[int, ...]], shares: int, data: st.DataObject
) -> None:
    keys = [np.array([row[n] * 256 * 7 for row in rows], dtype=np.uint64) for n in range(3)]
    marked = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), dtype=bool)
    for changed in (None, marked):
        found = [
            pair
            for share in range(shares)
            for left, right in candidate_pairs(keys, (share, shares), changed)
            for pair in zip(left.tolist(), right.tolist(), strict=True)
        ]
        expected = {
            (a, b)
            for a, b in combinations(range(len(rows)), 2)
            if any(key[a] == key[b] > 0 for key in keys) and (changed is None or changed[a] or changed[b])
        }
        assert len(found) == len(set(found))
        assert set(found) == expected


def test_a_key_of_too_many_people_is_left_out_and_the_others_stay() -> None:
    rows = [person(n, "Anna Berg", f"{1930 + n % 70}-0{n % 9 + 1}-{n % 28 + 1:02}") for n in range(1_500)]
    people = encoded(*rows, person(2_000, "Eva Holm", "1980-01-02"), person(2_001, "Eva Holm", "1981-05-06"))
    common = too_common(blocking_keys(people))
    assert len(common["names by sound"]) == 1
    pairs = sum(len(left) for left, _ in candidate_pairs(usable_keys(people, common)))
    assert 0 < pairs < 300_000
    names = list(blocking_keys(people)).index("names by sound")
    assert usable_keys(people, common)[names][-1] == usable_keys(people, common)[names][-2] > 0


def test_a_key_that_became_far_too_common_since_it_was_learnt_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A placeholder that came into use: the model does not know it, and its block would be compared as a whole."""
    few = encoded(person(1, "Ann", "1970-01-01"), person(2, "Bea", "1970-01-01"))
    model = too_common(blocking_keys(few))
    many = encoded(*(person(number, None, "1970-01-01") for number in range(6_000)))
    keys = usable_keys(many, model)
    assert sum(len(left) for left, _ in candidate_pairs(keys)) == 0
    assert "birth date" in caplog.text
    assert sum(len(left) for left, _ in candidate_pairs(usable_keys(few, model))) == 1


def test_people_without_anything_in_common_are_no_candidates() -> None:
    people = encoded(person(1, None), person(2, None), person(3, "Anna Berg"), person(4, "Peter Castellanos"))
    assert all(len(left) == 0 for left, _ in candidate_pairs(usable_keys(people, {})))
