"""Rows of source and target side by side, masked: a value that may be of a person is told by its shape alone."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.core.spec import Entity

DIFFERS, EQUAL, CHANGED, GONE = "differs", "equal", "changed", "gone"
"""What became of a sampled row: compared, or written in the source since it was loaded, or not to be loaded now."""

_SHOWN = {"enum", "boolean", "smallint", "integer", "bigint"}
_DATES = ("date", "timestamp")
_TEXTS = ("text", "character varying", "character", "citext")
_NUMBERS = ("numeric", "real", "double precision")


@dataclass(frozen=True)
class SampledColumn:
    """One column of a sampled row; ``how`` says how the values differ, None where they do not."""

    name: str
    source: str
    target: str
    how: str | None


def compared(entity: Entity, columns: Sequence[Mapping[str, Any]]) -> list[SampledColumn]:
    """A row's columns, masked.

    Args:
        columns: name, type (PostgreSQL's; ``enum`` of any enum), source, target, as migration_api.side_by_side gives
            them.
    """
    return [_compared(entity, column) for column in columns]


def _compared(entity: Entity, column: Mapping[str, Any]) -> SampledColumn:
    name, kind, source, target = (column[key] for key in ("name", "type", "source", "target"))
    plain = is_shown(entity, name, kind)
    return SampledColumn(
        name=name,
        source=masked(source, kind, plain=plain),
        target=masked(target, kind, plain=plain),
        how=how_different(source, target),
    )


def is_shown(entity: Entity, name: str, kind: str) -> bool:
    """Whether a column's values may be seen.

    Those of columns that hold no personal data: codes, whole numbers and references; dates only of rows that neither
    are about a person nor refer to any.
    """
    if name in entity.health_columns:
        return False
    if name in entity.references or kind in _SHOWN:
        return True
    return kind.startswith(_DATES) and not entity.parents and set(entity.health_columns) <= {"metadata"}


def masked(value: str | None, kind: str, *, plain: bool) -> str:
    """A value as it may be shown: itself where that is allowed, else its shape, which has no letter of it."""
    if value is None:
        return "NULL"
    if plain:
        return value
    if kind.startswith(_TEXTS) and not kind.endswith("[]"):
        return _sized("text", len(value))
    if kind in ("json", "jsonb"):
        return _json_shape(value)
    if kind.startswith(_NUMBERS):
        whole, _, part = value.lstrip("-").partition(".")
        return f"number of {len(whole)}+{len(part)} digits"
    return _sized(re.sub(r"\(.*?\)", "", kind), len(value))


def _sized(what: str, characters: int) -> str:
    return f"empty {what}" if not characters else f"{what} of {characters:,} characters"


def _json_shape(value: str) -> str:
    parsed = json.loads(value)
    if isinstance(parsed, dict | list):
        what, unit = ("object", "members") if isinstance(parsed, dict) else ("list", "elements")
        return f"JSON {what} of {len(parsed)} {unit}, {len(value):,} characters"
    return _sized("JSON value", len(value))


def how_different(source: str | None, target: str | None) -> str | None:
    """In what way two values differ, without quoting them; None where they are equal."""
    if source == target:
        return None
    if source is None or target is None:
        return "NULL on one side"
    if source.split() == target.split():
        return "white space"
    if unicodedata.normalize("NFKC", source) == unicodedata.normalize("NFKC", target):
        return "another form of the same characters"
    if source.casefold() == target.casefold():
        return "upper and lower case"
    return "another value"
