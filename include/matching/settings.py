"""How careful matching is, and what it compares."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from include.core.errors import MigrationError

PERSON = ("first_name", "last_name", "date_of_birth", "gender", "email")
"""Columns with rules of their own."""

EVIDENCE = ("suffix", "practice_id", "primary_doctor_id")
"""Further columns of a patient, compared as equal, similar or different."""

COMPARED: tuple[str, ...] = ("legacy_id", *PERSON, *EVIDENCE, "updated_at")
"""The columns of a patient that matching reads; all but the first may be missing."""

_MOST_WORKERS = 64


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class MatchSettings:
    """How careful matching is.

    Attributes:
        merge_at: lowest score (0 to 1) of an automatic merge; the vetoes hold whatever the score.
        review_at: lowest score of a pair that is reported at all.
        evidence: columns compared as equal, similar or different beside names, birth date, sex and e-mail.
        workers: processes that share the comparison of large tables; their number changes no result.
        parallel_from: tables with fewer rows are compared in this process alone.
        crowded: a value of e-mail that more differently named people share is evidence of nothing.

    Raises:
        MigrationError: PARAM_INVALID for values outside their limits.
    """

    merge_at: float = 0.99
    review_at: float = 0.05
    evidence: tuple[str, ...] = EVIDENCE
    workers: int = field(default_factory=_cores)
    parallel_from: int = 200_000
    crowded: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.review_at <= self.merge_at <= 1:
            raise MigrationError("PARAM_INVALID", "Matching needs 0 < review_at <= merge_at <= 1.")
        if not 1 <= self.workers <= _MOST_WORKERS:
            raise MigrationError("PARAM_INVALID", f"Matching needs 1 to {_MOST_WORKERS} workers.")
        if self.crowded < 1 or self.parallel_from < 0:
            raise MigrationError("PARAM_INVALID", "Matching needs crowded >= 1 and parallel_from >= 0.")
        if len(set(self.evidence)) < len(self.evidence) or not set(self.evidence).isdisjoint(
            {"legacy_id", "updated_at", *PERSON}
        ):
            raise MigrationError("PARAM_INVALID", "Matching needs distinct further columns as evidence.")


DEFAULTS = MatchSettings()
