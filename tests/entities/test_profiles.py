"""auth_user + auth_user_groups → profiles (docs/legacy-mdw.md sections 1.2, 1.3)."""

from __future__ import annotations

import pytest

from include.entities import ENTITIES
from tests.entities.tables import Row, result_of

ENTITY = ENTITIES["profiles"]

RAW: list[Row] = [
    {
        "legacy_id": "1",
        "t.id": "1",
        "t.username": "anna",
        "t.first_name": "Anna",
        "t.last_name": "ジョーンズ",
        "t.email": " Anna.O'Neil@Example.COM ",
        "t.is_superuser": "f",
        "t.is_staff": "t",
        "t.is_active": "t",
        "t.last_login": "2024-05-06 07:08:09.123456+00",
        "t.date_joined": "2019-01-01 00:00:00+00",
        "group_list": "2,11",
        "groups": "[2, 11]",
        "has_patient": "f",
    },
    {
        "legacy_id": "2",
        "t.id": "2",
        "t.username": "bob",
        "t.first_name": "",
        "t.last_name": None,
        "t.email": "",
        "t.is_superuser": "f",
        "t.is_staff": "f",
        "t.is_active": "f",
        "t.date_joined": "2019-01-01 00:00:00+00",
        "has_patient": "t",
    },
    {
        "legacy_id": "3",
        "t.id": "3",
        "t.username": "",
        "t.first_name": "C",
        "t.last_name": "D",
        "t.email": "not an address",
        "t.is_superuser": "f",
        "t.is_staff": "f",
        "t.is_active": "t",
        "t.date_joined": "2019-01-01 00:00:00+00",
        "has_patient": "f",
    },
]
CLEAN = {
    "1": {
        "legacy_user_id": "1",
        "username": "anna",
        "first_name": "Anna",
        "last_name": "ジョーンズ",
        "email": "anna.o'neil@example.com",
        "role": "doctor",
        "is_active": "t",
        "last_login_at": "2024-05-06 07:08:09.123456+00",
        "created_at": "2019-01-01 00:00:00+00",
        "metadata": {
            "groups": [2, 11],
            "is_staff": True,
            "is_superuser": False,
            "raw": {"email": " Anna.O'Neil@Example.COM "},
        },
    },
    "2": {
        "legacy_user_id": "2",
        "username": "bob",
        "first_name": "",
        "last_name": None,
        "email": None,
        "role": "patient",
        "is_active": "f",
        "last_login_at": None,
        "created_at": "2019-01-01 00:00:00+00",
        "metadata": {"is_staff": False, "is_superuser": False},
    },
    "3": {
        "legacy_user_id": "3",
        "username": "",
        "first_name": "C",
        "last_name": "D",
        "email": None,
        "role": "support",
        "is_active": "t",
        "last_login_at": None,
        "created_at": "2019-01-01 00:00:00+00",
        "metadata": {"is_staff": False, "is_superuser": False, "raw": {"email": "not an address"}},
    },
}


def test_every_column_of_every_user_active_or_not() -> None:
    result = result_of(ENTITY, RAW)
    assert result.clean == CLEAN
    assert result.findings == {
        ("2", "name_empty", "first_name"),
        ("2", "name_empty", "last_name"),
        ("3", "email_malformed", "email"),
    }
    assert result.rejects == set()


def role_of(
    groups: str | None = None, *, superuser: str | None = "f", staff: str = "f", patient: str = "f"
) -> str:
    row: Row = {
        **{"legacy_id": "1", "t.id": "1", "t.is_superuser": superuser, "t.is_staff": staff},
        **{"group_list": groups, "has_patient": patient},
    }
    return str(result_of(ENTITY, [row]).clean["1"]["role"])


@pytest.mark.parametrize(
    ("holds", "role"),
    [
        ({}, "support"),
        ({"staff": "t"}, "admin"),
        ({"groups": "1"}, "patient"),
        ({"patient": "t"}, "patient"),
        ({"groups": "11"}, "technician"),
        ({"groups": "2"}, "doctor"),
        ({"groups": "4"}, "admin"),
        ({"groups": "5"}, "master"),
        ({"superuser": "t"}, "master"),
        ({"groups": "3"}, "support"),
        ({"superuser": None}, "support"),
    ],
)
def test_each_line_of_the_precedence_alone(holds: dict[str, str], role: str) -> None:
    assert role_of(**holds) == role


@pytest.mark.parametrize(
    ("holds", "role"),
    [
        ({"superuser": "t", "groups": "1,2,4,11", "patient": "t", "staff": "t"}, "master"),
        ({"groups": "1,2,4,5,11", "patient": "t", "staff": "t"}, "master"),
        ({"groups": "1,2,4,11", "patient": "t", "staff": "t"}, "admin"),
        ({"groups": "1,2,11", "patient": "t", "staff": "t"}, "doctor"),
        ({"groups": "1,11", "patient": "t", "staff": "t"}, "technician"),
        ({"patient": "t", "staff": "t"}, "patient"),
        ({"groups": "1", "staff": "t"}, "patient"),
        ({"groups": "3,6", "staff": "t"}, "admin"),
    ],
)
def test_of_several_the_first_line_that_holds_decides(holds: dict[str, str], role: str) -> None:
    assert role_of(**holds) == role


@pytest.mark.parametrize("groups", ["12", "21", "22,44", "51,15", "111"])
def test_a_groups_digits_inside_another_number_do_not_count(groups: str) -> None:
    assert role_of(groups) == "support"
