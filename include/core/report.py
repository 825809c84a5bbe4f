"""The report of a run as one dictionary, made from tracked facts alone; report_text.py and report_html.py write it.

It holds counts, codes, legacy ids and settings, never a value of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from include.core import coverage, report_ai, report_samples
from include.core.errors import REGISTRY
from include.core.findings import FINDINGS
from include.core.notes import Note
from include.core.report_estimate import against_reality, span
from include.core.report_tables import ERROR_COLUMNS, FATES

BATCH_PHASES = (
    "extraction",
    "transformation",
    "deduplication",
    "loading",
    "references",
    "ai_enhancement",
    "validation",
)
"""Phases whose work the ledger counts by batches, in their order."""
_FOREIGN = "What somebody else changed stops it, unless foreign_writes is overwrite or keep."
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
    estimate: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    platform: Mapping[str, str] | None = None,
    run_id: str | None = None,
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
        estimate: see :func:`report_estimate.against_reality`.
        defaults: of the parameters, so that others can be told from them.
        platform: versions of what the run worked with: airflow, python, target.
        run_id: of a run that was never opened.
    """
    loaded = {batch["entity"] for batch in batches if batch["phase"] == "loading"}
    entities = [_entity(name, batches, source_rows or {}) for name in order if name in loaded]
    failed_checks = [dict(c) for c in checks if not c["passed"] and c["severity"] == "fail"]
    succeeded = run is not None and not failed_tasks
    seconds = round((now - run["started_at"]).total_seconds(), 1) if run else None
    told = [dict(zip(("entity", "kind", "code", "rows"), row, strict=True)) for row in findings]
    failures = _distinct(_error(line) for line in errors if "code" in line)[:_MOST_LISTED]
    report = {
        "run_id": run["run_id"] if run else run_id,
        "mode": _mode(run),
        "type": run["type"] if run else None,
        "status": "completed" if succeeded else "failed",
        "started_at": run["started_at"] if run else None,
        "seconds": seconds,
        "failed_tasks": list(failed_tasks),
        "next_steps": _next_steps(run, failed_tasks, failed_checks, failures, _waiting(notes, told)),
        "notes": _notes(notes),
        "entities": entities,
        "phases": [
            _phase(name, batches, run) for name in BATCH_PHASES if any(b["phase"] == name for b in batches)
        ],
        "estimate": against_reality(estimate, batches, seconds),
        "checks": {
            "passed": sum(bool(c["passed"]) for c in checks),
            "failed": len(failed_checks),
            "warned": sum(not c["passed"] and c["severity"] == "warn" for c in checks),
            "levels": coverage.levels(checks),
            "not_passed": [dict(c) for c in checks if not c["passed"]],
            "not_covered": coverage.not_covered(run, order, embedded) if run and checks else [],
        },
        "findings": told,
        "meanings": _meanings(str(line["code"]) for line in (*failures, *told)),
        "embeddings": report_ai.embeddings(
            embeddings or {}, run["parameters"].get("ai_budget") if run else None
        ),
        "samples": report_samples.samples(samples),
        "errors": failures,
        "audit": dict(audit or {}),
        "parameters": run["parameters"] if run else {},
        "changed_parameters": _changed(run["parameters"] if run else {}, defaults or {}),
        "versions": _versions(run, platform or {}),
    }
    return {"headline": headline(report), **report}


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that are not as they would be if nobody had said anything → their defaults."""
    plain = {name: [*value] if isinstance(value, tuple) else value for name, value in defaults.items()}
    return {name: plain[name] for name, value in values.items() if name in plain and value != plain[name]}


def _versions(run: Mapping[str, Any] | None, platform: Mapping[str, str]) -> dict[str, Any]:
    own = {name: run.get(f"{name}_version") for name in ("mapping", "rules", "code")} if run else {}
    return {**{name: version for name, version in own.items() if version}, **platform}


def _meanings(codes: Iterable[str]) -> list[dict[str, str]]:
    """What codes stand for and what to do about them, from the registries; each code once."""
    known = []
    for code in dict.fromkeys(codes):
        if code in FINDINGS:
            found = FINDINGS[code]
            known.append({"code": code, "meaning": found.reason, "what_to_do": found.how_to_fix})
        elif code in REGISTRY:
            kind = REGISTRY[code]
            known.append({"code": code, "meaning": kind.meaning, "what_to_do": kind.next_step})
    return known


def _distinct(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each once: what was tried several times failed several times."""
    return list({tuple(line.values()): line for line in lines}.values())


def _error(line: Mapping[str, Any]) -> dict[str, Any]:
    where = ", ".join(f"{name}={value}" for name, value in line.get("where", {}).items())
    return {**{name: line.get(name, "") for name in ERROR_COLUMNS}, "where": where}


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


def _phase(name: str, batches: Sequence[Mapping[str, Any]], run: Mapping[str, Any] | None) -> dict[str, Any]:
    mine = [batch for batch in batches if batch["phase"] == name]
    rows = sum(batch["extracted"] for batch in mine)
    began, ended = span(mine)
    wall = ended - began
    opened = run["started_at"].timestamp() if run else None
    return {
        "phase": name,
        "batches": len(mine),
        "rows": rows,
        "work_seconds": round(sum(batch["seconds"] or 0 for batch in mine), 3),
        "wall_seconds": round(wall, 3),
        "begins_seconds": None if opened is None else round(max(0.0, began - opened), 3),
        "ends_seconds": None if opened is None else round(max(0.0, ended - opened), 3),
        "rows_per_second": round(rows / wall) if wall else None,
        "peak_memory_mb": max((round(b["memory_mb"]) for b in mine if b["memory_mb"]), default=None),
    }


def waiting_pairs(notes: Iterable[Note]) -> int:
    """Pairs that somebody has to decide on; a dry run only lists them."""
    found = (note.facts for note in notes if note.code == "duplicates_found")
    return sum(facts["pending"] + facts["again"] for facts in found)


def _next_steps(
    run: Mapping[str, Any] | None,
    failed_tasks: Sequence[str],
    failed_checks: Sequence[Mapping[str, Any]],
    errors: Sequence[Mapping[str, Any]],
    waiting: tuple[int, int],
) -> list[str]:
    # The latest: what failed before it may have been mended, and its task cleared.
    causes = [f"[{line['code']}] {line['next_step']}" for line in errors if line["code"] != "RUN_STOPPED"][
        -1:
    ]
    if run is None:
        return ["Nothing was read or written. The first failed task's log ends with what to do.", *causes]
    if failed_checks:
        return [
            "Look at the failed checks below. migration.differences names every row and column that differs.",
            "Once the cause is known, trigger mdw_incremental_migration with repair: it loads what differs again.",
            *([_FOREIGN] if any(check["name"] == "foreign_writes" for check in failed_checks) else []),
        ]
    if failed_tasks:
        return [
            f"Open the log of {failed_tasks[0]}: its last lines say what to do.",
            *causes,
            "Then clear only the failed tasks of this run: finished batches are not done again. Or trigger a new run.",
        ]
    if run["type"] == "validation":
        return ["Nothing: the target is what the source demands, as far as was looked (see what was not)."]
    if run["dry_run"]:
        return ["Nothing was written to the business tables. Trigger again with dry_run off to do it."]
    return _after_success(*waiting)


def _waiting(notes: Iterable[Note], findings: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Pairs that wait for a decision, and rows in quarantine."""
    return waiting_pairs(notes), sum(line["rows"] for line in findings if line["kind"] == "quarantine")


def _after_success(pairs: int, rows: int) -> list[str]:
    steps = (
        [f"Decide on {pairs:,} doubtful pairs of patients: docs/reviewing-duplicates.md."] if pairs else []
    )
    if rows:
        steps.append(f"Look at the {rows:,} rows in quarantine; the next run retries them by itself.")
    return steps or ["Nothing has to be done: no row is in quarantine, no pair waits for a decision."]


def headline(report: Mapping[str, Any]) -> str:
    """One line: what kind of run, how it ended."""
    mode = f"{report['mode'].upper()} {report['status']}"
    if report["type"] is None:
        return f"{mode} before it was opened: nothing was read or written"
    rows, read = (sum(entity[name] for entity in report["entities"]) for name in ("source_rows", "read"))
    part = f"{read:,} of " if report["type"] == "incremental" else ""
    checks = report["checks"]
    passed = f"{checks['passed']} of {checks['passed'] + checks['failed'] + checks['warned']} checks passed"
    moved = (
        f": {part}{rows:,} rows of {len(report['entities'])} entities"
        if report["mode"] != "validation"
        else ""
    )
    return f"{mode}{moved} in {report['seconds']:,.0f} s, {passed}, {checks['failed']} failed"
