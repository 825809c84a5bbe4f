"""dispatch_state → state_analytics: how long an order stayed in a state."""

from __future__ import annotations

import pytest

from include.core.ids import target_id
from include.entities import ENTITIES
from tests.entities.tables import Row, result_of

ENTITY = ENTITIES["state_analytics"]

RAW: list[Row] = [
    {
        "legacy_id": "5",
        "t.id": "5",
        "t.status": "12",
        "t.on": "t",
        "t.changed_at": "2024-01-02 03:04:05+00",
        "t.actor_id": "9",
        "t.instruction_id": "42",
        "is_slow": "t",
        "from_status": "11",
        "from_on": "f",
        "minutes": "100.99",
    },
    {
        "legacy_id": "6",
        "t.id": "6",
        "t.status": "11",
        "t.on": "f",
        "t.changed_at": "2024-01-03 00:00:00+00",
        "t.instruction_id": "43",
        "is_slow": "f",
    },
]


def test_every_column_of_a_first_row_and_of_one_with_a_row_before() -> None:
    result = result_of(ENTITY, RAW)
    assert result.clean == {
        "5": {
            "legacy_state_id": "5",
            "case_id": target_id("cases", "42"),
            "instruction_state_id": target_id("instruction_states", "5"),
            "from_state": "legacy_11",
            "to_state": "legacy_12",
            "duration_minutes": "100",
            "actor_id": target_id("profiles", "9"),
            "bottleneck_detected": "t",
            "metadata": {"actor_id": 9, "status": 12, "on": True, "from_status": 11, "from_on": False},
        },
        "6": {
            "legacy_state_id": "6",
            "case_id": target_id("cases", "43"),
            "instruction_state_id": target_id("instruction_states", "6"),
            "from_state": None,
            "to_state": "legacy_11",
            "duration_minutes": None,
            "actor_id": None,
            "bottleneck_detected": "f",
            "metadata": {"status": 11, "on": False},
        },
    }
    assert result.findings == {
        ("5", "code_unmapped", "from_state"),
        ("5", "code_unmapped", "to_state"),
        ("6", "code_unmapped", "to_state"),
    }


@pytest.mark.parametrize(
    ("minutes", "whole"),
    [
        ("0", "0"),
        ("0.999", "0"),
        ("100.0001", "100"),
        ("1e3", "1000"),
        ("525600000", "525600000"),
        (None, None),
    ],
)
def test_minutes_are_whole(minutes: str | None, whole: str | None) -> None:
    row: Row = {"legacy_id": "1", "t.id": "1", "t.status": "11", "minutes": minutes}
    assert result_of(ENTITY, [row]).clean["1"]["duration_minutes"] == whole
