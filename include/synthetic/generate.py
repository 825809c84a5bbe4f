"""The synthetic legacy source: every table of include/sql/source/synthetic_mdw.sql, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from include.synthetic.columns import Table
from include.synthetic.orders import Orders, course_table, instruction_table, jaw_table, product_table
from include.synthetic.people import People, group_table, patient_table, user_group_table, user_table
from include.synthetic.population import Population
from include.synthetic.practices import office_doctor_table, office_table
from include.synthetic.projects import Projects, plan_table, project_table, state_table
from include.synthetic.sizes import SourceSize
from include.synthetic.workflow import (
    Workflow,
    category_table,
    link_tables,
    role_table,
    task_table,
    template_table,
)

CHUNK_ROWS = 100_000


def generate_tables(
    size: SourceSize, seed: int, chunk_rows: int = CHUNK_ROWS
) -> Iterator[tuple[str, Iterator[pa.Table]]]:
    """All tables of a synthetic source, parents before children.

    Yields (table name, its rows in chunks of at most ``chunk_rows``, ordered by id). The rows depend on
    ``size`` and ``seed`` alone, not on the size of the chunks or the machine. Columns are named and typed
    like those of the DDL (uuids as text); NULL and the empty string stay apart. A table of no rows yields
    no chunk. Memory: a few numbers per row of the tables that others refer to, and one chunk.
    """
    for name, count, build in _builders(size, seed):
        yield name, _chunks(build, chunk_rows) if count else iter(())


def _chunks(build: Callable[[], Table], chunk_rows: int) -> Iterator[pa.Table]:
    table = build()
    for start in range(0, table.count, chunk_rows):
        yield table.chunk(start, min(start + chunk_rows, table.count))


def _builders(size: SourceSize, seed: int) -> Iterator[tuple[str, int, Callable[[], Table]]]:
    population = Population(size, seed)
    people, workflow, orders = People(population), Workflow(population), Orders(population)
    projects = Projects(orders)
    yield "auth_user", size.users, lambda: user_table(population, people)
    yield "auth_group", size.groups, lambda: group_table(population)
    yield "auth_user_groups", size.user_groups, lambda: user_group_table(population)
    yield "dispatch_office", size.offices, lambda: office_table(population)
    yield "dispatch_office_doctors", size.office_doctors, lambda: office_doctor_table(population)
    yield "dispatch_patient", size.patients, lambda: patient_table(population)
    yield "dispatch_course", size.courses, lambda: course_table(population)
    yield "dispatch_product", size.products, lambda: product_table(population)
    yield "dispatch_jaw", size.jaws, lambda: jaw_table(population)
    yield "dispatch_instruction", size.instructions, lambda: instruction_table(orders, people)
    yield "dispatch_project", size.projects, lambda: project_table(projects)
    yield "dispatch_plan", size.plans, lambda: plan_table(projects)
    yield "dispatch_state", size.states, lambda: state_table(orders)
    yield "dispatch_category", size.categories, lambda: category_table(workflow)
    yield "dispatch_role", size.roles, lambda: role_table(workflow)
    yield "dispatch_template", size.templates, lambda: template_table(workflow)
    for name, build in link_tables(workflow):
        yield name, getattr(size, name.removeprefix("dispatch_")), build
    yield "dispatch_task", size.tasks, lambda: task_table(workflow, orders, projects)
