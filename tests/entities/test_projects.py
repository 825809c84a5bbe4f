"""dispatch_project (+ dispatch_plan) → projects (docs/legacy-mdw.md sections 1.10, 1.11)."""

from __future__ import annotations

import pytest

from include.core.ids import target_id
from include.entities import ENTITIES
from tests.entities.tables import Row, result_of

ENTITY = ENTITIES["projects"]
UID = "0d6e3f0a-6f0b-4c53-8f4e-1f7f3a1b2c3d"
PLANS = (
    '[{"id": 70, "name": null, "notes": "a \\"b\\"", "number": 2, "original": false, "instruction_id": 41},'
    ' {"id": 71, "name": null, "notes": null, "number": 1, "original": true, "instruction_id": 42}]'
)

RAW: list[Row] = [
    {
        "legacy_id": "135001",
        "t.id": "135001",
        "t.uid": UID,
        "t.name": "17",
        "t.size": "5000000000",
        "t.type": "3",
        "t.status": "0",
        "t.creator_id": "9",
        "t.created_at": "2023-01-02 03:04:05+00",
        "t.public": "f",
        "pl.id": "71",
        "pl.project_id": "135001",
        "pl.instruction_id": "42",
        "pl.number": "1",
        "pl.original": "t",
        "i.id": "42",
        "i.patient_id": "8",
        "p.office_id": "7",
        "plans": PLANS,
    },
    {
        "legacy_id": "6",
        "t.id": "6",
        "t.uid": "1d6e3f0a-6f0b-4c53-8f4e-1f7f3a1b2c3d",
        "t.name": "",
        "t.size": "0",
        "t.type": "99",
        "t.status": "2",
        "t.created_at": "2023-01-02 03:04:05+00",
        "t.public": "t",
    },
]
CLEAN = {
    "135001": {
        "legacy_project_id": "135001",
        "legacy_uid": UID,
        "case_id": target_id("cases", "42"),
        "practice_id": target_id("practices", "7"),
        "creator_id": target_id("profiles", "9"),
        "name": "17",
        "project_type": "treatment_plan",
        "type_code": "3",
        "status": "draft",
        "status_code": "0",
        "file_size": "5000000000",
        "storage_bucket": "projects",
        "storage_path": f"135001/{UID}",
        "is_public": "f",
        "version": "1",
        "created_at": "2023-01-02 03:04:05+00",
        "metadata": {
            "plans": [
                {
                    "id": 70,
                    "name": None,
                    "notes": 'a "b"',
                    "number": 2,
                    "original": False,
                    "instruction_id": 41,
                },
                {"id": 71, "name": None, "notes": None, "number": 1, "original": True, "instruction_id": 42},
            ],
            "creator_id": 9,
            "instruction_id": 42,
            "office_id": 7,
        },
    },
    "6": {
        "legacy_project_id": "6",
        "legacy_uid": "1d6e3f0a-6f0b-4c53-8f4e-1f7f3a1b2c3d",
        "case_id": None,
        "practice_id": None,
        "creator_id": None,
        "name": "Untitled project 6",
        "project_type": "other",
        "type_code": "99",
        "status": "draft",
        "status_code": "2",
        "file_size": "0",
        "storage_bucket": "projects",
        "storage_path": "6/1d6e3f0a-6f0b-4c53-8f4e-1f7f3a1b2c3d",
        "is_public": "t",
        "version": None,
        "created_at": "2023-01-02 03:04:05+00",
        "metadata": {},
    },
}


def test_every_column_with_several_plans_and_with_none() -> None:
    result = result_of(ENTITY, RAW)
    assert result.clean == CLEAN
    assert result.findings == {
        ("6", "name_empty", "name"),
        ("6", "code_unmapped", "project_type"),
        ("6", "code_unmapped", "status"),
        ("6", "owner_missing", "case_id"),
    }
    assert result.rejects == set()


@pytest.mark.parametrize(
    ("code", "kind"),
    [("0", "scan"), ("3", "treatment_plan"), ("10", "simulation"), ("11", "aligner_design"), ("1", "other")],
)
def test_an_unmapped_type_is_other_with_the_code_kept(code: str, kind: str) -> None:
    row: Row = {
        "legacy_id": "1",
        "t.id": "1",
        "t.name": "a",
        "t.type": code,
        "t.status": "0",
        "pl.instruction_id": "1",
    }
    result = result_of(ENTITY, [row])
    assert (result.clean["1"]["project_type"], result.clean["1"]["type_code"]) == (kind, code)
    assert result.findings == ({("1", "code_unmapped", "project_type")} if kind == "other" else set())


def test_a_name_that_is_null_is_empty_too() -> None:
    result = result_of(
        ENTITY, [{"legacy_id": "4", "t.id": "4", "t.type": "0", "t.status": "0", "t.name": None}]
    )
    assert result.clean["4"]["name"] == "Untitled project 4"
    assert ("4", "name_empty", "name") in result.findings
