from __future__ import annotations

import datetime as dt
import locale
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.embedding.sentences import DocumentColumn, Kind, from_text, sentence


def one(kind: Kind, values: pa.Array, label: str = "Label", **options: object) -> list[str | None]:
    column = DocumentColumn("t.value", label, kind, **options)  # type: ignore[arg-type]
    words: list[str | None] = sentence(column, values).to_pylist()
    return words


def from_texts(kind: Kind, texts: list[str | None], **options: object) -> list[str | None]:
    column = DocumentColumn("t.value", "Label", kind, **options)  # type: ignore[arg-type]
    words: list[str | None] = sentence(column, from_text(column, pa.array(texts, pa.string()))).to_pylist()
    return words


def test_text_is_one_line_composed_and_closed_once() -> None:
    values = pa.array(["  Upload\n\tthe\u00a0scan ", "Ready?", "e\u0301tape", " \n", "", None])
    assert one(Kind.TEXT, values) == [
        "Label Upload the scan.",
        "Label Ready?",
        "Label étape.",
        None,
        None,
        None,
    ]


def test_codes_are_sorted_unique_and_skip_nulls() -> None:
    values = pa.array([["quality_check", "doctor", "doctor", None, ""], [], None, ["STL"]])
    assert one(Kind.CODES, values) == ["Label doctor, quality check.", None, None, "Label stl."]
    assert one(Kind.CODES, values.slice(3)) == ["Label stl."]


def test_numeric_codes_are_accepted() -> None:
    assert one(Kind.CODE, pa.array([7, None])) == ["Label 7.", None]


def test_a_month_is_that_of_utc() -> None:
    moment = dt.datetime(2024, 2, 29, 23, 30, tzinfo=dt.UTC)
    utc = pa.array([moment, None], pa.timestamp("us", "UTC"))
    assert one(Kind.MONTH, utc) == ["Label February 2024.", None]
    assert one(Kind.MONTH, utc.cast(pa.timestamp("us", "Asia/Tokyo"))) == ["Label February 2024.", None]
    assert one(Kind.MONTH, pa.array([dt.datetime(1999, 12, 31)])) == ["Label December 1999."]
    assert one(Kind.MONTH, pa.array([dt.date(2030, 1, 1)])) == ["Label January 2030."]
    texts = pa.array(["2024-02-29T23:30:00+00:00", None, "1999-12-31T23:59:59.999999", "2030-01-01"])
    assert one(Kind.MONTH, texts) == [
        *("Label February 2024.", None, "Label December 1999.", "Label January 2030.")
    ]


def test_months_are_english_in_every_locale() -> None:
    before = locale.setlocale(locale.LC_TIME)
    other = next((name for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "C") if _settable(name)), "C")
    try:
        locale.setlocale(locale.LC_TIME, other)
        assert one(Kind.MONTH, pa.array([dt.date(2024, 5, 1)])) == ["Label May 2024."]
    finally:
        locale.setlocale(locale.LC_TIME, before)


def _settable(name: str) -> bool:
    before = locale.setlocale(locale.LC_TIME)
    try:
        locale.setlocale(locale.LC_TIME, name)
    except locale.Error:
        return False
    locale.setlocale(locale.LC_TIME, before)
    return True


@pytest.mark.parametrize(
    "values",
    [
        pa.array([0.5, 1, 9.99, 10, 1e9, None]),
        pa.array([Decimal("0.5"), Decimal(1), Decimal("9.99"), Decimal(10), Decimal(10**9), None]),
    ],
    ids=["float", "decimal"],
)
def test_a_value_on_a_limit_is_in_the_band_above(values: pa.Array) -> None:
    assert one(Kind.NUMBER_BAND, values, bands=(1, 10)) == [
        "Label under 1.",
        "Label 1 to 10.",
        "Label 1 to 10.",
        "Label 10 or more.",
        "Label 10 or more.",
        None,
    ]


def test_an_exact_number_is_never_written() -> None:
    text = one(Kind.NUMBER_BAND, pa.array([12_345_678]), bands=(1, 1_000_000, 100_000_000), unit="bytes")
    assert text == ["Label 1000000 to 100000000 bytes."]


def test_bands_may_have_names() -> None:
    options: dict[str, Any] = {"bands": (1, 10), "unit": "MB", "band_names": ("small", "medium", "large")}
    assert one(Kind.NUMBER_BAND, pa.array([0, 1, 10]), "Size", **options) == [
        *("Size small, under 1 MB.", "Size medium, 1 to 10 MB.", "Size large, 10 MB or more.")
    ]


def test_flags_read_as_a_statement() -> None:
    assert one(Kind.FLAG, pa.array([True, False, None]), "Read only") == [
        "Read only.",
        None,
        None,
    ]


def test_a_moment_with_an_offset_belongs_to_the_month_it_has_in_utc() -> None:
    texts = [
        "2024-02-29 23:30:00-03:30",
        "2024-03-01 00:30:00.123456+05:45",
        "2024-12-31 22:00:00-02",
        "1934-12-31 20:29:20-03:30:52",
        "1937-01-01 00:19:31+00:19:32",
        "2024-03-01 00:00:00",
        "2024-03-01",
        None,
    ]
    months = [
        "March 2024",
        "February 2024",
        "January 2025",
        "January 1935",
        "December 1936",
        "March 2024",
        "March 2024",
    ]
    assert from_texts(Kind.MONTH, texts) == [*(f"Label {month}." for month in months), None]


def test_moments_that_have_no_month_are_left_out() -> None:
    texts = ["infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "12024-01-01 00:00:00+00"]
    assert from_texts(Kind.MONTH, texts) == [None] * 4  # type: ignore[arg-type]


def test_flags_in_both_of_postgresqls_forms() -> None:
    assert from_texts(Kind.FLAG, ["t", "f", "true", "false", None]) == [
        *("Label.", None, "Label.", None, None)
    ]


def test_arrays_in_postgresqls_form() -> None:
    texts = ['{a,"b c",NULL}', "{}", None, '{"say \\"x\\", \\\\","NULL","{,}"}', "[0:1]={b,a}", '{"",é}']
    assert from_texts(Kind.CODES, texts) == [
        *("Label a, b c.", None, None, 'Label null, say "x", \\, {,}.', "Label a, b.", "Label é.")
    ]


def test_numbers_that_are_none_or_endless() -> None:
    texts = ["NaN", "Infinity", "-Infinity", "1e+20", "9007199254740993", None]
    assert from_texts(Kind.NUMBER_BAND, texts, bands=(1, 10)) == [
        *(None, "Label 10 or more.", "Label under 1.", "Label 10 or more.", "Label 10 or more.", None)
    ]


@given(
    st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
)
def test_array_elements_are_read_as_they_were_quoted(elements: list[str | None]) -> None:
    def quoted(element: str | None) -> str:
        return "NULL" if element is None else '"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"'

    column = DocumentColumn("t.value", "Label", Kind.CODES)
    text = "{" + ",".join(map(quoted, elements)) + "}"
    assert from_text(column, pa.array([text])).to_pylist() == [elements]


@pytest.mark.parametrize(
    "column_sql", ["lower(t.name)", "a.b.c", "t.name; --", "t.Name", "", "t.meta->>'x'", "t.a b", "name"]
)
def test_only_plain_columns_are_taken(column_sql: str) -> None:
    with pytest.raises(ValueError, match="plain column name"):
        DocumentColumn(column_sql, "Label")


@pytest.mark.parametrize(
    "options",
    [
        {"label": " "},
        {"kind": Kind.NUMBER_BAND},
        {"kind": Kind.CODE, "bands": (1,)},
        {"kind": Kind.NUMBER_BAND, "bands": (2, 1)},
        {"kind": Kind.NUMBER_BAND, "bands": (1, 1)},
        {"kind": Kind.NUMBER_BAND, "bands": (1,), "unit_size": 0},
        {"kind": Kind.NUMBER_BAND, "bands": (1,), "band_names": ("small",)},
        {"band_names": ("small", "large")},
    ],
)
def test_columns_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"column t\.value"):
        DocumentColumn(**({"column_sql": "t.value", "label": "Label"} | options))  # type: ignore[arg-type]
