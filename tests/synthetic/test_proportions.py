"""The dirt of docs/legacy-mdw.md section 1.21 in its proportions, and every kind of it in a tenth of the size."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable

import pytest

from include.synthetic import proportions as p
from tests.synthetic.sources import Source


def share(source: Source, table: str, column: str, *values: object) -> float:
    found = source[table][column].to_pylist()
    return sum(value in values for value in found) / len(found)


# Table, column, values, their expected share, tolerance.
SHARES = [
    ("auth_user", "email", [""], 0.87, 0.005),
    ("dispatch_patient", "archived", [True], 0.16, 0.005),
    ("dispatch_patient", "sex", [None], 0.04, 0.01),
    ("dispatch_patient", "sex", [0], 0.02, 0.005),
    ("dispatch_patient", "birthdate", [None], 0.045, 0.01),
    ("dispatch_patient", "office_id", [None], 0.04, 0.01),
    ("dispatch_patient", "doctor_id", [None], 0.008, 0.004),
    ("dispatch_patient", "updated_at", [None], 0.05, 0.01),
    ("dispatch_patient", "schemes", [None], 0.25, 0.02),
    ("dispatch_patient", "schemes", [""], 0.1, 0.02),
    ("dispatch_patient", "schemes", ["{}"], 0.2, 0.02),
    ("dispatch_patient", "suffix", ["", None], 0.1543, 0.015),
    ("dispatch_office", "valid", [True], 0.6, 0.001),
    ("dispatch_office", "country", ["USA"], 553 / 896, 0.02),
    ("dispatch_instruction", "status", [4], 0.8312, 0.005),
    ("dispatch_instruction", "status", [1], 0.1454, 0.001),
    ("dispatch_instruction", "status", [2], 0.0235, 0.001),
    ("dispatch_instruction", "deleted", [True], 0.014, 0.001),
    ("dispatch_instruction", "cbct", [True], 954 / 2_387, 0.02),
    ("dispatch_instruction", "comprehensive", [True], 1_106 / 2_387, 0.02),
    ("dispatch_instruction", "accept_extraction", [True], 419 / 2_387, 0.02),
    ("dispatch_project", "type", [3], 0.52, 0.001),
    ("dispatch_project", "type", [0, 10, 11], 0.48, 0.001),
    ("dispatch_project", "status", [0], 0.9998, 0.0001),
    ("dispatch_project", "name", [""], 0.8, 0.01),
    ("dispatch_project", "creator_id", [None], 0.05, 0.001),
    ("dispatch_state", "status", [11], 0.547, 0.001),
    ("dispatch_state", "status", [11, 12], 1, 0),
    ("dispatch_state", "actor_id", [None], 0.02, 0.001),
]


@pytest.mark.parametrize(("table", "column", "values", "expected", "tolerance"), SHARES)
def test_share(
    *, real: Source, table: str, column: str, values: list[object], expected: float, tolerance: float
):
    assert share(real, table, column, *values) == pytest.approx(expected, abs=tolerance)


def test_model_and_scanner_pairs(real: Source):
    orders = real["dispatch_instruction"]
    pairs = Counter(zip(orders["model"].to_pylist(), orders["scanner"].to_pylist(), strict=True))
    for pair, expected in p.MODEL_SCANNER_SHARES.items():
        assert pairs[pair] / orders.num_rows == pytest.approx(expected, abs=0.001)
    assert set(pairs) == set(p.MODEL_SCANNER_SHARES)


def test_prices(real: Source):
    prices = [
        float(price) for price in real["dispatch_instruction"]["price"].to_pylist() if price is not None
    ]
    assert sum(prices) / len(prices) == pytest.approx(564.63, rel=0.01)
    assert (min(prices), max(prices)) == (0, 997)


def test_countries(real: Source, tenth: Source):
    for source in (real, tenth):
        assert set(source["dispatch_office"]["country"].to_pylist()) == set(p.COUNTRY_ROWS)


def test_states_of_orders(real: Source):
    states, orders = real["dispatch_state"], real["dispatch_instruction"]["id"].to_pylist()
    known = set(orders)
    per_order = Counter(order for order in states["instruction_id"].to_pylist() if order in known)
    assert max(per_order.values()) == 6
    oldest = orders.index(min(per_order))
    kept = orders[oldest:]
    assert 1 - len(per_order) / len(kept) == pytest.approx(0.6, abs=0.01)
    stamps = states["changed_at"].to_pylist()
    years = Counter(stamp.year for stamp in stamps)
    total = sum(p.STATE_YEAR_ROWS.values())
    assert all(
        years[y] / len(stamps) == pytest.approx(n / total, abs=0.03) for y, n in p.STATE_YEAR_ROWS.items()
    )
    assert stamps != sorted(stamps)


def test_doctors_share_emails_and_names(real: Source):
    users = {row["id"]: row for row in real["auth_user"].to_pylist()}
    groups = real["auth_user_groups"]
    patients = set(real["dispatch_patient"]["user_id"].to_pylist())
    doctors = {
        user
        for user, group in zip(groups["user_id"].to_pylist(), groups["group_id"].to_pylist(), strict=True)
        if group == 2 and user not in patients
    }
    emails = Counter(users[doctor]["email"] for doctor in doctors if users[doctor]["email"])
    assert sum(emails.values()) - len(emails) == pytest.approx(62, abs=5)
    assert len([email for email, count in emails.items() if count > 1]) == pytest.approx(7, abs=1)
    assert max(emails.values()) <= 11
    names = Counter((users[doctor]["first_name"], users[doctor]["last_name"]) for doctor in doctors)
    assert sum(names.values()) - len(names) == pytest.approx(122, rel=0.15)
    assert sum(not users[doctor]["is_active"] for doctor in doctors) == pytest.approx(166, rel=0.1)
    assert sum(users[doctor]["last_login"] is None for doctor in doctors) == pytest.approx(350, rel=0.1)


def test_test_accounts(real: Source):
    emails = real["auth_user"]["email"].to_pylist()
    assert sum(email.endswith("@mdw-internal.example") for email in emails) == pytest.approx(223, abs=1)


def test_group_memberships(real: Source):
    groups = real["auth_user_groups"]
    per_user = Counter(groups["user_id"].to_pylist())
    assert max(per_user.values()) == 2
    assert sum(count == 2 for count in per_user.values()) > 100
    assert real["auth_user"].num_rows - len(per_user) == pytest.approx(9_100 * p.NO_GROUP_SHARE, abs=1)
    assert set(groups["group_id"].to_pylist()) == set(real["auth_group"]["id"].to_pylist())


def has(pattern: str) -> Callable[[object], bool]:
    compiled = re.compile(pattern, re.S)
    return lambda value: isinstance(value, str) and compiled.search(value) is not None


def is_malformed_json(value: object) -> bool:
    if not isinstance(value, str) or not value:
        return False
    try:
        json.loads(value, parse_constant=_refuse)
    except ValueError:
        return True
    return "\\u0000" in value or "\\ud83d" in value


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def equals(*values: object) -> Callable[[object], bool]:
    return lambda value: value in values


EMAIL = r"^[^@\s]+@[^@\s.]+(\.[^@\s.]+)+$"
# What it is, table, column, how to tell it.
DIRT: list[tuple[str, str, str, Callable[[object], bool]]] = [
    ("empty first name", "auth_user", "first_name", equals("")),
    ("empty last name", "auth_user", "last_name", equals("")),
    ("trailing space", "auth_user", "last_name", has(r"\S $")),
    ("leading space", "auth_user", "first_name", has(r"^ ")),
    ("double space", "auth_user", "first_name", has("  ")),
    ("capitals", "auth_user", "last_name", has(r"^[A-Z]{3,}$")),
    ("double quotes", "auth_user", "first_name", has('"')),
    ("apostrophe", "auth_user", "last_name", has("'")),
    ("comma", "auth_user", "last_name", has(",")),
    ("tab", "auth_user", "last_name", has("\t")),
    ("newline", "auth_user", "last_name", has("\n")),
    ("backslash", "auth_user", "last_name", has(r"\\n$")),
    ("text NULL", "auth_user", "last_name", equals("NULL")),
    ("text \\N", "auth_user", "last_name", equals("\\N")),
    ("text n/a", "auth_user", "first_name", equals("n/a")),
    ("no-break space", "auth_user", "first_name", has("\u00a0")),
    ("emoji", "auth_user", "first_name", has("😀")),
    (
        "decomposed",
        "auth_user",
        "last_name",
        lambda v: isinstance(v, str) and v != unicodedata.normalize("NFC", v),
    ),
    ("accent", "auth_user", "last_name", has("[éüñøößáç]")),
    ("Japanese", "auth_user", "last_name", has("[\u4e00-\u9fff]")),
    ("Thai", "auth_user", "last_name", has("[\u0e00-\u0e7f]")),
    ("test name", "auth_user", "first_name", equals("Test")),
    ("apostrophe in e-mail", "auth_user", "email", has("'")),
    ("malformed e-mail", "auth_user", "email", lambda v: bool(v) and not re.match(EMAIL, str(v).strip())),
    ("internal e-mail", "auth_user", "email", has("@mdw-internal")),
    ("spaced or odd e-mail", "auth_user", "email", has(r"^ |[A-Z]|\+|山田")),
    ("inactive user", "auth_user", "is_active", equals(False)),
    ("never logged in", "auth_user", "last_login", equals(None)),
    ("superuser or staff", "auth_user", "is_staff", equals(True)),
    ("NULL sex", "dispatch_patient", "sex", equals(None)),
    ("sex 0", "dispatch_patient", "sex", equals(0)),
    *[(f"patient status {code}", "dispatch_patient", "status", equals(code)) for code in (1, 2, 4, 10)],
    ("NULL birth date", "dispatch_patient", "birthdate", equals(None)),
    ("NULL office", "dispatch_patient", "office_id", equals(None)),
    ("NULL doctor", "dispatch_patient", "doctor_id", equals(None)),
    ("suspended", "dispatch_patient", "suspended", equals(True)),
    ("NULL updated_at", "dispatch_patient", "updated_at", equals(None)),
    ("malformed schemes", "dispatch_patient", "schemes", is_malformed_json),
    ("malformed exports", "dispatch_instruction", "exports", is_malformed_json),
    ("odd office name", "dispatch_office", "name", has('["&,\t\n\\\\🦷]')),
    *[(f"order status {code}", "dispatch_instruction", "status", equals(code)) for code in (0, 1, 2, 3, 4)],
    ("deleted order", "dispatch_instruction", "deleted", equals(True)),
    ("malformed jaw", "dispatch_jaw", "bond_teeth", lambda v: not re.fullmatch("[01]{16}", str(v))),
    *[(f"project type {code}", "dispatch_project", "type", equals(code)) for code in (0, 3, 10, 11, 99)],
    ("project status 2", "dispatch_project", "status", equals(2)),
    ("NULL creator", "dispatch_project", "creator_id", equals(None)),
    ("numeric project name", "dispatch_project", "name", has(r"^\d+$")),
    ("project without bytes", "dispatch_project", "size", equals(0)),
    ("huge project", "dispatch_project", "size", lambda v: int(str(v)) > 2**32),
    ("NULL plan number", "dispatch_plan", "number", equals(None)),
    ("copied plan", "dispatch_plan", "original", equals(False)),
    ("NULL actor", "dispatch_state", "actor_id", equals(None)),
    ("flag off", "dispatch_state", "on", equals(False)),
    ("template without category", "dispatch_template", "category_id", equals(None)),
    ("task text", "dispatch_task", "text", has(".")),
    ("open task", "dispatch_task", "checked", equals(False)),
]


@pytest.mark.parametrize(("what", "table", "column", "test"), DIRT, ids=[item[0] for item in DIRT])
def test_every_kind_of_dirt_is_in_a_tenth(
    *, tenth: Source, real: Source, what: str, table: str, column: str, test: Callable[[object], bool]
):
    few = sum(map(test, tenth[table][column].to_pylist()))
    many = sum(map(test, real[table][column].to_pylist()))
    assert few >= 2, what
    assert few <= many + 1


@pytest.mark.parametrize(
    ("table", "column"), [("dispatch_patient", "birthdate"), ("dispatch_instruction", "submitted_at")]
)
def test_far_dates(tenth: Source, table: str, column: str):
    years = {value.year for value in tenth[table][column].to_pylist() if value is not None}
    assert {999, 9999} <= years


def test_stamps_have_microseconds(tenth: Source):
    stamps = tenth["auth_user"]["date_joined"].to_pylist()
    assert sum(stamp.microsecond % 1_000 != 0 for stamp in stamps) > 0.99 * len(stamps)


def test_some_notes_name_the_patient(tenth: Source):
    notes = [note for note in tenth["dispatch_instruction"]["notes"].to_pylist() if note]
    assert sum(note.startswith("Called ") for note in notes) / len(notes) == pytest.approx(0.03, abs=0.015)
