"""Deduplication compares nobody where nobody changed, unless decisions may still wait for being applied."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import psycopg
import pytest

from include.core.errors import MigrationError
from include.matching.deduplicate import compare
from plugins.hooks.batch_loader import BatchLoader, LoadBatch
from plugins.hooks.merging import unmerge
from plugins.hooks.review import Decision, Review
from plugins.hooks.target_postgres import PostgresTarget
from plugins.operators import deduplicate as step
from tests.incremental.runner import Outcome
from tests.incremental.source import NOT_TWIN_OF_3, START, TRIPLET, TWIN_OF_1, Office, Patient, User
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


def test_new_and_changed_patients_alone_are_compared_with_everyone(world: World) -> None:
    """And as several tasks that share the work; fresh() compares all with all in one."""
    Patient.objects.filter(pk=NOT_TWIN_OF_3).update(birthdate=Patient.objects.get(pk=3).birthdate)
    with patch.object(step, "compare", wraps=compare) as sharing:
        assert compared(world, world.night(match_shares=3).raise_errors())
    asked = [(call.kwargs["share"], call.kwargs["changed"].to_pylist()) for call in sharing.call_args_list]
    assert sorted(asked) == [((share, 3), [str(NOT_TWIN_OF_3)]) for share in range(3)]
    assert survivor(world, NOT_TWIN_OF_3) == 3
    assert world.differences() == []


def test_other_thresholds_compare_anew(world: World) -> None:
    assert compared(world, world.night(merge_at=1.0).raise_errors())
    assert world.read(_MERGES) == []


def test_a_population_that_grew_by_a_fifth_is_learnt_anew(world: World) -> None:
    before = world.read("SELECT model, run_id FROM migration.match_models")
    for number in range(1, 16):
        user = User.objects.create(
            username=f"new{number}", first_name=f"Nova{number}", last_name="Quist", date_joined=START
        )
        Patient.objects.create(
            user=user, sex=1, suffix="", schemes="{}", status=1, archived=False, suspended=False
        )
    night = world.night().raise_errors()
    assert world.read("SELECT run_id FROM migration.match_models") == [(night.run_id,)] != [before[0][1:]]
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


def decide(world: World, left: int, right: int, decision: str) -> None:
    """As a person does."""
    with psycopg.connect(world.databases.target, autocommit=True) as connection:
        said = Decision(str(left), str(right), decision, "Eva", "looked at the file", "line 1")
        assert Review(PostgresTarget(connection), "patients").decide([said])[decision] == 1


def status(world: World, left: int, right: int) -> tuple[Any, ...]:
    """Of a pair, and whether it is asked again."""
    found = world.read(
        "SELECT status, asked_again_at IS NOT NULL FROM migration.duplicate_pairs"
        f" WHERE (left_legacy_id, right_legacy_id) = ('{left}', '{right}')"
    )
    return found[0] if found else ()


def survivor(world: World, key: int) -> int | None:
    """Legacy id of the row that a patient is merged into."""
    ((found,),) = world.read(
        "SELECT s.legacy_patient_id FROM public.patients t LEFT JOIN public.patients s ON s.id = t.merged_into"
        f" WHERE t.legacy_patient_id = {key}"
    )
    return None if found is None else int(found)


class TestPeople:
    def test_who_is_rejected_is_parted_the_next_night_and_stays_so(self, world: World) -> None:
        assert (survivor(world, TWIN_OF_1), status(world, 1, TWIN_OF_1)) == (1, ("auto_merged", False))
        decide(world, 1, TWIN_OF_1, "rejected")
        assert compared(world, world.night().raise_errors())
        assert survivor(world, TWIN_OF_1) is None
        assert world.differences() == []
        assert not compared(world, world.night().raise_errors())
        world.full().raise_errors()
        assert (survivor(world, TWIN_OF_1), status(world, 1, TWIN_OF_1)) == (None, ("rejected", False))

    def test_who_is_confirmed_is_merged_whatever_the_score(self, world: World) -> None:
        with psycopg.connect(world.databases.target) as connection:
            connection.execute(
                "SELECT migration.decide('patients', '5', '8', 'confirmed', 'Eva', 'the same')"
            )
        world.night().raise_errors()
        assert {survivor(world, 5), survivor(world, 8)} in ({8, None}, {5, None})
        assert world.differences() == []

    def test_a_decision_that_is_taken_back_counts_no_more(self, world: World) -> None:
        decide(world, 1, TWIN_OF_1, "rejected")
        world.night().raise_errors()
        decide(world, 1, TWIN_OF_1, "pending")
        assert compared(world, world.night().raise_errors())
        assert (survivor(world, TWIN_OF_1), status(world, 1, TWIN_OF_1)) == (1, ("auto_merged", False))
        assert world.differences() == []

    def test_a_decided_pair_is_asked_again_when_one_of_its_rows_changed(self, world: World) -> None:
        decide(world, 1, TWIN_OF_1, "rejected")
        Patient.objects.filter(pk=1).update(updated_at=START, status=3)
        world.night().raise_errors()
        assert status(world, 1, TWIN_OF_1) == ("rejected", False)
        Patient.objects.filter(pk=1).update(suffix="Jr")
        world.night().raise_errors()
        assert (survivor(world, TWIN_OF_1), status(world, 1, TWIN_OF_1)) == (None, ("rejected", True))
        decide(world, 1, TWIN_OF_1, "confirmed")
        world.night().raise_errors()
        assert (survivor(world, TWIN_OF_1), status(world, 1, TWIN_OF_1)) == (1, ("confirmed", False))
        assert world.differences() == []

    def test_what_contradicts_is_not_merged_and_named(self, world: World) -> None:
        with psycopg.connect(world.databases.target) as connection:
            for left, right, decision in ((5, 8, "confirmed"), (8, 11, "confirmed"), (5, 11, "rejected")):
                connection.execute(
                    "SELECT migration.decide('patients', %s, %s, %s, 'Eva', 'said so')",
                    [str(left), str(right), decision],
                )
        night = world.night().raise_errors()
        assert "decisions_contradict" in world.notes(night)
        merged = [key for key in (5, 8, 11) if survivor(world, key) is not None]
        assert len(merged) == 1
        assert {survivor(world, 5), 5} & {survivor(world, 11), 11} <= {None}
        assert world.differences() == []

    def test_an_undone_merge_leaves_nothing_to_do_to_the_next_night(self, world: World) -> None:
        survivor_of_triplet = survivor(world, TRIPLET)
        assert survivor_of_triplet is not None
        with psycopg.connect(world.databases.target, autocommit=True) as connection:
            unmerge(PostgresTarget(connection), "patients", str(TRIPLET), "Eva", "cousins")
        after = world.read("SELECT to_jsonb(t) FROM public.patients t ORDER BY t.id")
        world.night().raise_errors()
        assert world.read("SELECT to_jsonb(t) FROM public.patients t ORDER BY t.id") == after
        assert survivor(world, TRIPLET) is None
        assert status(world, survivor_of_triplet, TRIPLET) == ("rejected", False)
        assert world.differences() == []
