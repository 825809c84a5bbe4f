"""Whatever a run is configured with: either a value within the limits, or a refusal that cannot be abused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.core.errors import MigrationError
from include.core.settings import Param, Settings, check, params
from tests.hostile import KEYS, VALUES, assert_says_what_it_may, json_values

ENTITIES = ("practices", "patients", "cases")
EMBEDDED = {"patients": False, "cases": True}
KINDS = ("full", "incremental", "validation")


def known(kind: str = "full", **environment: str) -> list[Param]:
    return params(ENTITIES, kind=kind, environment=environment, embedded=EMBEDDED)


NAMES = {kind: [param.name for param in known(kind)] for kind in KINDS}
VARIABLES = sorted({param.variable for kind in KINDS for param in known(kind) if param.variable})
_TYPES: dict[str, type | tuple[type, ...]] = {
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "string": str,
    "array": list,
}


def within_limits(param: Param, value: Any) -> bool:
    """What the declaration of a parameter says, read by itself."""
    if not isinstance(value, _TYPES[param.kind]) or (isinstance(value, bool) and param.kind != "boolean"):
        return False
    if param.kind == "array":
        return all(isinstance(name, str) and name in param.choices for name in value)
    if param.choices:
        return value in param.choices
    if param.kind in ("integer", "number"):
        assert param.minimum is not None
        assert param.maximum is not None
        return bool(param.minimum <= value <= param.maximum)  # never for NaN
    return True


def outcome(values: dict[Any, Any], declared: list[Param]) -> Settings | MigrationError:
    try:
        return check(values, declared)
    except MigrationError as error:
        return error


def assert_taken_or_refused(param: Param, value: Any, declared: list[Param]) -> None:
    result = outcome({param.name: value}, declared)
    if isinstance(result, MigrationError):
        assert_says_what_it_may(result, value)
        # The one limit that depends on another parameter.
        together = param.name in ("merge_at", "review_at") and "merge_at" in result.detail
        assert together or not within_limits(param, value)
    else:
        assert within_limits(param, value)
        stored = getattr(result, param.name)
        assert stored == (tuple(dict.fromkeys(value)) if param.kind == "array" else value)
        assert math.copysign(1, stored) == 1 if isinstance(stored, float) else True
        json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_every_hostile_value_of_every_parameter(kind: str, value: Any) -> None:
    declared = known(kind)
    for param in declared:
        assert_taken_or_refused(param, value, declared)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_value_of_any_parameter(kind: str, data: st.DataObject) -> None:
    declared = known(kind)
    param = data.draw(st.sampled_from(declared))
    limits = [limit for limit in (param.minimum, param.maximum) if limit is not None]
    near = [limit + step for limit in limits for step in (-1, -1e-9, 0, 1e-9, 1)]
    near += [int(value) for value in near]
    choices = st.sampled_from([*param.choices, *map(str.upper, param.choices), "x"])
    value = data.draw(
        json_values | choices | st.lists(choices) | (st.sampled_from(near) if near else st.integers())
    )
    assert_taken_or_refused(param, value, declared)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", KEYS, ids=lambda key: ascii(key)[:30])
def test_every_hostile_key(kind: str, key: str) -> None:
    error = outcome({key: VALUES["json"], "dry_run": True}, known(kind))
    assert isinstance(error, MigrationError)
    assert error.code == "PARAM_UNKNOWN"
    assert_says_what_it_may(error, key)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text() | st.sampled_from(NAMES["full"]), json_values, max_size=5))
def test_any_configuration(values: dict[str, Any]) -> None:
    declared = known()
    result = outcome(values, declared)
    if isinstance(result, MigrationError):
        assert_says_what_it_may(result, *values, *values.values())
    else:
        assert set(values) <= set(NAMES["full"])


def test_a_million_unknown_keys_make_a_short_message_and_keys_need_not_be_texts() -> None:
    error = outcome({f"key {number}" * 100: 1 for number in range(100_000)}, known())
    assert_says_what_it_may(error, "key 0" * 100)  # type: ignore[arg-type]
    assert "and 99,995 more" in str(error)
    error = outcome({1: 1, None: 2, ("a",): 3}, known())
    assert_says_what_it_may(error)  # type: ignore[arg-type]


def test_look_alikes_are_told_apart_in_the_message() -> None:
    error = outcome({"entities": ["p\u0430tients"]}, known())
    assert "p\\u0430tients" in str(error)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize(
    "text", [value for value in VALUES.values() if isinstance(value, str) and "\x00" not in value], ids=ascii
)
def test_every_hostile_variable_of_the_environment(variable: str, text: str) -> None:
    """Declaring never fails: a DAG file that cannot be parsed would vanish from the list of DAGs."""
    declared = known("incremental", **{variable: text})
    result = outcome({}, declared)
    if isinstance(result, MigrationError):
        assert_says_what_it_may(result, text)
        assert [param.variable for param in declared if param.name == result.facts["param"]] == [variable]
    else:
        values = result.to_json()
        for param in declared:
            value = values[param.name]
            assert within_limits(param, list(value) if isinstance(value, tuple) else value)
