"""Rows that are gone, with or without what hangs on them, and rows that come back."""

from __future__ import annotations

import uuid
from datetime import timedelta

from django.db import transaction

from tests.incremental.scenarios import Steps, arrives, scenario, state_of
from tests.incremental.source import (
    START,
    TRIPLET,
    TRIPLET_SURVIVOR,
    TWIN_OF_1,
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
from tests.incremental.world import World


@scenario
def leaf_deleted(world: World) -> Steps:
    """The next state of the order has another one before it now."""
    State.objects.get(pk=42).delete()
    yield arrives(
        "SELECT i.deleted_at IS NOT NULL, n.from_state FROM public.instruction_states i,"
        " public.state_analytics n WHERE i.legacy_state_id = 42 AND n.legacy_state_id = 43",
        (True, "legacy_11"),
    )


@scenario
def parent_deleted_with_its_children(world: World) -> Steps:
    Patient.objects.get(pk=3).delete()
    yield arrives(
        "SELECT entity, count(*) FROM migration.id_map WHERE state = 'deleted' AND (entity = 'patients' AND"
        " legacy_id = '3' OR entity = 'cases' AND legacy_id IN ('3', '48') OR entity LIKE '%state%' AND"
        " legacy_id::int BETWEEN 11 AND 15 OR entity = 'workflow_performance' AND legacy_id LIKE '%:3')"
        " GROUP BY 1 ORDER BY 1",
        ("cases", 2),
        ("instruction_states", 5),
        ("patients", 1),
        ("state_analytics", 5),
        ("workflow_performance", 3),
    )


@scenario
def user_deleted_with_everything(world: World) -> Steps:
    """Django follows the user to the patient, the orders, the links, and empties what may be empty."""
    User.objects.get(pk=3).delete()
    User.objects.get(pk=Patient.objects.get(pk=18).user_id).delete()
    yield arrives(
        "SELECT entity, legacy_id FROM migration.id_map WHERE state = 'deleted' AND (entity, legacy_id) IN"
        " (('profiles', '3'), ('profiles', '24'), ('patients', '18'), ('practice_members', '3')) ORDER BY 1, 2",
        ("patients", "18"),
        ("practice_members", "3"),
        ("profiles", "24"),
        ("profiles", "3"),
    )


@scenario
def parent_deleted_without_its_children(world: World) -> Steps:
    """Raw SQL leaves orphans where no constraint stands: they go to quarantine, or lose the reference."""
    world.source_sql("DELETE FROM dispatch_instruction WHERE id = 5")
    yield arrives(
        "SELECT 'state', count(*) FROM migration.quarantine WHERE entity = 'instruction_states'"
        " AND status = 'open' AND legacy_id::int BETWEEN 21 AND 25 UNION ALL"
        " SELECT 'project', count(*) FROM public.projects WHERE legacy_project_id = 5 AND case_id IS NULL",
        ("state", 5),
        ("project", 1),
    )


@scenario
def grandparent_deleted_alone(world: World) -> Steps:
    world.source_sql("DELETE FROM dispatch_patient WHERE id = 6")
    yield arrives(
        "SELECT entity, count(*) FROM migration.quarantine WHERE status = 'open' AND (entity = 'cases' AND"
        " legacy_id IN ('6', '51') OR entity LIKE '%state%' AND legacy_id::int BETWEEN 26 AND 30 OR"
        " entity = 'workflow_performance' AND legacy_id LIKE '%:6') GROUP BY 1 ORDER BY 1",
        ("cases", 2),
        ("instruction_states", 5),
        ("state_analytics", 5),
        ("workflow_performance", 3),
    )


@scenario
def survivor_of_a_merge_deleted(world: World) -> Steps:
    """Its orders, deleted alone or not, must not stay with it; who was merged into it stands on its own."""
    Patient.objects.get(pk=1).delete()
    yield arrives(state_of("patients", 1, TWIN_OF_1), ("1", "deleted"), (str(TWIN_OF_1), "live"))


@scenario
def survivor_deleted_leaving_orders(world: World) -> Steps:
    """The orders named the survivor itself: they are orphans; those of the merged patient are not."""
    world.source_sql("DELETE FROM dispatch_patient WHERE id = 1")
    yield arrives(
        state_of("cases", 1, TWIN_OF_1, 46),
        ("1", "quarantined"),
        (str(TWIN_OF_1), "live"),
        ("46", "quarantined"),
    )


@scenario
def survivor_of_three_deleted(world: World) -> Steps:
    """The two others are still the same person."""
    Patient.objects.get(pk=TRIPLET_SURVIVOR).delete()
    yield arrives(
        "SELECT count(*) FROM migration.id_map WHERE entity = 'patients' AND legacy_id IN"
        f" ('2', '{TRIPLET}') GROUP BY state ORDER BY state",
        (1,),
        (1,),
    )


@scenario
def merged_row_deleted(world: World) -> Steps:
    Patient.objects.get(pk=TWIN_OF_1).delete()
    yield arrives(state_of("patients", 1, TWIN_OF_1), ("1", "live"), (str(TWIN_OF_1), "deleted"))


@scenario
def merged_row_deleted_leaving_orders(world: World) -> Steps:
    world.source_sql(f"DELETE FROM dispatch_patient WHERE id = {TWIN_OF_1}")
    yield arrives(state_of("cases", TWIN_OF_1), (str(TWIN_OF_1), "quarantined"))


@scenario
def key_used_again_at_once(world: World) -> Steps:
    with transaction.atomic():
        State.objects.filter(pk=50).delete()
        State.objects.create(pk=50, status=12, on=True, changed_at=START, instruction_id=11)
        Plan.objects.filter(project_id=9).delete()
        Project.objects.filter(pk=9).delete()
        Project.objects.create(
            pk=9, uid=uuid.UUID(int=9), name="Other", size=1, type=3, status=0, created_at=START, public=True
        )
    yield arrives(
        "SELECT s.legacy_instruction_id, p.name, p.legacy_uid FROM public.instruction_states s, public.projects p"
        " WHERE s.legacy_state_id = 50 AND p.legacy_project_id = 9",
        (11, "Other", uuid.UUID(int=9)),
    )


@scenario
def key_used_again_later(world: World) -> Steps:
    Patient.objects.filter(pk=19).delete()
    yield arrives(state_of("patients", 19), ("19", "deleted"), compared=False)
    user = User.objects.create(username="another", first_name="Ymir", last_name="Nakagawa")
    Patient.objects.create(pk=19, user=user, status=1, archived=False, suspended=False)
    yield arrives(
        "SELECT first_name, deleted_at FROM public.patients WHERE legacy_patient_id = 19", ("Ymir", None)
    )


@scenario
def deleted_row_comes_back(world: World) -> Steps:
    order = Instruction.objects.get(pk=8)
    states, tasks = (
        list(State.objects.filter(instruction=order)),
        list(Task.objects.filter(instruction=order)),
    )
    order.delete()
    yield arrives(state_of("cases", 8), ("8", "deleted"))
    order.pk = 8
    order.save(force_insert=True)
    State.objects.bulk_create(states)
    Task.objects.bulk_create(tasks)
    yield arrives(state_of("cases", 8), ("8", "live"))


@scenario
def parent_comes_back_alone(world: World) -> Steps:
    """Its children were orphans for a night; their rows never changed."""
    order = Instruction.objects.get(pk=8)
    world.source_sql("DELETE FROM dispatch_instruction WHERE id = 8")
    yield arrives(
        state_of("instruction_states", 36, 37), ("36", "quarantined"), ("37", "quarantined"), compared=False
    )
    order.save(force_insert=True)
    yield arrives(state_of("instruction_states", 36, 37), ("36", "live"), ("37", "live"))


@scenario
def plan_deleted(world: World) -> Steps:
    Plan.objects.filter(project_id=4).delete()
    yield arrives("SELECT case_id FROM public.projects WHERE legacy_project_id = 4", (None,))


@scenario
def plans_change(world: World) -> Steps:
    """The owning plan loses its flag, another gets it; a project without plan gets one."""
    Plan.objects.filter(project_id=1).update(original=False)
    Plan.objects.filter(project_id=1, number=2).update(original=True)
    Plan.objects.create(project_id=60, instruction_id=33, number=1, original=True)
    yield arrives(
        "SELECT legacy_instruction_id FROM public.projects p JOIN public.cases c ON c.id = p.case_id"
        " WHERE legacy_project_id IN (1, 60) ORDER BY 1",
        (2,),
        (33,),
    )


@scenario
def office_deleted(world: World) -> Steps:
    Office.objects.get(pk=3).delete()
    yield arrives(
        "SELECT count(*) FROM public.cases c JOIN public.practices o ON o.id = c.practice_id"
        " WHERE legacy_office_id = 3",
        (0,),
    )


@scenario
def office_deleted_leaving_patients(world: World) -> Steps:
    world.source_sql(
        "DELETE FROM dispatch_office_doctors WHERE office_id = 3", "DELETE FROM dispatch_office WHERE id = 3"
    )
    yield arrives(
        "SELECT count(*) FROM migration.findings WHERE entity = 'patients' AND code = 'reference_missing'"
        " AND legacy_id IN (SELECT legacy_patient_id::text FROM public.patients WHERE metadata ->> 'office_id' = '3')",
        (Patient.objects.filter(office_id=3).count(),),
    )


@scenario
def category_deleted(world: World) -> Steps:
    """Its tasks fall back to the workflow of those without one: keys of workflow_performance change."""
    Category.objects.get(pk=2).delete()
    yield arrives(
        "SELECT count(*) FROM public.workflow_performance WHERE legacy_category_id = 2 AND deleted_at IS NULL",
        (0,),
    )


@scenario
def template_deleted(world: World) -> Steps:
    """With its links and its tasks."""
    Template.objects.get(pk=4).delete()
    yield arrives(
        "SELECT count(*) FROM public.workflow_performance WHERE deleted_at IS NULL"
        """ AND task_performance @> '[{"template_id": 4}]'""",
        (0,),
    )


@scenario
def last_task_of_a_workflow_deleted(world: World) -> Steps:
    Task.objects.filter(instruction_id=4, template__category_id=1).delete()
    yield arrives(state_of("workflow_performance", "1:4", "2:4"), ("1:4", "deleted"), ("2:4", "live"))


@scenario
def quarantined_rows_deleted(world: World) -> Steps:
    State.objects.filter(pk=119).delete()
    Office.doctors.through.objects.filter(pk=7).delete()
    yield arrives(
        "SELECT count(*) FROM migration.quarantine WHERE status = 'open' AND (entity, legacy_id) IN"
        " (('instruction_states', '119'), ('state_analytics', '119'), ('practice_members', '7'))",
        (0,),
    )


@scenario
def unique_value_of_a_deleted_row_used_again(world: World) -> Steps:
    uid = Project.objects.get(pk=30).uid
    with transaction.atomic():
        Plan.objects.filter(project_id=30).delete()
        Project.objects.filter(pk=30).delete()
        Project.objects.create(
            uid=uid, name="Again", size=3, type=3, status=0, created_at=START + timedelta(days=1), public=True
        )
    yield arrives(
        f"SELECT name FROM public.projects WHERE legacy_uid = '{uid}' AND deleted_at IS NULL", ("Again",)
    )


@scenario
def unique_values_exchanged(world: World) -> Steps:
    """Two projects change uids, two links change doctors: each value was the other row's a night ago."""
    one, other = Project.objects.get(pk=31).uid, Project.objects.get(pk=32).uid
    links = Office.doctors.through.objects
    with transaction.atomic():
        for key, uid in ((31, uuid.UUID(int=31)), (32, one), (31, other)):
            Project.objects.filter(pk=key).update(uid=uid)
        links.filter(pk=4).update(office_id=1, user_id=5)
        links.filter(pk=5).update(office_id=5, user_id=4)
    yield arrives(
        "SELECT p.legacy_uid, legacy_office_id FROM public.projects p, public.practice_members m"
        " JOIN public.practices o ON o.id = m.practice_id"
        " WHERE legacy_project_id = 32 AND legacy_office_doctor_id = 5",
        (one, 5),
    )
