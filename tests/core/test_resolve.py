"""Rows that were merged are told apart from those that stay; contents are hashed."""

from __future__ import annotations

import pyarrow as pa

from include.core.resolve import split_merged, with_hashes


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


def test_the_hash_covers_every_column() -> None:
    plain = pa.table({"legacy_id": ["1"], "a": ["x"], "b": pa.array([None], pa.string())})
    hashed = with_hashes(plain)
    assert hashed.column_names == [*plain.column_names, "content_hash"]
    hashes = {hashed.column("content_hash")[0].as_py()}
    for name, value in (("legacy_id", "2"), ("a", "y"), ("b", "")):
        changed = plain.set_column(plain.column_names.index(name), name, pa.array([value]))
        hashes.add(with_hashes(changed).column("content_hash")[0].as_py())
    assert len(hashes) == 4
    assert with_hashes(plain.slice(1)).num_rows == 0


def test_the_hash_leaves_the_version_of_the_source_row_out() -> None:
    first, second = (pa.table({"legacy_id": ["1"], "source_version": [version]}) for version in ("1", "2"))
    assert with_hashes(first).column("content_hash").equals(with_hashes(second).column("content_hash"))
