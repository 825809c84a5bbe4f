"""A report as text, for a terminal and for ``summary.txt``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from include.core import report_ai, report_estimate, report_samples
from include.core.report_tables import (
    ENTITY_COLUMNS,
    ESTIMATE_COLUMNS,
    FINDING_COLUMNS,
    LEVEL_COLUMNS,
    PHASE_COLUMNS,
    cell,
    title,
)

_MOST_LISTED = 50


def as_text(report: Mapping[str, Any]) -> str:
    """The summary for a terminal; its first line is the report's headline."""
    parts = (_rows, _proof, _embeddings, _samples, _ending)
    lines = [report["headline"], ""]
    for part in parts:
        lines += part(report)
    return "\n".join([*lines, "", *(f"next: {step}" for step in report["next_steps"]), ""])


def _rows(report: Mapping[str, Any]) -> list[str]:
    lines = []
    if report["notes"]:
        lines += ["Notes", *(f"  {note['severity']}: {note['text']}" for note in report["notes"]), ""]
    lines += [*table(ENTITY_COLUMNS, report["entities"]), "", *table(PHASE_COLUMNS, report["phases"])]
    if estimate := report["estimate"]:
        lines += ["", *table(ESTIMATE_COLUMNS, estimate["phases"]), report_estimate.origin(estimate)]
    if report["findings"]:
        lines += ["", *table(FINDING_COLUMNS, report["findings"][:_MOST_LISTED])]
    return lines


def _proof(report: Mapping[str, Any]) -> list[str]:
    lines = [
        f"check {check['name']} of {check['entity']} ({check['severity']}): expected {check['expected']},"
        f" found {check['found']}, e.g. {', '.join(check['sample_keys']) or 'none'}"
        for check in report["checks"]["not_passed"]
    ]
    if left := report["checks"]["not_covered"]:
        lines += ["", *table(LEVEL_COLUMNS, report["checks"]["levels"])]
        lines += ["", "Not looked at:", *(f"  {sentence}" for sentence in left)]
    return lines


def _embeddings(report: Mapping[str, Any]) -> list[str]:
    lines = []
    if report["embeddings"]["entities"]:
        lines += ["", *table(report_ai.COLUMNS, report["embeddings"]["entities"]), report_ai.spent(report)]
    return [*lines, "", report_ai.what_left(report)]


def _samples(report: Mapping[str, Any]) -> list[str]:
    lines = []
    if report["samples"]["summary"]:
        lines += ["", "Samples", *table(report_samples.SUMMARY_COLUMNS, report["samples"]["summary"])]
    if report["samples"]["differences"]:
        lines += ["", *table(report_samples.COLUMNS, report["samples"]["differences"])]
    return lines


def _ending(report: Mapping[str, Any]) -> list[str]:
    lines = ["", sealed(report)] if report["audit"] else []
    if report["failed_tasks"]:
        lines += ["", f"failed tasks: {', '.join(report['failed_tasks'])}"]
    for error in report["errors"]:
        where = f" ({error['where']})" if error["where"] else ""
        lines.append(f"  {error['task']}: [{error['code']}] {error['detail']}{where}")
    return lines


def sealed(report: Mapping[str, Any]) -> str:
    """One line about the audit trail; empty where it was not sealed."""
    audit = report["audit"]
    return f"Audit trail: {audit['sealed']:,} entries sealed, head {audit['head']}" if audit else ""


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Aligned lines, the first of which holds the titles; numbers to the right."""
    cells = [[title(column) for column in columns], *([cell(row[c]) for c in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    numeric = [all(not isinstance(row[c], str) for row in rows) for c in columns]
    return [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
