"""Content hashes: equal rows, and only they, have equal hashes."""

from __future__ import annotations

import itertools

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from include.core.fingerprint import content_hashes
from tests.core.examples import examples

VALUE = (
    st.none()
    | st.sampled_from(["", "NULL", "\x00", "a", "ab", "b", "\\", ",", "\ufeff"])
    | st.text(max_size=3)
)
ROW = st.tuples(VALUE, VALUE, VALUE)


def hashes(rows: list[tuple[str | None, ...]]) -> list[str]:
    columns = [pa.array([row[i] for row in rows], pa.string()) for i in range(len(rows[0]))]
    return content_hashes(columns).to_pylist()


@examples(200)
@given(st.lists(ROW, min_size=2, max_size=20))
def test_hashes_are_equal_exactly_where_rows_are(rows: list[tuple[str | None, ...]]) -> None:
    made = hashes(rows)
    for (row, mine), (other, theirs) in itertools.combinations(zip(rows, made, strict=True), 2):
        assert (mine == theirs) == (row == other)


def test_null_empty_and_the_word_null_differ_in_every_place() -> None:
    rows = list(itertools.product([None, "", "NULL", "null", "\\N"], repeat=3))
    assert len(set(hashes(rows))) == len(rows)


def test_contents_that_move_to_the_next_column_differ() -> None:
    rows = [
        ("ab", "c", ""),
        ("a", "bc", ""),
        ("", "abc", ""),
        ("abc", "", ""),
        (None, "abc", ""),
        ("abc", None, ""),
    ]
    assert len(set(hashes(rows))) == len(rows)


def test_a_hash_is_bytea_text_of_sixteen_bytes_and_does_not_depend_on_the_batch() -> None:
    alone, together = hashes([("a", None)]), hashes([("x", "y"), ("a", None)])
    assert alone[0] == together[1]
    assert alone[0].startswith("\\x")
    assert len(bytes.fromhex(alone[0][2:])) == 16


def test_hashes_of_no_rows_and_of_slices() -> None:
    assert content_hashes([pa.array([], pa.string())]).to_pylist() == []
    column = pa.array(["a", "b", "c"])
    assert content_hashes([column.slice(1, 1)]).to_pylist() == hashes([("b",)])
