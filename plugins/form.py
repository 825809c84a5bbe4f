"""The trigger form of a DAG, from the same table that preparation checks against."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import Param

from include.core.settings import fits, params
from include.entities import EMBEDDED, ENTITIES


def form(kind: str) -> dict[str, Param]:
    """The params of a DAG.

    Args:
        kind: full or incremental.
    """
    fields: dict[str, Param] = {}
    for param in params(ENTITIES, kind=kind, environment=os.environ, embedded=EMBEDDED):
        limits: dict[str, Any] = {"minimum": param.minimum, "maximum": param.maximum}
        schema = {key: value for key, value in limits.items() if value is not None}
        if param.kind == "array":
            schema |= {"items": {"enum": [*param.choices]}, "examples": [*param.choices]}
        elif param.choices:
            schema["enum"] = [*param.choices]
        if kind == "incremental" and not fits(param):
            # Airflow refuses to parse a scheduled DAG whose defaults do not fit; preparation says what is wrong.
            fields[param.name] = Param(param.default, title=param.title, description=param.description)
            continue
        fields[param.name] = Param(
            param.default, type=param.kind, title=param.title, description=param.description, **schema
        )
    return fields
