"""Rows that were merged are told apart from those that stay."""

from __future__ import annotations

import pyarrow as pa

from include.core.resolve import split_merged


def ids(*values: str) -> pa.Array:
    return pa.array(values, pa.string())


def test_the_two_passes_split_the_rows() -> None:
    clean = pa.table({"id": ["a", "b", "c"], "name": ["1", "2", "3"]})
    merged = ids("c", "x")
    assert split_merged(clean, merged, only_merged=False).equals(clean.slice(0, 2))
    assert split_merged(clean, merged, only_merged=True).equals(clean.slice(2))


def test_without_merged_rows_the_second_pass_is_empty() -> None:
    clean = pa.table({"id": ["a"]})
    assert split_merged(clean, ids(), only_merged=False).equals(clean)
    assert split_merged(clean, ids(), only_merged=True).num_rows == 0
    assert split_merged(clean.slice(1), ids("a"), only_merged=True).num_rows == 0
