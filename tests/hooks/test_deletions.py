"""Rows gone from the source become deleted rows of the target, come back with the source, and are never removed."""

from __future__ import annotations

from include.core.ids import target_id
from tests.hooks.loading import Target, case, patient, practice, profile, project

BOTH_WAYS = True

RUN = "run-1"


def _deleted(target: Target, entity: str) -> int:
    row = target.connection.execute(
        f"SELECT count(*) FROM public.{entity} WHERE deleted_at IS NOT NULL"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_gone_rows_are_marked_once_and_come_back(target: Target) -> None:
    target.load("practices", [practice(1), practice(2)], run=RUN)
    assert target.delete("practices", "2", "3") == 1
    assert target.states("practices") == {"1": "live", "2": "deleted"}
    assert _deleted(target, "practices") == 1
    assert target.delete("practices", "2") == 0
    assert target.load("practices", [practice(1), practice(2)], run=RUN).updated == 1
    assert target.states("practices") == {"1": "live", "2": "live"}
    assert _deleted(target, "practices") == 0


def test_children_of_a_deleted_parent_go_to_quarantine_and_return(target: Target) -> None:
    target.load("patients", [patient(1), patient(2)], run=RUN)
    target.load("cases", [case(10, 1), case(20, 2)], run=RUN)
    target.delete("patients", "2")
    fates = target.load("cases", [case(10, 1), case(20, 2)], run=RUN)
    assert (fates.unchanged, fates.rejected) == (1, 1)
    assert target.states("cases") == {"10": "live", "20": "quarantined"}
    assert _deleted(target, "cases") == 1  # after a fresh load it would not be there either
    target.load("patients", [patient(1), patient(2)], run=RUN)
    assert target.load("cases", [case(10, 1), case(20, 2)], run=RUN).updated == 1
    assert target.states("cases") == {"10": "live", "20": "live"}
    assert _deleted(target, "cases") == 0


def test_optional_references_to_deleted_rows_are_cleared(target: Target) -> None:
    target.load("profiles", [profile(5)], run=RUN)
    owned = project(1, creator_id=target_id("profiles", "5"))
    target.load("projects", [owned], run=RUN)
    target.delete("profiles", "5")
    assert target.load("projects", [owned], run=RUN).updated == 1
    row = target.connection.execute("SELECT creator_id FROM public.projects").fetchone()
    assert row == (None,)


def test_a_deleted_merged_row_ends_its_merge(target: Target) -> None:
    target.decide(RUN, {2: 1})
    target.load("patients", [patient(1)], run=RUN)
    target.load("patients", [patient(2)], run=RUN)
    assert target.states("patients") == {"1": "live", "2": "merged"}
    target.delete("patients", "2")
    open_merges = target.connection.execute("SELECT count(*) FROM migration.merges WHERE undone_at IS NULL")
    assert open_merges.fetchone() == (0,)
    assert target.states("patients") == {"1": "live", "2": "deleted"}


def test_what_was_remembered_of_a_row_goes_with_it(target: Target) -> None:
    owned = project(1, creator_id=target_id("profiles", "5"))
    target.load("projects", [owned], run=RUN, findings=[("1", "owner_missing", "case_id")])
    for table, rows in (("findings", 2), ("redirects", 1)):
        assert target.all(f"SELECT count(*) FROM migration.{table}") == [(rows,)]
    target.delete("projects", "1")
    for table in ("findings", "redirects"):
        assert target.all(f"SELECT count(*) FROM migration.{table}") == [(0,)]


def test_a_quarantined_row_that_is_gone_needs_no_repair(target: Target) -> None:
    target.load("cases", [case(10, 99)], run=RUN)
    assert target.states("cases") == {"10": "quarantined"}
    target.delete("cases", "10")
    row = target.connection.execute("SELECT status FROM migration.quarantine").fetchone()
    assert row == ("waived",)


def test_a_dry_run_sees_children_of_rows_that_will_be_gone(target: Target) -> None:
    target.load("patients", [patient(1), patient(2)], run=RUN)
    target.load("cases", [case(10, 1), case(20, 2)], run=RUN)
    target.delete("patients", "2", dry_run=True)
    fates = target.load("cases", [case(10, 1), case(20, 2)], run=RUN, dry_run=True)
    assert (fates.unchanged, fates.rejected) == (1, 1)
    assert target.states("cases") == {"10": "live", "20": "live"}
