"""``python -m tests.end_to_end.legacy_django.fill DSN``: Django makes the tables and its ORM writes the rows."""

from __future__ import annotations

import sys
import types
import uuid
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import django
from django.conf import settings

START = datetime(2024, 3, 1, 8, 30, 15, 123456, tzinfo=UTC)
NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
OFFICES, DOCTORS = 7, 9


def configure(dsn: str) -> None:
    """Settings as in the legacy project: its own app beside Django's auth, zones on."""
    parts = urlsplit(dsn)
    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": parts.hostname,
                "PORT": parts.port,
                "NAME": parts.path.removeprefix("/"),
                "USER": parts.username,
                "PASSWORD": parts.password,
            }
        },
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "dispatch"],
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        USE_TZ=True,
        TIME_ZONE="America/New_York",
        LOGGING_CONFIG=None,  # the handlers of whoever imports this stay as they are
        PASSWORD_HASHERS=["django.contrib.auth.hashers.UnsaltedMD5PasswordHasher"],
    )


def install_app() -> None:
    """The app is called `dispatch`, as its tables are, wherever its models are kept."""
    app = types.ModuleType("dispatch")
    app.__path__ = __path__ = [str(__file__).rsplit("/", 1)[0]]
    assert __path__
    sys.modules["dispatch"] = app
    django.setup()


def make_tables() -> None:
    """First those of auth by its migrations, then the app's, which has none, by its models."""
    from django.core.management import call_command  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    call_command("migrate", run_syncdb=True, verbosity=0)


def fill() -> None:
    """Tables, then rows."""
    make_tables()
    offices, doctors = _practices()
    patients = _patients(offices, doctors)
    orders = _orders(patients)
    _projects(orders, doctors)
    _workflow(orders, doctors)


def _practices() -> tuple[list, list]:
    from dispatch.models import Office  # noqa: PLC0415
    from django.contrib.auth.models import Group, User  # noqa: PLC0415

    Group.objects.bulk_create([Group(id=1, name="Patient"), Group(id=2, name="Medical")])
    offices = [
        Office(name=f"Office {n}", country="USA", tax_rate="8.8750", valid=n % 3 > 0, emails=False)
        for n in range(OFFICES)
    ]
    Office.objects.bulk_create(offices)
    doctors = [
        User.objects.create_user(
            f"doctor{n}", f"doctor{n}@clinic.example", first_name="Doc", last_name=str(n)
        )
        for n in range(DOCTORS)
    ]
    for number, doctor in enumerate(doctors):
        doctor.groups.add(2)
        offices[number % OFFICES].doctors.add(doctor)
    return offices, doctors


def _patients(offices: list, doctors: list) -> list:
    from dispatch.models import Patient  # noqa: PLC0415
    from django.contrib.auth.models import User  # noqa: PLC0415

    from tests.end_to_end.legacy_django.febrl import people  # noqa: PLC0415

    users = [
        User(
            username=person.record,
            first_name=person.first_name,
            last_name=person.last_name,
            date_joined=START,
        )
        for person in people()
    ]
    User.objects.bulk_create(users)
    User.groups.through.objects.bulk_create(
        [User.groups.through(user_id=user.id, group_id=1) for user in users]
    )
    patients = [
        Patient(
            user=user,
            doctor=doctors[n % DOCTORS] if n % 5 else None,
            office=offices[n % OFFICES] if n % 4 else None,
            birthdate=person.birth_date,
            sex=int(person.record.split("-")[1]) % 2 + 1,  # the same in all records of a person
            status=(1, 2, 4, 10)[n % 4],
            archived=n % 6 == 0,
            suspended=False,
            schemes='{"upper": true}' if n % 7 else "{broken",
            suffix="00BB",
            updated_at=START + timedelta(hours=n),
        )
        for n, (user, person) in enumerate(zip(users, people(), strict=True))
    ]
    return Patient.objects.bulk_create(patients)


def _orders(patients: list) -> list:
    from dispatch.models import Course, Instruction, Jaw  # noqa: PLC0415

    courses = Course.objects.bulk_create([Course(name="Main"), Course(name="Refinement")])
    jaws = Jaw.objects.bulk_create(
        [Jaw(bond_teeth="1" * 16, extract_teeth="0" * 16, labial=bool(n % 2)) for n in range(40)]
    )
    return Instruction.objects.bulk_create(
        [
            Instruction(
                patient=patients[n * 3 % len(patients)],
                course=courses[n % 2],
                order=n % 3 + 1,
                upper_jaw=jaws[n % 40] if n % 2 else None,
                notes=f"Note {n} “ü”",
                price="564.63",
                status=(0, 1, 2, 4)[n % 4],
                deleted=n % 50 == 0,
                suffix="",
                submitted_at=START + timedelta(days=n % 200) if n % 9 else None,
            )
            for n in range(400)
        ]
    )


def _projects(orders: list, doctors: list) -> None:
    from dispatch.models import Plan, Project, State  # noqa: PLC0415

    projects = Project.objects.bulk_create(
        [
            Project(
                uid=uuid.uuid5(NAMESPACE, str(n)),
                name="" if n % 3 else f"Scan {n}",
                size=n * 1_000_003,
                type=(0, 3, 10, 11)[n % 4],
                status=0,
                creator=doctors[n % DOCTORS] if n % 4 else None,
                created_at=START + timedelta(minutes=n),
                public=n % 2 == 0,
            )
            for n in range(300)
        ]
    )
    Plan.objects.bulk_create(
        [
            Plan(instruction=orders[n], project=projects[n % 280], number=n // 280 + 1, original=n < 280)
            for n in range(320)
        ]
    )
    State.objects.bulk_create(
        [
            State(
                status=11 + n % 2,
                on=n % 3 > 0,
                changed_at=START + timedelta(days=n % 30, seconds=n),
                actor=doctors[n % DOCTORS] if n % 20 else None,
                instruction=orders[n % 90],
            )
            for n in range(200)
        ]
    )


def _workflow(orders: list, doctors: list) -> None:
    from dispatch.models import Category, Product, Role, Task, Template  # noqa: PLC0415

    root = Category.objects.create(name="Production")
    leaf = Category.objects.create(name="Printing", parent=root)
    roles = Role.objects.bulk_create(
        [Role(name=name, abbrev=name[:3]) for name in ("Technician", "Designer")]
    )
    product = Product.objects.create(name="Aligner")
    templates = []
    for number in range(12):
        template = Template.objects.create(
            task_name=f"Step {number}",
            function=(1, 2, 4, 9)[number % 4],
            predefined=number % 2 == 0,
            duration=number,
            category=(root, leaf, None)[number % 3],
            read_only=False,
            extensions=".stl, .ply" if number % 2 else None,
        )
        template.edit_roles.set(roles[: number % 3])
        template.view_groups.set([2])
        template.products.set([product])
        template.predecessors.set(templates[-1:])
        templates.append(template)
    Task.objects.bulk_create(
        [
            Task(
                template=templates[n % 12],
                instruction=orders[n % 150],
                actor=doctors[n % DOCTORS],
                checked=n % 4 > 0,
                done_at=START + timedelta(days=n % 60, hours=n % 7) if n % 4 else None,
            )
            for n in range(900)
        ]
    )


if __name__ == "__main__":
    configure(sys.argv[1])
    install_app()
    fill()
