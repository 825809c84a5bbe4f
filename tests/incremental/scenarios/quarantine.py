"""Rows that move into quarantine and out of it, with what hangs on them."""

from __future__ import annotations

import uuid

from tests.incremental.scenarios import Steps, arrives, scenario, state_of
from tests.incremental.source import (
    NOWHERE,
    ORPHAN_ORDER,
    START,
    Category,
    Instruction,
    Office,
    Patient,
    Plan,
    State,
    Template,
    User,
)
from tests.incremental.world import World

_OF_THE_ORPHAN = ("instruction_states", "117", "118")


@scenario
def row_repaired(world: World) -> Steps:
    """Its children did not change: they come along."""
    Instruction.objects.filter(pk=ORPHAN_ORDER).update(patient_id=30)
    yield arrives(
        f"{state_of('cases', ORPHAN_ORDER).split(' ORDER')[0]} UNION ALL"
        f" {state_of(*_OF_THE_ORPHAN).split(' ORDER')[0]} UNION ALL"
        f" {state_of('workflow_performance', f'0:{ORPHAN_ORDER}').split(' ORDER')[0]} ORDER BY 1",
        (f"0:{ORPHAN_ORDER}", "live"),
        ("117", "live"),
        ("118", "live"),
        (str(ORPHAN_ORDER), "live"),
    )


@scenario
def row_damaged_and_repaired(world: World) -> Steps:
    Instruction.objects.filter(pk=6).update(patient_id=NOWHERE)
    yield arrives(
        "SELECT c.deleted_at IS NULL, count(*) FILTER (WHERE s.deleted_at IS NULL) FROM public.cases c"
        " LEFT JOIN public.instruction_states s ON s.case_id = c.id WHERE c.legacy_instruction_id = 6 GROUP BY 1",
        (False, 0),
    )
    Instruction.objects.filter(pk=6).update(patient_id=6)
    yield arrives(
        "SELECT count(*) FROM public.instruction_states s JOIN public.cases c ON c.id = s.case_id"
        " WHERE c.legacy_instruction_id = 6 AND s.deleted_at IS NULL AND c.deleted_at IS NULL",
        (5,),
    )


@scenario
def damaged_row_of_a_survivor(world: World) -> Steps:
    """A merged patient's order goes to quarantine and comes back to the survivor."""
    Instruction.objects.filter(pk=43).update(patient_id=NOWHERE)
    yield arrives(state_of("cases", 43), ("43", "quarantined"), compared=False)
    Instruction.objects.filter(pk=43).update(patient_id=43)
    yield arrives(state_of("cases", 43), ("43", "live"))


@scenario
def missing_patient_arrives(world: World) -> Steps:
    user = User.objects.create(username="found", first_name="Found", last_name="Person")
    Patient.objects.create(pk=NOWHERE, user=user, status=1, archived=False, suspended=False)
    yield arrives(state_of(*_OF_THE_ORPHAN), ("117", "live"), ("118", "live"))


@scenario
def missing_order_arrives(world: World) -> Steps:
    Instruction.objects.create(pk=NOWHERE, patient_id=5, course_id=1, status=1, deleted=False, suffix="")
    yield arrives(
        "SELECT c.legacy_instruction_id::int FROM public.cases c JOIN public.projects p ON p.case_id = c.id"
        f" WHERE p.legacy_project_id = 51 UNION ALL {_live_state(119)}",
        (NOWHERE,),
        (119,),
    )


def _live_state(key: int) -> str:
    live = "SELECT legacy_state_id::int FROM public.instruction_states WHERE deleted_at IS NULL"
    return f"{live} AND legacy_state_id = {key}"


@scenario
def missing_user_arrives(world: World) -> Steps:
    """Optional references that were cleared are filled: the rows that hold them did not change."""
    User.objects.create(pk=NOWHERE, username="back", first_name="Back", last_name="Again")
    yield arrives(
        "SELECT (SELECT count(*) FROM public.projects t WHERE t.creator_id = u.id),"
        " (SELECT count(*) FROM public.instruction_states t WHERE t.changed_by = u.id),"
        " (SELECT count(*) FROM public.state_analytics t WHERE t.actor_id = u.id)"
        f" FROM public.profiles u WHERE legacy_user_id = {NOWHERE}",
        (1, 5, 5),
    )


@scenario
def missing_office_arrives_and_goes(world: World) -> Steps:
    office = Office.objects.create(pk=NOWHERE, name="Found", tax_rate=0, valid=True, emails=False)
    query = (
        "SELECT count(*) FROM public.cases c JOIN public.practices o ON o.id = c.practice_id"
        f" WHERE legacy_office_id = {NOWHERE} AND c.deleted_at IS NULL"
    )
    yield arrives(query, (2,))
    world.source_sql(f"DELETE FROM dispatch_office WHERE id = {office.pk}")
    yield arrives(query, (0,))


@scenario
def missing_template_arrives(world: World) -> Steps:
    """Its tasks belong to a workflow now: the row of those without one is gone."""
    Template.objects.create(
        pk=NOWHERE, task_name="Found", predefined=False, category=Category.objects.get(pk=3), read_only=False
    )
    yield arrives(state_of("workflow_performance", "0:12", "3:12"), ("0:12", "deleted"), ("3:12", "live"))


@scenario
def quarantined_row_changes(world: World) -> Steps:
    """It stays where it is; what a person sees of it must be what the source has."""
    State.objects.filter(pk=119).update(status=77)
    Instruction.objects.filter(pk=ORPHAN_ORDER).update(price="7.77")
    yield arrives(
        "SELECT payload ->> 'status_code', payload ->> 'price' FROM migration.quarantine WHERE status = 'open'"
        f" AND (entity, legacy_id) IN (('instruction_states', '119'), ('cases', '{ORPHAN_ORDER}'))"
        " ORDER BY entity DESC",
        ("77", None),
        (None, "7.77"),
    )


@scenario
def new_rows_go_to_quarantine(world: World) -> Steps:
    order = Instruction.objects.create(
        patient_id=NOWHERE - 1, course_id=1, status=1, deleted=False, suffix=""
    )
    State.objects.create(status=11, on=True, changed_at=START, instruction=order)
    yield arrives(state_of("cases", order.pk), (str(order.pk), "quarantined"))


@scenario
def project_of_a_damaged_order(world: World) -> Steps:
    """Its order is optional: it is cleared, with practice kept as the source has it, and filled again."""
    query = "SELECT case_id IS NOT NULL FROM public.projects WHERE legacy_project_id = 20"
    Instruction.objects.filter(pk=20).update(patient_id=NOWHERE)
    yield arrives(query, (False,))
    Instruction.objects.filter(pk=20).update(patient_id=20)
    yield arrives(query, (True,))


@scenario
def plan_leads_to_nowhere(world: World) -> Steps:
    Plan.objects.filter(project_id=21).update(instruction_id=NOWHERE - 2)
    yield arrives(
        "SELECT case_id, metadata -> 'instruction_id' FROM public.projects WHERE legacy_project_id = 21",
        (None, NOWHERE - 2),
    )


@scenario
def category_arrives_with_its_children(world: World) -> Steps:
    """Parents and children of one night, the child with the lower key."""
    Category.objects.bulk_create([Category(pk=21, name="Above"), Category(pk=20, name="Below", parent_id=21)])
    Template.objects.create(
        task_name=str(uuid.UUID(int=1)), predefined=False, category_id=20, read_only=False
    )
    yield arrives(
        "SELECT p.name FROM public.workflow_templates t JOIN public.workflow_templates p ON p.id = t.parent_id"
        " WHERE t.name = 'Below'",
        ("Above",),
    )
