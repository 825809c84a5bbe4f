"""Deduplication compares nobody where nobody changed, unless decisions may still wait for being applied."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest

from include.core.errors import MigrationError
from plugins.hooks.batch_loader import BatchLoader, LoadBatch
from plugins.operators import deduplicate as step
from tests.incremental.runner import Outcome
from tests.incremental.source import NOT_TWIN_OF_3, START, Office, Patient, User
from tests.incremental.world import World

_LOAD, _FOLLOW = BatchLoader.load, BatchLoader.load_affected
_MERGES = "SELECT survivor_id, merged_id FROM migration.merges WHERE undone_at IS NULL ORDER BY 1, 2"


def compared(world: World, night: Outcome) -> bool:
    """Whether a run has compared patients."""
    return bool(
        world.read(
            f"SELECT 1 FROM migration.batches WHERE run_id = '{night.run_id}' AND phase = 'deduplication'"
        )
    )


def test_where_no_patient_changed_decisions_stand(world: World) -> None:
    merges = world.read(_MERGES)
    assert merges
    Office.objects.filter(pk=1).update(name="Renamed")
    assert not compared(world, world.night().raise_errors())
    assert world.read(_MERGES) == merges
    assert world.differences() == []


def test_rows_that_are_read_again_for_something_else_are_no_reason_to_compare(world: World) -> None:
    """A login writes the user's row, which the patient is read from."""
    user = Patient.objects.get(pk=NOT_TWIN_OF_3).user_id
    User.objects.filter(pk=user).update(last_login=START)
    Patient.objects.filter(pk=3).update(status=7)
    night = world.night().raise_errors()
    assert not compared(world, night)
    assert world.read("SELECT status_code FROM public.patients WHERE legacy_patient_id = 3") == [(7,)]
    assert world.differences() == []


def test_a_patient_that_is_gone_is_a_change(world: World) -> None:
    key = Patient.objects.latest("pk").pk
    world.source_sql(
        f"BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM dispatch_patient WHERE id = {key}; COMMIT"
    )
    assert compared(world, world.night().raise_errors())


def test_other_code_compares_anew(world: World) -> None:
    with patch.object(step, "code_version", lambda: "another"):
        assert compared(world, world.night().raise_errors())


def _fail_merged(self: BatchLoader, batch: LoadBatch, attempt: int) -> Any:
    if batch.name.startswith("merged-"):
        raise MigrationError("TARGET_INTERRUPTED", "")
    return _LOAD(self, batch, attempt)


def _fail_following(self: BatchLoader, *arguments: Any) -> Any:
    if self._entity.name == "patients":
        raise MigrationError("TARGET_INTERRUPTED", "")
    return _FOLLOW(self, *arguments)


@pytest.mark.parametrize(
    ("changed", "like", "broken"),
    [
        # Who is merged changed itself, or only the one it is merged into.
        (NOT_TWIN_OF_3, 3, {"load": _fail_merged}),
        (3, NOT_TWIN_OF_3, {"load_affected": _fail_following}),
    ],
)
def test_what_a_failed_night_decided_is_decided_again(
    world: World, changed: int, like: int, broken: dict[str, Any]
) -> None:
    Patient.objects.filter(pk=changed).update(birthdate=Patient.objects.get(pk=like).birthdate)
    with patch.multiple(BatchLoader, **broken):
        assert not world.night().succeeded
    assert compared(world, world.night().raise_errors())
    assert world.differences() == []
