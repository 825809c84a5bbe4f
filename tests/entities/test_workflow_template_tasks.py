"""dispatch_template + its M2Ms → workflow_template_tasks (docs/legacy-mdw.md sections 1.13, 3.7)."""

from __future__ import annotations

import json

import pytest

from include.core.ids import target_id
from include.entities import ENTITIES, workflow_template_tasks
from tests.entities.tables import Result, Row, ids, result_of

ENTITY = ENTITIES["workflow_template_tasks"]

RAW: list[Row] = [
    {
        "legacy_id": "46",
        "t.id": "46",
        "t.task_name": "TP# Added",
        "t.function": "4",
        "t.predefined": "t",
        "t.status": "5",
        "t.action_name": "Add TP#",
        "t.text_name": "Number?",
        "t.duration": "28",
        "t.category_id": "3",
        "t.read_only": "f",
        "t.course_id": "1",
        "t.extensions": ".stl, .PLY;.zip",
        "c.name": "Production",
        "predecessors": "[16]",
        "edit_role_ids": "[1, 2]",
        "view_role_ids": "[2]",
        "view_group_ids": "[5]",
        "product_ids": "[7, 8]",
        "edit_roles": '{Designer,"Quality Check"}',
        "view_roles": '{"Quality Check"}',
    },
    {
        "legacy_id": "16",
        "t.id": "16",
        "t.task_name": "",
        "t.function": "9",
        "t.predefined": "f",
        "t.duration": "0",
        "t.category_id": "3",
        "t.read_only": "t",
        "c.name": "Production",
    },
    {"legacy_id": "5", "t.id": "5", "t.task_name": "Loose", "t.predefined": "f", "t.read_only": "f"},
]


def test_every_column_with_and_without_links() -> None:
    result = result_of(ENTITY, RAW)
    nothing = dict.fromkeys(
        (
            *("function_type", "function_code", "action_name", "text_prompt", "estimated_duration"),
            *("required_roles", "view_roles", "category", "extensions"),
        )
    )
    assert result.clean == {
        "46": {
            "legacy_template_id": "46",
            "workflow_template_id": target_id("workflow_templates", "3"),
            "task_name": "TP# Added",
            "task_order": "2",
            "function_type": "process",
            "function_code": "4",
            "is_predefined": "t",
            "action_name": "Add TP#",
            "text_prompt": "Number?",
            "estimated_duration": "28:00:00",
            "required_roles": '{Designer,"Quality Check"}',
            "view_roles": '{"Quality Check"}',
            "category": "Production",
            "read_only": "f",
            "extensions": "{.stl,.PLY,.zip}",
            "predecessor_tasks": ids("workflow_template_tasks", 16),
            "metadata": {
                "category_id": 3,
                "course_id": 1,
                "status": 5,
                "duration": 28,
                "extensions": ".stl, .PLY;.zip",
                "predecessor_ids": [16],
                "edit_role_ids": [1, 2],
                "view_role_ids": [2],
                "view_group_ids": [5],
                "product_ids": [7, 8],
            },
        },
        "16": {
            **nothing,
            "legacy_template_id": "16",
            "workflow_template_id": target_id("workflow_templates", "3"),
            "task_name": "",
            "task_order": "1",
            "function_code": "9",
            "is_predefined": "f",
            "category": "Production",
            "read_only": "t",
            "predecessor_tasks": "{}",
            "metadata": {"category_id": 3, "duration": 0},
        },
        "5": {
            **nothing,
            "legacy_template_id": "5",
            "workflow_template_id": target_id("workflow_templates", "0"),
            "task_name": "Loose",
            "task_order": "1",
            "is_predefined": "f",
            "read_only": "f",
            "predecessor_tasks": "{}",
            "metadata": {},
        },
    }
    assert result.findings == {("16", "name_empty", "task_name"), ("16", "code_unmapped", "function_type")}
    assert result.rejects == set()


def workflow(links: dict[int, list[int]], category: dict[int, str | None] | None = None) -> Result:
    rows: list[Row] = [
        {
            "legacy_id": str(task),
            "t.id": str(task),
            "t.task_name": "A",
            "t.category_id": (category or {}).get(task, "3"),
            "predecessors": json.dumps(before) if before else None,
        }
        for task, before in links.items()
    ]
    return result_of(ENTITY, rows)


def order(result: Result) -> dict[int, int]:
    return {int(key): int(row["task_order"]) for key, row in result.clean.items()}


def test_the_order_is_topological_with_ties_by_number() -> None:
    result = workflow({10: [], 9: [10], 8: [], 7: [9, 8], 100: []})
    assert order(result) == {8: 1, 10: 2, 9: 3, 7: 4, 100: 5}
    assert result.findings == set()


def test_numbers_are_compared_as_numbers() -> None:
    assert order(workflow({100: [], 20: [], 3: []})) == {3: 1, 20: 2, 100: 3}


def test_a_cycle_is_a_finding_where_it_was_cut_then_by_number() -> None:
    result = workflow({1: [2], 2: [3], 3: [2], 4: []})
    assert order(result) == {4: 1, 2: 2, 1: 3, 3: 4}
    assert result.findings == {("2", "cycle", "task_order")}


def test_a_task_that_precedes_itself_is_a_cycle() -> None:
    result = workflow({1: [], 2: [2]})
    assert order(result) == {1: 1, 2: 2}
    assert result.findings == {("2", "cycle", "task_order")}
    assert result.clean["2"]["predecessor_tasks"] == ids("workflow_template_tasks", 2)


def test_predecessors_elsewhere_do_not_order_but_are_kept() -> None:
    result = workflow({1: [2, 99], 2: [], 3: [1]}, {1: "3", 2: "4", 3: None})
    assert order(result) == {1: 1, 2: 1, 3: 1}
    assert result.findings == {
        ("1", "predecessor_elsewhere", "task_order"),
        ("3", "predecessor_elsewhere", "task_order"),
    }
    assert result.clean["1"]["predecessor_tasks"] == ids("workflow_template_tasks", 2, 99)


def test_places_are_unique_within_each_workflow() -> None:
    """UNIQUE (workflow_template_id, task_order) in the target."""
    result = workflow({n: [n - 1] for n in range(1, 30)}, {n: str(n % 3) for n in range(1, 30)})
    places = [(row["workflow_template_id"], row["task_order"]) for row in result.clean.values()]
    assert len(set(places)) == len(places) == 29


@pytest.mark.parametrize(
    ("duration", "unit", "interval"),
    [
        ("4", "hours", "04:00:00"),
        ("100", "hours", "100:00:00"),
        ("-4", "hours", "-04:00:00"),
        ("90", "minutes", "01:30:00"),
        ("-90", "minutes", "-01:30:00"),
        ("5", "minutes", "00:05:00"),
        ("0", "hours", None),
        (None, "hours", None),
    ],
)
def test_durations_are_intervals_in_the_configured_unit(
    monkeypatch: pytest.MonkeyPatch, duration: str | None, unit: str, interval: str | None
) -> None:
    monkeypatch.setattr(workflow_template_tasks, "setting", lambda _table, _key: unit)
    row: Row = {"legacy_id": "1", "t.id": "1", "t.task_name": "A", "t.duration": duration}
    assert result_of(ENTITY, [row]).clean["1"]["estimated_duration"] == interval


@pytest.mark.parametrize(
    ("text", "array"),
    [
        (None, None),
        ("", "{}"),
        (" , ; ", "{}"),
        (".stl", "{.stl}"),
        (".stl .ply\n.zip", "{.stl,.ply,.zip}"),
        ("null,NULL", '{"null","NULL"}'),
        ('a"b,c\\d,{e}', '{"a\\"b","c\\\\d","{e}"}'),
        ("\x01\x08", "{\x01\x08}"),
    ],
)
def test_extensions_become_an_array_whatever_separates_them(text: str | None, array: str | None) -> None:
    row: Row = {"legacy_id": "1", "t.id": "1", "t.task_name": "A", "t.extensions": text}
    clean = result_of(ENTITY, [row]).clean["1"]
    assert clean["extensions"] == array
    assert clean["metadata"].get("extensions") == text
