"""The SQL sent to the legacy database: only what PostgreSQL 9.5 knows, only SELECT.

Names come from entity files, key bounds are whole numbers; nothing else is ever put into a statement.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from include.core.batches import Partition
from include.core.spec import Entity, Source, Table, columns_of, outputs_of

Columns = Mapping[str, Collection[str]]
"""Table name to the columns that the connected source has."""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def select_rows(entity: Entity, existing: Columns, partition: Partition, after: int | None = None) -> str:
    """Rows of a partition as COPY sends them, in key order, with every column as text.

    Args:
        existing: what the source has; optional columns it lacks are read as NULL.
        after: resume behind this key.
    """
    source = entity.source
    columns = [f"{source.key} AS legacy_id"]
    for table in source.tables:
        columns += [
            f"{_column(table, name, existing)} AS {_quoted(f'{table.alias}.{name}')}"
            for name in outputs_of(table)
        ]
    columns += [f"{_filled(source, e.sql, existing)} AS {_quoted(e.name)}" for e in source.expressions]
    where = _range(source.partition_by, partition, after)
    order = [source.partition_by, *(["t.id"] if source.partition_by != "t.id" else [])]
    select = f"SELECT {', '.join(columns)} FROM {_from(source, existing)}{where} ORDER BY {', '.join(order)}"
    return f"COPY ({select}) TO STDOUT WITH (FORMAT csv)"


def select_keys(entity: Entity, existing: Columns, since: int | None = None) -> str:
    """Every legacy id of the entity, each once; rows without one are in quarantine under the empty text.

    Args:
        since: a transaction horizon; only rows written behind it.
    """
    first = _from_first(entity.source, existing)
    joins = _joins_for_key(entity.source, existing)
    where = "" if since is None else f" WHERE {_newer(entity.source, since)}"
    return (
        f"COPY (SELECT DISTINCT coalesce({entity.source.key}, '') FROM {first}{joins}{where})"
        " TO STDOUT WITH (FORMAT csv)"
    )


def select_cuts(source: Source, rows_per_partition: int) -> str:
    """Keys at which partitions begin, without the first: every nth row in key order."""
    table = source.tables[0]
    key = source.partition_by.removeprefix(f"{table.alias}.")
    numbered = (
        f"SELECT {_quoted(key)} AS key, row_number() OVER (ORDER BY {_quoted(key)}) AS place "
        f"FROM {_quoted(table.name)}"
    )
    return (
        f"SELECT DISTINCT key FROM ({numbered}) n"
        f" WHERE key IS NOT NULL AND place > 1 AND (place - 1) % {int(rows_per_partition)} = 0"
    )


def count_rows(source: Source) -> str:
    """Number of rows that partitions are cut from."""
    return f"SELECT count(*) FROM {_quoted(source.tables[0].name)}"


def _newer(source: Source, horizon: int) -> str:
    """Whether the migrated row itself was written behind a horizon (docs/architecture.md section 5)."""
    if source.tables[0].sql:
        return "false"  # a sub-select has no transaction id: no row is excused
    return f"age({source.tables[0].alias}.xmin) <= age('{int(horizon) % 2**32}'::xid)"


def _column(table: Table, name: str, existing: Columns) -> str:
    if name not in table.optional or name in existing.get(table.name, ()):
        return f"{table.alias}.{_quoted(name)}"
    return "NULL::text"


def _filled(source: Source, sql: str, existing: Columns) -> str:
    """Replace ``{alias.column}`` by the column, or by NULL where the source lacks it."""
    for table in source.all_tables():
        for name in columns_of(table):
            sql = sql.replace(f"{{{table.alias}.{name}}}", _column(table, name, existing))
    return sql


def _from_first(source: Source, existing: Columns) -> str:
    table = source.tables[0]
    return f"{_filled(source, table.sql, existing) or _quoted(table.name)} {table.alias}"


def _from(source: Source, existing: Columns) -> str:
    joins = [
        f" LEFT JOIN {_filled(source, table.sql, existing) or _quoted(table.name)} {table.alias} ON {table.join}"
        for table in source.tables[1:]
    ]
    return _from_first(source, existing) + "".join(joins)


def _joins_for_key(source: Source, existing: Columns) -> str:
    """Joins are needed for the keys only where the key reads a joined table."""
    reads_joined = any(f"{table.alias}." in source.key for table in source.tables[1:])
    return _from(source, existing).removeprefix(_from_first(source, existing)) if reads_joined else ""


def _range(column: str, partition: Partition, after: int | None) -> str:
    """The key range; rows without a key belong to the first partition, and sort last in it."""
    no_key = f" OR {column} IS NULL" if partition.low is None else ""
    bounds = []
    if partition.low is not None:
        bounds.append(f"{column} >= {int(partition.low)}")
    if partition.high is not None:
        bounds.append(f"({column} < {int(partition.high)}{no_key})")
    if after is not None:
        bounds.append(f"({column} > {int(after)}{no_key})")
    return f" WHERE {' AND '.join(bounds)}" if bounds else ""
