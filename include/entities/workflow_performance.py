"""dispatch_task → workflow_performance: one row per (workflow, case), every task inside exactly one row.

The time of a task runs from the last of its predecessors in the same order, or from the order's submission
where it has none; it is unknown while either end is, or where they are reversed. A task is a bottleneck
when it took more than twice the average of its row, given three timed tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.core import jsontext
from include.core.ids import target_id
from include.core.rules import copy, identifier, metadata, refers
from include.core.spec import Batch, Column, Entity, Expression, Kind, OnMissing, Reference, Source, Table
from include.entities.workflow_template_tasks import predecessors_of

if TYPE_CHECKING:
    import pandas as pd

_TIMED_TASKS = 3
_TIMES_AVERAGE = 2
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


def shape(raw: pa.Table) -> pa.Table:
    """Task rows → one row per legacy id (``<category>:<instruction>``).

    Args:
        raw: all tasks of each of its orders.

    Returns:
        legacy_id, workflow, instruction, tasks (JSON), completion_rate, reversed (whether a task was done
        before it began), average_duration, bottlenecks.
    """
    tasks, starts = _grouped(raw)
    elapsed = _minutes(tasks)
    minutes = np.where(elapsed < 0, np.nan, elapsed)
    sizes = np.diff([*starts, len(tasks)])
    timed, total = _sum(~np.isnan(minutes), starts), _sum(np.nan_to_num(minutes), starts)
    average = np.divide(total, timed, out=np.full(len(starts), np.nan), where=timed > 0)
    done = _sum(tasks["t.checked"].to_numpy() == "t", starts)
    first = tasks.iloc[starts]
    return pa.table(
        {
            "legacy_id": _texts(first["legacy_id"]),
            "workflow": _texts(first["workflow"]),
            "instruction": _texts(first["t.instruction_id"]),
            "tasks": _tasks_json(tasks, minutes, starts),
            "completion_rate": pa.array([f"{rate:.2f}" for rate in 100 * done / sizes], pa.string()),
            "reversed": pa.array(np.where(_sum(elapsed < 0, starts) > 0, "t", "f"), pa.string()),
            "average_duration": pa.array([_interval(value) for value in average], pa.string()),
            "bottlenecks": _bottlenecks(
                tasks, minutes, np.where(timed >= _TIMED_TASKS, average, np.nan), sizes
            ),
        }
    )


def _grouped(raw: pa.Table) -> tuple[pd.DataFrame, Indices]:
    """Tasks ordered by group, then id; and the index at which each group starts."""
    import pandas as pd  # noqa: PLC0415 - a third of what reading a DAG would cost each task

    tasks = raw.to_pandas(strings_to_categorical=False)
    group = pd.factorize(tasks["legacy_id"], use_na_sentinel=False)[0]
    order = np.lexsort((tasks["t.id"].astype("int64").to_numpy(), group))
    group = group[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1)).astype(np.int64)
    return tasks.iloc[order].reset_index(drop=True), starts


def _minutes(tasks: pd.DataFrame) -> Floats:
    """Whole minutes from the last predecessor of the same order, or its submission, to the task's end."""
    import pandas as pd  # noqa: PLC0415 - a third of what reading a DAG would cost each task

    done, submitted = _epoch_minutes(tasks["done"]), _epoch_minutes(tasks["submitted"])
    ends = pd.DataFrame(
        {"order": tasks["t.instruction_id"], "template": tasks["t.template_id"], "done": done}
    ).dropna(subset=["order", "template"])
    ends["row"] = ends.index
    # An order may hold a template twice: it is done when the last of them is, unknown while one is not.
    grouped = ends.assign(unknown=ends["done"].isna()).groupby(["order", "template"], as_index=False)
    finished = grouped.agg(done=("done", "max"), unknown=("unknown", "any"))
    before = ends[["row", "order", "template"]].merge(_links(tasks), on="template")
    before = before.drop(columns="template").merge(
        finished, left_on=["order", "predecessor"], right_on=["order", "template"]
    )
    latest = before.groupby("row").agg(done=("done", "max"), unknown=("unknown", "any"))
    start = submitted.copy()
    start[latest.index] = np.where(latest["unknown"], np.nan, latest["done"])
    return np.asarray(np.floor(done - start))


def _links(tasks: pd.DataFrame) -> pd.DataFrame:
    """template, predecessor: the links of the templates that occur."""
    import pandas as pd  # noqa: PLC0415 - a third of what reading a DAG would cost each task

    seen = tasks[["t.template_id", "predecessors"]].dropna().drop_duplicates()
    numbers = seen["predecessors"].str.findall(r"\d+")
    links = pd.DataFrame({"template": seen["t.template_id"], "predecessor": numbers}).explode("predecessor")
    links = links.dropna().astype(str)
    return links[links["template"] != links["predecessor"]]


def _epoch_minutes(seconds: pd.Series) -> Floats:
    return seconds.astype("float64").to_numpy() / 60


def _sum(values: np.ndarray, starts: Indices) -> Floats:
    """Sum of each group."""
    return np.add.reduceat(values.astype(np.float64), starts) if len(starts) else np.zeros(0)


def _tasks_json(tasks: pd.DataFrame, minutes: Floats, starts: Indices) -> pa.Array:
    """One JSON array per group."""
    members = {
        "id": _texts(tasks["t.id"]),
        "minutes": pc.cast(pc.cast(pa.array(minutes, from_pandas=True), pa.int64()), pa.string()),
        "done_at": jsontext.encode_text(_texts(tasks["t.done_at"])),
        "checked": jsontext.encode_boolean(_texts(tasks["t.checked"])),
        "template_id": _texts(tasks["t.template_id"]),
    }
    objects = jsontext.build_object(members, keep_null=True)
    lists = pa.ListArray.from_arrays(pa.array([*starts, len(tasks)], pa.int32()), objects)
    return pc.binary_join_element_wise("[", pc.binary_join(lists, ", "), "]", "")


def _bottlenecks(tasks: pd.DataFrame, minutes: Floats, average: Floats, sizes: Indices) -> pa.Array:
    """Target ids of the slow tasks of each group, as a PostgreSQL array."""
    known = tasks["t.template_id"].notna().to_numpy()
    slow = known & (minutes > _TIMES_AVERAGE * np.repeat(average, sizes))
    groups = np.repeat(np.arange(len(sizes)), sizes)[slow]
    found: dict[int, set[int]] = {}
    for group, template in zip(groups.tolist(), tasks["t.template_id"][slow].astype(int), strict=True):
        found.setdefault(group, set()).add(template)
    empty = ["{}"] * len(sizes)
    for group, templates in found.items():
        ids = (target_id("workflow_template_tasks", str(template)) for template in sorted(templates))
        empty[group] = "{" + ",".join(ids) + "}"
    return pa.array(empty, pa.string())


def _interval(minutes: float) -> str | None:
    """Minutes as PostgreSQL prints an interval of hours, minutes and seconds."""
    if np.isnan(minutes):
        return None
    seconds = round(abs(minutes) * 60)
    sign = "-" if minutes < 0 and seconds else ""
    return f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _average_duration(batch: Batch) -> pa.Array:
    batch.note(pc.equal(batch.text("reversed"), "t"), "time_reversed", "average_task_duration")
    return batch.text("average_duration")


def _texts(values: pd.Series) -> pa.Array:
    texts = pa.array(values, pa.string(), from_pandas=True)
    # An empty or many-chunked series comes as a chunked array.
    return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts


ENTITY = Entity(
    name="workflow_performance",
    group="phase_2c_templates",
    source=Source(
        tables=(
            Table(
                "dispatch_task",
                "t",
                columns={
                    "id": Kind.INTEGER,
                    "template_id": Kind.INTEGER,
                    "instruction_id": Kind.INTEGER,
                    "checked": Kind.BOOLEAN,
                    "done_at": Kind.TIMESTAMP,
                },
            ),
            Table(
                "dispatch_template",
                "tp",
                {"id": Kind.INTEGER, "category_id": Kind.INTEGER},
                outputs=("category_id",),
                join="tp.id = t.template_id",
            ),
            Table(
                "dispatch_instruction",
                "i",
                {"id": Kind.INTEGER, "submitted_at": Kind.TIMESTAMP},
                outputs=("submitted_at",),
                join="i.id = t.instruction_id",
            ),
        ),
        key="coalesce(tp.category_id, 0)::text || ':' || t.instruction_id::text",
        partition_by="t.instruction_id",
        group_by="t.instruction_id",
        expressions=(
            predecessors_of("t.template_id"),
            Expression("workflow", "coalesce(tp.category_id, 0)::text"),
            Expression("done", "EXTRACT(EPOCH FROM t.done_at)"),
            Expression("submitted", "EXTRACT(EPOCH FROM i.submitted_at)"),
        ),
    ),
    shape=shape,
    columns=(
        Column("legacy_category_id", copy("workflow")),
        Column("legacy_instruction_id", copy("instruction")),
        Column(
            "workflow_template_id",
            identifier("workflow_templates", "workflow"),
            Reference("workflow_templates", OnMissing.REJECT),
        ),
        refers("case_id", "cases", "instruction", OnMissing.REJECT),
        Column("task_performance", copy("tasks")),
        Column("completion_rate", copy("completion_rate")),
        Column("average_task_duration", _average_duration),
        Column("bottleneck_tasks", copy("bottlenecks")),
        metadata(),
    ),
)
