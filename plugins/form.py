"""The trigger form of a DAG, from the same table that preparation checks against."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param
from airflow.sdk.exceptions import ParamValidationError

from include.core.errors import MigrationError
from include.core.settings import fits, params, refuse_unknown
from include.entities import EMBEDDED, ENTITIES

# Of one text, and of a list of them: far above any use, far below what would hold a worker up.
_LONGEST_TEXT = 2_000
_LONGEST_LIST = 5_000
_LARGEST_NUMBER = 2**63


def form(kind: str) -> dict[str, Param]:
    """The params of a DAG.

    Args:
        kind: full, incremental or validation.
    """
    fields: dict[str, Param] = {}
    for param in params(ENTITIES, kind=kind, environment=os.environ, embedded=EMBEDDED):
        limits: dict[str, Any] = {"minimum": param.minimum, "maximum": param.maximum}
        schema = {key: value for key, value in limits.items() if value is not None}
        if param.kind == "array":
            schema |= {"items": {"enum": [*param.choices]}, "examples": [*param.choices]}
        elif param.choices:
            schema["enum"] = [*param.choices]
        told: dict[str, Any] = {"title": param.title, "description": param.description}
        if param.section:
            told["section"] = param.section
        if param.labels:
            told["values_display"] = dict(zip(param.choices, param.labels, strict=True))
        if kind != "full" and not fits(param):
            # Airflow refuses to parse a scheduled DAG whose defaults do not fit; preparation says what is wrong.
            fields[param.name] = Param(param.default, **told)
            continue
        fields[param.name] = Param(param.default, type=param.kind, **told, **schema)
    return fields


def manual(kind: str) -> str:
    """The params of a DAG as Markdown for its manual, grouped like the form.

    Args:
        kind: as of :func:`form`.
    """
    sections: dict[str, list[str]] = {}
    for param in params(ENTITIES, kind=kind, environment=os.environ, embedded=EMBEDDED):
        told = " ".join([param.description, *(f"*{label}*." for label in param.labels)])
        line = f"* `{param.name}` (`{json.dumps(param.default)}`): {told}"
        sections.setdefault(param.section or "Essential", []).append(line)
    return "\n\n".join("\n".join([f"*{title}*", "", *lines]) for title, lines in sections.items())


def checked(values: Mapping[str, Any], fields: Mapping[str, Param]) -> dict[str, Any]:
    """What a run was triggered with, by the form of a DAG that has its own; the API and the CLI bypass the form.

    Text must be printable and on one line: it is stored, logged and shown.

    Raises:
        MigrationError: PARAM_UNKNOWN or PARAM_INVALID; it names the parameter, never what it holds.
    """
    refuse_unknown(values, fields)
    return {name: _checked(name, param, values.get(name)) for name, param in fields.items()}


def _checked(name: str, param: Param, value: Any) -> Any:
    if _is_plain(value):
        try:
            return param.resolve(value)
        except ParamValidationError:
            pass
    raise MigrationError("PARAM_INVALID", f"{name}: {param.description}", param=name)


def _is_plain(value: Any) -> bool:
    """Whether a value is a scalar, or a list of scalars, of sound size: what comes before a schema is applied."""
    if isinstance(value, list):
        return len(value) <= _LONGEST_LIST and all(_is_scalar(member) for member in value)
    return _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST_TEXT and value.isprintable()
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) < _LARGEST_NUMBER)
