"""The text that stands for a row when it is embedded.

A document is made of an allow-list of columns that say what the row *is* and never *who* it is about: nothing looks
into their values for personal data, and :func:`refuse_health_columns` refuses those marked as such. Free text is no
such column. It is declared apart, read only where a setting allows it, and never written without a redactor.

One declaration reads both the target, by SQL, and clean rows that are not loaded yet, by Arrow; the texts are the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from include.embedding.sentences import (
    DocumentColumn,
    NamedColumn,
    check_column,
    closed,
    from_text,
    one_line,
    sentence,
)

CONTENT_TYPES = ("case_summary", "treatment_plan", "notes", "diagnosis")
"""Values of the target's embedding_content_type (docs/legacy-mdw.md section 2.1)."""

KNOWN = "known"
"""Column of the rows with free text: the identifiers of the people it is about, as a list."""

_RENDERING = 2
"""Raised whenever the same rows give other texts than before."""

_MAIN = "t"
_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_RECIPE_CHARACTERS = 32


class TextRedactor(Protocol):
    """Removes what identifies people from free text."""

    def redact(self, texts: Sequence[str | None], own: Sequence[Sequence[str]]) -> list[str | None]:
        """The texts without identifiers, in order.

        Args:
            texts: one per row; None stays None.
            own: for each row the known identifiers (names, e-mails, user names, ISO dates) of its people.
        """
        ...


@dataclass(frozen=True)
class Join:
    """A row of another entity that a document reads as well: LEFT JOIN by its id.

    Attributes:
        alias: what its columns are named by (``c`` in ``c.case_type``).
        entity: whose row it is.
        by: column of the document's own row that holds the id.
    """

    alias: str
    entity: str
    by: str


@dataclass(frozen=True)
class FreeText(NamedColumn):
    """What people typed, and may have typed names into.

    Attributes:
        column_sql: a text column, or a jsonb column of which ``member`` is read; ``alias.column``.
        label: how its sentence begins.
        member: a text member of the jsonb object; empty for a text column.
    """

    member: str = ""

    def __post_init__(self) -> None:
        check_column(self.column_sql, self.label)
        if self.member and not _NAME.fullmatch(self.member):
            raise ValueError(f"free text {self.column_sql}: {self.member!r} is not a plain name")

    @property
    def alias(self) -> str:
        """Its name in the rows of a document (``t.clinical``, notes: t_clinical_notes)."""
        return "_".join([*self.column_sql.split("."), *([self.member] if self.member else [])])

    @property
    def select(self) -> str:
        """It in a SELECT list."""
        member = f" ->> '{self.member}'" if self.member else ""
        return f"{self.column_sql}{member} AS {self.alias}"

    def from_text(self, texts: pa.Array) -> pa.Array:
        """The free text of values in PostgreSQL's text form."""
        if not self.member:
            return texts
        return pa.array([_member(text, self.member) for text in texts.to_pylist()], pa.string())


def _member(text: str | None, member: str) -> str | None:
    """``text ->> member`` as PostgreSQL gives it."""
    value = json.loads(text) if text is not None else None
    found = value.get(member) if isinstance(value, dict) else None
    return found if found is None or isinstance(found, str) else json.dumps(found, ensure_ascii=False)


@dataclass(frozen=True)
class Person:
    """Someone the free text of a row may name.

    Attributes:
        entity: where they are known.
        by: column that holds their id.
        columns: their identifiers: names, e-mail, user name, birth date.
        merged_by: where rows of the entity are merged, the column by which a merged row names the surviving one: it
            is the same person under other identifiers.
        of: whose column ``by`` is; None: the document's own row's.
    """

    entity: str
    by: str
    columns: tuple[str, ...]
    merged_by: str = ""
    of: Person | None = None

    @property
    def select(self) -> str:
        """A query for their identifiers; to_jsonb writes dates as ISO 8601, whatever the session's DateStyle."""
        listed = ", ".join(f"x.{column}" for column in self.columns)
        return (
            f"SELECT k.value FROM public.{self.entity} x, "  # noqa: S608  # checked names
            f"jsonb_array_elements_text(jsonb_build_array({listed})) k (value) "
            f"WHERE {self._where('x')} AND k.value <> ''"
        )

    def _where(self, alias: str) -> str:
        if self.of is not None:
            other = f"{alias}x"
            ids = (
                f"SELECT {other}.{self.by} FROM public.{self.of.entity} {other} WHERE {self.of._where(other)}"  # noqa: S608
            )
            return f"{alias}.id IN ({ids})"
        own = f"{alias}.id = {_MAIN}.{self.by}"
        return f"({own} OR {alias}.{self.merged_by} = {_MAIN}.{self.by})" if self.merged_by else own


@dataclass(frozen=True)
class DocumentSpec:
    """Which documents an entity has.

    The entity's own row is always alias ``t``.

    Attributes:
        entity: the entity's name, and so its table's in schema public.
        content_type: one of :data:`CONTENT_TYPES`.
        columns: the allow-list, in the order of the sentences.
        joins: other entities' rows that are read as well.
        free_text: follows the columns where it is allowed.
        people: whose identifiers are removed from the free text.
    """

    entity: str
    content_type: str
    columns: tuple[DocumentColumn, ...]
    joins: tuple[Join, ...] = ()
    free_text: tuple[FreeText, ...] = ()
    people: tuple[Person, ...] = ()

    def __post_init__(self) -> None:
        if self.content_type not in CONTENT_TYPES:
            raise ValueError(f"{self.entity}: unknown content type {self.content_type!r}")
        self._check_names()
        read: list[DocumentColumn | FreeText] = [*self.columns, *self.free_text]
        aliases = [column.alias for column in read]
        if not self.columns or len(set(aliases)) != len(aliases):
            raise ValueError(f"{self.entity}: a document needs columns, and each once")
        unknown = {column.table for column in read} - {_MAIN, *(join.alias for join in self.joins)}
        if unknown:
            raise ValueError(f"{self.entity}: no table is called {', '.join(sorted(unknown))}")
        if bool(self.free_text) != bool(self.people):
            raise ValueError(f"{self.entity}: free text needs the people it may name, and only it does")

    def _check_names(self) -> None:
        names = [self.entity, *(name for j in self.joins for name in (j.alias, j.entity, j.by))]
        names += [
            name for p in self.people for name in (p.entity, p.by, *p.columns, *filter(None, [p.merged_by]))
        ]
        wrong = [name for name in names if not _NAME.fullmatch(name)]
        if wrong:
            raise ValueError(f"{self.entity}: {wrong[0]!r} is not a plain name")
        # Staged rows of people go by their entity, those of joins by their alias.
        taken = [_MAIN, *(join.alias for join in self.joins), *{person.entity for person in self.people}]
        if len(set(taken)) != len(taken):
            raise ValueError(f"{self.entity}: an alias stands for two tables")
        if any(person.of is not None and person.of not in self.people for person in self.people):
            raise ValueError(f"{self.entity}: who is known through another person needs that one declared")

    def select_sql(self, *, free_text: bool = False) -> str:
        """The query for the documents' columns, without WHERE; the id comes first, as ``id``.

        With free text its columns follow, then :data:`KNOWN`.
        """
        columns = [f"{_MAIN}.id AS id", *(column.select for column in self.columns)]
        if free_text and self.free_text:
            known = " UNION ALL ".join(person.select for person in self.people)
            columns += [*(text.select for text in self.free_text), f"ARRAY({known}) AS {KNOWN}"]
        joins = [
            f" LEFT JOIN public.{join.entity} {join.alias} ON {join.alias}.id = {_MAIN}.{join.by}"
            for join in self.joins
        ]
        return f"SELECT {', '.join(columns)} FROM public.{self.entity} {_MAIN}{''.join(joins)}"  # noqa: S608  # checked names

    def references(self) -> list[tuple[str, str, str]]:
        """Each reference that is followed: whose, its column, and to which entity."""
        followed = [(self.entity, join.by, join.entity) for join in self.joins]
        return followed + [
            (self.entity if person.of is None else person.of.entity, person.by, person.entity)
            for person in self.people
        ]

    def columns_read(self) -> dict[str, list[str]]:
        """Entity to all of its columns that are read beside ``id``, free text and identifiers included."""
        entities = {_MAIN: self.entity} | {join.alias: join.entity for join in self.joins}
        found: dict[str, list[str]] = {}
        for table, columns in self.staged_columns(free_text=True).items():
            found.setdefault(entities.get(table, table), []).extend(columns)
        for person in self.people:
            found[person.entity].extend(filter(None, [person.merged_by]))
        return found

    def staged_columns(self, *, free_text: bool = False) -> dict[str, list[str]]:
        """Which columns, beside ``id``, :meth:`staged_rows` reads of which clean rows.

        Returns:
            Columns by table: ``t`` for the entity's own rows, the aliases of the joins; with free text the entities of
            the people, too.
        """
        wanted: dict[str, list[str]] = {_MAIN: [join.by for join in self.joins]}
        wanted |= {join.alias: [] for join in self.joins}
        for column in self.columns:
            wanted[column.table].append(column.name)
        if free_text:
            for text in self.free_text:
                wanted[text.table].append(text.name)
            for person in self.people:
                wanted.setdefault(person.entity, []).extend(person.columns)
            for person in self.people:
                wanted[_MAIN if person.of is None else person.of.entity].append(person.by)
        return {table: list(dict.fromkeys(columns)) for table, columns in wanted.items()}

    def staged_rows(
        self, clean: pa.Table, joined: Mapping[str, pa.Table], *, free_text: bool = False
    ) -> pa.Table:
        """The rows that :meth:`render` takes, of clean rows that are not loaded yet.

        What is decided on loading is not known here: references are followed as the source has them, so a row of a
        merged patient reads the merged one.

        Args:
            clean: rows of the entity, columns as PostgreSQL's text.
            joined: clean rows of the other tables that :meth:`staged_columns` names. A row that refers to none of them
                reads NULLs.

        Returns:
            The columns of :meth:`select_sql`, and ``legacy_id`` where ``clean`` has it.
        """
        tables = {_MAIN: clean}
        for join in self.joins:
            tables[join.alias] = _partners(joined[join.alias], _plain(clean.column(join.by)))
        rows = {
            name: _plain(clean.column(name)) for name in ("id", "legacy_id") if name in clean.column_names
        }
        for column in self.columns:
            rows[column.alias] = from_text(column, _plain(tables[column.table].column(column.name)))
        if free_text and self.free_text:
            for text in self.free_text:
                rows[text.alias] = text.from_text(_plain(tables[text.table].column(text.name)))
            rows[KNOWN] = self._staged_identifiers(clean, joined)
        return pa.table(rows)

    def _staged_identifiers(self, clean: pa.Table, joined: Mapping[str, pa.Table]) -> pa.Array:
        columns: list[list[str | None]] = []
        for person in self.people:
            rows = _staged_person(person, clean, joined)
            columns += [rows.column(name).to_pylist() for name in person.columns]
        known = [[value for value in values if value] for values in zip(*columns, strict=True)]
        return pa.array(known, pa.list_(pa.string()))

    def render(self, rows: pa.Table, redactor: TextRedactor | None = None) -> pa.Array:
        """Write each row's document.

        Args:
            rows: at least the columns of :meth:`select_sql`, as SQL or JSON gives them; others are ignored.
            redactor: writes the free text as well, redacted.

        Returns:
            One string per row, in order. NULL and blank values leave their sentence out; a row of which
            nothing is known has no document: NULL.

        Raises:
            KeyError: a column is missing.
            ValueError: the rows have free text, but there is no redactor.
        """
        sentences = [sentence(column, _plain(rows.column(column.alias))) for column in self.columns]
        sentences += self._free_sentences(rows, redactor)
        # Without the leading blank Arrow drops a row whose parts are all NULL instead of keeping its place.
        joined = pc.utf8_ltrim_whitespace(
            pc.binary_join_element_wise("", *sentences, " ", null_handling="skip")
        )
        return pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), joined)

    def _free_sentences(self, rows: pa.Table, redactor: TextRedactor | None) -> list[pa.Array]:
        if redactor is None:
            if any(text.alias in rows.column_names for text in self.free_text):
                raise ValueError(f"free text of {self.entity} is not written without a redactor")
            return []
        if not self.free_text:
            return []
        own = [sorted(set(known or ())) for known in _plain(rows.column(KNOWN)).to_pylist()]
        sentences = []
        for text in self.free_text:
            # Before lines become one: where a line begins, a capital says nothing.
            raw = _plain(rows.column(text.alias)).cast(pa.string())
            redacted = pa.array(redactor.redact(raw.to_pylist(), own), pa.string())
            sentences.append(closed(text.label, one_line(redacted)))
        return sentences


def refuse_health_columns(spec: DocumentSpec, health_columns: Mapping[str, Collection[str]]) -> None:
    """Refuse a document whose allow-list reads a column marked as health data. Free text is declared apart.

    Args:
        health_columns: entity to its marked columns; an entity that is not named is not looked at.

    Raises:
        ValueError: names the columns.
    """
    entities = {_MAIN: spec.entity} | {join.alias: join.entity for join in spec.joins}
    wrong = [c.column_sql for c in spec.columns if c.name in health_columns.get(entities[c.table], ())]
    if wrong:
        raise ValueError(f"the document of {spec.entity} reads health data: {', '.join(sorted(wrong))}")


def columns_sent(spec: DocumentSpec, *, free_text: bool) -> list[str]:
    """What a document tells of, for people: ``cases.case_type``, ``cases.clinical.notes``."""
    entities = {_MAIN: spec.entity} | {join.alias: join.entity for join in spec.joins}
    names = [f"{entities[column.table]}.{column.name}" for column in spec.columns]
    if free_text:
        parts = [(entities[text.table], text.name, text.member) for text in spec.free_text]
        names += [".".join(filter(None, part)) for part in parts]
    return names


def recipe(spec: DocumentSpec, *, model: str, dimensions: int, free_text: bool, redaction: str) -> str:
    """A digest of all that decides a document's text and vector beside the row itself.

    Args:
        free_text: whether the setting allows it.
        redaction: version of the redactor; decides nothing where there is no free text.
    """
    written = free_text and bool(spec.free_text)
    read = spec if written else replace(spec, free_text=(), people=())
    facts: list[Any] = [_RENDERING, asdict(read), model, dimensions, redaction if written else None]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_RECIPE_CHARACTERS]


def _staged_person(person: Person, clean: pa.Table, joined: Mapping[str, pa.Table]) -> pa.Table:
    """For each row of ``clean`` the staged row of the person."""
    referring = clean if person.of is None else _staged_person(person.of, clean, joined)
    return _partners(joined[person.entity], _plain(referring.column(person.by)))


def _partners(table: pa.Table, keys: pa.Array) -> pa.Table:
    """For each key the row with that id; NULLs where there is none."""
    return table.take(pc.index_in(keys, _plain(table.column("id"))))


def _plain(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        # An empty or oversized column stays chunked.
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
