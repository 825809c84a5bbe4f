from __future__ import annotations

import datetime as dt
import locale
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest

from include.embedding.documents import DocumentColumn, DocumentSpec, Kind, refuse_health_columns

PROJECTS = DocumentSpec(
    entity="projects",
    table="public.projects",
    id_column="p.id",
    content_type="treatment_plan",
    columns=(
        DocumentColumn("p.project_type", "Project of type"),
        DocumentColumn("p.status", "Status"),
        DocumentColumn("c.case_type", "Case type"),
        DocumentColumn("p.created_at", "Created in", Kind.MONTH),
        DocumentColumn("p.file_size", "File size", Kind.NUMBER_BAND, (1, 10, 100), "MB", 1e6),
        DocumentColumn("p.is_public", "Public", Kind.FLAG),
    ),
    joins="p LEFT JOIN public.cases c ON c.id = p.case_id",
)


def one(kind: Kind, values: pa.Array, label: str = "Label", **options: object) -> list[str | None]:
    spec = DocumentSpec(
        "things",
        "things",
        "id",
        "notes",
        (DocumentColumn("value", label, kind, **options),),  # type: ignore[arg-type]
    )
    return spec.render(pa.table({"value": values})).to_pylist()


def project_rows(**changes: list[object]) -> pa.Table:
    moment = dt.datetime(2024, 3, 31, 23, 30, tzinfo=dt.UTC)
    columns: dict[str, list[object]] = {
        "id": ["a", "b", "c"],
        "p_project_type": ["treatment_plan", "aligner_design", None],
        "p_status": ["draft", None, None],
        "c_case_type": ["refinement", "active_treatment", None],
        "p_created_at": [moment, None, None],
        "p_file_size": [25_000_000, None, None],
        "p_is_public": [False, True, None],
    }
    return pa.table(columns | changes)


def test_sentences_follow_the_allow_list_and_skip_what_is_unknown() -> None:
    assert PROJECTS.render(project_rows()).to_pylist() == [
        "Project of type treatment plan. Status draft. Case type refinement. Created in March 2024. "
        "File size 10 to 100 MB. Not public.",
        "Project of type aligner design. Case type active treatment. Public.",
        None,
    ]


def test_columns_outside_the_allow_list_leave_no_trace() -> None:
    rows = project_rows(first_name=["Ann", "Bob", "Cy"], c_clinical=["deep bite", "caries", "x"])
    assert PROJECTS.render(rows).equals(PROJECTS.render(project_rows()))


def test_a_missing_column_is_an_error() -> None:
    with pytest.raises(KeyError, match="p_status"):
        PROJECTS.render(project_rows().drop_columns(["p_status"]))


def test_the_query_names_every_column_as_render_expects_it() -> None:
    assert PROJECTS.select_sql() == (
        "SELECT p.id AS id, p.project_type AS p_project_type, p.status AS p_status, "
        "c.case_type AS c_case_type, p.created_at AS p_created_at, p.file_size AS p_file_size, "
        "p.is_public AS p_is_public FROM public.projects p LEFT JOIN public.cases c ON c.id = p.case_id"
    )


def test_no_rows_give_no_documents() -> None:
    assert PROJECTS.render(project_rows().slice(0, 0)).to_pylist() == []
    chunkless = pa.table([pa.chunked_array([], f.type) for f in project_rows().schema], project_rows().schema)
    assert PROJECTS.render(chunkless).to_pylist() == []


def test_chunks_dictionaries_and_pandas_strings_read_the_same() -> None:
    rows = project_rows()
    chunked = pa.concat_tables([rows.slice(0, 1), rows.slice(1)])
    encoded = rows.set_column(1, "p_project_type", rows["p_project_type"].dictionary_encode())
    pandas = rows.set_column(
        2, "p_status", pa.chunked_array([pa.array(pd.Series(["draft", None, None], dtype="str"))])
    )
    for variant in (chunked, encoded, pandas):
        assert PROJECTS.render(variant).to_pylist() == PROJECTS.render(rows).to_pylist()


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


def test_flags_read_as_a_statement() -> None:
    assert one(Kind.FLAG, pa.array([True, False, None]), "Read only") == [
        "Read only.",
        "Not read only.",
        None,
    ]


@pytest.mark.parametrize(
    "column_sql", ["lower(first_name)", "a.b.c", "name; --", "Name", "", "meta->>'x'", "a b"]
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
    ],
)
def test_columns_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="column value"):
        DocumentColumn(**({"column_sql": "value", "label": "Label"} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"content_type": "gossip"},
        {"columns": ()},
        {"columns": (DocumentColumn("a", "A"), DocumentColumn("a", "B"))},
        {"columns": (DocumentColumn("id", "Number"),)},
        {"id_column": "id::text"},
        {"table": "things; DROP TABLE things"},
    ],
)
def test_specs_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    good = {"entity": "things", "table": "t", "id_column": "id", "content_type": "notes"}
    with pytest.raises(ValueError, match="things"):
        DocumentSpec(**(good | {"columns": (DocumentColumn("a", "A"),)} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("marked", ["case_type", "cases.case_type", "CASE_TYPE"])
def test_a_health_column_is_refused_from_whichever_table(marked: str) -> None:
    with pytest.raises(ValueError, match=r"document of projects reads health data: c\.case_type"):
        refuse_health_columns(PROJECTS, ["first_name", marked])


def test_unmarked_columns_pass() -> None:
    refuse_health_columns(PROJECTS, ["first_name", "public.patients.date_of_birth", "status_code"])
