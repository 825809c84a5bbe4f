"""The shipped mapping says what the documents say, in values that the target knows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CODES = tomllib.loads((ROOT / "include" / "mappings" / "codes.toml").read_text(encoding="utf-8"))
TYPES = (ROOT / "include" / "sql" / "target" / "0001_types.sql").read_text(encoding="utf-8")
CODE_TABLES = {name: table for name, table in CODES.items() if isinstance(table, dict) and "codes" in table}

ENUM_OF = {
    "gender": "gender_type",
    "case_type": "case_type_enum",
    "case_state": "case_state_enum",
    "project_type": "project_type_enum",
    "project_status": "project_status_enum",
    "task_function": "task_function_enum",
}


def values_of(enum: str) -> set[str]:
    found = re.search(rf"CREATE TYPE public\.{enum} AS ENUM \((.*?)\);", TYPES, re.DOTALL)
    assert found is not None
    return set(re.findall(r"'([a-z_]+)'", found[1]))


@pytest.mark.parametrize("name", CODE_TABLES)
def test_every_entry_says_how_sure_it_is(name: str) -> None:
    for entry in CODE_TABLES[name]["codes"].values():
        assert entry["certainty"] in {"sure", "likely", "guess"}
        assert set(entry) <= {"value", "certainty"}


@pytest.mark.parametrize(("name", "enum"), ENUM_OF.items())
def test_meanings_and_defaults_are_values_of_the_targets_enum(name: str, enum: str) -> None:
    table = CODE_TABLES[name]
    meanings = {entry["value"] for entry in table["codes"].values() if "value" in entry}
    assert meanings | {table[key] for key in ("default",) if key in table} <= values_of(enum)


def test_every_code_table_is_checked_here() -> None:
    assert set(CODE_TABLES) == {*ENUM_OF, "state_name", "country"}


def test_only_projects_have_a_default_for_unmapped_codes() -> None:
    """docs/target-schema.md, Enums: unknown is NULL, but a project is `other` and `draft`."""
    defaults = {name: table["default"] for name, table in CODE_TABLES.items() if "default" in table}
    assert defaults == {"project_type": "other", "project_status": "draft"}


@pytest.mark.parametrize(
    ("name", "meanings"),
    [
        ("gender", {"1": "male", "2": "female", "M": "male", "F": "female"}),
        ("case_type", {"1": "active_treatment", "2": "refinement"}),
        ("case_state", {"1": "submitted", "2": "approved", "4": "shipped"}),
        ("project_type", {"0": "scan", "3": "treatment_plan", "10": "simulation", "11": "aligner_design"}),
        ("project_status", {"0": "draft"}),
        ("task_function", {"1": "submit", "2": "archive", "4": "process"}),
        ("state_name", {}),
    ],
)
def test_meanings_are_those_of_the_documents(name: str, meanings: dict[str, str]) -> None:
    """docs/legacy-mdw.md sections 1.4, 1.8 to 1.10, 1.12, 1.13."""
    codes = CODE_TABLES[name]["codes"]
    assert {code: entry["value"] for code, entry in codes.items() if "value" in entry} == meanings


def test_countries_are_those_that_occur_and_become_iso_codes() -> None:
    """docs/legacy-mdw.md section 1.5 counts ten spellings."""
    codes = {name: entry["value"] for name, entry in CODES["country"]["codes"].items()}
    assert len(codes) == 10
    assert len(set(codes.values())) == 10
    assert all(re.fullmatch("[A-Z]{2}", iso) for iso in codes.values())
    assert (codes["USA"], codes["Japan"], codes["Thailand"], codes["India"]) == ("US", "JP", "TH", "IN")


def test_roles_follow_the_declared_precedence() -> None:
    """docs/target-schema.md, profiles."""
    lines = [
        (line["when"] if line["when"] != "group" else f"group {line['group']}", line["role"])
        for line in CODES["role"]["precedence"]
    ]
    assert lines == [
        ("superuser", "master"),
        ("group 5", "master"),
        ("group 4", "admin"),
        ("group 2", "doctor"),
        ("group 11", "technician"),
        ("patient", "patient"),
        ("group 1", "patient"),
        ("staff", "admin"),
    ]
    assert CODES["role"]["fallback"] == "support"
    assert {role for _, role in lines} | {"support"} <= values_of("user_role")


def test_contradicted_workflow_settings_have_the_documented_defaults() -> None:
    """docs/legacy-mdw.md section 1.13."""
    assert CODES["workflow"] == {"duration_unit": "hours", "predecessor_end": "to"}
