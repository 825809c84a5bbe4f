"""The SQL sent to the legacy database: only what PostgreSQL 9.5 knows, only SELECT.

Names come from entity files, keys are whole numbers; nothing else is ever put into a statement.

The *version* of a row tells whether anything it is made of was written since: an MD5 over ``xmin``, the
transaction that wrote it, of every table row it is read from, and over the value of whatever the source
computes for it. An update, however it was sent, changes ``xmin``; VACUUM does not, nor does time; a row that
is gone from a join or a list shows in its absence (docs/decisions/0013-row-versions.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from include.core.batches import Partition
from include.core.spec import VERSION, Entity, Source, Table, columns_of, outputs_of

Columns = Mapping[str, Collection[str]]
"""Table name to the columns that the connected source has; ``xmin`` among them where rows have one (no view)."""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def select_rows(
    entity: Entity,
    existing: Columns,
    partition: Partition,
    after: int | None = None,
    keys: Collection[int] | None = None,
) -> str:
    """Rows of a partition as COPY sends them, in key order, every column as text, the row's version last.

    Args:
        existing: what the source has; optional columns it lacks are read as NULL.
        after: resume behind this key.
        keys: only rows with one of these keys; rows without a key when there are none.
    """
    source = entity.source
    where = _range(source.partition_by, partition, after) if keys is None else _among(source, keys)
    order = [source.partition_by, *(["t.id"] if source.partition_by != "t.id" else [])]
    selected = (
        f"SELECT {_listed({**_values(source, existing), **_version_parts(source, existing)})}"
        f" FROM {_from(source, existing)}{where} ORDER BY {', '.join(order)}"
    )
    columns = ", ".join(f"r.{_quoted(name)}" for name in source.raw_columns if name != VERSION)
    ordered = ", ".join(f"r.{_quoted(name)}" for name in order)
    # OFFSET 0: the expressions are not to be evaluated once for the row and once for its version.
    return (
        f"COPY (SELECT {columns}, {_version(source, existing)} FROM ({selected} OFFSET 0) r ORDER BY {ordered})"
        " TO STDOUT WITH (FORMAT csv)"
    )


def select_versions(entity: Entity, existing: Columns) -> str:
    """Legacy id, partition key and version of every row to be migrated; no key at all is the empty text.

    Of rows that are shaped into others, the versions of the whole group are put together in the order of their
    ids: what becomes of one may depend on all, and one that is gone shows in those that are left.
    """
    source = entity.source
    keys = {
        "legacy_id": f"coalesce({source.key}, '')",
        "partition_key": source.partition_by,
        "row_id": "t.id",
    }
    rows = (
        f"(SELECT {_listed({**keys, **_version_parts(source, existing)})} FROM {_from(source, existing)}) r"
    )
    version = _version(source, existing)
    if entity.shape is None:
        select = f"SELECT r.legacy_id, r.partition_key, {version} FROM {rows}"
    else:
        select = (
            f"SELECT DISTINCT r.legacy_id, r.partition_key, md5(string_agg({version}, '') OVER w) FROM {rows}"
            " WINDOW w AS (PARTITION BY r.partition_key ORDER BY r.row_id"
            " ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)"
        )
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


def _listed(columns: Mapping[str, str]) -> str:
    """A SELECT list from names and their SQL."""
    return ", ".join(f"{sql} AS {_quoted(name)}" for name, sql in columns.items())


def _values(source: Source, existing: Columns) -> dict[str, str]:
    """Every raw column but the version."""
    outputs = {name: sql for table in source.tables for name, sql in _outputs(table, existing).items()}
    return {"legacy_id": source.key, **outputs, **_expressions(source, existing)}


def _version_parts(source: Source, existing: Columns) -> dict[str, str]:
    """What a version is made of: the transactions of rows that tell theirs, and all other values."""
    parts: dict[str, str] = {}
    for table in source.tables:
        transaction = f"{table.alias}.xmin"
        parts |= (
            {transaction: transaction} if _has_transaction(table, existing) else _outputs(table, existing)
        )
    return {**parts, **_expressions(source, existing)}


def _outputs(table: Table, existing: Columns) -> dict[str, str]:
    return {f"{table.alias}.{name}": _column(table, name, existing) for name in outputs_of(table)}


def _expressions(source: Source, existing: Columns) -> dict[str, str]:
    return {e.name: _filled(source, e.sql, existing) for e in source.expressions}


def _has_transaction(table: Table, existing: Columns) -> bool:
    """Whether the rows of a table tell which transaction wrote them; those of views and sub-selects do not."""
    return not table.sql and "xmin" in existing.get(table.name, ())


def _version(source: Source, existing: Columns) -> str:
    # A column may come without any row being written.
    known = sorted(
        f"{table.alias}.{name}"
        for table in source.all_tables()
        for name in table.optional
        if name in existing.get(table.name, ())
    )
    parts = (f"r.{_quoted(name)}" for name in _version_parts(source, existing))
    members = [f"'{' '.join(known)}'::text", *parts]
    return f"md5(ROW({', '.join(members)})::text)"


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


def _among(source: Source, keys: Collection[int]) -> str:
    listed = ",".join(str(int(key)) for key in keys)
    condition = f"= ANY ('{{{listed}}}'::bigint[])" if keys else "IS NULL"
    return f" WHERE {source.partition_by} {condition}"


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
