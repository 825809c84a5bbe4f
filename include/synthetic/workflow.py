"""Categories, roles, task templates with their M2M tables, and tasks (docs/legacy-mdw.md 1.13 and 1.14)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import pyarrow as pa

from include.synthetic import proportions as p
from include.synthetic.columns import (
    MICROSECONDS_PER_DAY,
    NOW_STAMP,
    STAMP,
    Table,
    chosen,
    nullable,
    reference,
    schema,
    stamps,
)
from include.synthetic.documents import TASK_TEXTS, sparse_phrases
from include.synthetic.draws import Bools, Draws, Ints, divided, free_ids, quota, shuffled, spread_ids
from include.synthetic.orders import COURSES, PRODUCTS, Orders
from include.synthetic.people import GROUPS
from include.synthetic.population import NONE, Population, UserKind
from include.synthetic.projects import Projects

_ROOTS, _SECOND_LEVEL = 5, 15
_CATEGORY_NAMES = (
    "Submission",
    "Scanning",
    "Planning",
    "Manufacturing",
    "Delivery",
    "Review",
    "Billing",
    "Support",
)
_ROLE_NAMES = (
    "Sectioner",
    "Aligner",
    "Designer",
    "Printer",
    "Bender",
    "Checker",
    "Shipper",
    "Billing",
    "Master",
)
_TASK_NAMES = (
    "Sectioned",
    "Scan checked",
    "Model built",
    "Setup",
    "Setup sent",
    "TP# Added",
    "Approved",
    "Shipped",
)
_TASK_ID_STRIDE = 2

# Templates known from the real source: (task_name, function, predefined, status, action_name, duration).
SAMPLES: dict[int, tuple[str, int, bool, int | None, str | None, int]] = {
    16: ("Sectioned", 1, False, None, None, 4),
    46: ("TP# Added", 4, True, 5, "Add TP#", 0),
    125: ("Submitted", 1, True, 1, "Submit Patient", 0),
}


class Workflow:
    """Ids and links of the registries that describe the work."""

    def __init__(self, population: Population) -> None:
        self.population = population
        self.size = population.size
        self.seed = population.seed

    @cached_property
    def template_ids(self) -> Ints:
        """dispatch_template.id, rising with gaps, among them those of :data:`SAMPLES` if there is room."""
        count = self.size.templates
        candidates = 1 + shuffled(self.seed, "template ids", max(count * 5 // 4, 1))
        known = np.array([number for number in SAMPLES if number <= len(candidates)], dtype=np.int64)
        others = candidates[~np.isin(candidates, known)]
        ids: Ints = np.sort(np.concatenate([known, others])[:count])
        return ids

    @cached_property
    def category_ids(self) -> Ints:
        """dispatch_category.id by category index: roots first, so ids do not rise with depth."""
        return 1 + shuffled(self.seed, "category ids", self.size.categories)

    @cached_property
    def category_parent(self) -> Ints:
        """Category index of the parent, NONE for roots; a tree of depth three."""
        count = self.size.categories
        draws = self.population.draws("dispatch_category", 0, count)
        row = np.arange(count)
        roots, middle = min(_ROOTS, count), max(min(_SECOND_LEVEL, count - _ROOTS), 0)
        parent = draws.below("root", max(roots, 1))
        deep = row >= roots + middle
        parent[deep] = roots + draws.below("second", max(middle, 1))[deep]
        parent[row < roots] = NONE
        return parent

    @cached_property
    def role_ids(self) -> Ints:
        """dispatch_role.id by role index."""
        return spread_ids(self.population.draws("dispatch_role", 0, self.size.roles), 2)

    @cached_property
    def predecessors(self) -> Ints:
        """Pairs (from template, to template) by index, shape (rows, 2).

        All but the last go from a later to an earlier template of one hidden order, so they form no cycle.
        The last turns the first one round: exactly one cycle, of two edges, for no third way leads from a
        template to the one right before it.
        """
        count, edges = self.size.templates, self.size.template_predecessors
        order: Ints = shuffled(self.seed, "template order", count)
        if edges < 2:
            return np.zeros((0, 2), dtype=np.int64)
        draws = self.population.draws("predecessor", 0, 6 * edges)
        later = 1 + draws.below("later", count - 1)
        earlier = np.maximum(later - 1 - draws.skewed("back", np.minimum(later, 8)), 0)
        middle = count // 2
        pairs = np.concatenate([[[middle, middle - 1]], np.stack([later, earlier], axis=1)])
        _, first = np.unique(pairs, axis=0, return_index=True)
        kept = pairs[np.sort(first)][: edges - 1]
        return order.take(np.concatenate([kept, kept[:1, ::-1]]))

    def links(self, table: str, count: int, left: int, right: int) -> Ints:
        """Distinct random pairs below (``left``, ``right``), shape (count, 2), in order."""
        pairs = np.sort(shuffled(self.seed, table, left * right)[:count])
        return np.stack(np.divmod(pairs, max(right, 1)), axis=1)


def category_table(workflow: Workflow) -> Table:
    """The category tree; some parents have higher ids than their children."""
    count = workflow.size.categories
    by_id = np.argsort(workflow.category_ids)

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        index = by_id[start:stop]
        names = [
            f"{_CATEGORY_NAMES[i % len(_CATEGORY_NAMES)]} {i // len(_CATEGORY_NAMES) + 1}" for i in index
        ]
        return {
            "id": pa.array(workflow.category_ids[index]),
            "name": pa.array(names, pa.string()),
            "parent_id": reference(workflow.category_ids, workflow.category_parent[index]),
        }

    columns = schema(id=pa.int32(), name=pa.string(), parent_id=pa.int32())
    return Table("dispatch_category", columns, count, rows)


def role_table(workflow: Workflow) -> Table:
    """Fine-grained staff roles."""
    population, count = workflow.population, workflow.size.roles
    groups = np.array(sorted(list(GROUPS)[: workflow.size.groups]), dtype=np.int64)

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        draws = population.draws("dispatch_role", start, stop - start)
        row = np.arange(start, stop)
        names = [f"{_ROLE_NAMES[i % len(_ROLE_NAMES)]} {i // len(_ROLE_NAMES) + 1}" for i in row]
        staff = population.staff[draws.below("user", len(population.staff))]
        group = draws.below("group", max(len(groups), 1))
        group[draws.chance("no group", 0.4) | (len(groups) == 0)] = NONE
        return {
            "id": pa.array(workflow.role_ids[row]),
            "name": pa.array(names, pa.string()),
            "abbrev": pa.array([name[:2].upper() + name[-1] for name in names], pa.string()),
            "type": pa.array(1 + draws.below("type", 4)),
            "order": pa.array(row + 1),
            "user_id": reference(population.user_ids, np.where(draws.chance("no user", 0.8), NONE, staff)),
            "group_id": reference(groups, group),
        }

    number = pa.int32()
    columns = schema(
        id=number,
        name=pa.string(),
        abbrev=pa.string(),
        type=number,
        order=number,
        user_id=number,
        group_id=number,
    )
    return Table("dispatch_role", columns, count, rows)


def template_table(workflow: Workflow) -> Table:
    """Task templates (docs/legacy-mdw.md section 1.13)."""
    size, count = workflow.size, workflow.size.templates
    bare = divided(
        workflow.seed, "bare template", count, [quota(count, p.TEMPLATE_WITHOUT_CATEGORY_SHARE, p.FEW)]
    )
    courses = list(COURSES)[: size.courses]

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        draws = workflow.population.draws("dispatch_template", start, stop - start)
        category = draws.below("category", max(size.categories, 1))
        category[(bare[start:stop] == 1) | (size.categories == 0)] = NONE
        course = draws.below("course", max(len(courses), 1))
        course[draws.chance("any course", 0.6) | (not courses)] = NONE
        return {
            "id": pa.array(workflow.template_ids[start:stop]),
            **_template_texts(draws, workflow.template_ids[start:stop]),
            "category_id": reference(workflow.category_ids, category),
            "course_id": reference(np.array(courses, dtype=np.int64), course),
            "read_only": pa.array(draws.chance("read only", 0.1)),
            "extensions": chosen(
                (None, None, "", ".stl", ".stl,.ply", ".jpg;.png"), draws.below("ext", 6), pa.string()
            ),
            "alerts": nullable(draws.chance("alerts", 0.2), draws.chance("no alerts", 0.3)),
            "separate": nullable(draws.chance("separate", 0.2), draws.chance("no separate", 0.3)),
        }

    number, text, flag = pa.int32(), pa.string(), pa.bool_()
    columns = schema(
        id=number,
        task_name=text,
        function=number,
        predefined=flag,
        status=number,
        action_name=text,
        text_name=text,
        duration=number,
        category_id=number,
        course_id=number,
        read_only=flag,
        extensions=text,
        alerts=flag,
        separate=flag,
    )
    return Table("dispatch_template", columns, count, rows)


def _template_texts(draws: Draws, ids: Ints) -> dict[str, pa.Array]:
    """The columns that the known templates fix; random for the others."""
    codes, statuses = (1, 2, 4, 3, None), (None, None, 1, 2, 4, 5, 11)
    function = [codes[i] for i in draws.pick("function", (0.4, 0.1, 0.4, 0.05, 0.05))]
    status = [statuses[i] for i in draws.below("status", len(statuses))]
    action = [None if i else "Mark done" for i in draws.below("action", 2)]
    duration: list[int | None] = [(0, 4, 8, 24, 48, None)[i] for i in draws.below("duration", 6)]
    predefined = draws.chance("predefined", 0.3).tolist()
    names: list[str | None] = [f"{_TASK_NAMES[number % len(_TASK_NAMES)]} ({number})" for number in ids]
    for nameless in np.flatnonzero(draws.chance("no name", 0.02)):
        names[nameless] = None
    for row, number in enumerate(ids.tolist()):
        if number in SAMPLES:
            names[row], function[row], predefined[row], status[row], action[row], duration[row] = SAMPLES[
                number
            ]
    return {
        "task_name": pa.array(names, pa.string()),
        "function": pa.array(function, pa.int32()),
        "predefined": pa.array(predefined, pa.bool_()),
        "status": pa.array(status, pa.int32()),
        "action_name": pa.array(action, pa.string()),
        "text_name": chosen((None, None, "", "Tracking number", "TP#"), draws.below("text", 5), pa.string()),
        "duration": pa.array(duration, pa.int32()),
    }


def link_tables(workflow: Workflow) -> list[tuple[str, Callable[[], Table]]]:
    """The five M2M tables of the templates, in the order of the DDL."""
    size = workflow.size
    groups = np.array(sorted(list(GROUPS)[: size.groups]), dtype=np.int64)
    products = np.arange(1, min(size.products, len(PRODUCTS)) + 1)

    def plain(
        name: str, column: str, count: int, others: Callable[[], Ints]
    ) -> tuple[str, Callable[[], Table]]:
        def build() -> Table:
            ids = others()
            pairs = workflow.links(name, count, size.templates, len(ids))
            return _link_table(workflow, name, ("template_id", column), (workflow.template_ids, ids), pairs)

        return name, build

    def predecessors() -> Table:
        ids = workflow.template_ids
        columns = ("from_template_id", "to_template_id")
        return _link_table(
            workflow, "dispatch_template_predecessors", columns, (ids, ids), workflow.predecessors
        )

    return [
        plain("dispatch_template_edit_roles", "role_id", size.template_edit_roles, lambda: workflow.role_ids),
        plain("dispatch_template_view_roles", "role_id", size.template_view_roles, lambda: workflow.role_ids),
        plain("dispatch_template_view_groups", "group_id", size.template_view_groups, lambda: groups),
        plain("dispatch_template_products", "product_id", size.template_products, lambda: products),
        ("dispatch_template_predecessors", predecessors),
    ]


def _link_table(
    workflow: Workflow, name: str, columns: tuple[str, str], ids: tuple[Ints, Ints], pairs: Ints
) -> Table:
    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        draws = workflow.population.draws(name, start, stop - start)
        return {
            "id": pa.array(spread_ids(draws, 2)),
            **{
                column: pa.array(known[pairs[start:stop, side]])
                for side, (column, known) in enumerate(zip(columns, ids, strict=True))
            },
        }

    number = pa.int32()
    return Table(name, schema(id=number, **dict.fromkeys(columns, number)), len(pairs), rows)


def task_table(workflow: Workflow, orders: Orders, projects: Projects) -> Table:
    """Tasks: about 33 for each order (docs/legacy-mdw.md section 1.14)."""
    population, count = workflow.population, workflow.size.tasks
    workers = np.flatnonzero(population.kinds != UserKind.PATIENT)
    lost_orders, lost_templates = free_ids(orders.ids), free_ids(workflow.template_ids)
    has_plans = projects.plans > 0

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        draws = population.draws("dispatch_task", start, stop - start)
        row = np.arange(start, stop, dtype=np.int64)
        order = row * orders.count // count
        template = (order * 7 + row) % workflow.size.templates
        done = draws.chance("done", p.TASK_DONE_SHARE)
        done_at = orders.submitted[order] + draws.skewed("done at", 60 * MICROSECONDS_PER_DAY)
        plan = projects.first_plan[order].astype(np.int64) if has_plans else np.full(len(row), NONE)
        plan[~draws.chance("plan", p.TASK_PLAN_SHARE)] = NONE
        worker = workers[draws.skewed("actor", len(workers))]
        worker[~done | draws.chance("no actor", p.TASK_NULL_ACTOR_SHARE)] = NONE
        lost_order = _rare(draws, "lost order", p.TASK_WITHOUT_ORDER_SHARE, 11)
        lost_template = _rare(draws, "lost template", p.TASK_WITHOUT_TEMPLATE_SHARE, 17)
        instruction = np.where(lost_order, lost_orders[row % len(lost_orders)], orders.ids[order])
        template_id = np.where(
            lost_template, lost_templates[row % len(lost_templates)], workflow.template_ids[template]
        )
        return {
            "id": spread_ids(draws, _TASK_ID_STRIDE),
            "template_id": pa.array(template_id),
            "instruction_id": pa.array(instruction),
            "plan_id": reference(projects.plan_ids, plan),
            "file_id": nullable(1 + draws.below("file", 1 << 20), ~draws.chance("has file", 0.1)),
            "actor_id": reference(population.user_ids, worker),
            "order_id": pa.nulls(len(row), pa.int32()),
            "checked": pa.array(done),
            "done_at": stamps(np.minimum(done_at, NOW_STAMP), ~done),
            "text": sparse_phrases(draws, "text", TASK_TEXTS, p.TASK_TEXT_SHARE),
            "jaw": chosen((1, 1, 2, 3, None), draws.below("jaw", 5), pa.int32()),
        }

    number = pa.int32()
    columns = schema(
        id=number,
        template_id=number,
        instruction_id=number,
        plan_id=number,
        file_id=number,
        actor_id=number,
        order_id=number,
        checked=pa.bool_(),
        done_at=STAMP,
        text=pa.string(),
        jaw=number,
    )
    return Table("dispatch_task", columns, count, rows)


def _rare(draws: Draws, column: str, share: float, first: int) -> Bools:
    """About ``share`` of the rows, and a few fixed early ones so that a small table has some too."""
    chance = draws.chance(column, share)
    planted = np.arange(first, first * (p.FEW + 1), first) - draws.start
    chance[planted[(planted >= 0) & (planted < len(chance))]] = True
    return chance
