"""Compares two targets row by row, in SQL of its own: never through the code under test."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

Rows = Mapping[str, Mapping[str, Any]]
"""Key of a row → its columns."""

_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1"
_KEYS = "SELECT target_id::text, entity || ' ' || legacy_id FROM migration.id_map"
_BUSINESS = "SELECT t.id::text, to_jsonb(t) - 'id' FROM public.{table} t WHERE t.deleted_at IS NULL"
# A vector is shown as its digest; its id and time of making are its own.
_VECTORS = (
    "SELECT t.{owner}::text || ' ' || t.content_type, to_jsonb(t) - ARRAY['id', 'created_at', 'embedding']"
    " || jsonb_build_object('embedding', md5(t.embedding::text)) FROM public.{table} t"
)
# What belongs to the run that wrote a decision, not to the decision.
_OF_A_RUN = (
    "ARRAY['id', 'run_id', 'first_run', 'last_run', 'resolved_run_id', 'recorded_at', 'merged_at', 'written_at',"
    " 'before_image', 'survivor_before', 'decided_at', 'reviewed_at', 'asked_again_at']"
)
_DECISIONS = {
    # That a refused row was there before is history; the quarantine says that it is refused.
    "id_map": ("t.entity || ' ' || t.legacy_id", "t.state IN ('live', 'merged')"),
    "quarantine": ("t.entity || ' ' || t.legacy_id", "t.status = 'open'"),
    "findings": ("concat_ws(' ', t.entity, t.legacy_id, t.code, t.\"column\")", "true"),
    "merges": ("t.entity || ' ' || t.merged_id", "t.undone_at IS NULL"),
    "redirects": ("(to_jsonb(t) - " + _OF_A_RUN + ")::text", "true"),
    "duplicate_pairs": (
        "concat_ws(' ', t.entity, t.left_legacy_id, t.right_legacy_id)",
        "t.status <> 'stale'",
    ),
    "planned_ids": ("t.run_id || ' ' || t.id", "true"),
}


@dataclass(frozen=True)
class Difference:
    """A row of one table that is not the same in both targets.

    Attributes:
        row: entity and legacy id where they are known, else the row's key.
        columns: column → (value here, value expected); empty when only one target has the row.
        which: ``differs``, ``missing`` or ``too many``.
    """

    table: str
    row: str
    which: str
    columns: Mapping[str, tuple[Any, Any]]

    def __str__(self) -> str:
        shown = "; ".join(
            f"{name}: {json.dumps(found)} instead of {json.dumps(wanted)}"
            for name, (found, wanted) in self.columns.items()
        )
        return f"{self.table} [{self.row}] {self.which}{': ' + shown if shown else ''}"


@dataclass(frozen=True)
class Target:
    """Everything that counts in a target: table → rows, and what the ids of rows stand for."""

    tables: Mapping[str, Rows]
    legacy: Mapping[str, str]


def read(dsn: str) -> Target:
    """The live rows and the decisions in force."""
    with psycopg.connect(dsn) as connection:
        tables = {}
        for (name,) in connection.execute(_TABLES, ["public"]).fetchall():
            tables[f"public.{name}"] = _rows(connection, _public_query(connection, name))
        deployed = {name for (name,) in connection.execute(_TABLES, ["migration"])}
        for name, (key, condition) in _DECISIONS.items():
            if name in deployed:
                query = f"SELECT {key}, to_jsonb(t) - {_OF_A_RUN} FROM migration.{name} t WHERE {condition}"
                tables[f"migration.{name}"] = _rows(connection, query)
        return Target(tables, dict(connection.execute(_KEYS).fetchall()))


def without(target: Target, column: str) -> Target:
    """The same but for one column of every table."""
    tables = {
        table: {
            key: {name: value for name, value in row.items() if name != column} for key, row in rows.items()
        }
        for table, rows in target.tables.items()
    }
    return Target(tables, target.legacy)


def differences(found: Target, expected: Target) -> list[Difference]:
    """What is not as expected, ordered by table and row."""
    legacy = {**expected.legacy, **found.legacy}
    tables = sorted({*found.tables, *expected.tables})
    return [
        difference
        for table in tables
        for difference in _compare(table, found.tables.get(table, {}), expected.tables.get(table, {}), legacy)
    ]


def _compare(table: str, found: Rows, expected: Rows, legacy: Mapping[str, str]) -> Iterator[Difference]:
    for key in sorted({*found, *expected}):
        row = " ".join(legacy.get(part, part) for part in key.split(" "))
        if key not in expected:
            yield Difference(table, row, "too many", {})
        elif key not in found:
            yield Difference(table, row, "missing", {})
        elif found[key] != expected[key]:
            one, other = found[key], expected[key]
            columns = {
                name: (one.get(name), other.get(name))
                for name in sorted({*one, *other})
                if one.get(name) != other.get(name)
            }
            yield Difference(table, row, "differs", columns)


def _public_query(connection: psycopg.Connection[Any], table: str) -> str:
    columns = [
        name
        for (name,) in connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
            [f"public.{table}"],
        )
    ]
    if "embedding" in columns:
        return _VECTORS.format(table=table, owner=columns[1])
    return _BUSINESS.format(table=table)


def _rows(connection: psycopg.Connection[Any], query: str) -> dict[str, dict[str, Any]]:
    rows = connection.execute(query.encode()).fetchall()
    found = dict(rows)
    assert len(found) == len(rows), f"keys are not unique: {query}"
    return found
