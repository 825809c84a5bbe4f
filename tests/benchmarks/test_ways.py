"""The benchmark of the two ways: what it loads, and its arithmetic."""

from __future__ import annotations

from benchmarks.ways import CASES, batches, patients, table
from include.core.ids import target_id


def test_batches_hold_every_patient_once() -> None:
    clean = patients(25)
    cut = list(batches(clean, 10))
    assert [batch.clean.num_rows for batch in cut] == [10, 10, 5]
    assert len({batch.name for batch in cut}) == 3
    keys = [key for batch in cut for key in batch.clean.column("legacy_id").to_pylist()]
    assert keys == [str(key) for key in range(1, 26)]
    assert clean.column("id")[24].as_py() == target_id("patients", "25")
    assert clean.column("practice_id").null_count == 25


def test_the_table_compares_medians_with_the_direct_way() -> None:
    results = {CASES[0]: [9.0, 1.0, 2.0], CASES[-1]: [40.0, 8.0, 10.0]}
    header, *lines = table(results, 20_000).splitlines()
    assert header.split() == ["20,000", "patients", "rows/s", "of", "direct"]
    assert [line.split()[-2:] for line in lines] == [["10,000", "100%"], ["2,000", "20%"]]
