"""Samples are told by shape unless a value can name nobody, and how two values differ is said without quoting them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.core import report_samples
from include.core.samples import SampledColumn, compared, how_different, is_shown, masked
from include.entities import ENTITIES


def column(name: str, kind: str, source: str | None, target: str | None) -> dict[str, Any]:
    return {"name": name, "type": kind, "source": source, "target": target}


@pytest.mark.parametrize(
    ("value", "kind", "shape"),
    [
        (None, "text", "NULL"),
        ("", "text", "empty text"),
        ("Zweifelstein", "text", "text of 12 characters"),
        ("NULL", "text", "text of 4 characters"),
        ('{"a": "Zweifelstein", "b": 1}', "jsonb", "JSON object of 2 members, 29 characters"),
        ("[1, 2]", "jsonb", "JSON list of 2 elements, 6 characters"),
        ('"Zweifelstein"', "jsonb", "JSON value of 14 characters"),
        ("-12.50", "numeric", "number of 2+2 digits"),
        ("1978-01-02", "date", "date of 10 characters"),
        ("{Zweifelstein}", "text[]", "text[] of 14 characters"),
        ("00:05:00", "interval", "interval of 8 characters"),
        ("66.67", "numeric(5,2)", "number of 2+2 digits"),
    ],
)
def test_a_value_is_told_by_its_shape(value: str | None, kind: str, shape: str) -> None:
    assert masked(value, kind, plain=False) == shape


@given(st.text(min_size=3), st.sampled_from(["text", "text[]", "interval", "character varying(80)"]))
def test_no_shape_holds_a_letter_of_the_value(value: str, kind: str) -> None:
    assert masked(value, kind, plain=False) == masked("~" * len(value), kind, plain=False)


def test_what_may_be_seen_is_decided_by_the_column() -> None:
    shown = {
        name: {c.name for c in entity.columns if is_shown(entity, c.name, kind)}
        for name, entity in ENTITIES.items()
        for kind in ["text"]
    }
    assert all(names == set(ENTITIES[name].references) for name, names in shown.items())
    for entity in ENTITIES.values():
        assert not any(
            is_shown(entity, name, kind) for name in entity.health_columns for kind in ("enum", "date")
        )


@pytest.mark.parametrize(
    ("entity", "name", "kind", "shown"),
    [
        ("patients", "gender", "enum", False),
        ("patients", "date_of_birth", "date", False),
        ("patients", "status_code", "integer", True),
        ("patients", "practice_id", "uuid", True),
        ("patients", "submitted_at", "timestamp with time zone", False),
        ("cases", "submitted_at", "timestamp with time zone", False),
        ("cases", "case_type", "enum", True),
        ("practices", "created_at", "timestamp with time zone", True),
        ("practice_members", "created_at", "timestamp with time zone", False),
        ("instruction_states", "changed_at", "timestamp with time zone", False),
        ("instruction_states", "notes", "text", False),
        ("projects", "legacy_uid", "uuid", False),
        ("profiles", "is_active", "boolean", True),
    ],
)
def test_examples_of_it(entity: str, name: str, kind: str, shown: bool) -> None:
    assert is_shown(ENTITIES[entity], name, kind) is shown


@pytest.mark.parametrize(
    ("source", "target", "how"),
    [
        (None, None, None),
        ("a", "a", None),
        (None, "", "NULL on one side"),
        (None, "NULL", "NULL on one side"),
        ("Jones", "Jones ", "white space"),
        ("Zoë", "Zoe\u0308", "another form of the same characters"),
        ("Jones", "JONES", "upper and lower case"),
        ("Jones", "Smith", "another value"),
    ],
)
def test_how_two_values_differ(source: str | None, target: str | None, how: str | None) -> None:
    assert how_different(source, target) == how


def test_a_row_side_by_side() -> None:
    columns = [column("first_name", "text", "Ada", "Eva"), column("status_code", "integer", "3", "3")]
    assert compared(ENTITIES["patients"], columns) == [
        SampledColumn("first_name", "text of 3 characters", "text of 3 characters", "another value"),
        SampledColumn("status_code", "3", "3", None),
    ]


def test_the_report_sums_up_and_lists() -> None:
    differing = {
        "name": "first_name",
        "source": "text of 3 characters",
        "target": "NULL",
        "how": "NULL on one side",
    }
    equal = {"name": "archived", "source": "true", "target": "true", "how": None}
    stored = [
        {"entity": "patients", "legacy_id": "2", "outcome": "differs", "columns": [differing, equal]},
        {"entity": "patients", "legacy_id": "3", "outcome": "changed", "columns": []},
        {"entity": "cases", "legacy_id": "9", "outcome": "equal", "columns": [equal]},
    ]
    part = report_samples.samples(json.loads(json.dumps(stored)))
    assert part["summary"] == [
        {"entity": "cases", "rows": 1, "equal": 1, "differs": 0, "changed": 0, "gone": 0},
        {"entity": "patients", "rows": 2, "equal": 0, "differs": 1, "changed": 1, "gone": 0},
    ]
    assert [set(row) for row in part["summary"]] == [set(report_samples.SUMMARY_COLUMNS)] * 2
    assert [tuple(line[name] for name in report_samples.COLUMNS) for line in part["columns"]] == [
        ("patients", "2", "first_name", "text of 3 characters", "NULL", "NULL on one side"),
        ("patients", "2", "archived", "true", "true", ""),
        ("cases", "9", "archived", "true", "true", ""),
    ]
    assert [line["column"] for line in part["differences"]] == ["first_name"]
