"""The benchmark of the proof: its arithmetic, and that a wrong result is not timed."""

from __future__ import annotations

import pytest

from benchmarks.content import CASES, DIFFERING, FOREIGN, PROOF, READ, table, timed
from benchmarks.incremental import WrongResultError


def test_the_table_compares_medians_with_reading_once() -> None:
    results = {READ: [2.0, 2.0, 9.0], PROOF: [4.0, 5.0, 6.0], DIFFERING: [6.0], FOREIGN: [1.0]}
    header, *lines = table(results, 1_000).splitlines()
    assert header.split()[:2] == ["1,000", "rows"]
    assert [line.startswith(case) for line, case in zip(lines, CASES, strict=True)] == [True] * 4
    assert lines[1].split() == ["proof", "5.0", "200", "2.50"]
    assert lines[3].split()[-3:] == ["1.0", "1,000", "0.50"]


def test_a_proof_that_finds_something_else_is_not_timed() -> None:
    seconds: list[float] = []
    timed(seconds, lambda: 1, expected=1)
    assert len(seconds) == 1
    with pytest.raises(WrongResultError, match="0 rows differ, expected were 1"):
        timed(seconds, lambda: 0, expected=1)
