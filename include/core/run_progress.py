"""How far a run is: share, rate and time left by phase and entity, from what was planned and what the ledger has.

Pure. Times are seconds; rows are counted as each phase counts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from include.core.run_estimate import DEFAULT_RATES, LEAST_ROWS

PHASES = (
    "preparation",
    "extraction",
    "transformation",
    "deduplication",
    "approval",
    "loading",
    "ai_enhancement",
    "validation",
    "completion",
)
"""In the order in which a run goes through them."""
_OF_VALIDATION = ("preparation", "validation", "completion")
_PLANNED = frozenset({"extraction", "transformation", "loading"})
"""Phases that handle every row that was selected once."""


@dataclass(frozen=True)
class LedgerSum:
    """What the ledger has of one phase and entity.

    Attributes:
        batches: done.
        begun, ended: of the batches that are done; None where none is.
        codes: of the errors of failed batches.
    """

    phase: str
    entity: str
    batches: int
    failed: int
    rows: int
    begun: datetime | None
    ended: datetime | None
    codes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LedgerSum:
        """From what the target tells; further keys are ignored."""
        begun, ended = (
            None if data[name] is None else datetime.fromisoformat(data[name]) for name in ("begun", "ended")
        )
        return cls(
            data["phase"],
            data["entity"],
            data["batches"],
            data["failed"],
            data["rows"],
            begun,
            ended,
            tuple(data["codes"]),
        )


@dataclass(frozen=True)
class Part:
    """How far a phase is, or an entity within one.

    Attributes:
        entity: empty for the whole phase.
        state: waiting, running, done, failed, or skipped: the run is over and never came here.
        total: rows to be done in all; None where nobody knows.
        share: done of all, 0 to 1; None where nobody knows.
        rate: rows a second; None where nothing is done.
        seconds_left: None where nobody knows, or where nothing is left to be said.
    """

    phase: str
    entity: str
    state: str
    rows: int
    total: int | None
    share: float | None
    rate: float | None
    seconds_left: float | None
    batches: int = 0
    codes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """How far a run is.

    Attributes:
        parts: each phase, followed by its entities.
        seconds_left: of the run; None where it is over, or nobody knows.
    """

    parts: tuple[Part, ...]
    seconds_left: float | None


def standing(
    *,
    kind: str,
    status: str,
    phase: str | None,
    selected: Mapping[str, int],
    ledger: Iterable[LedgerSum],
    before: Iterable[LedgerSum] = (),
    embedded: Mapping[str, int] | None = None,
) -> Standing:
    """Where a run stands.

    Args:
        kind: full, incremental or validation.
        status: running, completed, failed or rolled_back.
        phase: in which the latest step began.
        selected: entity to the rows that this run takes up, as planned so far.
        ledger: of this run.
        before: of the last complete run of its kind, for rates and for what a phase takes that no plan knows.
        embedded: entity to the documents to be embedded, as estimated.
    """
    run = _Run(status, phase, selected, list(ledger), list(before), embedded or {})
    parts: list[Part] = []
    left: list[float | None] = []
    for name in _OF_VALIDATION if kind == "validation" else PHASES:
        whole, entities = run.of(name)
        parts += [whole, *entities]
        left.append(whole.seconds_left)
    known = [seconds for seconds in left if seconds is not None]
    return Standing(tuple(parts), sum(known) if status == "running" and selected and known else None)


@dataclass(frozen=True)
class _Run:
    status: str
    phase: str | None
    selected: Mapping[str, int]
    ledger: Sequence[LedgerSum]
    before: Sequence[LedgerSum]
    embedded: Mapping[str, int]

    def of(self, phase: str) -> tuple[Part, list[Part]]:
        """A phase and its entities."""
        found = {row.entity: row for row in self.ledger if row.phase == phase}
        totals = self._totals(phase)
        entities = [
            self._part(phase, name, [found[name]] if name in found else [], totals.get(name))
            for name in [*totals, *(name for name in found if name not in totals)]
        ]
        return self._part(phase, "", list(found.values()), sum(totals.values()) if totals else None), entities

    def _totals(self, phase: str) -> Mapping[str, int]:
        """Entity to the rows that the phase will handle, as far as that is known."""
        if phase in _PLANNED:
            return self.selected
        if phase == "ai_enhancement":
            return {name: count for name, count in self.embedded.items() if count}
        return self._scaled(phase)

    def _scaled(self, phase: str) -> Mapping[str, int]:
        """As the last run of this kind did, in proportion to the rows of both."""
        earlier = {row.entity: row.rows for row in self.before if row.phase == "loading"}
        return {
            row.entity: round(row.rows * self.selected[row.entity] / earlier[row.entity])
            for row in self.before
            if row.phase == phase and row.rows and earlier.get(row.entity) and self.selected.get(row.entity)
        }

    def _part(self, phase: str, entity: str, rows: Sequence[LedgerSum], total: int | None) -> Part:
        done = sum(row.rows for row in rows)
        state = self._state(phase, rows, done, total, whole=not entity)
        total = done if state == "done" else total
        share = 1.0 if state == "done" else min(done / total, 1.0) if total else None
        rate = _rate(rows)
        left = None
        if state in ("waiting", "running") and total is not None and self.status == "running":
            speed = rate if rate is not None and done >= LEAST_ROWS else self._usual_rate(phase) or rate
            left = max(total - done, 0) / speed if speed else None
        return Part(
            phase,
            entity,
            state,
            done,
            total,
            share,
            rate,
            left,
            sum(row.batches for row in rows),
            tuple(sorted({code for row in rows if row.failed for code in row.codes})),
        )

    def _state(
        self, phase: str, rows: Sequence[LedgerSum], done: int, total: int | None, *, whole: bool
    ) -> str:
        if any(row.failed for row in rows):
            return "failed"
        reached = PHASES.index(self.phase) if self.phase in PHASES else -1
        place = PHASES.index(phase)
        if self.status in ("completed", "rolled_back"):
            return "done"
        if place < reached or (not whole and total is not None and rows and done >= total):
            return "done"
        if self.status == "failed":
            return "failed" if place == reached and whole else "skipped"
        if place == reached and (whole or rows):
            return "running"
        return "waiting"

    def _usual_rate(self, phase: str) -> float | None:
        usual = [row for row in self.before if row.phase == phase]
        if sum(row.rows for row in usual) >= LEAST_ROWS and (rate := _rate(usual)) is not None:
            return rate
        return DEFAULT_RATES.get(phase)


def _rate(rows: Sequence[LedgerSum]) -> float | None:
    """Rows a second from the first batch's begin to the last one's end."""
    begins = [row.begun for row in rows if row.begun is not None]
    ends = [row.ended for row in rows if row.ended is not None]
    if not begins or not ends:
        return None
    seconds = (max(ends) - min(begins)).total_seconds()
    done = sum(row.rows for row in rows)
    return done / seconds if seconds > 0 and done else None
