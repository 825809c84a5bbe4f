"""dispatch_category → workflow_templates (docs/legacy-mdw.md sections 1.13, 1.14)."""

from __future__ import annotations

from include.core.ids import target_id
from include.entities import ENTITIES
from tests.entities.tables import Row, result_of

ENTITY = ENTITIES["workflow_templates"]

RAW: list[Row] = [
    {"legacy_id": "0", "t.id": "0", "t.name": "Tasks without category"},
    {"legacy_id": "3", "t.id": "3", "t.name": "Production", "t.parent_id": "9"},
    {"legacy_id": "9", "t.id": "9", "t.name": ""},
]


def test_every_column_with_a_parent_that_comes_later() -> None:
    result = result_of(ENTITY, RAW)
    parents = {"0": None, "3": "9", "9": None}
    names = {"0": "Tasks without category", "3": "Production", "9": ""}
    assert result.clean == {
        key: {
            "legacy_category_id": key,
            "name": names[key],
            "parent_id": parent and target_id("workflow_templates", parent),
            "metadata": {"parent_id": int(parent)} if parent else {},
        }
        for key, parent in parents.items()
    }
    assert result.findings == {("9", "name_empty", "name")}
