"""dispatch_state → instruction_states (docs/legacy-mdw.md section 1.12)."""

from __future__ import annotations

import pyarrow as pa
import pytest

from include.core import mapping
from include.core.ids import target_id
from include.core.mapping import CodeMap
from include.core.spec import Batch
from include.entities import ENTITIES, instruction_states
from tests.entities.tables import Row, raw_table, result_of

ENTITY = ENTITIES["instruction_states"]

RAW: list[Row] = [
    {
        "legacy_id": "5",
        "t.id": "5",
        "t.status": "11",
        "t.on": "t",
        "t.changed_at": "2024-01-02 03:04:05.5+00",
        "t.actor_id": "9",
        "t.instruction_id": "42",
    },
    {
        "legacy_id": "6",
        "t.id": "6",
        "t.status": "12",
        "t.on": "f",
        "t.changed_at": "2024-01-03 00:00:00+00",
        "t.instruction_id": "999",
    },
]


def test_every_column_with_and_without_an_actor() -> None:
    result = result_of(ENTITY, RAW)
    assert result.clean == {
        "5": {
            "legacy_state_id": "5",
            "case_id": target_id("cases", "42"),
            "legacy_instruction_id": "42",
            "instruction_type": "legacy_instruction",
            "status_code": "11",
            "status_name": "legacy_11",
            "is_active": "t",
            "changed_by": target_id("profiles", "9"),
            "changed_at": "2024-01-02 03:04:05.5+00",
            "metadata": {"actor_id": 9},
        },
        "6": {
            "legacy_state_id": "6",
            "case_id": target_id("cases", "999"),
            "legacy_instruction_id": "999",
            "instruction_type": "legacy_instruction",
            "status_code": "12",
            "status_name": "legacy_12",
            "is_active": "f",
            "changed_by": None,
            "changed_at": "2024-01-03 00:00:00+00",
            "metadata": {},
        },
    }
    assert result.findings == {("5", "code_unmapped", "status_name"), ("6", "code_unmapped", "status_name")}
    assert result.rejects == set()


def test_a_configured_name_replaces_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        instruction_states, "code_map", lambda name: CodeMap(name, {"11": "under_review"}, None)
    )
    batch = Batch(raw_table(ENTITY, RAW))
    named = instruction_states.state_name("t.status", "status_name")(batch)
    assert named.to_pylist() == ["under_review", "legacy_12"]
    [(rows, code, column)] = batch.findings
    assert (rows, code, column) == (pa.array([False, True]), "code_unmapped", "status_name")
    assert mapping.code_map("state_name").meanings == {}
