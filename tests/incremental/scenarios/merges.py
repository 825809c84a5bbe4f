"""Merges that arise, dissolve or turn around: children that did not change belong to another patient then."""

from __future__ import annotations

from datetime import date, timedelta

from tests.incremental.scenarios import Steps, arrives, scenario, state_of
from tests.incremental.source import (
    NEWER_TWIN_OF_4,
    NOT_TWIN_OF_3,
    PEOPLE,
    START,
    TRIPLET,
    TRIPLET_SURVIVOR,
    TWIN_OF_1,
    Instruction,
    Patient,
    State,
    User,
)
from tests.incremental.world import World


def _patient_of(*orders: int) -> str:
    keys = ", ".join(map(str, orders))
    return (
        "SELECT legacy_patient_id::int FROM public.cases c JOIN public.patients p ON p.id = c.patient_id"
        f" WHERE legacy_instruction_id IN ({keys}) ORDER BY legacy_instruction_id"
    )


def _user(patient: int) -> int:
    return int(Patient.objects.get(pk=patient).user_id)


@scenario
def merge_dissolves_by_the_merged_row(world: World) -> Steps:
    User.objects.filter(pk=_user(TWIN_OF_1)).update(first_name="Zebulon", last_name="Quintanilla")
    yield arrives(_patient_of(1, TWIN_OF_1), (1,), (TWIN_OF_1,))


@scenario
def merge_dissolves_by_the_survivor(world: World) -> Steps:
    """Nothing is written to the merged patient or its orders."""
    Patient.objects.filter(pk=1).update(birthdate=date(1950, 5, 5))
    yield arrives(_patient_of(1, TWIN_OF_1), (1,), (TWIN_OF_1,))


@scenario
def merge_arises_by_an_edit(world: World) -> Steps:
    """Of the survivor, which has an office: nothing is written to the one that is merged into it."""
    Patient.objects.filter(pk=3).update(birthdate=Patient.objects.get(pk=NOT_TWIN_OF_3).birthdate)
    yield arrives(state_of("patients", 3, NOT_TWIN_OF_3), ("3", "live"), (str(NOT_TWIN_OF_3), "merged"))


@scenario
def merge_arises_by_an_insert(world: World) -> Steps:
    """The new record is the fuller one: who was there before is merged into it, with orders and all."""
    twin = Patient.objects.get(pk=20)
    user = User.objects.create(
        username="again",
        first_name=twin.user.first_name,
        last_name=twin.user.last_name,
        email="again@mail.example",
    )
    new = Patient.objects.create(
        user=user,
        birthdate=twin.birthdate,
        sex=twin.sex,
        suffix=twin.suffix,
        status=1,
        archived=False,
        suspended=False,
    )
    yield arrives(_patient_of(20, 65), (new.pk,), (new.pk,))


@scenario
def survivor_changes_by_a_stamp(world: World) -> Steps:
    """Of equally complete records the one changed last survives."""
    Patient.objects.filter(pk=4).update(updated_at=START + timedelta(days=999))
    yield arrives(_patient_of(4, NEWER_TWIN_OF_4, 49), (4,), (4,), (4,))


@scenario
def survivor_of_a_deleted_order_changes(world: World) -> Steps:
    """The row that is marked as deleted keeps naming the survivor of its time."""
    Instruction.objects.get(pk=49).delete()
    yield arrives(state_of("cases", 49), ("49", "deleted"))
    Patient.objects.filter(pk=4).update(updated_at=START + timedelta(days=999))
    yield arrives(_patient_of(4, NEWER_TWIN_OF_4), (4,), (4,))


@scenario
def survivor_changes_by_an_address(world: World) -> Steps:
    User.objects.filter(pk=_user(1)).update(email="")
    User.objects.filter(pk=_user(TWIN_OF_1)).update(email="new@mail.example")
    yield arrives(_patient_of(1, TWIN_OF_1, 46), (TWIN_OF_1,), (TWIN_OF_1,), (TWIN_OF_1,))


@scenario
def one_of_three_leaves(world: World) -> Steps:
    Patient.objects.filter(pk=TRIPLET).update(sex=2)
    yield arrives(
        _patient_of(2, TRIPLET_SURVIVOR, TRIPLET), (TRIPLET_SURVIVOR,), (TRIPLET_SURVIVOR,), (TRIPLET,)
    )


@scenario
def survivor_of_three_leaves(world: World) -> Steps:
    User.objects.filter(pk=_user(TRIPLET_SURVIVOR)).update(first_name="Wolfgang")
    yield arrives(
        state_of("patients", TRIPLET_SURVIVOR, TRIPLET, 2),
        ("2", "merged"),
        (str(TRIPLET_SURVIVOR), "live"),
        (str(TRIPLET), "live"),
    )


@scenario
def merge_arises_and_dissolves_again(world: World) -> Steps:
    before = Patient.objects.get(pk=NOT_TWIN_OF_3).birthdate
    Patient.objects.filter(pk=NOT_TWIN_OF_3).update(birthdate=Patient.objects.get(pk=3).birthdate)
    yield arrives(_patient_of(3, NOT_TWIN_OF_3), (3,), (3,), compared=False)
    Patient.objects.filter(pk=NOT_TWIN_OF_3).update(birthdate=before)
    yield arrives(_patient_of(3, NOT_TWIN_OF_3), (3,), (NOT_TWIN_OF_3,))


@scenario
def new_order_of_a_merged_patient(world: World) -> Steps:
    """The patient does not change: what it is merged into is known from an earlier night."""
    order = Instruction.objects.create(patient_id=TWIN_OF_1, course_id=1, status=1, deleted=False, suffix="")
    State.objects.create(status=11, on=True, changed_at=START, instruction=order)
    yield arrives(_patient_of(order.pk), (1,))


@scenario
def order_moves_to_a_merged_patient(world: World) -> Steps:
    Instruction.objects.filter(pk=22).update(patient_id=TRIPLET)
    yield arrives(_patient_of(22), (TRIPLET_SURVIVOR,))


@scenario
def merged_row_changes_otherwise(world: World) -> Steps:
    Patient.objects.filter(pk=TRIPLET).update(suffix="77TT", office_id=1)
    yield arrives(
        f"SELECT suffix, merged_into IS NULL FROM public.patients WHERE legacy_patient_id = {TRIPLET}",
        ("77TT", False),
    )


@scenario
def pair_to_review_arises(world: World) -> Steps:
    """Alike, but not sure: nothing merges, the pair waits for a person; then it is none any more."""
    twin = Patient.objects.get(pk=PEOPLE)
    User.objects.filter(pk=_user(39)).update(first_name=twin.user.first_name, last_name=twin.user.last_name)
    Patient.objects.filter(pk=39).update(
        birthdate=date(twin.birthdate.year, twin.birthdate.month, twin.birthdate.day % 28 + 1), sex=twin.sex
    )
    query = f"SELECT status FROM migration.duplicate_pairs WHERE left_legacy_id = '39' AND right_legacy_id = '{PEOPLE}'"
    yield arrives(query, ("pending",))
    User.objects.filter(pk=_user(39)).update(first_name="Zebulon", last_name="Featherstonehaugh")
    yield arrives(query, ("stale",))
