"""A small legacy database that Django made, and Django's models pointed at one copy of it after another.

Whoever imports this has Django set up, with no database: `using` names one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connections

from tests.end_to_end.legacy_django.fill import configure, install_app, make_tables

if not settings.configured:
    configure("postgresql://nobody@127.0.0.1:9/nothing")
    install_app()

# Models exist only once Django is set up.
from dispatch.models import (
    Category,
    Course,
    Instruction,
    Jaw,
    Office,
    Patient,
    Plan,
    Product,
    Project,
    Role,
    State,
    Task,
    Template,
)
from django.contrib.auth.models import Group, User

__all__ = [
    "Category",
    "Course",
    "Group",
    "Instruction",
    "Jaw",
    "Office",
    "Patient",
    "Plan",
    "Product",
    "Project",
    "Role",
    "State",
    "Task",
    "Template",
    "User",
    "fill",
    "using",
]

START = datetime(2024, 3, 1, 8, 30, tzinfo=UTC)
NOWHERE = 9999
"""A key that no row has."""
OFFICES, DOCTORS, PEOPLE, ORDERS, PROJECTS, TEMPLATES = 5, 6, 40, 70, 60, 10
_FIRST = ("Aaltje", "Bruno", "Chiara", "Dmitri", "Eszter", "Farid", "Gudrun", "Hiroko")
_LAST = ("Vandermeer", "Oduya", "Kowalczyk", "Ibarra", "Lindqvist")

TWIN_OF_1, TRIPLET_SURVIVOR, TRIPLET, NOT_TWIN_OF_3, NEWER_TWIN_OF_4 = 41, 42, 43, 44, 45
"""Patients that were entered again: merged into 1; 2 and 43 merged into 42; another birth date than 3; 4 merged
into 45, which was changed later."""
ORPHAN_ORDER = ORDERS + 1
"""An order whose patient is not there; it has states, tasks and a project."""


@contextmanager
def using(dsn: str) -> Iterator[None]:
    """Django speaks to this database and, at the end, to none."""
    connection, parts = connections["default"], urlsplit(dsn)
    connection.close()
    connection.settings_dict.update(
        HOST=parts.hostname,
        PORT=parts.port,
        NAME=parts.path.removeprefix("/"),
        USER=parts.username,
        PASSWORD=parts.password,
    )
    try:
        yield
    finally:
        connection.close()


def fill() -> None:
    """Tables and rows, with the dirt that the real source has. Keys are 1, 2, … in the order of making."""
    make_tables()
    _practices()
    _patients()
    _orders()
    _projects()
    _states()
    _workflow()
    _allow_repeated_links()


def _practices() -> None:
    Group.objects.bulk_create(
        [Group(id=1, name="Patient"), Group(id=2, name="Medical"), Group(id=11, name="Lab")]
    )
    Office.objects.bulk_create(
        Office(name=f"Office {n}", country="USA", tax_rate="8.8750", valid=n % 3 > 0, emails=False)
        for n in range(1, OFFICES + 1)
    )
    doctors = User.objects.bulk_create(
        User(username=f"doctor{n}", email=f"doctor{n}@clinic.example", first_name="Doc", last_name=f"No{n}")
        for n in range(1, DOCTORS + 1)
    )
    for doctor in doctors:
        doctor.groups.add(2)
        Office.objects.get(pk=doctor.pk % OFFICES + 1).doctors.add(doctor)


def _patients() -> None:
    again = {TWIN_OF_1: 1, TRIPLET_SURVIVOR: 2, TRIPLET: 2, NOT_TWIN_OF_3: 3, NEWER_TWIN_OF_4: 4}
    for number in range(1, PEOPLE + len(again) + 1):
        person = again.get(number, number)
        user = User.objects.create(
            username=f"patient{number}",
            first_name=_FIRST[person % len(_FIRST)],
            last_name=_LAST[person % len(_LAST)],
            # The most complete of several records survives.
            email=f"patient{number}@mail.example" if number in (1, TRIPLET_SURVIVOR, 7) else "",
            date_joined=START,
        )
        user.groups.add(1)
        Patient.objects.create(
            user=user,
            doctor_id=number % DOCTORS + 1 if number % 5 else None,
            office_id=NOWHERE if number == 17 else number % OFFICES + 1 if number % 4 else None,
            birthdate=None if person == 9 else date(1990, 1, 1) + timedelta(days=97 * person),
            sex=person % 2 + 1,
            status=(1, 2, 4, 10)[number % 4],
            archived=number % 6 == 0,
            suspended=False,
            schemes="{broken" if number % 7 == 0 else '{"upper": true}',
            suffix="00BB",
            updated_at=None if number % 10 == 0 else START + timedelta(hours=number),
        )
    Patient.objects.filter(pk=NOT_TWIN_OF_3).update(birthdate=date(1985, 6, 7))


def _orders() -> None:
    Course.objects.bulk_create([Course(name="Main"), Course(name="Refinement"), Course(name="Replacement")])
    Jaw.objects.bulk_create(
        Jaw(bond_teeth="1" * 16, extract_teeth="0" * 16, labial=n % 2 == 0) for n in range(8)
    )
    patients = Patient.objects.count()
    Instruction.objects.bulk_create(
        Instruction(
            patient_id=NOWHERE if n == ORPHAN_ORDER else (n - 1) % patients + 1,
            course_id=n % 3 + 1,
            order=n // patients + 1,
            upper_jaw_id=n % 8 + 1 if n % 2 else None,
            notes=f"Note {n} “ü”",
            exports="{broken" if n == 11 else None,
            price="564.63",
            status=(0, 1, 2, 4)[n % 4],
            deleted=n % 20 == 0,
            suffix="",
            submitted_at=START + timedelta(days=n) if n % 9 else None,
            updated_at=START + timedelta(days=n) if n % 4 else None,
        )
        for n in range(1, ORPHAN_ORDER + 1)
    )


def _projects() -> None:
    Project.objects.bulk_create(
        Project(
            uid=uuid.uuid5(uuid.NAMESPACE_URL, str(n)),
            name=f"Scan {n}" if n % 3 else "",
            size=n * 1_000_003,
            type=(0, 3, 10, 11)[n % 4],
            status=0,
            creator_id=NOWHERE if n == 8 else n % DOCTORS + 1 if n % 4 else None,
            created_at=START + timedelta(minutes=n),
            public=n % 2 == 0,
        )
        for n in range(1, PROJECTS + 1)
    )
    orders = {n: n for n in range(1, 51)} | {51: NOWHERE, 52: ORPHAN_ORDER}
    Plan.objects.bulk_create(
        Plan(instruction_id=order, project_id=project, number=1, original=True)
        for project, order in orders.items()
    )
    # A second plan, which does not own the project.
    Plan.objects.create(instruction_id=2, project_id=1, number=2, original=False)


def _states() -> None:
    rows = [(order, 5) for order in range(1, 23)] + [
        (TWIN_OF_1, 3),
        (TRIPLET, 3),
        (ORPHAN_ORDER, 2),
        (NOWHERE, 1),
    ]
    State.objects.bulk_create(
        State(
            status=11 + step % 2,
            on=step % 3 > 0,
            changed_at=START + timedelta(days=order, hours=step * (order % 7 + 1)),
            actor_id=NOWHERE if order == 13 else order % DOCTORS + 1 if order % 8 else None,
            instruction_id=order,
        )
        for order, steps in rows
        for step in range(steps)
    )
    # The one that took very long.
    State.objects.filter(pk=100).update(changed_at=START + timedelta(days=60))


def _workflow() -> None:
    root = Category.objects.create(name="Production")
    leaf = Category.objects.create(name="Printing", parent=root)
    Category.objects.create(name="Finishing", parent=root)
    Role.objects.bulk_create(
        Role(name=name, abbrev=name[:3]) for name in ("Technician", "Designer", "Printer")
    )
    product = Product.objects.create(name="Aligner")
    for number in range(1, TEMPLATES + 1):
        template = Template.objects.create(
            task_name=f"Step {number}",
            function=(1, 2, 4, 9)[number % 4],
            predefined=number % 2 == 0,
            duration=number,
            category=(root, leaf, None)[number % 3],
            read_only=False,
            extensions=".stl, .ply" if number % 2 else None,
        )
        template.edit_roles.set([1, 2][: number % 3])
        template.view_roles.set([1])
        template.view_groups.set([2])
        template.products.set([product])
        # The step before of the same workflow, and once one of another.
        template.predecessors.set([n for n in (number - 3, 1 if number == 8 else 0) if n > 0])
    Task.objects.bulk_create(
        Task(
            template_id=template,
            instruction_id=order,
            actor_id=order % DOCTORS + 1,
            checked=(order + template) % 4 > 0,
            done_at=START + timedelta(days=order + template, hours=order % 7 * template)
            if (order + template) % 4
            else None,
        )
        for order in (*range(1, 11), TWIN_OF_1, ORPHAN_ORDER)
        for template in range(1, TEMPLATES + 1)
    )
    Task.objects.create(template_id=NOWHERE, instruction_id=12, checked=False)


def _allow_repeated_links() -> None:
    """The real table is not known to have Django's constraint; the first link is doubled."""
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT format('ALTER TABLE dispatch_office_doctors DROP CONSTRAINT %I', conname) FROM pg_constraint"
            " WHERE conrelid = 'dispatch_office_doctors'::regclass AND contype = 'u'"
        )
        ((statement,),) = cursor.fetchall()
        cursor.execute(statement)
    through = Office.doctors.through
    first = through.objects.get(pk=1)
    through.objects.create(office_id=first.office_id, user_id=first.user_id)
