"""The part of a report that holds what was estimated before a run against what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

# Its length is that of an embedding provider's answers, which nobody can foresee.
_NOT_ESTIMATED = "ai_enhancement"
_TOTAL = "all but embeddings"
_PART_OF = {"references": "loading"}


def against_reality(
    estimate: Mapping[str, Any] | None, batches: Sequence[Mapping[str, Any]], seconds: float | None
) -> dict[str, Any]:
    """Phase by phase, what was expected and what came.

    Args:
        estimate: as :func:`run_estimate.expect` made it and the target recorded it (``recorded_at``); None where
            the run never came so far.
        batches: rows of migration.batches.
        seconds: of the whole run; None where it was never opened.

    Returns:
        ``recorded_at``, ``based_on`` (the run whose rates were taken; None: documented ones) and ``phases``: phase,
        rows, estimated and measured seconds, and the latter by the former. Empty without an estimate.
    """
    if estimate is None:
        return {}
    measured = {name: wall_seconds(mine) for name, mine in by_phase(batches, _PART_OF).items()}
    lines = [
        _line(phase["phase"], phase["rows"], phase["seconds"], measured.get(phase["phase"]))
        for phase in estimate["phases"]
    ]
    whole = None if seconds is None else max(0.0, seconds - measured.get(_NOT_ESTIMATED, 0.0))
    rows = max((phase["rows"] for phase in estimate["phases"]), default=0)
    return {
        "recorded_at": estimate.get("recorded_at"),
        "based_on": estimate["based_on"],
        "phases": [*lines, _line(_TOTAL, rows, estimate["total_seconds"], whole)],
    }


def origin(part: Mapping[str, Any]) -> str:
    """One sentence on where an estimate comes from."""
    based = part["based_on"]
    source = f"rates of run {based}" if based else "documented rates, for no complete run came before"
    return f"Estimated at {part['recorded_at']}, before any row was read, from planned rows and {source}."


def by_phase(
    batches: Sequence[Mapping[str, Any]], part_of: Mapping[str, str] | None = None
) -> dict[str, list[Mapping[str, Any]]]:
    """Batches of each phase; phases that are part of another one count there."""
    phases: dict[str, list[Mapping[str, Any]]] = {}
    for batch in batches:
        phases.setdefault((part_of or {}).get(batch["phase"], batch["phase"]), []).append(batch)
    return phases


def wall_seconds(batches: Sequence[Mapping[str, Any]]) -> float:
    """From the start of the first batch to the end of the last."""
    began, ended = span(batches)
    return ended - began


def span(batches: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Start of the first batch and end of the last, as seconds since 1970."""
    ends: list[float] = [_timestamp(batch["recorded_at"]) for batch in batches]
    starts = [end - (batch["seconds"] or 0) for end, batch in zip(ends, batches, strict=True)]
    return min(starts), max(ends)


def _timestamp(moment: datetime) -> float:
    return moment.timestamp()


def _line(phase: str, rows: int, estimated: float, measured: float | None) -> dict[str, Any]:
    return {
        "phase": phase,
        "rows": rows,
        "estimated_seconds": round(estimated, 2),
        "measured_seconds": None if measured is None else round(measured, 2),
        "measured_by_estimated": round(measured / estimated, 2)
        if measured is not None and estimated
        else None,
    }
