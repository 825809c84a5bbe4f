"""What a changed source looks like before anything is written."""

from __future__ import annotations

import pytest

from include.core.drift import SourceColumns, compare
from include.core.rules import copy
from include.core.spec import Column, Entity, Expression, Kind, Source, Table

OFFICE = Table(
    "dispatch_office",
    "t",
    columns={"id": Kind.INTEGER, "name": Kind.TEXT, "changed": (Kind.TIMESTAMP, Kind.DATE)},
    optional={"doctor_id": Kind.INTEGER},
)
AS_EXPECTED = {
    "id": ("int4", True),
    "name": ("varchar", True),
    "changed": ("timestamptz", True),
    "doctor_id": ("int4", True),
}


def entity(*tables: Table, expressions: tuple[Expression, ...] = ()) -> Entity:
    source = Source(tables=tables or (OFFICE,), expressions=expressions)
    return Entity(name="practices", source=source, columns=(Column("legacy_office_id", copy("t.id")),))


def source(**changes: tuple[str, bool] | None) -> SourceColumns:
    columns = {**AS_EXPECTED, **changes}
    return {"dispatch_office": {name: found for name, found in columns.items() if found is not None}}


def test_a_source_as_expected_has_no_drift() -> None:
    drift = compare([entity()], source())
    assert (drift.missing, drift.forbidden, drift.notes) == ([], [], [])


def test_a_missing_table_is_named_once_whoever_reads_it() -> None:
    other = Table("auth_user", "u", {"id": Kind.INTEGER})
    found = Expression("e", "(SELECT 1)", (other,))
    drift = compare([entity(), entity(expressions=(found,)), entity(expressions=(found,))], source())
    assert drift.missing == ["table auth_user"]
    assert drift.notes == []


def test_a_renamed_column_is_missing_with_a_hint_at_what_is_there() -> None:
    drift = compare([entity()], source(name=None, title=("text", True), logo=("bytea", True)))
    assert drift.missing == ["column dispatch_office.name (there is: logo, title)"]


def test_a_column_gone_without_a_candidate_has_no_hint() -> None:
    assert compare([entity()], source(name=None)).missing == ["column dispatch_office.name"]


@pytest.mark.parametrize(
    ("column", "type_name", "message"),
    [
        ("id", "text", "column dispatch_office.id of type integer (it is text)"),
        ("name", "int4", "column dispatch_office.name of type text (it is int4)"),
        ("name", "citext", "column dispatch_office.name of type text (it is citext)"),
        ("changed", "int8", "column dispatch_office.changed of type timestamp or date (it is int8)"),
        ("doctor_id", "uuid", "column dispatch_office.doctor_id of type integer (it is uuid)"),
    ],
)
def test_a_column_of_another_type_stops_the_run(column: str, type_name: str, message: str) -> None:
    assert compare([entity()], source(**{column: (type_name, True)})).missing == [message]


@pytest.mark.parametrize(
    ("column", "type_name"),
    [("id", "int2"), ("id", "int8"), ("name", "text"), ("name", "bpchar"), ("changed", "date")],
)
def test_types_of_one_family_are_the_same(column: str, type_name: str) -> None:
    drift = compare([entity()], source(**{column: (type_name, True)}))
    assert (drift.missing, drift.notes) == ([], [])


def test_a_missing_optional_column_is_a_note() -> None:
    drift = compare([entity()], source(doctor_id=None))
    assert drift.missing == []
    assert drift.notes == ["dispatch_office.doctor_id does not exist here: read as NULL"]


def test_columns_that_nobody_reads_are_noted_once() -> None:
    other = Table("dispatch_office", "o", {"zip": Kind.TEXT})
    found = {
        "dispatch_office": {
            **AS_EXPECTED,
            "zip": ("text", True),
            "fax": ("text", True),
            "abc": ("int4", True),
        }
    }
    drift = compare([entity(), entity(OFFICE, other)], found)
    assert drift.missing == []
    assert drift.notes == ["dispatch_office: columns not migrated: abc, fax"]


def test_a_timestamp_without_zone_is_noted() -> None:
    drift = compare([entity()], source(changed=("timestamp", True)))
    assert drift.missing == []
    assert drift.notes == ["dispatch_office.changed has no time zone: read as UTC"]


@pytest.mark.parametrize("column", ["id", "doctor_id"])
def test_a_needed_column_that_may_not_be_read_forbids_the_table(column: str) -> None:
    drift = compare([entity()], source(**{column: ("int4", False)}))
    assert drift.forbidden == ["dispatch_office"]
    assert drift.missing == []


def test_a_column_that_nobody_needs_may_be_closed() -> None:
    """A password hash should be: granting the columns that are read is enough."""
    drift = compare([entity()], source(password=("varchar", False)))
    assert (drift.missing, drift.forbidden) == ([], [])
    assert drift.notes == ["dispatch_office: columns not migrated: password"]


def test_all_differences_are_told_at_once() -> None:
    drift = compare([entity()], source(id=("text", True), name=None, changed=None))
    assert len(drift.missing) == 3
