"""The report of a run, from tracked facts."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from include.core.notes import Note
from include.core.report import build, headline
from include.core.report_chart import fates, timeline
from include.core.report_html import as_html
from include.core.report_tables import FATES
from include.core.report_text import as_text

START = datetime(2024, 5, 6, 22, 0, 0, tzinfo=UTC)
RUN = {
    "run_id": "manual__1",
    "dry_run": False,
    "type": "full",
    "scope": "everything",
    "started_at": START,
    "parameters": {"batch_size": 100, "entities": []},
    "mapping_version": "1-abcdef01",
    "code_version": "c0ffee",
}
HOSTILE = "<script>alert('x')</script>&\"'"


def batch(
    entity: str, phase: str, rows: int, *, seconds: float | None = 2.0, ends: int = 10, **fates: int
) -> dict[str, Any]:
    """A row of migration.batches, recorded so many seconds after the start."""
    return {
        **dict.fromkeys((*FATES, "deleted"), 0),
        **fates,
        "entity": entity,
        "phase": phase,
        "extracted": rows,
        "seconds": seconds,
        "memory_mb": 100.4 if seconds else None,
        "recorded_at": START + timedelta(seconds=ends),
    }


def check(name: str, *, passed: bool, severity: str = "fail", keys: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        **{"name": name, "entity": "patients", "level": 2, "severity": severity, "passed": passed},
        **{"expected": "0", "found": "0" if passed else "3", "sample_keys": [*keys]},
    }


BATCHES = [
    batch("patients", "extraction", 300, seconds=4, ends=4),
    batch("patients", "loading", 200, inserted=150, merged=10, rejected=40, ends=10),
    batch("patients", "loading", 100, updated=30, unchanged=69, skipped=1, ends=12),
    batch("practices", "loading", 7, inserted=7, seconds=None, ends=12),
]


def report(**changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "run": RUN,
        "batches": BATCHES,
        "checks": [check("counts", passed=True)],
        "findings": [],
        "failed_tasks": [],
        "order": ["practices", "patients", "cases"],
        "now": START + timedelta(seconds=90),
    }
    return build(**{**facts, **changes})


def test_fates_of_an_entity_are_the_sums_of_its_load_batches_and_add_up() -> None:
    practices, patients = report()["entities"]
    assert (practices["entity"], patients["entity"]) == ("practices", "patients")
    assert {fate: patients[fate] for fate in FATES} == {
        "inserted": 150,
        "updated": 30,
        "unchanged": 69,
        "merged": 10,
        "rejected": 40,
        "skipped": 1,
    }
    for entity in (practices, patients):
        assert entity["source_rows"] == sum(entity[fate] for fate in FATES)
    assert (patients["seconds"], patients["rows_per_second"]) == (4.0, 75)
    assert (practices["seconds"], practices["rows_per_second"]) == (0, None)


def test_an_incremental_run_tells_what_it_read_of_what_is_there_and_what_followed() -> None:
    batches = [*BATCHES, batch("patients", "references", 5, updated=4, rejected=1)]
    made = report(
        run={**RUN, "type": "incremental"}, batches=batches, source_rows={"practices": 70, "patients": 3_000}
    )
    practices, patients = made["entities"]
    assert (practices["source_rows"], practices["read"], practices["followed"]) == (70, 7, 0)
    assert (patients["source_rows"], patients["read"], patients["followed"]) == (3_000, 300, 5)
    assert headline(made).startswith("REAL RUN completed: 307 of 3,070 rows of 2 entities")


def test_entities_that_loaded_nothing_are_left_out() -> None:
    assert [entity["entity"] for entity in report(batches=BATCHES[:1])["entities"]] == []


def test_a_phase_lasts_from_its_first_batch_to_its_last() -> None:
    extraction, loading = report()["phases"]
    assert (extraction["phase"], extraction["rows"], extraction["wall_seconds"]) == ("extraction", 300, 4.0)
    assert (loading["batches"], loading["rows"]) == (3, 307)
    assert loading["wall_seconds"] == 4.0  # from 8 to 12 seconds after the start
    assert (loading["work_seconds"], loading["rows_per_second"]) == (4.0, 77)
    assert loading["peak_memory_mb"] == 100


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({}, "REAL RUN completed: 307 rows of 2 entities"),
        ({"run": {**RUN, "dry_run": True}}, "DRY RUN completed: 307 rows"),
        ({"failed_tasks": ["loading.cases"]}, "REAL RUN failed: 307 rows"),
        (
            {"run": None, "batches": [], "checks": [], "failed_tasks": ["a"]},
            "RUN failed before it was opened: nothing was read or written",
        ),
    ],
)
def test_the_first_line_says_which_kind_of_run_and_how_it_ended(changes: dict[str, Any], begins: str) -> None:
    made = report(**changes)
    assert headline(made).startswith(begins)
    assert as_text(made).splitlines()[0] == headline(made)


def test_a_run_that_was_never_opened_is_not_called_completed_or_real() -> None:
    made = report(run=None, batches=[], checks=[], failed_tasks=[])
    assert (made["status"], made["mode"], made["run_id"], made["parameters"]) == ("failed", "run", None, {})
    assert made["next_steps"] == [
        "Nothing was read or written. The first failed task's log ends with what to do."
    ]
    assert as_html(made)


def test_checks_are_counted_by_what_they_mean() -> None:
    checks = [
        check("a", passed=True),
        check("b", passed=False, keys=("7", "8")),
        check("c", passed=False, severity="warn"),
    ]
    made = report(checks=checks, failed_tasks=["validation.patients"])
    counted = {name: made["checks"][name] for name in ("passed", "failed", "warned")}
    assert counted == {"passed": 1, "failed": 1, "warned": 1}
    assert [c["name"] for c in made["checks"]["not_passed"]] == ["b", "c"]
    assert headline(made).endswith("1 of 3 checks passed, 1 failed")
    text = as_text(made)
    assert "check b of patients (fail): expected 0, found 3, e.g. 7, 8" in text
    assert "check c of patients (warn): expected 0, found 3, e.g. none" in text
    assert "failed checks" in made["next_steps"][0]


def test_levels_and_what_was_not_looked_at_are_told() -> None:
    made = report(checks=[check("a", passed=True), check("b", passed=False)])
    text, page = as_text(made), as_html(made)
    assert re.search(r"2 +key sets +2 +1 +1 +0", text)
    for form in (text, page):
        assert "Content of rows that are deleted in the source" in form
    assert "Not looked at" not in as_text(report(checks=[]))


def test_a_validation_moves_nothing_and_says_so() -> None:
    made = report(run={**RUN, "type": "validation", "dry_run": True}, batches=[])
    assert headline(made) == "VALIDATION completed in 90 s, 1 of 1 checks passed, 0 failed"
    assert "the target is what the source demands" in made["next_steps"][0]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "quarantine"),
        ({"run": {**RUN, "dry_run": True}}, "Trigger again with dry_run off"),
        ({"failed_tasks": ["loading.cases", "b"]}, "log of loading.cases"),
    ],
)
def test_every_ending_has_a_next_step_in_every_form(changes: dict[str, Any], word: str) -> None:
    made = report(**changes)
    assert word in made["next_steps"][0]
    assert f"next: {made['next_steps'][0]}" in as_text(made)
    assert made["next_steps"][0] in as_html(made)


def test_a_repair_of_what_others_wrote_says_what_it_takes() -> None:
    steps = {
        name: report(checks=[check(name, passed=False)])["next_steps"]
        for name in ("content", "foreign_writes")
    }
    assert all("repair" in made[1] for made in steps.values())
    assert "overwrite or keep" in steps["foreign_writes"][2]
    assert len(steps["content"]) == 2


def test_the_text_is_a_table_with_one_line_per_entity() -> None:
    lines = as_text(report(findings=[("patients", "quarantine", "parent_missing", 40)])).splitlines()
    [header] = [line for line in lines if line.startswith("entity ") and "inserted" in line]
    [patients] = [line for line in lines if line.startswith("patients ") and "150" in line]
    place = header.index("inserted") + len("inserted")
    assert patients[:place].endswith("150")
    assert any(re.fullmatch(r"patients +quarantine +parent_missing +40", line) for line in lines)


def test_findings_are_named() -> None:
    made = report(findings=[("patients", "finding", "name_empty", 1_234)])
    assert made["findings"] == [
        {"entity": "patients", "kind": "finding", "code": "name_empty", "rows": 1_234}
    ]
    assert "1,234" in as_text(made)
    assert "1,234" in as_html(made)


NOTES = [Note("initial_full", {}), Note("source_restored", {"reason": "another server"})]


def test_notes_come_before_the_rows_and_warnings_first() -> None:
    made = report(notes=NOTES)
    assert [(note["code"], note["severity"]) for note in made["notes"]] == [
        ("source_restored", "warn"),
        ("initial_full", "info"),
    ]
    assert made["notes"][0]["facts"] == {"reason": "another server"}
    lines = as_text(made).splitlines()
    assert lines[2:5] == ["Notes", f"  warn: {NOTES[1].text}", f"  info: {NOTES[0].text}"]
    page = as_html(made)
    assert page.index("Notes") < page.index("another server") < page.index("Rows and their fates")


def test_without_notes_the_summary_says_nothing_of_them() -> None:
    made = report()
    assert made["notes"] == []
    assert "Notes" not in as_text(made)


class Tags(HTMLParser):
    """Which tags a page has, and whether they close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_escapes_every_value() -> None:
    made = report(
        run={**RUN, "run_id": HOSTILE, "parameters": {HOSTILE: HOSTILE}, "mapping_version": HOSTILE},
        checks=[{**check(HOSTILE, passed=False, keys=(HOSTILE,)), "found": HOSTILE, "expected": HOSTILE}],
        findings=[(HOSTILE, HOSTILE, HOSTILE, 1)],
        failed_tasks=[HOSTILE],
        batches=[{**BATCHES[1], "entity": HOSTILE}],
        order=[HOSTILE],
        notes=[Note("source_restored", {"reason": HOSTILE})],
    )
    page = as_html(made)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.seen
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 11


def test_a_report_without_anything_is_written_in_every_form() -> None:
    made = report(batches=[], checks=[], order=[])
    assert "None." in as_html(made)
    assert as_text(made).startswith("REAL RUN completed: 0 rows of 0 entities")


ESTIMATE = {
    "based_on": None,
    "recorded_at": "2024-05-06T22:00:01+00:00",
    "phases": [
        {"phase": "extraction", "rows": 300, "seconds": 2.0},
        {"phase": "validation", "rows": 300, "seconds": 3.0},
    ],
    "other_seconds": 15.0,
    "total_seconds": 20.0,
}


def test_an_estimate_is_held_against_reality() -> None:
    batches = [*BATCHES, batch("cases", "ai_enhancement", 9, seconds=30, ends=50)]
    made = report(batches=batches, estimate=ESTIMATE)["estimate"]
    lines = {line.pop("phase"): line for line in made["phases"]}
    assert lines["extraction"] == {
        "rows": 300,
        "estimated_seconds": 2.0,
        "measured_seconds": 4.0,
        "measured_by_estimated": 2.0,
    }
    assert lines["validation"]["measured_seconds"] is None  # the run did not come so far
    # 90 seconds less the 30 of the provider, whose answers nobody can foresee.
    assert lines["all but embeddings"]["measured_seconds"] == 60.0
    for form in (as_text, as_html):
        assert "documented rates, for no complete run came before" in form(report(estimate=ESTIMATE))
    assert report()["estimate"] == {}


def test_changed_parameters_are_marked() -> None:
    made = report(defaults={"batch_size": 25_000, "entities": ()})
    assert made["changed_parameters"] == {"batch_size": 25_000}
    page = as_html(made)
    assert re.search(r'<tr class="marked"><th scope="row">batch_size</th><td>100</td><td>25000</td>', page)
    assert '<tr><th scope="row">entities</th><td>[]</td><td>the same</td>' in page


def test_codes_come_with_their_meaning_once() -> None:
    error = {"task": "loading.cases", "code": "TARGET_UNREACHABLE", "next_step": "Check it."}
    made = report(
        findings=[("patients", "quarantine", "parent_missing", 4), ("cases", "finding", "parent_missing", 1)],
        errors=[error, error],
        failed_tasks=["loading.cases"],
    )
    assert [line["code"] for line in made["meanings"]] == ["TARGET_UNREACHABLE", "parent_missing"]
    assert len(made["errors"]) == 1
    assert made["next_steps"][1] == "[TARGET_UNREACHABLE] Check it."
    assert "The row this one belongs to is not in the target." in as_html(made)


def test_what_waits_is_the_next_step() -> None:
    note = Note("duplicates_found", {"entity": "patients", "merged": 2, "pending": 6, "again": 1})
    made = report(notes=[note], findings=[("patients", "quarantine", "key_missing", 4)])
    assert made["next_steps"] == [
        "Decide on 7 doubtful pairs of patients: docs/reviewing-duplicates.md.",
        "Look at the 4 rows in quarantine; the next run retries them by itself.",
    ]


def test_versions_are_those_of_code_and_platform() -> None:
    made = report(platform={"airflow": "3.3.2", "target": "PostgreSQL 18.1"})
    assert made["versions"] == {
        "mapping": "1-abcdef01",
        "code": "c0ffee",
        "airflow": "3.3.2",
        "target": "PostgreSQL 18.1",
    }


def test_the_page_needs_nothing_from_elsewhere_and_has_words_for_its_charts() -> None:
    page = as_html(report(estimate=ESTIMATE))
    assert not re.search(r"(src|href)=|url\(|@import|<script|https?:", page)
    assert (
        'aria-label="patients: inserted 150, updated 30, unchanged 69, merged 10, rejected 40, skipped 1"'
        in page
    )
    assert "Phases on a time axis: extraction from 0.0 s to 4.0 s; loading from 8.0 s to 12.0 s" in page
    assert "@media print" in page
    assert "prefers-color-scheme: dark" in page
    assert page.count("<table>") == page.count("<caption>") == page.count("<thead>")
    assert len(re.findall("<th(?! scope=)[ >]", page)) == 0


class TestCharts:
    def test_a_bar_is_as_long_as_its_phase(self) -> None:
        phases = report()["phases"]
        chart = timeline(phases, 40.0)
        assert chart is not None
        assert [(bar.name, bar.left, bar.width) for bar in chart.bars] == [
            ("extraction", 0.0, 10.0),
            ("loading", 20.0, 10.0),
        ]
        assert chart.ticks[1] == (12.5, "5 s")
        assert len(chart.ticks) == 9

    def test_nothing_leaves_the_picture(self) -> None:
        late = {"phase": "loading", "begins_seconds": 10.0, "ends_seconds": 10.0}
        chart = timeline([late], 5.0)
        assert chart is not None
        (bar,) = chart.bars
        assert bar.left + bar.width <= 100
        assert bar.width > 0

    def test_without_a_time_there_is_no_chart(self) -> None:
        assert timeline([], 5.0) is None
        assert timeline(report(run=None)["phases"], None) is None

    def test_fates_fill_their_bar(self) -> None:
        bars = fates(report()["entities"][1])
        assert sum(bar.width for bar in bars) == pytest.approx(100)
        assert [bar.left for bar in bars] == sorted(bar.left for bar in bars)
        assert fates(dict.fromkeys(FATES, 0)) == ()
