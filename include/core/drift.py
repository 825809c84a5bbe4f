"""Compares the source's columns with what the entities need, before anything is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from include.core.spec import Entity, Kind, Table, columns_of

SourceColumns = Mapping[str, Mapping[str, tuple[str, bool]]]
"""Table → column → (PostgreSQL type name, whether it may be selected)."""

_KINDS: dict[str, Kind] = {
    "int2": Kind.INTEGER,
    "int4": Kind.INTEGER,
    "int8": Kind.INTEGER,
    "text": Kind.TEXT,
    "varchar": Kind.TEXT,
    "bpchar": Kind.TEXT,
    "bool": Kind.BOOLEAN,
    "timestamp": Kind.TIMESTAMP,
    "timestamptz": Kind.TIMESTAMP,
    "date": Kind.DATE,
    "numeric": Kind.NUMERIC,
    "uuid": Kind.UUID,
}


@dataclass
class Drift:
    """The difference. ``missing`` and ``forbidden`` stop the run, ``notes`` do not."""

    missing: list[str] = field(default_factory=list)
    forbidden: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(entities: Collection[Entity], found: SourceColumns) -> Drift:
    """What the entities need against what the source has."""
    drift = Drift()
    known: dict[str, set[str]] = {}
    for name, tables in _by_name(entities).items():
        columns = found.get(name)
        if columns is None:
            drift.missing.append(f"table {name}")
            continue
        needed = {column for table in tables for column in columns_of(table)}
        if not all(readable for column, (_, readable) in columns.items() if column in needed):
            drift.forbidden.append(name)
        for table in tables:
            _compare_table(table, columns, drift)
            known.setdefault(name, set()).update(table.columns, table.optional)
        extra = sorted(set(columns) - known.get(name, set()))
        if extra:
            drift.notes.append(f"{name}: columns not migrated: {', '.join(extra)}")
    drift.missing = list(dict.fromkeys(drift.missing))
    drift.notes = list(dict.fromkeys(drift.notes))
    return drift


def _by_name(entities: Collection[Entity]) -> dict[str, list[Table]]:
    tables: dict[str, list[Table]] = {}
    for entity in entities:
        for table in entity.source.all_tables():
            tables.setdefault(table.name, []).append(table)
    return tables


def _compare_table(table: Table, columns: Mapping[str, tuple[str, bool]], drift: Drift) -> None:
    for name, kinds in table.columns.items():
        if name not in columns:
            extra = sorted(set(columns) - set(table.columns) - set(table.optional))
            hint = f" (there is: {', '.join(extra)})" if extra else ""
            drift.missing.append(f"column {table.name}.{name}{hint}")
        else:
            _compare_type(table, name, kinds, columns[name][0], drift)
    for name, kinds in table.optional.items():
        if name not in columns:
            drift.notes.append(f"{table.name}.{name} does not exist here: read as NULL")
        else:
            _compare_type(table, name, kinds, columns[name][0], drift)


def _compare_type(
    table: Table, name: str, kinds: Kind | tuple[Kind, ...], type_name: str, drift: Drift
) -> None:
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    if _KINDS.get(type_name) not in allowed:
        needed = " or ".join(allowed)
        drift.missing.append(f"column {table.name}.{name} of type {needed} (it is {type_name})")
    if type_name == "timestamp":
        drift.notes.append(f"{table.name}.{name} has no time zone: read as UTC")
