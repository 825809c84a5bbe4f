"""Overrides of the mapping configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from include.core import mapping
from include.core.errors import MigrationError

Override = Callable[[str | bytes], None]


def forget() -> None:
    mapping.configuration.cache_clear()
    mapping.mapping_version.cache_clear()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MIGRATION_MAPPING_FILE", raising=False)
    forget()
    yield
    forget()


@pytest.fixture
def override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Override:
    def use(text: str | bytes) -> None:
        path = tmp_path / "codes.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        monkeypatch.setenv("MIGRATION_MAPPING_FILE", str(path))
        forget()

    return use


def test_codes_without_a_value_have_no_meaning_and_the_default_is_the_tables() -> None:
    case_type = mapping.code_map("case_type")
    assert case_type.meanings == {"1": "active_treatment", "2": "refinement"}
    assert case_type.default is None
    assert mapping.code_map("project_type").default == "other"
    assert mapping.code_map("state_name").meanings == {}


def test_an_unknown_table_or_setting_is_a_defect_of_the_caller() -> None:
    with pytest.raises(KeyError):
        mapping.code_map("no_such_table")
    with pytest.raises(KeyError):
        mapping.setting("workflow", "no_such_key")


def test_an_override_replaces_its_tables_and_leaves_the_others(override: Override) -> None:
    shipped = mapping.configuration()
    override('[gender.codes]\n1 = { value = "female" }\n[role]\nfallback = "patient"\nprecedence = []\n')
    assert mapping.code_map("gender").meanings == {"1": "female"}
    assert mapping.setting("role", "fallback") == "patient"
    rest = {name: table for name, table in mapping.configuration().items() if name not in ("gender", "role")}
    assert rest == {name: shipped[name] for name in rest}
    assert set(mapping.configuration()) == set(shipped)


def test_the_version_changes_with_every_meaning_and_with_nothing_else(override: Override) -> None:
    shipped = mapping.mapping_version()
    override("# only a comment\n")
    assert mapping.mapping_version() == shipped
    override('[state_name.codes]\n11 = { value = "submitted" }\n')
    one = mapping.mapping_version()
    override('[state_name.codes]\n11 = { value = "approved" }\n')
    assert len({shipped, one, mapping.mapping_version()}) == 3
    override('version = "7"\n')
    assert mapping.mapping_version().startswith("7-")


def test_an_override_may_give_a_default(override: Override) -> None:
    override('[case_type]\ndefault = "follow_up"\n[case_type.codes]\n')
    assert mapping.code_map("case_type").default == "follow_up"
    assert mapping.code_map("case_type").meanings == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gendre.codes]\n", "Unknown tables ['gendre']"),
        ("[gender\n", "TOMLDecodeError"),
        (b"\xff\xfe", "UnicodeDecodeError"),
        ("[gender]\n", "['gender']"),
        ("gender = 1\n", "['gender']"),
        ('[gender.codes]\n1 = "male"\n', "['gender']"),
        ('[role]\nfallback = "patient"\n', "['role']"),
        ('[workflow]\nduration_unit = "hours"\n', "['workflow']"),
        ("version = 2\n", "['version']"),
    ],
)
def test_an_override_that_cannot_be_used_is_refused_with_its_path(
    override: Override, tmp_path: Path, text: str | bytes, said: str
) -> None:
    override(text)
    with pytest.raises(MigrationError) as caught:
        mapping.configuration()
    assert caught.value.code == "PARAM_INVALID"
    assert said in str(caught.value)
    assert str(tmp_path / "codes.toml") in str(caught.value)


def test_an_override_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATION_MAPPING_FILE", str(tmp_path / "absent.toml"))
    forget()
    with pytest.raises(MigrationError, match="FileNotFoundError") as caught:
        mapping.configuration()
    assert caught.value.code == "PARAM_INVALID"
