"""What is recorded of a run: fates of rows, results of checks. Pure; the tracking hook stores them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Fates:
    """How many rows of a batch had which fate. Every row has exactly one.

    ``undecided`` rows are handed on to a later phase; after loading there are none.
    """

    extracted: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    merged: int = 0
    rejected: int = 0
    skipped: int = 0
    undecided: int = 0

    def __post_init__(self) -> None:
        fates = sum(getattr(self, f.name) for f in fields(self)) - self.extracted
        if fates != self.extracted:
            raise ValueError(f"{self.extracted} rows, but {fates} fates")

    def __add__(self, other: Fates) -> Fates:
        return Fates(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def total(fates: Iterable[Fates]) -> Fates:
    """The sum of the fates of several batches."""
    return sum(fates, start=Fates())


@dataclass(frozen=True)
class Check:
    """One thing validated: what was expected, what was found, and where to look.

    Attributes:
        level: 1 counts, 2 key sets, 3 content, 4 integrity, 5 samples.
        severity: ``fail`` stops the run, ``warn`` is reported.
        sample_keys: legacy ids of some rows that break it.
    """

    name: str
    entity: str
    level: int
    expected: str
    found: str
    passed: bool
    severity: str = "fail"
    sample_keys: tuple[str, ...] = ()


def failures(checks: Iterable[Check]) -> list[Check]:
    """Checks that must stop the run."""
    return [check for check in checks if not check.passed and check.severity == "fail"]
