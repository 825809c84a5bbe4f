"""Raw rows in, clean rows out: how the tests of entities state what they expect."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from include.core.ids import target_id
from include.core.mapping import mapping_version
from include.core.spec import Entity
from include.core.transform import transform

Row = dict[str, str | None]
_JSON_COLUMNS = {"address", "clinical", "schemes", "task_performance"}


@dataclass(frozen=True)
class Result:
    """What became of a batch.

    Attributes:
        clean: by legacy id: every column; JSON objects and arrays parsed, metadata without the version.
        findings: (legacy id, code, column).
        rejects: (legacy id, code, column).
    """

    clean: dict[str, dict[str, Any]]
    findings: set[tuple[str, str, str]]
    rejects: set[tuple[str, str, str]]


def raw_table(entity: Entity, rows: list[Row]) -> pa.Table:
    """Raw rows as extraction hands them over; columns that a row does not give are NULL."""
    names = entity.source.raw_columns
    for row in rows:
        assert set(row) <= set(names), f"no raw columns of {entity.name}: {set(row) - set(names)}"
    return pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in names})


def result_of(entity: Entity, rows: list[Row]) -> Result:
    """Transform a batch."""
    made = transform(entity, raw_table(entity, rows))
    clean = {}
    for row in made.clean.to_pylist():
        assert row["id"] == target_id(entity.name, row["legacy_id"])
        clean[row["legacy_id"]] = {c.name: _parsed(c.name, row[c.name]) for c in entity.columns}
    return Result(clean, _marks(made.findings), _marks(made.rejects))


def _parsed(column: str, text: str | None) -> Any:
    if column == "metadata":
        members = json.loads(text or "")
        assert members.pop("mapping_version") == mapping_version()
        return members
    return json.loads(text) if text is not None and column in _JSON_COLUMNS else text


def _marks(table: pa.Table) -> set[tuple[str, str, str]]:
    marks = [(row["legacy_id"], row["code"], row["column"]) for row in table.to_pylist()]
    assert len(set(marks)) == len(marks)
    return set(marks)


def ids(entity: str, *legacy_ids: int) -> str:
    """Target ids as PostgreSQL prints an array of them."""
    return "{" + ",".join(target_id(entity, str(key)) for key in legacy_ids) + "}"
