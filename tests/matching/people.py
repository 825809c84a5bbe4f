"""Builds small tables of invented people for the tests of matching."""

from __future__ import annotations

import pyarrow as pa

from include.matching.deduplicate import DEFAULTS, MatchResult, MatchSettings, deduplicate
from include.matching.normalise import COLUMNS, DateRules, People, encode

SCHEMA = pa.schema([(column, pa.string()) for column in COLUMNS])
Row = dict[str, str | None]


def person(legacy_id: int, name: str | None, birth: str | None = None, **more: str | None) -> Row:
    """One row; ``name`` is "first last", a single word is a first name, and None is no name."""
    first, _, last = (name or "").partition(" ")
    row: Row = dict.fromkeys(COLUMNS)
    row.update(
        legacy_id=str(legacy_id), first_name=first or None, last_name=last or None, date_of_birth=birth
    )
    return row | more


def table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def match(*rows: Row, settings: MatchSettings = DEFAULTS) -> MatchResult:
    return deduplicate(table(list(rows)), settings)


def encoded(*rows: Row, rules: DateRules | None = None, crowded_email: int = 8) -> People:
    return encode(table(list(rows)), rules or DateRules(), crowded_email)


def decisions(result: MatchResult) -> dict[tuple[str, str], str]:
    """The decision of each reported pair."""
    return {(row["left_id"], row["right_id"]): row["decision"] for row in result.pairs.to_pylist()}


def merges(result: MatchResult) -> dict[str, str]:
    """The survivor of each merged record."""
    return {row["legacy_id"]: row["survivor_id"] for row in result.survivors.to_pylist()}
