"""How a column's values become words: the same ones whether they come as JSON or as PostgreSQL's text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Spelt out, since strftime follows the machine's locale and the text must not.
_MONTHS = (
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
)
_COLUMN = re.compile(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*")
_BLANKS = r"[\s\p{Z}\p{Cc}]+"
_SENTENCE_END = r"[.!?…。]$"
# A date or timestamp as JSON (2024-03-01T10:00:00+00:00) and PostgreSQL (2024-03-01 10:00:00-03:30) write it. What
# only PostgreSQL knows (infinity, years before Christ) has no month to name.
_MOMENT = (
    r"^(?P<day>\d{4}-\d\d-\d\d)"
    r"(?:[ T](?P<time>\d\d:\d\d:\d\d(?:\.\d+)?)(?P<zone>[+-]\d\d(?::?\d\d)?)?(?::(?P<seconds>\d\d))?)?$"
)
_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class Kind(StrEnum):
    """How a column's values become words."""

    TEXT = "text"
    """Words that staff wrote about things, not people (the name of a workflow task)."""
    CODE = "code"
    """A code: ``treatment_plan`` reads "treatment plan"."""
    CODES = "codes"
    """An array of codes: sorted, each once, separated by commas."""
    FLAG = "flag"
    """A boolean: "Active." where it is true; what is not so stays unsaid."""
    MONTH = "month"
    """A date or timestamp, by its month in UTC only: "March 2024"."""
    NUMBER_BAND = "number_band"
    """A number, by the band it falls in: "medium, 10 to 50 MB"."""


# Read as PostgreSQL prints them: as JSON numbers they might be inexact, and NaN would be a text among them.
_PRINTED = (Kind.CODE, Kind.NUMBER_BAND)


@dataclass(frozen=True)
class NamedColumn:
    """A column by ``alias.column``; no expression, so that what is read stays checkable."""

    column_sql: str
    label: str

    @property
    def table(self) -> str:
        """The alias of the table it is read from."""
        return self.column_sql.partition(".")[0]

    @property
    def name(self) -> str:
        """The bare column name."""
        return self.column_sql.partition(".")[2]


@dataclass(frozen=True)
class DocumentColumn(NamedColumn):
    """One column of a document, and the sentence it becomes: "<label> <words>.".

    Attributes:
        label: how the sentence begins ("Project of type", "Status").
        kind: how values become words.
        bands: for number bands, the ascending limits in ``unit``; a value on a limit is in the band above.
        unit: for number bands, what the limits are counted in ("MB"); may be empty.
        unit_size: for number bands, how much of the column's value makes one unit (1e6 for bytes to MB).
        band_names: for number bands, a word for each ("small"), for models do not know what is large; may be empty.
    """

    kind: Kind = Kind.CODE
    bands: tuple[float, ...] = ()
    unit: str = ""
    unit_size: float = 1.0
    band_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_column(self.column_sql, self.label)
        if (self.kind is Kind.NUMBER_BAND) != bool(self.bands):
            raise ValueError(f"column {self.column_sql}: bands belong to number bands and only there")
        if list(self.bands) != sorted(set(self.bands)) or self.unit_size <= 0:
            raise ValueError(f"column {self.column_sql}: bands must ascend and unit_size be positive")
        if self.band_names and not (self.bands and len(self.band_names) == len(self.bands) + 1):
            raise ValueError(f"column {self.column_sql}: name all of its bands, or none")

    @property
    def alias(self) -> str:
        """The column's name in the rows of a document (``t.status``: t_status)."""
        return self.column_sql.replace(".", "_")

    @property
    def select(self) -> str:
        """The column in a SELECT list."""
        printed = "::text" if self.kind in _PRINTED else ""
        return f"{self.column_sql}{printed} AS {self.alias}"


def check_column(column_sql: str, label: str) -> None:
    """Refuse what is not a plain column of a named table, or has no label.

    Raises:
        ValueError: names the column.
    """
    if not _COLUMN.fullmatch(column_sql):
        raise ValueError(f"{column_sql!r} is not a plain column name with its table's alias")
    if not label.strip():
        raise ValueError(f"column {column_sql} has no label")


def from_text(column: DocumentColumn, texts: pa.Array) -> pa.Array:
    """Values in PostgreSQL's text form (``t``, ``{a,"b c"}``) as :func:`sentence` takes them."""
    if column.kind is Kind.FLAG:
        return pc.equal(pc.utf8_slice_codeunits(texts, 0, 1), "t")
    if column.kind is Kind.CODES:
        distinct = texts.dictionary_encode()
        lists = [_elements(text) for text in distinct.dictionary.to_pylist()]
        return pa.array(lists, pa.list_(pa.string())).take(distinct.indices)
    return texts


def _elements(array: str) -> list[str | None]:
    """The elements of a one-dimensional PostgreSQL array; its bounds (``[0:1]={…}``) say nothing."""
    found: list[str | None] = []
    for element in _ELEMENT.finditer(array, array.index("{")):
        quoted, bare = element.groups()
        if quoted is not None:
            found.append(_ESCAPED.sub(r"\1", quoted))
        else:
            found.append(None if bare.upper() == "NULL" else bare)
    return found


def sentence(column: DocumentColumn, values: pa.Array) -> pa.Array:
    """One sentence per value; NULL and blank values have none: NULL."""
    if column.kind is Kind.FLAG:
        # What is not so stays unsaid: to a model "not deleted" is much like "deleted".
        return pc.if_else(values.cast(pa.bool_()), f"{column.label}.", pa.scalar(None, pa.string()))
    return closed(column.label, _WORDS[column.kind](column, values).cast(pa.string()))


def closed(label: str, words: pa.Array) -> pa.Array:
    """``"<label> <words>."``, with one full stop at most; NULL where there are no words."""
    words = pc.if_else(pc.equal(words, ""), pa.scalar(None, pa.string()), words)
    ending = pc.if_else(pc.match_substring_regex(words, _SENTENCE_END), "", ".")
    return pc.binary_join_element_wise(label, " ", words, ending, "")


def one_line(values: pa.Array) -> pa.Array:
    """Texts in one line, blanks single, accents composed: one form, and so one hash, for what looks the same."""
    composed = pc.utf8_normalize(values.cast(pa.string()), form="NFC")
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(composed, _BLANKS, " "))


def _text(_column: DocumentColumn, values: pa.Array) -> pa.Array:
    return one_line(values)


def _code(_column: DocumentColumn, values: pa.Array) -> pa.Array:
    spaced = pc.replace_substring_regex(values.cast(pa.string()), r"[_-]+", " ")
    return pc.utf8_lower(one_line(spaced))


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
    zone = getattr(values.type, "tz", None)
    if pa.types.is_string(values.type):
        values, zone = _instants(values), "UTC"
    # A cast from a zone to UTC keeps the instant; what has no zone is read as UTC.
    instants = values.cast(pa.timestamp("us", "UTC" if zone else None))
    months = pa.array(_MONTHS).take(pc.subtract(pc.month(instants), 1))
    return pc.binary_join_element_wise(months, pc.year(instants).cast(pa.string()), " ")


def _instants(texts: pa.Array) -> pa.Array:
    day, time, zone, seconds = pc.extract_regex(texts, _MOMENT).flatten()
    # Before 1970 zones were off by seconds, too, which Arrow does not read.
    sign = pc.if_else(pc.starts_with(zone, "-"), -1, 1)
    beyond = pc.multiply(sign, pc.if_else(pc.equal(seconds, ""), "0", seconds).cast(pa.int64()))
    time = pc.if_else(pc.equal(time, ""), "00:00:00", time)
    zone = pc.if_else(pc.equal(zone, ""), "Z", zone)
    written = pc.binary_join_element_wise(pc.binary_join_element_wise(day, time, "T"), zone, "")
    return pc.subtract(written.cast(pa.timestamp("us", "UTC")), beyond.cast(pa.duration("s")))


def _number_band(column: DocumentColumn, values: pa.Array) -> pa.Array:
    # Rounded, which a band does not notice: a bigint may be too large for a float to be exact.
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) / column.unit_size
    band = np.searchsorted(np.array(column.bands), numbers, side="right")
    return pa.array(_band_words(column)).take(pa.array(band, mask=np.isnan(numbers)))


def _band_words(column: DocumentColumn) -> list[str]:
    limits = [f"{limit:.15g}" for limit in column.bands]
    between = [f"{low} to {high}" for low, high in pairwise(limits)]
    words = [f"{words} {column.unit}".rstrip() for words in (f"under {limits[0]}", *between)]
    words.append(f"{limits[-1]} {column.unit}".rstrip() + " or more")
    if not column.band_names:
        return words
    return [f"{name}, {band}" for name, band in zip(column.band_names, words, strict=True)]


_WORDS: dict[Kind, Callable[[DocumentColumn, pa.Array], pa.Array]] = {
    Kind.TEXT: _text,
    Kind.CODE: _code,
    Kind.CODES: _codes,
    Kind.MONTH: _month,
    Kind.NUMBER_BAND: _number_band,
}
