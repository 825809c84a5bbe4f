"""Rows gone from the source become deleted rows of the target, come back with the source, and are never removed."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest

from include.core.ids import target_id
from include.entities import ENTITIES
from plugins.hooks.deletions import Deletions
from tests.hooks.loading import Target, case, merged, patient, practice, profile, project

RUN = "run-1"


def _find(target: Target, entity: str, keys: Sequence[str], *, mark: bool) -> tuple[int, int]:
    with target.connection.transaction():
        deletions = Deletions(target.connection, ENTITIES[entity], RUN)
        found = deletions.find([pa.array(keys, pa.string())])
        if mark:
            deletions.mark()
    return found


def _deleted(target: Target, entity: str) -> int:
    row = target.connection.execute(
        f"SELECT count(*) FROM public.{entity} WHERE deleted_at IS NOT NULL"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_finding_writes_nothing(target: Target) -> None:
    target.load("practices", [practice(1), practice(2)], run=RUN)
    assert _find(target, "practices", ["1"], mark=False) == (1, 2)
    assert target.states("practices") == {"1": "live", "2": "live"}
    assert _deleted(target, "practices") == 0


def test_gone_rows_are_marked_once_and_come_back(target: Target) -> None:
    target.load("practices", [practice(1), practice(2)], run=RUN)
    assert _find(target, "practices", ["1"], mark=True) == (1, 2)
    assert target.states("practices") == {"1": "live", "2": "deleted"}
    assert _deleted(target, "practices") == 1
    assert _find(target, "practices", ["1"], mark=True) == (0, 1)
    assert target.load("practices", [practice(1), practice(2)], run=RUN).updated == 1
    assert target.states("practices") == {"1": "live", "2": "live"}
    assert _deleted(target, "practices") == 0


def test_children_of_a_deleted_parent_go_to_quarantine_and_return(target: Target) -> None:
    target.load("patients", [patient(1), patient(2)], run=RUN)
    target.load("cases", [case(10, 1), case(20, 2)], run=RUN)
    _find(target, "patients", ["1"], mark=True)
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
    _find(target, "profiles", [], mark=True)
    assert target.load("projects", [owned], run=RUN).updated == 1
    row = target.connection.execute("SELECT creator_id FROM public.projects").fetchone()
    assert row == (None,)


def test_a_deleted_merged_row_ends_its_merge(target: Target) -> None:
    target.load("patients", [patient(1)], run=RUN)
    target.load("patients", [merged(2, 1)], run=RUN)
    _find(target, "patients", ["1"], mark=True)
    open_merges = target.connection.execute("SELECT count(*) FROM migration.merges WHERE undone_at IS NULL")
    assert open_merges.fetchone() == (0,)
    assert target.states("patients") == {"1": "live", "2": "deleted"}


def test_a_quarantined_row_that_is_gone_needs_no_repair(target: Target) -> None:
    target.load("cases", [case(10, 99)], run=RUN)
    assert target.states("cases") == {"10": "quarantined"}
    _find(target, "cases", [], mark=True)
    row = target.connection.execute("SELECT status FROM migration.quarantine").fetchone()
    assert row == ("waived",)


def test_a_dry_run_sees_children_of_rows_that_will_be_gone(target: Target) -> None:
    target.load("patients", [patient(1), patient(2)], run=RUN)
    target.load("cases", [case(10, 1), case(20, 2)], run=RUN)
    with target.connection.transaction():
        deletions = Deletions(target.connection, ENTITIES["patients"], RUN)
        deletions.find([pa.array(["1"])])
        deletions.plan()
    fates = target.load("cases", [case(10, 1), case(20, 2)], run=RUN, dry_run=True)
    assert (fates.unchanged, fates.rejected) == (1, 1)
    assert target.states("cases") == {"10": "live", "20": "live"}


@pytest.mark.parametrize("keys", [["1", ""], ["1"]])
def test_rows_without_a_key_do_not_disturb(target: Target, keys: list[str]) -> None:
    target.load("practices", [practice(1)], run=RUN)
    assert _find(target, "practices", keys, mark=False) == (0, 1)
