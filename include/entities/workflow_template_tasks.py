"""dispatch_template + its M2Ms → workflow_template_tasks (docs/legacy-mdw.md sections 1.13, 3.7).

The order within a workflow is the topological order of predecessors, ties by id. Templates refer to each
other, so the table is never cut.
"""

import json
import re
from collections import defaultdict

import pyarrow as pa
import pyarrow.compute as pc

from include.core.ids import target_ids
from include.core.mapping import code_map, setting
from include.core.rules import (
    coded,
    copy,
    json_number,
    json_raw,
    json_text,
    metadata,
    named,
)
from include.core.spec import (
    Batch,
    Column,
    Embeddings,
    Entity,
    Expression,
    Kind,
    OnMissing,
    Reference,
    Source,
    Table,
)
from include.core.topology import ordered
from include.embedding.documents import DocumentSpec
from include.embedding.sentences import DocumentColumn
from include.embedding.sentences import Kind as Words

_WITHOUT_CATEGORY = "0"
# The end of a predecessor link that is the predecessor, and the end that waits for it.
_EARLIER = f"{setting('workflow', 'predecessor_end')}_template_id"
_LATER = "from_template_id" if _EARLIER == "to_template_id" else "to_template_id"

PREDECESSOR_LINKS = Table(
    "dispatch_template_predecessors",
    "e",
    {"from_template_id": Kind.INTEGER, "to_template_id": Kind.INTEGER},
)


def predecessors_of(template: str) -> Expression:
    """Legacy ids of a template's predecessors as a JSON array; ``template`` is an SQL expression."""
    return Expression(
        "predecessors",
        f"(SELECT json_agg(e.{_EARLIER} ORDER BY e.{_EARLIER})::jsonb"
        f" FROM dispatch_template_predecessors e WHERE e.{_LATER} = {template})",
        (PREDECESSOR_LINKS,),
    )


def _linked(name: str, table: str, column: str) -> Expression:
    """Ids on the other end of an M2M as a JSON array."""
    return Expression(
        name,
        f"(SELECT json_agg(m.{column} ORDER BY m.{column})::jsonb FROM {table} m WHERE m.template_id = t.id)",
        (Table(table, "m", {"template_id": Kind.INTEGER, column: Kind.INTEGER}),),
    )


def _role_names(name: str, table: str) -> Expression:
    """Names of linked roles as a PostgreSQL array; a role that is gone keeps its number."""
    return Expression(
        name,
        "(SELECT array_agg(coalesce(r.name, 'role ' || m.role_id) ORDER BY r.name, m.role_id)"
        f" FROM {table} m LEFT JOIN dispatch_role r ON r.id = m.role_id WHERE m.template_id = t.id)",
        (Table("dispatch_role", "r", {"id": Kind.INTEGER, "name": Kind.TEXT}),),
    )


def _workflow(batch: Batch) -> pa.Array:
    return pc.fill_null(batch.text("t.category_id"), _WITHOUT_CATEGORY)


def _task_order(batch: Batch) -> pa.Array:
    """Places 1, 2, … within each workflow."""
    ids = [int(key) for key in batch.legacy_id.to_pylist()]
    before = {
        task: json.loads(text or "[]")
        for task, text in zip(ids, batch.text("predecessors").to_pylist(), strict=True)
    }
    members: defaultdict[str, list[int]] = defaultdict(list)
    for task, workflow in zip(ids, _workflow(batch).to_pylist(), strict=True):
        members[workflow].append(task)
    places: dict[int, int] = {}
    in_cycle: set[int] = set()
    for tasks in members.values():
        order, forced = ordered(tasks, before)
        in_cycle |= forced | {task for task in tasks if task in before[task]}
        places.update({task: place for place, task in enumerate(order, start=1)})
    workflow_of = {task: workflow for workflow, tasks in members.items() for task in tasks}
    elsewhere = [any(workflow_of.get(p) != workflow_of[task] for p in before[task]) for task in ids]
    batch.note(pa.array([task in in_cycle for task in ids], pa.bool_()), "cycle", "task_order")
    batch.note(pa.array(elsewhere, pa.bool_()), "predecessor_elsewhere", "task_order")
    return pa.array([str(places[task]) for task in ids], pa.string())


def _predecessor_tasks(batch: Batch) -> pa.Array:
    """Target ids of the predecessors as a PostgreSQL array."""
    arrays = []
    for text in batch.text("predecessors").to_pylist():
        legacy = pa.array([str(key) for key in json.loads(text or "[]")], pa.string())
        arrays.append("{" + ",".join(target_ids("workflow_template_tasks", legacy).to_pylist()) + "}")
    return pa.array(arrays, pa.string())


def _duration(batch: Batch) -> pa.Array:
    """An interval in the configured unit, as PostgreSQL prints it; 0 says nothing and becomes NULL."""
    per_hour = {"hours": 1, "minutes": 60}[setting("workflow", "duration_unit")]
    return pa.array([_interval(text, per_hour) for text in batch.text("t.duration").to_pylist()], pa.string())


def _interval(text: str | None, per_hour: int) -> str | None:
    amount = int(text or 0)
    if not amount:
        return None
    minutes = abs(amount) * 60 // per_hour
    return f"{'-' if amount < 0 else ''}{minutes // 60:02d}:{minutes % 60:02d}:00"


def _extensions(batch: Batch) -> pa.Array:
    """The list of file extensions, however it is separated, as a PostgreSQL array; raw text in metadata."""
    return pa.array([_as_array(text) for text in batch.text("t.extensions").to_pylist()], pa.string())


def _as_array(text: str | None) -> str | None:
    if text is None:
        return None
    return "{" + ",".join(_element(part) for part in re.split(r"[,;\s]+", text) if part) + "}"


def _element(text: str) -> str:
    """An element of an array as PostgreSQL prints it: quoted only where it could be misread."""
    if not re.search(r'[{}"\\]', text) and text.upper() != "NULL":
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


ENTITY = Entity(
    name="workflow_template_tasks",
    group="phase_2c_templates",
    source=Source(
        tables=(
            Table(
                "dispatch_template",
                "t",
                columns={
                    "id": Kind.INTEGER,
                    "task_name": Kind.TEXT,
                    "function": Kind.INTEGER,
                    "predefined": Kind.BOOLEAN,
                    "status": Kind.INTEGER,
                    "action_name": Kind.TEXT,
                    "text_name": Kind.TEXT,
                    "duration": Kind.INTEGER,
                    "category_id": Kind.INTEGER,
                    "read_only": Kind.BOOLEAN,
                },
                optional={"course_id": Kind.INTEGER, "extensions": Kind.TEXT},
            ),
            Table(
                "dispatch_category",
                "c",
                {"id": Kind.INTEGER, "name": Kind.TEXT},
                outputs=("name",),
                join="c.id = t.category_id",
            ),
        ),
        expressions=(
            predecessors_of("t.id"),
            _linked("edit_role_ids", "dispatch_template_edit_roles", "role_id"),
            _linked("view_role_ids", "dispatch_template_view_roles", "role_id"),
            _linked("view_group_ids", "dispatch_template_view_groups", "group_id"),
            _linked("product_ids", "dispatch_template_products", "product_id"),
            _role_names("edit_roles", "dispatch_template_edit_roles"),
            _role_names("view_roles", "dispatch_template_view_roles"),
        ),
        whole=True,
    ),
    columns=(
        Column("legacy_template_id", copy("t.id")),
        Column(
            "workflow_template_id",
            lambda batch: target_ids("workflow_templates", _workflow(batch)),
            Reference("workflow_templates", OnMissing.REJECT),
        ),
        Column("task_name", named("t.task_name", "task_name")),
        Column("task_order", _task_order),
        Column(
            "function_type",
            coded("t.function", code_map("task_function"), "function_type"),
            enum="task_function_enum",
        ),
        Column("function_code", copy("t.function")),
        Column("is_predefined", copy("t.predefined")),
        Column("action_name", copy("t.action_name")),
        Column("text_prompt", copy("t.text_name")),
        Column("estimated_duration", _duration),
        Column("required_roles", copy("edit_roles")),
        Column("view_roles", copy("view_roles")),
        Column("category", copy("c.name")),
        Column("read_only", copy("t.read_only")),
        Column("extensions", _extensions),
        Column("predecessor_tasks", _predecessor_tasks),
        metadata(
            category_id=json_number("t.category_id"),
            course_id=json_number("t.course_id"),
            status=json_number("t.status"),
            duration=json_number("t.duration"),
            extensions=json_text("t.extensions"),
            predecessor_ids=json_raw("predecessors"),
            edit_role_ids=json_raw("edit_role_ids"),
            view_role_ids=json_raw("view_role_ids"),
            view_group_ids=json_raw("view_group_ids"),
            product_ids=json_raw("product_ids"),
        ),
    ),
    embeddings=Embeddings(
        table="workflow_template_embeddings",
        owner="workflow_template_task_id",
        document=DocumentSpec(
            entity="workflow_template_tasks",
            content_type="notes",
            columns=(
                DocumentColumn("t.task_name", "Workflow task", Words.TEXT),
                DocumentColumn("t.action_name", "Action", Words.TEXT),
                DocumentColumn("t.text_prompt", "Asks for", Words.TEXT),
                DocumentColumn("t.category", "Workflow", Words.TEXT),
                DocumentColumn("t.function_type", "Function"),
                DocumentColumn("t.required_roles", "Done by", Words.CODES),
                DocumentColumn("t.read_only", "Read only", Words.FLAG),
            ),
        ),
    ),
)
