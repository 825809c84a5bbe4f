"""Rows made of other rows: they change although nothing was written to the row they are named after."""

from __future__ import annotations

from datetime import timedelta

from tests.incremental.scenarios import Steps, arrives, scenario, state_of
from tests.incremental.source import START, Category, Instruction, State, Task, Template
from tests.incremental.world import World


@scenario
def state_inserted_into_a_history(world: World) -> Steps:
    """The next state of the order was in that one before."""
    first = State.objects.get(pk=6)
    State.objects.create(
        status=14, on=True, changed_at=first.changed_at + timedelta(minutes=30), instruction_id=2
    )
    yield arrives(
        "SELECT from_state, duration_minutes FROM public.state_analytics WHERE legacy_state_id = 7",
        ("legacy_14", 150),
    )


@scenario
def state_moved_within_its_history(world: World) -> Steps:
    """Three rows follow others now: the one that moved, the one behind its old place, the one behind its new."""
    State.objects.filter(pk=13).update(changed_at=START)
    yield arrives(
        "SELECT legacy_state_id, duration_minutes IS NULL FROM public.state_analytics"
        " WHERE legacy_state_id IN (11, 13) ORDER BY 1",
        (11, False),
        (13, True),
    )


@scenario
def state_loses_its_order(world: World) -> Steps:
    State.objects.filter(pk=17).update(instruction_id=22)
    yield arrives(
        "SELECT duration_minutes FROM public.state_analytics WHERE legacy_state_id = 18", (10 * 60,)
    )


@scenario
def percentile_moves(world: World) -> Steps:
    """What is slow depends on all states of all orders: rows of other orders stop being bottlenecks."""
    slow = "SELECT legacy_state_id FROM public.state_analytics WHERE bottleneck_detected ORDER BY 1"
    assert world.read(slow) == [(100,)]
    base = State.objects.get(pk=108).changed_at
    for step, pk in enumerate((109, 110), start=1):
        State.objects.filter(pk=pk).update(changed_at=base + timedelta(days=90 * step))
    State.objects.bulk_create(
        State(status=11 + n % 2, on=True, changed_at=START + timedelta(days=100 * n), instruction_id=40)
        for n in range(12)
    )
    yield arrives(f"SELECT count(*) FROM ({slow}) s WHERE legacy_state_id = 100", (0,))


@scenario
def first_bottleneck_seen(world: World) -> Steps:
    """The last state of the order is late, its own row is not the only one that shows it."""
    state = State.objects.get(pk=60)
    State.objects.filter(pk=60).update(changed_at=state.changed_at + timedelta(days=400))
    yield arrives(
        "SELECT bottleneck_detected FROM public.state_analytics WHERE legacy_state_id = 60", (True,)
    )


@scenario
def task_done_at_another_time(world: World) -> Steps:
    """Tasks that wait for it, of the same workflow, last longer or shorter."""
    task = Task.objects.get(instruction_id=4, template_id=7)
    Task.objects.filter(pk=task.pk).update(done_at=task.done_at - timedelta(days=1), checked=True)
    yield arrives(
        "SELECT t ->> 'minutes' FROM public.workflow_performance,"
        " jsonb_array_elements(task_performance) t WHERE legacy_category_id = 2 AND legacy_instruction_id = 4"
        " AND t ->> 'template_id' = '10'",
        (str(4 * 24 * 60 + 12 * 60),),
    )


@scenario
def task_added_and_moved(world: World) -> Steps:
    Task.objects.create(template_id=7, instruction_id=50, checked=True, done_at=START)
    Task.objects.filter(instruction_id=7, template_id=10).update(instruction_id=51)
    yield arrives(state_of("workflow_performance", "2:50", "2:51"), ("2:50", "live"), ("2:51", "live"))


@scenario
def last_task_of_another_workflow_deleted(world: World) -> Steps:
    """Times are counted from predecessors of the same order, whatever workflow these belong to."""
    days = {template: START + timedelta(days=day) for template, day in ((1, 60), (8, 70))}
    Task.objects.bulk_create(
        Task(template_id=template, instruction_id=52, checked=True, done_at=done)
        for template, done in days.items()
    )
    query = (
        "SELECT task_performance -> 0 ->> 'minutes' FROM public.workflow_performance"
        " WHERE legacy_category_id = 0 AND legacy_instruction_id = 52"
    )
    yield arrives(query, (str(10 * 24 * 60),), compared=False)
    Task.objects.filter(template_id=1, instruction_id=52).delete()
    yield arrives(query, (str(18 * 24 * 60),))


@scenario
def order_submitted_earlier(world: World) -> Steps:
    """First tasks count from the submission."""
    query = (
        "SELECT t ->> 'minutes' FROM public.workflow_performance, jsonb_array_elements(task_performance) t"
        " WHERE legacy_instruction_id = 2 AND t ->> 'template_id' = '1'"
    )
    ((before,),) = world.read(query)
    order = Instruction.objects.get(pk=2)
    Instruction.objects.filter(pk=2).update(submitted_at=order.submitted_at - timedelta(days=2))
    yield arrives(query, (str(int(before) + 2 * 24 * 60),))


@scenario
def category_moved_in_the_tree(world: World) -> Steps:
    Category.objects.filter(pk=3).update(parent_id=2)
    yield arrives(
        "SELECT p.legacy_category_id FROM public.workflow_templates t JOIN public.workflow_templates p"
        " ON p.id = t.parent_id WHERE t.legacy_category_id = 3",
        (2,),
    )


@scenario
def category_renamed(world: World) -> Steps:
    Category.objects.filter(pk=2).update(name="Milling")
    tasks = Template.objects.filter(category_id=2).count()
    yield arrives("SELECT count(*) FROM public.workflow_template_tasks WHERE category = 'Milling'", (tasks,))


@scenario
def template_moved_to_another_category(world: World) -> Steps:
    """Others of both workflows take other places; its tasks count elsewhere."""
    Template.objects.filter(pk=1).update(category_id=1)
    yield arrives(
        "SELECT legacy_template_id, category, task_order FROM public.workflow_template_tasks"
        " WHERE legacy_template_id IN (1, 3, 4) ORDER BY 1",
        (1, "Production", 1),
        (3, "Production", 2),
        (4, "Printing", 1),
    )


@scenario
def category_of_a_template_emptied(world: World) -> Steps:
    Template.objects.filter(category_id=1).update(category_id=3)
    yield arrives(state_of("workflow_performance", "1:1", "3:1"), ("1:1", "deleted"), ("3:1", "live"))
