"""The text that stands for a row when it is embedded.

A document is made of an allow-list of columns that say what the row *is* and never *who* it is about.
Nothing here looks into a value for personal data: a column that may hold any does not belong in a
document, and :func:`refuse_health_columns` refuses those its entity marks as such.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CONTENT_TYPES = ("case_summary", "treatment_plan", "notes", "diagnosis")
"""Values of the target's embedding_content_type (docs/legacy-mdw.md section 2.1)."""

# Spelt out, since strftime follows the machine's locale and the text must not.
_MONTHS = pa.array(
    [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ]
)
_NAME = re.compile(r"(?:[a-z_][a-z0-9_]*\.)?[a-z_][a-z0-9_]*")
_BLANKS = r"[\s\p{Z}\p{Cc}]+"
_SENTENCE_END = r"[.!?…。]$"


class Kind(StrEnum):
    """How a column's values become words."""

    TEXT = "text"
    """Words that staff wrote about things, not people (the name of a workflow task)."""
    CODE = "code"
    """A code: ``treatment_plan`` reads "treatment plan"."""
    CODES = "codes"
    """An array of codes: sorted, each once, separated by commas."""
    FLAG = "flag"
    """A boolean: "Active." or "Not active."."""
    MONTH = "month"
    """A date or timestamp, by its month in UTC only: "March 2024"."""
    NUMBER_BAND = "number_band"
    """A number, by the band it falls in: "10 to 50 MB"."""


@dataclass(frozen=True)
class DocumentColumn:
    """One column of a document, and the sentence it becomes: "<label> <words>.".

    Attributes:
        column_sql: ``column`` or ``alias.column``; no expression, so that what is read stays checkable.
        label: how the sentence begins ("Project of type", "Status").
        kind: how values become words.
        bands: for number bands, the ascending limits in ``unit``; a value on a limit is in the band above.
        unit: for number bands, what the limits are counted in ("MB"); may be empty.
        unit_size: for number bands, how much of the column's value makes one unit (1e6 for bytes to MB).
    """

    column_sql: str
    label: str
    kind: Kind = Kind.CODE
    bands: tuple[float, ...] = ()
    unit: str = ""
    unit_size: float = 1.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.column_sql):
            raise ValueError(f"{self.column_sql!r} is not a plain column name")
        if not self.label.strip():
            raise ValueError(f"column {self.column_sql} has no label")
        if (self.kind is Kind.NUMBER_BAND) != bool(self.bands):
            raise ValueError(f"column {self.column_sql}: bands belong to number bands and only there")
        if list(self.bands) != sorted(set(self.bands)) or self.unit_size <= 0:
            raise ValueError(f"column {self.column_sql}: bands must ascend and unit_size be positive")

    @property
    def name(self) -> str:
        """The bare column name."""
        return self.column_sql.rpartition(".")[2]

    @property
    def alias(self) -> str:
        """The column's name in the rows that :meth:`DocumentSpec.render` takes (``t.status``: t_status)."""
        return self.column_sql.replace(".", "_")


@dataclass(frozen=True)
class DocumentSpec:
    """Which documents an entity has.

    Attributes:
        entity: the entity's name.
        table: the target table, schema included.
        id_column: column with the target id, as ``column`` or ``alias.column``.
        content_type: one of :data:`CONTENT_TYPES`.
        columns: the allow-list, in the order of the sentences.
        joins: what follows the table in FROM (its alias, LEFT JOINs that keep one row per id).
    """

    entity: str
    table: str
    id_column: str
    content_type: str
    columns: tuple[DocumentColumn, ...]
    joins: str = ""

    def __post_init__(self) -> None:
        if self.content_type not in CONTENT_TYPES:
            raise ValueError(f"{self.entity}: unknown content type {self.content_type!r}")
        if not _NAME.fullmatch(self.id_column) or not _NAME.fullmatch(self.table):
            raise ValueError(f"{self.entity}: table and id column must be plain names")
        aliases = ["id", *(column.alias for column in self.columns)]
        if not self.columns or len(set(aliases)) != len(aliases):
            raise ValueError(f"{self.entity}: a document needs columns, each once, and none called id")

    def select_sql(self) -> str:
        """The query for the documents' columns, without WHERE; the id comes first, as ``id``."""
        columns = [f"{self.id_column} AS id", *(f"{c.column_sql} AS {c.alias}" for c in self.columns)]
        return f"SELECT {', '.join(columns)} FROM {self.table} {self.joins}".rstrip()  # noqa: S608  # checked names

    def render(self, rows: pa.Table) -> pa.Array:
        """Write each row's document.

        Args:
            rows: at least the columns of :meth:`select_sql`, times also as ISO 8601 of UTC; others are ignored.

        Returns:
            One string per row, in order. NULL and blank values leave their sentence out; a row of which
            nothing is known has no document: NULL.

        Raises:
            KeyError: a column of the allow-list is missing.
        """
        sentences = [_sentence(column, _plain(rows.column(column.alias))) for column in self.columns]
        # Without the leading blank Arrow drops a row whose parts are all NULL instead of keeping its place.
        joined = pc.utf8_ltrim_whitespace(
            pc.binary_join_element_wise("", *sentences, " ", null_handling="skip")
        )
        return pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), joined)


def refuse_health_columns(spec: DocumentSpec, health_columns: Collection[str]) -> None:
    """Refuse a document that reads a column marked as health data; call it where the entity is declared.

    Columns are compared by bare name, whatever table they come from: refusing one too many is cheap.

    Raises:
        ValueError: names the columns.
    """
    marked = {column.rpartition(".")[2].lower() for column in health_columns}
    wrong = sorted(column.column_sql for column in spec.columns if column.name in marked)
    if wrong:
        raise ValueError(f"the document of {spec.entity} reads health data: {', '.join(wrong)}")


def _plain(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        # An empty or oversized column stays chunked.
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _sentence(column: DocumentColumn, values: pa.Array) -> pa.Array:
    if column.kind is Kind.FLAG:
        negated = f"Not {column.label[0].lower()}{column.label[1:]}."
        return pc.if_else(values.cast(pa.bool_()), f"{column.label}.", negated)
    words = _WORDS[column.kind](column, values).cast(pa.string())
    words = pc.if_else(pc.equal(words, ""), pa.scalar(None, pa.string()), words)
    ending = pc.if_else(pc.match_substring_regex(words, _SENTENCE_END), "", ".")
    return pc.binary_join_element_wise(column.label, " ", words, ending, "")


def _text(_column: DocumentColumn, values: pa.Array) -> pa.Array:
    # One form for what looks the same, so that it has one hash.
    composed = pc.utf8_normalize(values.cast(pa.string()), form="NFC")
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(composed, _BLANKS, " "))


def _code(column: DocumentColumn, values: pa.Array) -> pa.Array:
    spaced = pc.replace_substring_regex(values.cast(pa.string()), r"[_-]+", " ")
    return pc.utf8_lower(_text(column, spaced))


def _codes(column: DocumentColumn, values: pa.Array) -> pa.Array:
    if pa.types.is_null(values.type):  # a chunk in which no row has any
        return values.cast(pa.string())
    words = iter(_code(column, values.flatten()).to_pylist())
    rows: list[str | None] = []
    for length in pc.list_value_length(values).to_pylist():
        codes = {next(words) for _ in range(length or 0)} - {None, ""}
        rows.append(", ".join(sorted(codes)))
    return pa.array(rows, pa.string())


def _month(_column: DocumentColumn, values: pa.Array) -> pa.Array:
    if pa.types.is_string(values.type):  # ISO 8601, of UTC or without a zone
        values = pc.utf8_slice_codeunits(values, 0, len("2024-03-01"))
    zone = getattr(values.type, "tz", None)
    # A cast from a zone to UTC keeps the instant; what has no zone is read as UTC.
    instants = values.cast(pa.timestamp("us", "UTC" if zone else None))
    months = _MONTHS.take(pc.subtract(pc.month(instants), 1))
    return pc.binary_join_element_wise(months, pc.year(instants).cast(pa.string()), " ")


def _number_band(column: DocumentColumn, values: pa.Array) -> pa.Array:
    # Rounded, which a band does not notice: a bigint may be too large for a float to be exact.
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) / column.unit_size
    band = np.searchsorted(np.array(column.bands), numbers, side="right")
    return pa.array(_band_words(column)).take(pa.array(band, mask=np.isnan(numbers)))


def _band_words(column: DocumentColumn) -> list[str]:
    limits = [f"{limit:.15g}" for limit in column.bands]
    between = [f"{low} to {high}" for low, high in pairwise(limits)]
    return [f"{words} {column.unit}".rstrip() for words in (f"under {limits[0]}", *between)] + [
        f"{limits[-1]} {column.unit}".rstrip() + " or more"
    ]


_WORDS: dict[Kind, Callable[[DocumentColumn, pa.Array], pa.Array]] = {
    Kind.TEXT: _text,
    Kind.CODE: _code,
    Kind.CODES: _codes,
    Kind.MONTH: _month,
    Kind.NUMBER_BAND: _number_band,
}
