"""Shape, determinism and references of the generated tables."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pytest

from include.synthetic.generate import generate_tables
from include.synthetic.sizes import SourceSize
from tests.synthetic.sources import Source, make_source

SMALL = SourceSize.real().scaled(120)
DDL = Path(__file__).parents[2] / "include" / "sql" / "source" / "synthetic_mdw.sql"


def digest(source: Source) -> str:
    total = hashlib.sha256()
    for name, table in source.items():
        text = io.BytesIO()
        pyarrow.csv.write_csv(table, text)
        total.update(name.encode() + text.getvalue())
    return total.hexdigest()


def test_same_size_and_seed_give_the_same_rows():
    assert digest(make_source(SMALL)) == digest(make_source(SMALL))


def test_another_seed_gives_other_rows():
    assert digest(make_source(SMALL)) != digest(make_source(SMALL, seed=2))


@pytest.mark.parametrize("chunk_rows", [7, 37, 1_000])
def test_chunks_do_not_change_the_rows(chunk_rows: int):
    size = SourceSize.real().scaled(60)
    assert digest(make_source(size, chunk_rows=chunk_rows)) == digest(make_source(size))


def test_chunks_are_bounded(tenth_size: SourceSize):
    for _, chunks in generate_tables(tenth_size, 1, chunk_rows=5_000):
        assert all(chunk.num_rows <= 5_000 for chunk in chunks)


def test_row_counts_are_those_of_the_size(real: Source):
    size = SourceSize.real()
    expected = {field.name: getattr(size, field.name) for field in dataclasses.fields(size)}
    prefixes = re.compile("^(auth|dispatch)_")
    names = {"user": "users", "group": "groups", "category": "categories"}
    found = {}
    for table, rows in real.items():
        name = prefixes.sub("", table)
        plural = names.get(name, name if name in expected else f"{name}s")
        found[plural] = rows.num_rows
    assert found == expected


def test_columns_are_those_of_the_ddl(real: Source):
    declared = {
        table: [line.split()[0].strip('"') for line in body.strip().splitlines()]
        for table, body in re.findall(r"CREATE TABLE (\w+) \(\n(.*?)\n\);", DDL.read_text("utf-8"), re.S)
    }
    assert {name: table.column_names for name, table in real.items()} == declared


def test_tables_come_after_those_they_refer_to(real: Source):
    names = list(real)
    for child, parent in re.findall(r"ALTER TABLE (\w+)\n.* REFERENCES (\w+)", DDL.read_text("utf-8")):
        assert names.index(parent) <= names.index(child)


def test_empty_tables_yield_no_chunk():
    size = SMALL.scaled(120, jaws=0, instructions=0, projects=0, plans=0, states=0, tasks=0)
    made = make_source(size)
    assert "dispatch_task" not in made
    assert made["dispatch_patient"].num_rows == 120


def test_ids_rise_and_have_gaps(real: Source):
    for name, table in real.items():
        ids = table["id"].to_numpy()
        assert np.all(np.diff(ids) > 0), name
    for name, factor in (("dispatch_patient", 65), ("dispatch_project", 2)):
        highest = pc.max(real[name]["id"]).as_py()
        assert highest == pytest.approx(real[name].num_rows * factor, rel=0.01)


RESOLVING = [
    ("auth_user_groups", "user_id", "auth_user"),
    ("auth_user_groups", "group_id", "auth_group"),
    ("dispatch_office_doctors", "office_id", "dispatch_office"),
    ("dispatch_office_doctors", "user_id", "auth_user"),
    ("dispatch_patient", "user_id", "auth_user"),
    ("dispatch_instruction", "course_id", "dispatch_course"),
    ("dispatch_instruction", "upper_jaw_id", "dispatch_jaw"),
    ("dispatch_instruction", "lower_jaw_id", "dispatch_jaw"),
    ("dispatch_plan", "project_id", "dispatch_project"),
    ("dispatch_template_predecessors", "to_template_id", "dispatch_template"),
    ("dispatch_task", "plan_id", "dispatch_plan"),
    ("dispatch_task", "actor_id", "auth_user"),
]
# Child, column, parent, and between which shares of the child's rows the reference dangles.
DANGLING = [
    ("dispatch_patient", "doctor_id", "auth_user", 0.0005, 0.01),
    ("dispatch_patient", "office_id", "dispatch_office", 0.001, 0.01),
    ("dispatch_instruction", "patient_id", "dispatch_patient", 0.009, 0.015),
    ("dispatch_project", "creator_id", "auth_user", 0.0005, 0.002),
    ("dispatch_plan", "instruction_id", "dispatch_instruction", 0.001, 0.003),
    ("dispatch_state", "actor_id", "auth_user", 0.015, 0.03),
    ("dispatch_state", "instruction_id", "dispatch_instruction", 0.035, 0.045),
    ("dispatch_task", "instruction_id", "dispatch_instruction", 0.0001, 0.001),
    ("dispatch_task", "template_id", "dispatch_template", 0.00005, 0.0005),
]


def dangling(source: Source, child: str, column: str, parent: str) -> int:
    values = source[child][column].drop_null()
    return pc.sum(pc.invert(pc.is_in(values, source[parent]["id"].combine_chunks()))).as_py()


@pytest.mark.parametrize(("child", "column", "parent"), RESOLVING)
def test_constrained_references_resolve(real: Source, tenth: Source, child: str, column: str, parent: str):
    for source in (real, tenth):
        assert dangling(source, child, column, parent) == 0


@pytest.mark.parametrize(("child", "column", "parent", "low", "high"), DANGLING)
def test_loose_references_dangle_sometimes(
    *, real: Source, tenth: Source, child: str, column: str, parent: str, low: float, high: float
):
    assert low <= dangling(real, child, column, parent) / real[child].num_rows <= high
    assert dangling(tenth, child, column, parent) >= 3


def test_unique_columns_and_pairs(real: Source):
    keys = {
        "auth_user": ["username"],
        "auth_user_groups": ["user_id", "group_id"],
        "dispatch_office_doctors": ["office_id", "user_id"],
        "dispatch_patient": ["user_id"],
        "dispatch_project": ["uid"],
        "dispatch_template_edit_roles": ["template_id", "role_id"],
        "dispatch_template_view_roles": ["template_id", "role_id"],
        "dispatch_template_view_groups": ["template_id", "group_id"],
        "dispatch_template_products": ["template_id", "product_id"],
        "dispatch_template_predecessors": ["from_template_id", "to_template_id"],
    }
    for name, columns in keys.items():
        table = real[name].select(columns)
        assert table.group_by(columns).aggregate([]).num_rows == table.num_rows, name


def test_jaws_belong_to_one_order_or_none(real: Source):
    orders = real["dispatch_instruction"]
    used = pa.concat_arrays(
        [orders[column].drop_null().combine_chunks() for column in ("upper_jaw_id", "lower_jaw_id")]
    )
    assert len(pc.unique(used)) == len(used)
    unused = real["dispatch_jaw"].num_rows - len(used)
    assert unused / real["dispatch_jaw"].num_rows == pytest.approx(343 / 18_764, rel=0.05)


def test_orders_of_a_patient_are_numbered(real: Source):
    orders = real["dispatch_instruction"].select(["patient_id", "order"]).to_pandas()
    patients = set(real["dispatch_patient"]["id"].to_pylist())
    known = orders[orders["patient_id"].isin(patients)]
    counted = known.groupby("patient_id")["order"]
    assert (counted.min() == 1).all()
    assert (counted.max() == counted.size()).all()


def test_predecessors_have_exactly_one_cycle_of_two(real: Source, tenth: Source):
    for source in (real, tenth):
        table = source["dispatch_template_predecessors"]
        edges = set(
            zip(table["from_template_id"].to_pylist(), table["to_template_id"].to_pylist(), strict=True)
        )
        mutual = {edge for edge in edges if edge[::-1] in edges}
        assert len(mutual) == 2
        edges.discard(next(iter(mutual)))
        assert is_acyclic(edges) or is_acyclic((edges | mutual) - {next(iter(mutual))[::-1]})


def is_acyclic(edges: set[tuple[int, int]]) -> bool:
    waiting = dict.fromkeys(itertools.chain.from_iterable(edges), 0)
    for _, to in edges:
        waiting[to] += 1
    ready = [node for node, count in waiting.items() if count == 0]
    seen = 0
    while ready:
        node = ready.pop()
        seen += 1
        for _, to in filter(lambda edge: edge[0] == node, edges):
            waiting[to] -= 1
            if waiting[to] == 0:
                ready.append(to)
    return seen == len(waiting)


def test_categories_are_a_tree_of_depth_three(real: Source):
    table = real["dispatch_category"]
    parent = dict(zip(table["id"].to_pylist(), table["parent_id"].to_pylist(), strict=True))

    def depth(node: int) -> int:
        above = parent[node]
        return 1 if above is None else 1 + depth(above)

    assert max(depth(node) for node in parent) == 3
    assert any(above is not None and above > node for node, above in parent.items())


def test_projects_have_no_one_or_several_plans(real: Source):
    plans = real["dispatch_plan"].group_by("project_id").aggregate([("id", "count")])["id_count"].to_numpy()
    projects = real["dispatch_project"].num_rows
    assert (projects - len(plans)) / projects == pytest.approx(0.2, abs=0.01)
    assert (plans > 1).sum() > 1_000
    originals = real["dispatch_plan"].filter(pc.field("original"))["project_id"]
    assert len(pc.unique(originals)) == len(originals)


def test_tasks_done_have_a_time_and_others_none(real: Source):
    tasks = real["dispatch_task"]
    assert pc.all(pc.equal(tasks["checked"], pc.is_valid(tasks["done_at"]))).as_py()
    assert tasks.num_rows / real["dispatch_instruction"].num_rows == pytest.approx(33, abs=0.1)
    has_plan = tasks.filter(pc.is_valid(tasks["plan_id"]))
    assert 0.05 < has_plan.num_rows / tasks.num_rows < 0.2


def test_known_templates_are_there(real: Source):
    rows = {row["id"]: row for row in real["dispatch_template"].to_pylist()}
    assert (rows[16]["task_name"], rows[16]["function"], rows[16]["duration"]) == ("Sectioned", 1, 4)
    assert (rows[46]["status"], rows[46]["action_name"]) == (5, "Add TP#")
    assert (rows[125]["predefined"], rows[125]["action_name"]) == (True, "Submit Patient")
