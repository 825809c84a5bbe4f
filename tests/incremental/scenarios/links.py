"""Links that Django keeps in tables of their own: nothing of the linked rows changes."""

from __future__ import annotations

from django.db import transaction

from tests.incremental.scenarios import Steps, arrives, scenario, state_of
from tests.incremental.source import Office, Product, Template, User
from tests.incremental.world import World


def _task(columns: str, template: int) -> str:
    return f"SELECT {columns} FROM public.workflow_template_tasks WHERE legacy_template_id = {template}"


@scenario
def office_doctor_added(world: World) -> Steps:
    Office.objects.get(pk=3).doctors.add(6)
    yield arrives(
        "SELECT count(*) FROM public.practice_members m JOIN public.practices o ON o.id = m.practice_id"
        " WHERE legacy_office_id = 3 AND m.deleted_at IS NULL",
        (2,),
    )


@scenario
def office_doctor_removed(world: World) -> Steps:
    Office.objects.get(pk=4).doctors.remove(3)
    yield arrives(state_of("practice_members", 3), ("3", "deleted"))


@scenario
def office_doctors_set_anew(world: World) -> Steps:
    """The same link removed and made again is another row."""
    with transaction.atomic():
        Office.objects.get(pk=4).doctors.clear()
        Office.objects.get(pk=4).doctors.set([3, 5])
    yield arrives(
        "SELECT count(*) FILTER (WHERE m.deleted_at IS NULL), count(*) FILTER (WHERE m.deleted_at IS NOT NULL)"
        " FROM public.practice_members m JOIN public.practices o ON o.id = m.practice_id WHERE legacy_office_id = 4",
        (2, 1),
    )


@scenario
def first_of_two_equal_links_removed(world: World) -> Steps:
    """The other one was in quarantine because of it."""
    Office.doctors.through.objects.filter(pk=1).delete()
    yield arrives(state_of("practice_members", 1, 7), ("1", "deleted"), ("7", "live"))


@scenario
def link_repeated_by_a_lower_key(world: World) -> Steps:
    """The link that was loaded is the repetition now."""
    Office.doctors.through.objects.create(pk=-1, office_id=3, user_id=2)
    yield arrives(state_of("practice_members", -1, 2), ("2", "quarantined"), ("-1", "live"))


@scenario
def roles_of_a_template(world: World) -> Steps:
    template = Template.objects.get(pk=2)
    template.edit_roles.remove(1)
    template.edit_roles.add(3)
    template.view_roles.add(2)
    yield arrives(
        _task("required_roles, view_roles", 2), (["Designer", "Printer"], ["Designer", "Technician"])
    )
    template.view_roles.clear()
    yield arrives(_task("view_roles", 2), (None,))


@scenario
def groups_and_products_of_a_template(world: World) -> Steps:
    template = Template.objects.get(pk=5)
    template.view_groups.set([1, 11])
    template.products.add(Product.objects.create(name="Retainer"))
    yield arrives(_task("metadata -> 'view_group_ids', metadata -> 'product_ids'", 5), ([1, 11], [1, 2]))


@scenario
def predecessor_added(world: World) -> Steps:
    """The order of tasks turns around, and times of tasks are counted from another one."""
    Template.objects.get(pk=1).predecessors.add(10)
    Template.objects.get(pk=10).predecessors.clear()
    yield arrives(
        "SELECT legacy_template_id FROM public.workflow_template_tasks WHERE category = 'Printing'"
        " ORDER BY task_order",
        (10,),
        (1,),
        (4,),
        (7,),
    )


@scenario
def predecessor_removed(world: World) -> Steps:
    Template.objects.get(pk=6).predecessors.clear()
    yield arrives(_task("predecessor_tasks::text", 6), ("{}",))


@scenario
def cycle_of_predecessors(world: World) -> Steps:
    """2 → 5 → 8 → 2: the first one is put before its predecessor."""
    Template.objects.get(pk=2).predecessors.add(8)
    yield arrives(
        "SELECT legacy_id FROM migration.findings WHERE entity = 'workflow_template_tasks' AND code = 'cycle'"
        " ORDER BY length(legacy_id), legacy_id",
        ("2",),
    )


@scenario
def groups_of_a_user(world: World) -> Steps:
    User.objects.get(pk=2).groups.set([11])
    User.objects.get(pk=4).groups.clear()
    yield arrives(
        "SELECT role, metadata -> 'groups' FROM public.profiles WHERE legacy_user_id IN (2, 4) ORDER BY legacy_user_id",
        ("technician", [11]),
        ("support", None),
    )
