from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from include.matching.blocking import blocking_passes, candidate_pairs, pairs_in_blocks
from tests.matching.people import encoded, person


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 20))
def test_pairs_of_equal_codes_are_listed_once_whatever_the_chunk(codes: list[int], at_once: int) -> None:
    chunks = list(pairs_in_blocks(np.array(codes, dtype=np.int64), at_once))
    found = [pair for left, right in chunks for pair in zip(left.tolist(), right.tolist(), strict=True)]
    expected = {(a, b) for a, b in combinations(range(len(codes)), 2) if codes[a] == codes[b] > 0}
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert all(len(left) <= at_once + len(codes) for left, _ in chunks)


def test_a_pair_found_by_several_passes_is_a_candidate_once() -> None:
    people = encoded(person(1, "Anna Berg", "1980-03-04"), person(2, "Anna Berg", "1980-03-04"))
    assert sum(len(left) for left, _ in candidate_pairs(blocking_passes(people, 200))) == 1


def test_a_large_block_is_refined() -> None:
    names = ["Anna Berg", "Eva Holm", "Ida Lund", "Olga Dahl"]
    people = encoded(*[person(number, name, "1980-03-04") for number, name in enumerate(names * 2)])
    birth_date = blocking_passes(people, 3)[0]
    assert birth_date.counts.blocks == 4
    assert birth_date.counts.pairs == 4
    assert birth_date.counts.skipped_people == 0


def test_a_block_that_stays_too_large_is_left_out_and_counted() -> None:
    people = encoded(*[person(number, "Anna Berg", "1980-03-04") for number in range(5)])
    for blocking in blocking_passes(people, 4):
        assert blocking.counts.pairs == 0
    counts = blocking_passes(people, 4)[0].counts
    assert (counts.skipped_blocks, counts.skipped_people) == (1, 5)


def test_the_number_of_pairs_is_bounded_by_the_block_size() -> None:
    rows = [person(number, "Anna Berg", f"19{number % 90 + 10}-01-02") for number in range(900)]
    for blocking in blocking_passes(encoded(*rows), 20):
        assert blocking.counts.pairs <= 900 * 20 / 2


def test_people_without_anything_in_common_are_no_candidates() -> None:
    people = encoded(person(1, None), person(2, None), person(3, "Anna Berg"), person(4, "Eva Holm"))
    assert all(len(left) == 0 for left, _ in candidate_pairs(blocking_passes(people, 200)))
