"""dispatch_task → workflow_performance, by examples calculated by hand."""

from __future__ import annotations

from typing import Any

import pytest

from include.core.ids import target_id
from include.entities import ENTITIES
from tests.entities.tables import Result, Row, ids, raw_table, result_of

ENTITY = ENTITIES["workflow_performance"]
SUBMITTED = 1_700_000_000


def task(
    number: int,
    template: int | None = None,
    *,
    done: float | None = None,
    checked: str = "t",
    after: str | None = None,
    order: int = 42,
    workflow: int = 3,
    submitted: float | None = 0,
) -> Row:
    """A task done so many minutes behind the order's submission, itself so many behind the common start."""
    return {
        "legacy_id": f"{workflow}:{order}",
        "t.id": str(number),
        "t.template_id": None if template is None else str(template),
        "t.instruction_id": str(order),
        "t.checked": checked,
        "t.done_at": None if done is None else f"done {number}",
        "tp.category_id": str(workflow) if workflow else None,
        "i.submitted_at": None if submitted is None else "then",
        "predecessors": after,
        "workflow": str(workflow),
        "done": None if done is None else f"{SUBMITTED + 60 * done:.6f}",
        "submitted": None if submitted is None else f"{SUBMITTED + 60 * submitted:.6f}",
    }


# Order 42 was submitted at minute 0. Template 10 has no predecessor, 11 waits for 10, 12 for 10 and 11,
# 13 for a template that the order does not have; 14 waits for 15, which is not done.
RAW: list[Row] = [
    task(1, 10, done=10),  # 10 minutes since the submission
    task(2, 11, done=30.5, after="[10]"),  # 20.5 since 10
    task(3, 12, done=130.5, after="[10, 11]"),  # 100 since 11, the later of the two
    task(4, 13, done=15, after="[99]"),  # 15 since the submission
    task(5, 14, done=50, after="[15]"),  # unknown: 15 is open
    task(6, 15, checked="f"),  # open
    task(7, 10, order=43, workflow=3, done=5),  # another order, another row
    task(8, 20, workflow=0, done=40, after="[11]"),  # another workflow of order 42: 9.5 since 11
]


def parsed(result: Result) -> dict[str, dict[str, Any]]:
    return {
        key: {t["id"]: t["minutes"] for t in row["task_performance"]} for key, row in result.clean.items()
    }


def test_every_column_of_the_example() -> None:
    result = result_of(ENTITY, RAW)
    case = target_id("cases", "42")
    assert result.clean["3:42"] == {
        "legacy_category_id": "3",
        "legacy_instruction_id": "42",
        "workflow_template_id": target_id("workflow_templates", "3"),
        "case_id": case,
        "task_performance": [
            {"id": 1, "minutes": 10, "done_at": "done 1", "checked": True, "template_id": 10},
            {"id": 2, "minutes": 20, "done_at": "done 2", "checked": True, "template_id": 11},
            {"id": 3, "minutes": 100, "done_at": "done 3", "checked": True, "template_id": 12},
            {"id": 4, "minutes": 15, "done_at": "done 4", "checked": True, "template_id": 13},
            {"id": 5, "minutes": None, "done_at": "done 5", "checked": True, "template_id": 14},
            {"id": 6, "minutes": None, "done_at": None, "checked": False, "template_id": 15},
        ],
        "completion_rate": "83.33",  # 5 of 6
        "average_task_duration": "00:36:15",  # (10 + 20 + 100 + 15) / 4 minutes
        "bottleneck_tasks": ids("workflow_template_tasks", 12),  # 100 > 2 x 36.25
        "metadata": {},
    }
    assert result.clean["0:42"] == {
        "legacy_category_id": "0",
        "legacy_instruction_id": "42",
        "workflow_template_id": target_id("workflow_templates", "0"),
        "case_id": case,
        "task_performance": [
            {"id": 8, "minutes": 9, "done_at": "done 8", "checked": True, "template_id": 20}
        ],
        "completion_rate": "100.00",
        "average_task_duration": "00:09:00",
        "bottleneck_tasks": "{}",
        "metadata": {},
    }
    assert result.clean["3:43"]["average_task_duration"] == "00:05:00"
    assert set(result.clean) == {"3:42", "0:42", "3:43"}
    assert result.findings == result.rejects == set()


@pytest.mark.parametrize("rows", [list(reversed(RAW)), [*RAW[3:], *RAW[:3]], RAW[::2] + RAW[1::2]])
def test_the_order_of_the_raw_rows_does_not_matter(rows: list[Row]) -> None:
    assert result_of(ENTITY, rows) == result_of(ENTITY, RAW)


def test_every_task_is_inside_exactly_one_row() -> None:
    tasks = [t["id"] for row in result_of(ENTITY, RAW).clean.values() for t in row["task_performance"]]
    assert sorted(tasks) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_two_timed_tasks_are_too_few_for_a_bottleneck() -> None:
    few = result_of(ENTITY, [task(1, 10, done=1), task(2, 11, done=100)])
    assert few.clean["3:42"]["bottleneck_tasks"] == "{}"
    enough = result_of(ENTITY, [task(1, 10, done=1), task(2, 11, done=100), task(3, 12, done=1)])
    assert enough.clean["3:42"]["bottleneck_tasks"] == ids("workflow_template_tasks", 11)


def test_exactly_twice_the_average_is_not_slow() -> None:
    result = result_of(
        ENTITY, [task(1, 10, done=10), task(2, 11, done=10), task(3, 12, done=40), task(4, 13, done=20)]
    )
    assert result.clean["3:42"]["average_task_duration"] == "00:20:00"
    assert result.clean["3:42"]["bottleneck_tasks"] == "{}"


def test_a_template_held_twice_is_done_when_the_last_is_and_slow_once() -> None:
    rows = [
        *(task(1, 10, done=10), task(2, 10, done=30), task(3, 11, done=33, after="[10]")),
        *(task(n, 12, done=1) for n in range(4, 12)),
        *(task(12, 13, done=90), task(13, 13, done=80)),
    ]
    result = result_of(ENTITY, rows)
    assert parsed(result)["3:42"][3] == 3
    # 13 timed tasks take 221 minutes, 17 on average; only those of template 13 take more than 34.
    assert result.clean["3:42"]["bottleneck_tasks"] == ids("workflow_template_tasks", 13)
    still_open = result_of(ENTITY, [task(1, 10, done=10), task(2, 10), task(3, 11, done=33, after="[10]")])
    assert parsed(still_open)["3:42"][3] is None


def test_predecessors_of_another_order_do_not_count() -> None:
    result = result_of(ENTITY, [task(1, 10, done=10, order=1), task(2, 11, done=30, order=2, after="[10]")])
    assert parsed(result) == {"3:1": {1: 10}, "3:2": {2: 30}}


def test_done_before_it_began_is_unknown_and_noted() -> None:
    rows = [task(1, 10, done=20), task(2, 11, done=19.5, after="[10]"), task(3, 10, done=5, order=7)]
    result = result_of(ENTITY, rows)
    assert parsed(result)["3:42"] == {1: 20, 2: None}
    assert result.clean["3:42"]["average_task_duration"] == "00:20:00"
    assert result.findings == {("3:42", "time_reversed", "average_task_duration")}


def test_a_template_that_precedes_itself_counts_from_the_submission() -> None:
    assert parsed(result_of(ENTITY, [task(1, 10, done=20, after="[10]")])) == {"3:42": {1: 20}}


def test_without_submission_or_template_nothing_is_timed() -> None:
    rows = [task(1, 10, done=20, submitted=None), task(2, None, done=20, submitted=None, checked="f")]
    result = result_of(ENTITY, rows)
    assert parsed(result) == {"3:42": {1: None, 2: None}}
    assert result.clean["3:42"]["average_task_duration"] is None
    assert result.clean["3:42"]["completion_rate"] == "50.00"
    assert result.clean["3:42"]["bottleneck_tasks"] == "{}"


def test_a_submission_after_the_end_is_reversed_too() -> None:
    result = result_of(ENTITY, [task(1, 10, done=20, submitted=30)])
    assert parsed(result) == {"3:42": {1: None}}
    assert result.findings == {("3:42", "time_reversed", "average_task_duration")}


def test_averages_are_rounded_to_seconds() -> None:
    result = result_of(ENTITY, [task(1, 10, done=1), task(2, 11, done=1), task(3, 12, done=2)])
    assert result.clean["3:42"]["average_task_duration"] == "00:01:20"
    long = result_of(ENTITY, [task(1, 10, done=60 * 24 * 40)])
    assert long.clean["3:42"]["average_task_duration"] == "960:00:00"


def test_tasks_without_an_order_are_rejected_together_and_the_others_load() -> None:
    lost = {**task(9, 10, done=1), "legacy_id": None, "t.instruction_id": None}
    result = result_of(ENTITY, [*RAW, lost, {**lost, "t.id": "10"}])
    assert result.rejects == {("", "key_missing", "legacy_id")}
    assert result.clean == result_of(ENTITY, RAW).clean


def test_a_batch_of_no_tasks_has_no_rows() -> None:
    assert result_of(ENTITY, []).clean == {}
    assert ENTITY.shape is not None
    assert ENTITY.shape(raw_table(ENTITY, RAW).slice(0, 0)).num_rows == 0
