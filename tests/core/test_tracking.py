"""Every row has one fate."""

from __future__ import annotations

import pytest

from include.core.tracking import Check, Fates, failures, total


def test_fates_that_do_not_add_up_are_refused() -> None:
    Fates(28, 1, 2, 3, 4, 5, 6, 7)
    Fates()
    with pytest.raises(ValueError, match="3 rows, but 2 fates"):
        Fates(3, inserted=2)
    with pytest.raises(ValueError, match="0 rows, but 1 fates"):
        Fates(rejected=1)


def test_fates_add_up_fate_by_fate() -> None:
    batches = [Fates(3, inserted=2, rejected=1), Fates(4, unchanged=3, merged=1), Fates(1, undecided=1)]
    assert total(batches) == Fates(8, inserted=2, rejected=1, unchanged=3, merged=1, undecided=1)
    assert total([]) == Fates()


def test_only_failed_checks_of_severity_fail_stop_the_run() -> None:
    checks = [
        Check("a", "cases", 1, "1", "1", passed=True),
        Check("b", "cases", 1, "1", "2", passed=False),
        Check("c", "cases", 1, "1", "2", passed=False, severity="warn"),
    ]
    assert [check.name for check in failures(checks)] == ["b"]
