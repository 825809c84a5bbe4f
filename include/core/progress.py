"""How far a piece of work is: share, rate and time left, said in a steady rhythm. Pure; the caller writes the line."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

RHYTHM_SECONDS = 5.0
# Before this much time has passed a rate says nothing, and less than nothing of the time left.
_FIRST_RATE_SECONDS = 0.001


@dataclass(frozen=True)
class Standing:
    """How far the work is at a moment.

    Attributes:
        share: done of all, from 0 to 1; None where nobody knows how much there is.
        rows: done by this attempt.
        seconds: since this attempt began.
        seconds_left: at the rate so far; None where the share is not known, or nothing is done yet.
    """

    share: float | None
    rows: int
    seconds: float
    seconds_left: float | None
    unit: str = "rows"

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / max(self.seconds, _FIRST_RATE_SECONDS)

    @property
    def text(self) -> str:
        """For a person: ``45%, 450,000 rows, 9,000 rows/s, about 61 s left``."""
        share = "" if self.share is None else f"{self.share:.0%}, "
        left = "" if self.seconds_left is None else f", about {self.seconds_left:,.0f} s left"
        return f"{share}{self.rows:,} {self.unit}, {self.rate:,.0f} {self.unit}/s{left}"

    @property
    def facts(self) -> dict[str, float | int | None]:
        """For a log that is read by machines."""
        return {
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rate, 1),
            "percent": None if self.share is None else round(100 * self.share, 1),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left, 1),
        }


class Progress:
    """Counts what is done and knows when it is time to say so.

    Args:
        total: how much work there is, in whatever it is measured: rows, batches, pairs; None where nobody knows.
        done: of it, what an earlier attempt did; it counts for the share, and not for the rate.
        unit: what rows are called here.
        clock: seconds, growing.
    """

    def __init__(
        self,
        total: int | None,
        *,
        done: int = 0,
        unit: str = "rows",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._before = self._done = done
        self._rows = 0
        self._unit = unit
        self._clock = clock
        self._started = self._told = clock()

    def advance(self, work: int, rows: int | None = None) -> Standing | None:
        """Count work that is done; returns where it stands if that is to be said now.

        Args:
            work: in the measure of the total.
            rows: of this work, where it is not measured in rows.
        """
        self._done += work
        self._rows += work if rows is None else rows
        if self._clock() - self._told < RHYTHM_SECONDS:
            return None
        self._told = self._clock()
        return self.standing

    @property
    def standing(self) -> Standing:
        """Where the work stands now."""
        seconds = self._clock() - self._started
        # A total is a plan: where more came than was planned, all that is known is that all of it is done.
        share = min(self._done / self._total, 1.0) if self._total else None
        return Standing(share, self._rows, seconds, self._left(seconds), self._unit)

    def _left(self, seconds: float) -> float | None:
        mine = self._done - self._before
        if not self._total or mine <= 0:
            return None
        return seconds * max(self._total - self._done, 0) / mine
