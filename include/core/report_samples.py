"""The part of a report about samples: rows of source and target side by side, masked (include/core/samples.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from include.core.samples import CHANGED, DIFFERS, EQUAL, GONE

SUMMARY_COLUMNS = ("entity", "rows", EQUAL, DIFFERS, CHANGED, GONE)
COLUMNS = ("entity", "legacy_id", "column", "source", "target", "difference")


def samples(stored: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples for a report.

    Args:
        stored: entity, legacy_id, outcome and columns of each row, as plugins/hooks/samples.py gives them; those that
            differ first.

    Returns:
        ``summary``: rows with :data:`SUMMARY_COLUMNS` for each entity; ``columns``: rows with :data:`COLUMNS` for every
        column of every compared row; ``differences``: those of them that are not equal.
    """
    outcomes: dict[str, Counter[str]] = {}
    for row in stored:
        outcomes.setdefault(row["entity"], Counter())[row["outcome"]] += 1
    columns = [_line(row, column) for row in stored for column in row["columns"]]
    return {
        "summary": [
            {
                "entity": entity,
                "rows": found.total(),
                **{name: found[name] for name in (EQUAL, DIFFERS, CHANGED, GONE)},
            }
            for entity, found in sorted(outcomes.items())
        ],
        "columns": columns,
        "differences": [line for line in columns if line["difference"]],
    }


def _line(row: Mapping[str, Any], column: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "entity": row["entity"],
        "legacy_id": row["legacy_id"],
        "column": column["name"],
        "source": column["source"],
        "target": column["target"],
        "difference": column["how"] or "",
    }
