"""dispatch_instruction → cases (docs/legacy-mdw.md sections 1.8, 1.9)."""

from __future__ import annotations

import pytest

from include.core.ids import target_id
from include.entities import ENTITIES
from tests.entities.tables import Row, result_of

ENTITY = ENTITIES["cases"]
_JAW = (
    '{"id": 5, "labial": true, "reason": null, "bond_teeth": "0101010101010101", "product_id": 2,'
    ' "extract_teeth": "0000000000000000"}'
)
JAW = {
    "id": 5,
    "labial": True,
    "reason": None,
    "bond_teeth": "0101010101010101",
    "product_id": 2,
    "extract_teeth": "0" * 16,
}

RAW: list[Row] = [
    {
        "legacy_id": "42",
        "t.id": "42",
        "t.patient_id": "8",
        "t.course_id": "2",
        "t.order": "3",
        "t.model": "1",
        "t.scanner": "10",
        "t.scanner_notes": "fast",
        "t.upper_jaw_id": "5",
        "t.lower_jaw_id": None,
        "t.notes": 'say "a"\nand\tb',
        "t.conditions": "",
        "t.complaint": None,
        "t.objective": "歯",
        "t.exports": '[{"z":1,"a":2}]',
        "t.price": "564.63",
        "t.status": "4",
        "t.cbct": "t",
        "t.accept_extraction": "f",
        "t.comprehensive": None,
        "t.deleted": "t",
        "t.suffix": "51Bn",
        "t.submitted_at": "2024-01-02 03:04:05+00",
        "t.updated_at": "2024-02-02 03:04:05+00",
        "p.office_id": "7",
        "p.doctor_id": "3",
        "c.name": "Refinement",
        "upper_jaw": _JAW,
        "lower_jaw": None,
    },
    {
        "legacy_id": "43",
        "t.id": "43",
        "t.patient_id": "999",
        "t.course_id": "8",
        "t.lower_jaw_id": "6",
        "t.exports": "{broken",
        "t.status": "3",
        "t.deleted": "f",
        "t.suffix": "",
    },
]
CLEAN = {
    "42": {
        "legacy_instruction_id": "42",
        "patient_id": target_id("patients", "8"),
        "practice_id": target_id("practices", "7"),
        "assigned_practitioner_id": target_id("profiles", "3"),
        "case_number": "C000042",
        "title": "Refinement",
        "case_type": "refinement",
        "current_state": "shipped",
        "sequence": "3",
        "price": "564.63",
        "clinical": {
            "notes": 'say "a"\nand\tb',
            "conditions": "",
            "complaint": None,
            "objective": "歯",
            "model": 1,
            "scanner": 10,
            "scanner_notes": "fast",
            "cbct": True,
            "comprehensive": None,
            "accept_extraction": False,
            "jaws": {"upper": JAW, "lower": None},
        },
        "suffix": "51Bn",
        "is_deleted": "t",
        "submitted_at": "2024-01-02 03:04:05+00",
        "updated_at": "2024-02-02 03:04:05+00",
        "metadata": {
            "exports": [{"z": 1, "a": 2}],
            "patient_id": 8,
            "course_id": 2,
            "status": 4,
            "upper_jaw_id": 5,
            "office_id": 7,
            "doctor_id": 3,
        },
    },
    "43": {
        "legacy_instruction_id": "43",
        "patient_id": target_id("patients", "999"),
        "practice_id": None,
        "assigned_practitioner_id": None,
        "case_number": "C000043",
        "title": None,
        "case_type": None,
        "current_state": None,
        "sequence": None,
        "price": None,
        "clinical": {
            **dict.fromkeys(
                ("notes", "conditions", "complaint", "objective", "model", "scanner", "scanner_notes")
            ),
            **dict.fromkeys(("cbct", "comprehensive", "accept_extraction")),
            "jaws": {"upper": None, "lower": None},
        },
        "suffix": "",
        "is_deleted": "f",
        "submitted_at": None,
        "updated_at": None,
        "metadata": {
            "patient_id": 999,
            "course_id": 8,
            "status": 3,
            "lower_jaw_id": 6,
            "raw": {"exports": "{broken"},
        },
    },
}


def test_every_column_of_every_order_deleted_or_not() -> None:
    result = result_of(ENTITY, RAW)
    assert result.clean == CLEAN
    assert result.findings == {
        ("43", "code_unmapped", "case_type"),
        ("43", "code_unmapped", "current_state"),
        ("43", "json_malformed", "metadata.exports"),
    }
    assert result.rejects == set()


def test_a_jaw_is_upper_or_lower_by_the_column_that_names_it() -> None:
    rows: list[Row] = [
        {"legacy_id": "1", "t.id": "1", "lower_jaw": _JAW},
        {"legacy_id": "2", "t.id": "2", "upper_jaw": _JAW, "lower_jaw": _JAW},
    ]
    clean = result_of(ENTITY, rows).clean
    assert clean["1"]["clinical"]["jaws"] == {"upper": None, "lower": JAW}
    assert clean["2"]["clinical"]["jaws"] == {"upper": JAW, "lower": JAW}


@pytest.mark.parametrize(
    ("status", "state"),
    [("1", "submitted"), ("2", "approved"), ("4", "shipped"), ("0", None), ("3", None), ("7", None)],
)
def test_the_state_is_mapped_or_unknown_and_counted(status: str, state: str | None) -> None:
    result = result_of(ENTITY, [{"legacy_id": "1", "t.id": "1", "t.course_id": "1", "t.status": status}])
    assert (result.clean["1"]["current_state"], result.clean["1"]["metadata"]["status"]) == (
        state,
        int(status),
    )
    assert result.clean["1"]["case_type"] == "active_treatment"
    assert result.findings == (set() if state else {("1", "code_unmapped", "current_state")})
