"""A report as a page of its own: no script, nothing from elsewhere, every value escaped; for screens and for paper."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from include.core import report_ai, report_chart, report_estimate, report_samples, report_tables, report_text

_FOLDER = Path(__file__).parent
_TEMPLATE = "report.html.j2"
_FATE_COLUMNS = tuple(name for name in report_tables.ENTITY_COLUMNS if name != "seconds")


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        caption: what it shows.
        columns: title and whether it holds numbers; the first column heads its rows.
        rows: cells as text; a row is marked where something about it is to be noticed.
    """

    caption: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[tuple[str, ...], bool], ...]


def as_html(report: Mapping[str, Any]) -> str:
    """The page of a report as :func:`report.build` makes it."""
    return _template().render(
        report=report,
        ok=report["status"] == "completed",
        opened=_to_seconds(report["started_at"]),
        fates=report_tables.FATES,
        fate_bars=[(entity["entity"], report_chart.fates(entity)) for entity in report["entities"]],
        timeline=report_chart.timeline(report["phases"], report["seconds"]),
        estimated=report_estimate.origin(report["estimate"]) if report["estimate"] else "",
        spent=report_ai.spent(report),
        what_left=report_ai.what_left(report),
        sealed=report_text.sealed(report),
        tables=_tables(report),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE)


def _tables(report: Mapping[str, Any]) -> dict[str, Table]:
    columns, checks, samples = report_tables, report["checks"], report["samples"]
    made = (
        ("notes", "Notes", ("severity", "text"), report["notes"]),
        ("fates", "Rows and their fates", _FATE_COLUMNS, report["entities"]),
        ("levels", "Checks by level", columns.LEVEL_COLUMNS, checks["levels"]),
        ("not_passed", "Checks that did not pass", columns.CHECK_COLUMNS, checks["not_passed"]),
        ("phases", "Phases", columns.PHASE_COLUMNS, report["phases"]),
        ("estimate", "Estimate and reality", columns.ESTIMATE_COLUMNS, report["estimate"].get("phases", [])),
        ("findings", "Quarantine and findings", columns.FINDING_COLUMNS, report["findings"]),
        ("meanings", "What the codes mean", columns.MEANING_COLUMNS, report["meanings"]),
        ("errors", "Errors", columns.ERROR_COLUMNS, report["errors"]),
        ("samples", "Samples", report_samples.SUMMARY_COLUMNS, samples["summary"]),
        ("columns", "Samples, column by column", report_samples.COLUMNS, samples["columns"]),
        ("embeddings", "Embeddings, estimated and real", report_ai.COLUMNS, report["embeddings"]["entities"]),
        ("parameters", "Parameters; changed ones are marked", columns.PARAMETER_COLUMNS, _parameters(report)),
        ("versions", "Versions", ("name", "version"), _versions(report)),
    )
    return {name: _table(caption, which, rows) for name, caption, which, rows in made}


def _table(caption: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        caption,
        tuple((report_tables.title(name), report_tables.is_numeric(rows, name)) for name in columns),
        tuple(
            (tuple(report_tables.cell(row[name]) for name in columns), bool(row.get("marked")))
            for row in rows
        ),
    )


def _parameters(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    changed = report["changed_parameters"]
    return [
        {
            "name": name,
            "value": _plain(value),
            "default": _plain(changed[name]) if name in changed else "the same",
            "marked": name in changed,
        }
        for name, value in sorted(
            report["parameters"].items(), key=lambda item: (item[0] not in changed, item[0])
        )
    ]


def _to_seconds(moment: datetime | str | None) -> str:
    return moment.isoformat(" ", "seconds") if isinstance(moment, datetime) else moment or ""


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _versions(report: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": name, "version": str(version)} for name, version in report["versions"].items()]
