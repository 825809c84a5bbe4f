"""dispatch_patient ⋈ auth_user → patients (docs/legacy-mdw.md section 1.4)."""

from __future__ import annotations

import pytest

from include.core.ids import target_id
from include.entities import ENTITIES
from tests.entities.tables import Row, result_of

ENTITY = ENTITIES["patients"]

RAW: list[Row] = [
    {
        "legacy_id": "523001",
        "t.id": "523001",
        "t.user_id": "9",
        "t.doctor_id": "3",
        "t.office_id": "7",
        "t.birthdate": "1990-02-28",
        "t.sex": "2",
        "t.status": "10",
        "t.archived": "t",
        "t.suspended": "f",
        "t.schemes": '{"b":[1.50,-0],"a":null}',
        "t.suffix": "00BB",
        "t.submitted_at": "2024-01-02 03:04:05+00",
        "t.updated_at": "2024-02-02 03:04:05+00",
        "t.price": "12.50",
        "u.first_name": "สมชาย",
        "u.last_name": "O'Neil",
        "u.email": "a@b.ch",
    },
    {
        "legacy_id": "8",
        "t.id": "8",
        "t.user_id": "10",
        "t.sex": "0",
        "t.status": "1",
        "t.archived": "f",
        "t.suspended": "f",
        "t.schemes": "{'single': quotes}",
        "u.first_name": "",
        "u.email": "a@b",
    },
]
UNKNOWN = {"medical_history": "{}", "preferences": "{}", "merged_into": None}
CLEAN = {
    "523001": {
        **UNKNOWN,
        "legacy_patient_id": "523001",
        "profile_id": target_id("profiles", "9"),
        "practice_id": target_id("practices", "7"),
        "primary_doctor_id": target_id("profiles", "3"),
        "patient_number": "P523001",
        "first_name": "สมชาย",
        "last_name": "O'Neil",
        "email": "a@b.ch",
        "date_of_birth": "1990-02-28",
        "gender": "female",
        "suffix": "00BB",
        "status_code": "10",
        "archived": "t",
        "suspended": "f",
        "schemes": {"a": None, "b": [1.50, 0]},
        "submitted_at": "2024-01-02 03:04:05+00",
        "updated_at": "2024-02-02 03:04:05+00",
        "metadata": {"user_id": 9, "doctor_id": 3, "office_id": 7, "sex": "2", "price": "12.50"},
    },
    "8": {
        **UNKNOWN,
        "legacy_patient_id": "8",
        "profile_id": target_id("profiles", "10"),
        "practice_id": None,
        "primary_doctor_id": None,
        "patient_number": "P000008",
        "first_name": "",
        "last_name": None,
        "email": None,
        "date_of_birth": None,
        "gender": None,
        "suffix": None,
        "status_code": "1",
        "archived": "f",
        "suspended": "f",
        "schemes": None,
        "submitted_at": None,
        "updated_at": None,
        "metadata": {"user_id": 10, "sex": "0", "raw": {"email": "a@b", "schemes": "{'single': quotes}"}},
    },
}


def test_every_column_of_every_patient_archived_or_not() -> None:
    result = result_of(ENTITY, RAW)
    assert result.clean == CLEAN
    assert result.findings == {
        ("8", "name_empty", "first_name"),
        ("8", "name_empty", "last_name"),
        ("8", "email_malformed", "email"),
        ("8", "code_unmapped", "gender"),
        ("8", "json_malformed", "schemes"),
    }
    assert result.rejects == set()


@pytest.mark.parametrize(
    ("sex", "gender"),
    [("1", "male"), ("2", "female"), ("M", "male"), ("F", "female"), ("0", None), ("m", None), (None, None)],
)
def test_unknown_gender_is_null_and_the_code_is_kept(sex: str | None, gender: str | None) -> None:
    result = result_of(
        ENTITY, [{"legacy_id": "1", "t.id": "1", "t.sex": sex, "u.first_name": "A", "u.last_name": "B"}]
    )
    assert result.clean["1"]["gender"] == gender
    assert result.clean["1"]["metadata"].get("sex") == sex
    assert result.findings == ({("1", "code_unmapped", "gender")} if sex and not gender else set())


@pytest.mark.parametrize("schemes", [None, "", "  "])
def test_no_schemes_are_no_finding(schemes: str | None) -> None:
    row: Row = {"legacy_id": "1", "t.id": "1", "t.schemes": schemes, "u.first_name": "A", "u.last_name": "B"}
    result = result_of(ENTITY, [row])
    assert (result.clean["1"]["schemes"], result.clean["1"]["metadata"]) == (None, {})
    assert result.findings == set()
