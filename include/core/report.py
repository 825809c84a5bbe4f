"""The report of a run, made from tracked facts alone: one dictionary, and three ways to write it.

It holds counts, codes, legacy ids and settings, never a value of a row.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from include.core import coverage, report_ai, report_samples
from include.core.notes import Note

FATES = ("inserted", "updated", "unchanged", "merged", "rejected", "skipped")
PHASES = (
    "extraction",
    "transformation",
    "deduplication",
    "loading",
    "references",
    "ai_enhancement",
    "validation",
)
_ENTITY_COLUMNS = ("entity", "source_rows", "read", *FATES, "followed", "deleted", "seconds")
_LEVEL_COLUMNS = ("level", "name", "checks", "passed", "failed", "warned")
_FOREIGN = "What somebody else changed stops it, unless foreign_writes is overwrite or keep."
_ERROR_COLUMNS = ("task", "code", "detail", "where", "next_step")
_MOST_LISTED = 50


def build(
    *,
    run: Mapping[str, Any] | None,
    batches: Sequence[Mapping[str, Any]],
    checks: Sequence[Mapping[str, Any]],
    findings: Iterable[tuple[str, str, str, int]],
    failed_tasks: Sequence[str],
    order: Sequence[str],
    now: datetime,
    notes: Sequence[Note] = (),
    source_rows: Mapping[str, int] | None = None,
    embeddings: Mapping[str, Any] | None = None,
    embedded: Sequence[str] = (),
    samples: Sequence[Mapping[str, Any]] = (),
    errors: Sequence[Mapping[str, Any]] = (),
    audit: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put the report together.

    Args:
        run: the row of migration.runs; None when the run failed before it was opened.
        order: entities, parents first.
        now: when the report is made.
        source_rows: entity to the rows the source has; an incremental run reads a part of them.
        embeddings: see :func:`report_ai.embeddings`.
        embedded: entities that have documents.
        samples: see :func:`report_samples.samples`.
        errors: lines of the run's log of errors: task, code, detail, where, next_step.
        audit: how many entries of the audit trail are sealed, and the head of their chain.
    """
    loaded = {batch["entity"] for batch in batches if batch["phase"] == "loading"}
    entities = [_entity(name, batches, source_rows or {}) for name in order if name in loaded]
    failed_checks = [dict(c) for c in checks if not c["passed"] and c["severity"] == "fail"]
    succeeded = run is not None and not failed_tasks
    return {
        "run_id": run["run_id"] if run else None,
        "mode": _mode(run),
        "type": run["type"] if run else None,
        "status": "completed" if succeeded else "failed",
        "started_at": run["started_at"] if run else None,
        "seconds": round((now - run["started_at"]).total_seconds(), 1) if run else None,
        "failed_tasks": list(failed_tasks),
        "next_steps": _next_steps(run, failed_tasks, failed_checks),
        "notes": _notes(notes),
        "entities": entities,
        "phases": [_phase(name, batches) for name in PHASES if any(b["phase"] == name for b in batches)],
        "checks": {
            "passed": sum(bool(c["passed"]) for c in checks),
            "failed": len(failed_checks),
            "warned": sum(not c["passed"] and c["severity"] == "warn" for c in checks),
            "levels": coverage.levels(checks),
            "not_passed": [dict(c) for c in checks if not c["passed"]],
            "not_covered": coverage.not_covered(run, order, embedded) if run and checks else [],
        },
        "findings": [dict(zip(("entity", "kind", "code", "rows"), row, strict=True)) for row in findings],
        "embeddings": report_ai.embeddings(
            embeddings or {}, run["parameters"].get("ai_budget") if run else None
        ),
        "samples": report_samples.samples(samples),
        "errors": [_error(line) for line in errors if "code" in line][:_MOST_LISTED],
        "audit": dict(audit or {}),
        "parameters": run["parameters"] if run else {},
        "versions": {"mapping": run["mapping_version"], "code": run["code_version"]} if run else {},
    }


def _mode(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return "run"
    if run["type"] == "validation":
        return "validation"
    return "dry run" if run["dry_run"] else "real run"


def _notes(notes: Sequence[Note]) -> list[dict[str, Any]]:
    """Warnings first."""
    return [
        {"code": note.code, "severity": note.kind.severity, "text": note.text, "facts": dict(note.facts)}
        for note in sorted(notes, key=lambda note: note.kind.severity != "warn")
    ]


def _entity(
    name: str, batches: Sequence[Mapping[str, Any]], source_rows: Mapping[str, int]
) -> dict[str, Any]:
    mine = [batch for batch in batches if batch["entity"] == name]
    loading = [batch for batch in mine if batch["phase"] == "loading"]
    seconds = sum(batch["seconds"] or 0 for batch in loading)
    rows = sum(batch["extracted"] for batch in loading)
    sums = {fate: sum(batch[fate] for batch in loading) for fate in FATES}
    return {
        "entity": name,
        "source_rows": source_rows.get(name, rows),
        "read": rows,
        **sums,
        # Not read, but what they refer to changed.
        "followed": sum(batch["extracted"] for batch in mine if batch["phase"] == "references"),
        "deleted": sum(batch["deleted"] for batch in loading),
        "seconds": round(seconds, 3),
        "rows_per_second": round(rows / seconds) if seconds else None,
    }


def _phase(name: str, batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mine = [batch for batch in batches if batch["phase"] == name]
    rows = sum(batch["extracted"] for batch in mine)
    wall = _wall_seconds(mine)
    return {
        "phase": name,
        "batches": len(mine),
        "rows": rows,
        "work_seconds": round(sum(batch["seconds"] or 0 for batch in mine), 3),
        "wall_seconds": round(wall, 3),
        "rows_per_second": round(rows / wall) if wall else None,
        "peak_memory_mb": max((round(b["memory_mb"]) for b in mine if b["memory_mb"]), default=None),
    }


def _wall_seconds(batches: Sequence[Mapping[str, Any]]) -> float:
    """From the start of the first batch to the end of the last."""
    ends: list[float] = [batch["recorded_at"].timestamp() for batch in batches]
    starts = [end - (batch["seconds"] or 0) for end, batch in zip(ends, batches, strict=True)]
    return max(ends) - min(starts)


def _next_steps(
    run: Mapping[str, Any] | None, failed_tasks: Sequence[str], failed_checks: Sequence[Mapping[str, Any]]
) -> list[str]:
    if run is None:
        return ["Nothing was read or written. The first failed task's log ends with what to do."]
    if failed_checks:
        return [
            "Look at the failed checks below. migration.differences names every row and column that differs.",
            "Once the cause is known, trigger mdw_incremental_migration with repair: it loads what differs again.",
            *([_FOREIGN] if any(check["name"] == "foreign_writes" for check in failed_checks) else []),
        ]
    if failed_tasks:
        return [
            f"Open the log of {failed_tasks[0]}: its last lines say what to do.",
            "Then clear only the failed tasks of this run: finished batches are not done again. Or trigger a new run.",
        ]
    if run["type"] == "validation":
        return ["Nothing: the target is what the source demands, as far as was looked (see what was not)."]
    if run["dry_run"]:
        return ["Nothing was written to the business tables. Trigger again with dry_run off to do it."]
    return ["Look at the rows in quarantine, if any; the next run retries them by itself."]


def headline(report: Mapping[str, Any]) -> str:
    """One line: what kind of run, how it ended."""
    rows, read = (sum(entity[name] for entity in report["entities"]) for name in ("source_rows", "read"))
    part = f"{read:,} of " if report["type"] == "incremental" else ""
    checks = report["checks"]
    took = "" if report["seconds"] is None else f" in {report['seconds']:,.0f} s"
    passed = f"{checks['passed']} of {checks['passed'] + checks['failed'] + checks['warned']} checks passed"
    moved = (
        f"{part}{rows:,} rows of {len(report['entities'])} entities" if report["mode"] != "validation" else ""
    )
    return (
        f"{report['mode'].upper()} {report['status']}{': ' if moved else ''}{moved}{took}, {passed},"
        f" {checks['failed']} failed"
    )


def as_text(report: Mapping[str, Any]) -> str:
    """The summary for a terminal."""
    columns = (*_ENTITY_COLUMNS, "rows_per_second")
    lines = [headline(report), ""]
    if report["notes"]:
        lines += ["Notes", *(f"  {note['severity']}: {note['text']}" for note in report["notes"]), ""]
    lines += _table(columns, report["entities"])
    phase_columns = ("phase", "batches", "rows", "wall_seconds", "rows_per_second", "peak_memory_mb")
    lines += ["", *_table(phase_columns, report["phases"])]
    if report["findings"]:
        lines += ["", *_table(("entity", "kind", "code", "rows"), report["findings"][:_MOST_LISTED])]
    for check in report["checks"]["not_passed"]:
        lines.append(
            f"check {check['name']} of {check['entity']} ({check['severity']}): expected {check['expected']},"
            f" found {check['found']}, e.g. {', '.join(check['sample_keys']) or 'none'}"
        )
    if report["checks"]["not_covered"]:
        lines += ["", *_table(_LEVEL_COLUMNS, report["checks"]["levels"])]
        lines += ["", "Not looked at:", *(f"  {sentence}" for sentence in report["checks"]["not_covered"])]
    if report["embeddings"]["entities"]:
        lines += ["", *_table(report_ai.COLUMNS, report["embeddings"]["entities"]), report_ai.spent(report)]
    lines += ["", report_ai.what_left(report)]
    if report["samples"]["summary"]:
        lines += ["", "Samples", *_table(report_samples.SUMMARY_COLUMNS, report["samples"]["summary"])]
    if report["samples"]["differences"]:
        lines += ["", *_table(report_samples.COLUMNS, report["samples"]["differences"])]
    lines += ["", _sealed(report)] if report["audit"] else []
    if report["failed_tasks"]:
        lines += ["", f"failed tasks: {', '.join(report['failed_tasks'])}"]
    for error in report["errors"]:
        where = f" ({error['where']})" if error["where"] else ""
        lines.append(f"  {error['task']}: [{error['code']}] {error['detail']}{where}")
    return "\n".join([*lines, "", *(f"next: {step}" for step in report["next_steps"]), ""])


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [[_title(column) for column in columns], *([_cell(row[c]) for c in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    numeric = [all(not isinstance(row[c], str) for row in rows) for c in columns]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]


def _title(column: str) -> str:
    return {"rows_per_second": "rows/s", "source_rows": "source", "peak_memory_mb": "peak MB"}.get(
        column, column.replace("_", " ")
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def as_html(report: Mapping[str, Any]) -> str:
    """A page of its own, printable, every value escaped."""
    failed = report["status"] != "completed"
    steps = "".join(f"<li>{html.escape(step)}</li>" for step in report["next_steps"])
    parts = [
        f"<h1 class='{'failed' if failed else 'ok'}'>{html.escape(headline(report))}</h1>",
        f"<p>Run {html.escape(str(report['run_id']))}, started {html.escape(str(report['started_at']))}</p>",
        f"<h2>What to do next</h2><ul>{steps}</ul>",
        _html_table("Notes", ("severity", "text"), report["notes"]),
        _html_table(
            "Rows and their fates",
            _ENTITY_COLUMNS,
            report["entities"],
        ),
        _html_table(
            "Phases",
            ("phase", "batches", "rows", "wall_seconds", "rows_per_second", "peak_memory_mb"),
            report["phases"],
        ),
        _html_table(
            "Checks that did not pass",
            ("entity", "name", "severity", "expected", "found", "sample_keys"),
            report["checks"]["not_passed"],
        ),
        _html_table("Checks by level", _LEVEL_COLUMNS, report["checks"]["levels"]),
        _html_list("What was not looked at", report["checks"]["not_covered"]),
        _html_table("Errors", _ERROR_COLUMNS, report["errors"]),
        _html_table("Samples", report_samples.SUMMARY_COLUMNS, report["samples"]["summary"]),
        _html_table("Samples, column by column", report_samples.COLUMNS, report["samples"]["columns"]),
        _html_table("Quarantine and findings", ("entity", "kind", "code", "rows"), report["findings"]),
        _html_table("Embeddings", report_ai.COLUMNS, report["embeddings"]["entities"]),
        f"<p>{html.escape(' '.join(filter(None, (report_ai.spent(report), report_ai.what_left(report)))))}</p>",
        f"<p>{html.escape(_sealed(report))}</p>",
        _html_table("Parameters", ("name", "value"), _pairs(report["parameters"])),
        _html_table("Versions", ("name", "value"), _pairs(report["versions"])),
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Migration report</title><style>"
        "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
        "table{border-collapse:collapse;width:100%}th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd;"
        "text-align:left}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}"
        "h1.ok{color:#12632b}h1.failed{color:#a3160d}</style></head><body>"
        f"{''.join(parts)}</body></html>"
    )


def _html_list(title: str, sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f"<h2>{html.escape(title)}</h2><ul>{items or '<li>Nothing was looked at.</li>'}</ul>"


def _error(line: Mapping[str, Any]) -> dict[str, Any]:
    where = ", ".join(f"{name}={value}" for name, value in line.get("where", {}).items())
    return {**{name: line.get(name, "") for name in _ERROR_COLUMNS}, "where": where}


def _sealed(report: Mapping[str, Any]) -> str:
    audit = report["audit"]
    return f"Audit trail: {audit['sealed']:,} entries sealed, head {audit['head']}" if audit else ""


def _pairs(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "value": str(value)} for name, value in values.items()]


def _html_table(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return f"<h2>{html.escape(title)}</h2><p>None.</p>"
    head = "".join(f"<th class='{_align(rows, c)}'>{html.escape(_title(c))}</th>" for c in columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td class='{_align(rows, c)}'>{html.escape(_cell(row[c]))}</td>" for c in columns)
        + "</tr>"
        for row in rows
    )
    return f"<h2>{html.escape(title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _align(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    return "n" if isinstance(rows[0][column], int | float) else ""
