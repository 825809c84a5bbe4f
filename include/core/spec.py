"""What an entity is: where its rows come from, how each target column is made, what it refers to.

One file under ``include/entities`` declares one entity with these types; the engine (extraction,
transformation, loading, validation) reads the declaration and knows no entity by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import pyarrow as pa

from include.core import jsontext
from include.core.findings import kind_of
from include.embedding.documents import DocumentSpec, refuse_health_columns

VERSION = "source_version"
"""Name of the column, raw and clean, that tells one version of a source row from another (source_query.py)."""


class Kind(StrEnum):
    """A family of source types that one rule can read; a column of another family is drift."""

    INTEGER = "integer"
    TEXT = "text"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    DATE = "date"
    NUMERIC = "numeric"
    UUID = "uuid"


@dataclass(frozen=True)
class Table:
    """A legacy table (or a sub-select standing for one) in an entity's query.

    Its columns appear in the raw batch as ``"<alias>.<column>"``, all as PostgreSQL's text.

    Attributes:
        name: the legacy table.
        alias: its alias in the query.
        columns: column to the kinds it may have; missing or of another kind stops the run.
        optional: columns that older or newer installations lack; read as NULL where absent.
        join: the ON condition of a LEFT JOIN; empty for the table whose rows the entity migrates.
        sql: a sub-select read instead of the table itself; it may name the columns above only.
        outputs: what it contributes to the raw batch where that is not its columns (a join's key is
            declared, so that a source without it is drift, but not needed behind the query).
    """

    name: str
    alias: str
    columns: Mapping[str, Kind | tuple[Kind, ...]]
    optional: Mapping[str, Kind | tuple[Kind, ...]] = field(default_factory=dict)
    join: str = ""
    sql: str = ""
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Expression:
    """A raw column computed by the source, and the tables it reads.

    ``{alias.column}`` in ``sql`` stands for an optional column of one of ``tables``: the column, or NULL.
    """

    name: str
    sql: str
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Source:
    """The query of an entity.

    Attributes:
        tables: first the table whose rows are migrated, then those joined to it.
        key: an SQL expression giving the legacy id as text, unique per migrated row.
        partition_by: an integer column (``"t.id"``) of the first table; key ranges are cut on it and rows
            are read in its order.
        expressions: further raw columns.
        group_by: raw column whose equal values must stay in one batch (they are shaped into few rows);
            must be ``partition_by``.
        whole: never cut the table: its rows refer to each other. For registries of some thousand rows.
    """

    tables: tuple[Table, ...]
    key: str = "t.id::text"
    partition_by: str = "t.id"
    expressions: tuple[Expression, ...] = ()
    group_by: str | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        if self.group_by not in (None, self.partition_by):
            raise ValueError("rows come in the order of partition_by, so only it can be the group")

    @property
    def raw_columns(self) -> tuple[str, ...]:
        """Names of the raw batch's columns, in the query's order; the row's version comes last."""
        plain = [f"{table.alias}.{column}" for table in self.tables for column in outputs_of(table)]
        return ("legacy_id", *plain, *(expression.name for expression in self.expressions), VERSION)

    def all_tables(self) -> tuple[Table, ...]:
        """Every table the query touches."""
        return (*self.tables, *(table for e in self.expressions for table in e.tables))


def columns_of(table: Table) -> dict[str, Kind | tuple[Kind, ...]]:
    """Needed and optional columns together."""
    return {**table.columns, **table.optional}


def outputs_of(table: Table) -> tuple[str, ...]:
    """What the table contributes to the raw batch."""
    return table.outputs or tuple(columns_of(table))


class OnMissing(StrEnum):
    """What happens to a row whose reference does not resolve."""

    REJECT = "reject"
    """The row makes no sense without its parent: quarantined until the parent arrives."""
    CLEAR = "clear"
    """The row stands without it: the reference is NULL, the raw id stays in metadata, a finding is kept."""


@dataclass(frozen=True)
class Reference:
    """A foreign key to another entity."""

    entity: str
    on_missing: OnMissing


class Batch:
    """A raw batch under transformation: gives rules their input and collects what they notice.

    Attributes:
        raw: string columns, one row per row to be migrated, with ``legacy_id``.
    """

    def __init__(self, raw: pa.Table) -> None:
        self.raw = raw.combine_chunks()
        self.legacy_id = self.text("legacy_id")
        self.findings: list[tuple[pa.Array, str, str]] = []
        self.rejects: list[tuple[pa.Array, str, str]] = []
        self._json: dict[str, pa.Array] = {}

    def __len__(self) -> int:
        return int(self.raw.num_rows)

    def text(self, name: str) -> pa.Array:
        """A raw column as one string array."""
        column = self.raw.column(name)
        return column.chunk(0) if column.num_chunks else pa.array([], pa.string())

    def json(self, name: str) -> pa.Array:
        """A raw column of JSON texts as jsonb prints them, parsed once; NULL where jsonb would refuse."""
        if name not in self._json:
            self._json[name] = jsontext.normalise_all(self.text(name))
        return self._json[name]

    def note(self, rows: pa.Array, code: str, column: str) -> None:
        """Keep a finding on the rows where the boolean array is true; the rows load all the same."""
        self.findings.append((rows, kind_of(code).code, column))

    def reject(self, rows: pa.Array, code: str, column: str) -> None:
        """Send the rows where the boolean array is true to quarantine; a row's first reason counts."""
        self.rejects.append((rows, kind_of(code).code, column))


Rule = Callable[[Batch], pa.Array]
"""Makes one target column: a string array in PostgreSQL's text form, as long as the batch."""


class Merge(StrEnum):
    """What a column of a survivor holds once other rows were merged into it."""

    FILL = "fill"
    """The survivor's value; where it has none, that of a merged row. Values that differ are kept in metadata."""
    SURVIVOR = "survivor"
    """The survivor's value alone."""


_KEPT = ("metadata", "merged_into", "created_at", "updated_at")
"""Columns that tell about the row itself, so that no other row's value can stand in for them."""


@dataclass(frozen=True)
class Column:
    """One target column.

    Attributes:
        name: in the target table.
        rule: how it is made.
        reference: set when it is a foreign key.
        enum: the target's enum type it has.
        health: it holds personal or health data: never in logs, reports or an embedding's document.
        merge: what becomes of it when rows are merged; matters where the entity is deduplicated.
    """

    name: str
    rule: Rule
    reference: Reference | None = None
    enum: str | None = None
    health: bool = False
    merge: Merge = Merge.FILL


@dataclass(frozen=True)
class Embeddings:
    """Documents of an entity and the table of their vectors.

    Attributes:
        table: the embedding table in schema public.
        owner: its column that refers to the entity.
        default: whether they are embedded unless a run says which entities are.
    """

    table: str
    owner: str
    document: DocumentSpec
    default: bool = True


@dataclass(frozen=True)
class Check:
    """A rule of the entity that holds in the target: ``sql`` returns the legacy ids that break it."""

    name: str
    sql: str
    severity: str = "fail"


@dataclass(frozen=True)
class Entity:
    """Everything about one target table.

    Attributes:
        name: entity and target table name in schema public.
        group: nested extraction group (``phase_2a_projects`` …) or empty.
        columns: target columns beside ``id``.
        shape: reshapes raw rows into rows to be migrated (many to one); None when they are the same.
        deduplicate: rows of this entity can be the same thing twice (patients).
        checks: rules validated in the target.
        embeddings: the documents that are embedded, and where their vectors go.
    """

    name: str
    source: Source
    columns: tuple[Column, ...]
    group: str = ""
    shape: Callable[[pa.Table], pa.Table] | None = None
    deduplicate: bool = False
    checks: tuple[Check, ...] = ()
    embeddings: Embeddings | None = None

    def __post_init__(self) -> None:
        if self.shape is not None and self.source.group_by is None:
            raise ValueError(f"{self.name}: rows that are shaped need a group that stays in one batch")
        if self.embeddings is not None:
            refuse_health_columns(self.embeddings.document, {self.name: self.health_columns})

    @property
    def references(self) -> dict[str, Reference]:
        """Column name to reference."""
        return {c.name: c.reference for c in self.columns if c.reference is not None}

    @property
    def parents(self) -> tuple[str, ...]:
        """Other entities that must be loaded first."""
        names = {reference.entity for reference in self.references.values()} - {self.name}
        return tuple(sorted(names))

    @property
    def merge_rules(self) -> dict[str, Merge]:
        """Column name to merge rule; empty where rows are never merged.

        The legacy key and what tells about the row itself stay the survivor's. So does, in the target, every column
        that a unique index or a CHECK speaks of, whatever its rule: another row's value might break it.
        """
        kept = {self.columns[0].name, *_KEPT}
        if not self.deduplicate:
            return {}
        return {c.name: Merge.SURVIVOR if c.name in kept else c.merge for c in self.columns}

    @property
    def health_columns(self) -> Collection[str]:
        """Columns that hold personal or health data."""
        return frozenset(column.name for column in self.columns if column.health)
