"""Columns of a report's tables, and how their titles and values are written, the same in text and in HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FATES = ("inserted", "updated", "unchanged", "merged", "rejected", "skipped")
ENTITY_COLUMNS = (
    "entity",
    "source_rows",
    "read",
    *FATES,
    "followed",
    "deleted",
    "seconds",
    "rows_per_second",
)
PHASE_COLUMNS = ("phase", "batches", "rows", "wall_seconds", "rows_per_second", "peak_memory_mb")
LEVEL_COLUMNS = ("level", "name", "checks", "passed", "failed", "warned")
CHECK_COLUMNS = ("level", "entity", "name", "severity", "expected", "found", "sample_keys")
ERROR_COLUMNS = ("task", "code", "detail", "where", "next_step")
FINDING_COLUMNS = ("entity", "kind", "code", "rows")
MEANING_COLUMNS = ("code", "meaning", "what_to_do")
ESTIMATE_COLUMNS = ("phase", "rows", "estimated_seconds", "measured_seconds", "measured_by_estimated")
PARAMETER_COLUMNS = ("name", "value", "default")

_TITLES = {
    "rows_per_second": "rows/s",
    "source_rows": "source",
    "peak_memory_mb": "peak MB",
    "measured_by_estimated": "measured / estimated",
}


def title(column: str) -> str:
    """The heading of a column."""
    return _TITLES.get(column, column.replace("_", " "))


def cell(value: Any) -> str:
    """A value for a person; unknown ones are a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def is_numeric(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Whether a column holds numbers and is aligned to the right."""
    values = [row[column] for row in rows if row[column] is not None]
    return all(isinstance(value, int | float) for value in values) and bool(values)
