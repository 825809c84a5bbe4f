"""Changes by chance, of the kinds that the real source sees, on random rows."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import connection

from tests.incremental.source import (
    NOWHERE,
    START,
    Category,
    Instruction,
    Office,
    Patient,
    Plan,
    Project,
    State,
    Task,
    Template,
    User,
)

Change = Callable[[random.Random], None]
_CHANGES: list[Change] = []


def some_changes(chance: random.Random, number: int) -> list[str]:
    """Make so many changes; returns their names."""
    names = []
    for _ in range(number):
        change = chance.choice(_CHANGES)
        change(chance)
        names.append(change.__name__)
    return names


def _change(change: Change) -> Change:
    _CHANGES.append(change)
    return change


def _one(chance: random.Random, rows: Any) -> Any:
    """A random row; there are always some left."""
    return chance.choice(list(rows.order_by("pk")))


def _key(chance: random.Random, rows: Any) -> int:
    """A random key, rarely one that is not there."""
    return NOWHERE if chance.random() < 0.15 else int(_one(chance, rows).pk)


def _stamp(chance: random.Random) -> Any:
    return START + timedelta(minutes=chance.randrange(100_000))


@_change
def patient_edited(chance: random.Random) -> None:
    patient = _one(chance, Patient.objects)
    patient.status = chance.choice((1, 2, 4, 10))
    patient.office_id = _key(chance, Office.objects)
    patient.updated_at = chance.choice((None, _stamp(chance)))
    patient.save()


@_change
def person_named_like_another(chance: random.Random) -> None:
    one, other = _one(chance, Patient.objects), _one(chance, Patient.objects)
    Patient.objects.filter(pk=one.pk).update(birthdate=other.birthdate, sex=other.sex)
    User.objects.filter(pk=one.user_id).update(
        first_name=other.user.first_name, last_name=other.user.last_name
    )


@_change
def person_gets_another_name(chance: random.Random) -> None:
    patient = _one(chance, Patient.objects.filter(pk__in=(1, 2, 4, 41, 42, 43, 45, 3, 44, 20)))
    User.objects.filter(pk=patient.user_id).update(last_name=f"Name{chance.randrange(1000)}")


@_change
def patient_deleted(chance: random.Random) -> None:
    _one(chance, Patient.objects.filter(pk__gt=20)).delete()


@_change
def patient_deleted_alone(chance: random.Random) -> None:
    _delete_alone("dispatch_patient", _one(chance, Patient.objects.filter(pk__gt=20)).pk)


@_change
def order_edited(chance: random.Random) -> None:
    order = _one(chance, Instruction.objects)
    order.patient_id = _key(chance, Patient.objects)
    order.submitted_at = _stamp(chance)
    order.save(update_fields=["patient_id", "submitted_at"])


@_change
def orders_added(chance: random.Random) -> None:
    orders = Instruction.objects.bulk_create(
        Instruction(patient_id=_key(chance, Patient.objects), course_id=1, status=1, deleted=False, suffix="")
        for _ in range(2)
    )
    State.objects.bulk_create(
        State(status=11, on=True, changed_at=_stamp(chance), instruction=order) for order in orders
    )


@_change
def order_deleted(chance: random.Random) -> None:
    _one(chance, Instruction.objects).delete()


@_change
def order_deleted_alone(chance: random.Random) -> None:
    _delete_alone("dispatch_instruction", _one(chance, Instruction.objects).pk)


@_change
def missing_order_made(chance: random.Random) -> None:
    Instruction.objects.update_or_create(
        pk=NOWHERE,
        defaults={
            "patient_id": _key(chance, Patient.objects),
            "course_id": 2,
            "status": 2,
            "deleted": False,
            "suffix": "",
        },
    )


@_change
def states_changed(chance: random.Random) -> None:
    states = [_one(chance, State.objects) for _ in range(4)]
    for state in states:
        state.changed_at = _stamp(chance)
        state.instruction_id = _key(chance, Instruction.objects)
    State.objects.bulk_update(states, ["changed_at", "instruction_id"])


@_change
def state_deleted(chance: random.Random) -> None:
    _one(chance, State.objects).delete()


@_change
def plans_exchanged(chance: random.Random) -> None:
    plan = _one(chance, Plan.objects)
    Plan.objects.create(
        instruction_id=_key(chance, Instruction.objects), project_id=plan.project_id, number=0, original=True
    )
    _one(chance, Plan.objects).delete()


@_change
def project_made_and_another_deleted(chance: random.Random) -> None:
    Project.objects.create(
        uid=uuid.UUID(int=chance.getrandbits(128)),
        name="",
        size=1,
        type=chance.choice((0, 3, 10)),
        status=0,
        creator_id=_key(chance, User.objects),
        created_at=_stamp(chance),
        public=False,
    )
    _one(chance, Project.objects).delete()


@_change
def tasks_done(chance: random.Random) -> None:
    task = _one(chance, Task.objects)
    Task.objects.filter(instruction_id=task.instruction_id, pk__lte=task.pk).update(
        checked=True, done_at=_stamp(chance)
    )


@_change
def task_moved(chance: random.Random) -> None:
    task = _one(chance, Task.objects)
    task.template_id = _key(chance, Template.objects)
    task.instruction_id = _key(chance, Instruction.objects)
    task.save()


@_change
def template_moved(chance: random.Random) -> None:
    template = _one(chance, Template.objects)
    template.category = chance.choice([None, *Category.objects.order_by("pk")])
    template.save()
    template.predecessors.set([_one(chance, Template.objects)])
    template.edit_roles.set(chance.sample((1, 2, 3), 2))


@_change
def doctors_of_an_office(chance: random.Random) -> None:
    doctors = chance.sample(list(User.objects.filter(groups=2).order_by("pk")), 2)
    _one(chance, Office.objects).doctors.set(doctors)


@_change
def groups_of_a_user(chance: random.Random) -> None:
    _one(chance, User.objects).groups.set(chance.sample((1, 2, 11), chance.randrange(3)))


def _delete_alone(table: str, key: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table} WHERE id = %s", [key])
