"""The ways in which Django and others write rows."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from django.db import connection
from django.db.models import F

from tests.incremental.scenarios import Steps, arrives, scenario
from tests.incremental.source import (
    NOWHERE,
    PEOPLE,
    START,
    Course,
    Group,
    Instruction,
    Jaw,
    Office,
    Patient,
    Project,
    Role,
    State,
    Template,
    User,
)
from tests.incremental.world import World

LONG_AGO = datetime(2001, 2, 3, tzinfo=UTC)


@scenario
def save(world: World) -> Steps:
    patient = Patient.objects.get(pk=5)
    patient.archived, patient.updated_at = True, START + timedelta(days=300)
    patient.save()
    yield arrives("SELECT archived FROM public.patients WHERE legacy_patient_id = 5", (True,))


@scenario
def save_update_fields(world: World) -> Steps:
    patient = Patient.objects.get(pk=6)
    patient.suffix, patient.archived = "99ZZ", not patient.archived
    patient.save(update_fields=["suffix"])
    yield arrives("SELECT suffix, archived FROM public.patients WHERE legacy_patient_id = 6", ("99ZZ", True))


@scenario
def queryset_update(world: World) -> Steps:
    Instruction.objects.filter(pk__in=[3, 14]).update(price="1.25")
    yield arrives("SELECT legacy_instruction_id FROM public.cases WHERE price = 1.25 ORDER BY 1", (3,), (14,))


@scenario
def queryset_update_with_an_expression(world: World) -> Steps:
    Project.objects.filter(pk__lte=3).update(size=F("size") * 1000)
    yield arrives("SELECT count(*) FROM public.projects WHERE file_size >= 1000003000", (3,))


@scenario
def bulk_update(world: World) -> Steps:
    states = list(State.objects.filter(instruction_id=7).order_by("pk"))
    for state in states:
        state.on = not state.on
    State.objects.bulk_update(states, ["on"])
    yield arrives(
        "SELECT bool_and(s.is_active = (s.legacy_state_id IN (31, 34))) FROM public.instruction_states s"
        " WHERE legacy_instruction_id = 7",
        (True,),
    )


@scenario
def bulk_create(world: World) -> Steps:
    users = User.objects.bulk_create(
        User(username=f"new{n}", first_name=f"Neu{'abcd'[n] * 2}", last_name="Ankömmling", date_joined=START)
        for n in range(4)
    )
    patients = Patient.objects.bulk_create(
        Patient(user=user, office_id=1, status=1, archived=False, suspended=False) for user in users
    )
    orders = Instruction.objects.bulk_create(
        Instruction(patient=patient, course_id=1, status=1, deleted=False, suffix="") for patient in patients
    )
    State.objects.bulk_create(
        State(status=11, on=True, changed_at=START, instruction=order) for order in orders
    )
    yield arrives(
        "SELECT count(*) FROM public.instruction_states s JOIN public.cases c ON c.id = s.case_id"
        " JOIN public.patients p ON p.id = c.patient_id WHERE p.last_name = 'Ankömmling'",
        (4,),
    )


@scenario
def only_a_first_name(world: World) -> Steps:
    User.objects.filter(pk=Patient.objects.get(pk=8).user_id).update(first_name="Zebulon")
    yield arrives(
        "SELECT p.first_name, u.first_name FROM public.patients p JOIN public.profiles u ON u.id = p.profile_id"
        " WHERE legacy_patient_id = 8",
        ("Zebulon", "Zebulon"),
    )


@scenario
def row_without_a_stamp(world: World) -> Steps:
    patient = Patient.objects.get(pk=10)
    assert patient.updated_at is None
    patient.suspended = True
    patient.save()
    yield arrives(
        "SELECT suspended, updated_at FROM public.patients WHERE legacy_patient_id = 10", (True, None)
    )


@scenario
def stamp_becomes_null(world: World) -> Steps:
    Instruction.objects.filter(pk=1).update(updated_at=None)
    yield arrives("SELECT updated_at FROM public.cases WHERE legacy_instruction_id = 1", (None,))


@scenario
def back_dated_update(world: World) -> Steps:
    Patient.objects.filter(pk=11).update(birthdate=date(1970, 1, 2), updated_at=LONG_AGO)
    yield arrives(
        "SELECT date_of_birth, updated_at FROM public.patients WHERE legacy_patient_id = 11",
        (date(1970, 1, 2), LONG_AGO),
    )


@scenario
def back_dated_insert(world: World) -> Steps:
    """An import writes an old order under a key below all others, behind the sequence's back."""
    Instruction.objects.create(
        pk=-5,
        patient_id=4,
        course_id=3,
        status=4,
        deleted=False,
        suffix="",
        submitted_at=LONG_AGO,
        updated_at=LONG_AGO,
    )
    State.objects.create(pk=-7, status=12, on=True, changed_at=LONG_AGO, instruction_id=-5)
    yield arrives(
        "SELECT c.submitted_at, s.legacy_state_id FROM public.cases c JOIN public.instruction_states s"
        " ON s.case_id = c.id WHERE c.legacy_instruction_id = -5",
        (LONG_AGO, -7),
    )


@scenario
def raw_sql(world: World) -> Steps:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE dispatch_office SET phone = '555' || id WHERE id IN (1, 4)")
    yield arrives(
        "SELECT phone FROM public.practices WHERE phone IS NOT NULL ORDER BY 1", ("5551",), ("5554",)
    )


@scenario
def soft_delete(world: World) -> Steps:
    Instruction.objects.filter(pk=2).update(deleted=True)
    yield arrives("SELECT is_deleted FROM public.cases WHERE legacy_instruction_id = 2", (True,))
    Instruction.objects.filter(pk=2).update(deleted=False)
    yield arrives("SELECT is_deleted FROM public.cases WHERE legacy_instruction_id = 2", (False,))


@scenario
def there_and_back(world: World) -> Steps:
    """Two updates that cancel each other: the row was written, its content is as before."""
    written = "SELECT xmin::text FROM public.patients WHERE legacy_patient_id = 12"
    before = world.read(written)
    Patient.objects.filter(pk=12).update(suffix="xx")
    Patient.objects.filter(pk=12).update(suffix="00BB")
    Office.objects.filter(pk=1).update(city="Oslo")
    yield arrives("SELECT address ->> 'city' FROM public.practices WHERE legacy_office_id = 1", ("Oslo",))
    assert world.read(written) == before


@scenario
def malformed_json_is_repaired(world: World) -> Steps:
    Patient.objects.filter(pk=7).update(schemes='{"lower": 1}')
    Patient.objects.filter(pk=8).update(schemes="{broken now")
    yield arrives(
        "SELECT p.schemes, f.code FROM public.patients p LEFT JOIN migration.findings f ON f.entity = 'patients'"
        " AND f.legacy_id = p.legacy_patient_id::text WHERE legacy_patient_id IN (7, 8) ORDER BY legacy_patient_id",
        ({"lower": 1}, None),
        (None, "json_malformed"),
    )


@scenario
def course_renamed(world: World) -> Steps:
    Course.objects.filter(pk=2).update(name="Touch-up")
    titled = Instruction.objects.filter(course_id=2).exclude(patient_id=NOWHERE).count()
    yield arrives("SELECT count(*) FROM public.cases WHERE title = 'Touch-up'", (titled,))


@scenario
def jaw_changed(world: World) -> Steps:
    Jaw.objects.filter(pk=4).update(reason=3)
    orders = Instruction.objects.filter(upper_jaw_id=4).count()
    yield arrives(
        "SELECT count(*) FROM public.cases WHERE clinical #>> '{jaws,upper,reason}' = '3'", (orders,)
    )


@scenario
def role_renamed(world: World) -> Steps:
    Role.objects.filter(pk=1).update(name="Engineer")
    templates = Template.objects.filter(edit_roles=1).count()
    yield arrives(
        "SELECT count(*) FROM public.workflow_template_tasks WHERE 'Engineer' = ANY (required_roles)",
        (templates,),
    )


@scenario
def office_of_a_patient_changed(world: World) -> Steps:
    """Cases and projects know the practice through the patient."""
    Patient.objects.filter(pk=13).update(office_id=1)
    office = "SELECT legacy_office_id FROM public.{} t JOIN public.practices o ON o.id = t.practice_id"
    yield arrives(
        f"{office.format('cases')} WHERE legacy_instruction_id IN (13, 58)"
        f" UNION ALL {office.format('projects')} WHERE legacy_project_id = 13",
        (1,),
        (1,),
        (1,),
    )


@scenario
def order_moved_to_another_patient(world: World) -> Steps:
    Instruction.objects.filter(pk=14).update(patient_id=15)
    yield arrives(
        "SELECT legacy_patient_id FROM public.cases c JOIN public.patients p ON p.id = c.patient_id"
        " WHERE legacy_instruction_id = 14",
        (15,),
    )


@scenario
def states_of_an_order_moved_to_another(world: World) -> Steps:
    """The history of both orders changes."""
    State.objects.filter(instruction_id=9).update(instruction_id=10)
    yield arrives(
        "SELECT legacy_instruction_id, count(*) FROM public.instruction_states"
        " WHERE legacy_instruction_id IN (9, 10) GROUP BY 1",
        (10, 10),
    )


@scenario
def user_becomes_staff_and_gets_an_address(world: World) -> Steps:
    User.objects.filter(pk=PEOPLE).update(is_superuser=True, email="Head@Clinic.Example")
    yield arrives(
        f"SELECT role, email FROM public.profiles WHERE legacy_user_id = {PEOPLE}",
        ("master", "head@clinic.example"),
    )


@scenario
def group_renamed_changes_nothing(world: World) -> Steps:
    Group.objects.filter(pk=1).update(name="Patients")
    User.objects.filter(pk=1).update(last_name="No1a")
    yield arrives("SELECT last_name FROM public.profiles WHERE legacy_user_id = 1", ("No1a",))
