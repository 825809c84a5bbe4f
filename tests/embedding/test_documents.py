from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.core.copytext import parse_rows
from include.core.spec import Entity
from include.embedding.documents import (
    KNOWN,
    DocumentSpec,
    FreeText,
    Join,
    Person,
    columns_sent,
    recipe,
    refuse_health_columns,
)
from include.embedding.sentences import DocumentColumn, Kind
from include.entities import ENTITIES, check_documents
from local.postgres import EmbeddedPostgres
from tests.conftest import fresh_database

PROJECTS = DocumentSpec(
    entity="projects",
    content_type="treatment_plan",
    columns=(
        DocumentColumn("t.project_type", "Project of type"),
        DocumentColumn("t.status", "Status"),
        DocumentColumn("c.case_type", "Case type"),
        DocumentColumn("t.created_at", "Created in", Kind.MONTH),
        DocumentColumn("t.file_size", "File size", Kind.NUMBER_BAND, (1, 10, 100), "MB", 1e6),
        DocumentColumn("t.is_public", "Public", Kind.FLAG),
    ),
    joins=(Join("c", "cases", "case_id"),),
)
PATIENT = Person("patients", "patient_id", ("first_name", "born"), merged_by="merged_into")
CASES = DocumentSpec(
    entity="cases",
    content_type="case_summary",
    columns=(DocumentColumn("t.title", "Order", Kind.TEXT),),
    free_text=(FreeText("t.clinical", "Notes:", "notes"), FreeText("t.remark", "Remark:")),
    people=(
        PATIENT,
        Person("profiles", "profile_id", ("username",), of=PATIENT),
        Person("profiles", "doctor_id", ("username", "email")),
    ),
)


class Blackener:
    """Replaces each row's own identifiers, and remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[list[str | None], list[list[str]]]] = []

    def redact(self, texts: Sequence[str | None], own: Sequence[Sequence[str]]) -> list[str | None]:
        self.given.append((list(texts), [list(known) for known in own]))
        return [_blackened(text, known) for text, known in zip(texts, own, strict=True)]


def _blackened(text: str | None, known: Sequence[str]) -> str | None:
    for name in known if text is not None else ():
        text = text.replace(name, " ") if text is not None else None
    return text


def project_rows(**changes: list[object]) -> pa.Table:
    moment = dt.datetime(2024, 3, 31, 23, 30, tzinfo=dt.UTC)
    columns: dict[str, list[object]] = {
        "id": ["a", "b", "c"],
        "t_project_type": ["treatment_plan", "aligner_design", None],
        "t_status": ["draft", None, None],
        "c_case_type": ["refinement", "active_treatment", None],
        "t_created_at": [moment, None, None],
        "t_file_size": [25_000_000, None, None],
        "t_is_public": [False, True, None],
    }
    return pa.table(columns | changes)


def case_rows(**changes: list[object]) -> pa.Table:
    columns: dict[str, list[object]] = {
        "id": ["a", "b", "c"],
        "t_title": ["Braces", None, None],
        "t_clinical_notes": ["Ann  was here\non 2001-02-03.", None, " Ann "],
        "t_remark": [None, "e\u0301tape", "Bob"],
        KNOWN: [["Ann", "2001-02-03", "Ann"], [], ["Ann", "Bob"]],
    }
    return pa.table(columns | changes)


def test_sentences_follow_the_allow_list_and_skip_what_is_unknown() -> None:
    assert PROJECTS.render(project_rows()).to_pylist() == [
        "Project of type treatment plan. Status draft. Case type refinement. Created in March 2024. "
        "File size 10 to 100 MB.",
        "Project of type aligner design. Case type active treatment. Public.",
        None,
    ]


def test_columns_outside_the_allow_list_leave_no_trace() -> None:
    rows = project_rows(first_name=["Ann", "Bob", "Cy"], c_clinical=["deep bite", "caries", "x"])
    assert PROJECTS.render(rows).equals(PROJECTS.render(project_rows()))


def test_a_missing_column_is_an_error() -> None:
    with pytest.raises(KeyError, match="t_status"):
        PROJECTS.render(project_rows().drop_columns(["t_status"]))


def test_no_rows_give_no_documents() -> None:
    assert PROJECTS.render(project_rows().slice(0, 0)).to_pylist() == []
    chunkless = pa.table([pa.chunked_array([], f.type) for f in project_rows().schema], project_rows().schema)
    assert PROJECTS.render(chunkless).to_pylist() == []
    assert CASES.render(case_rows().slice(0, 0), Blackener()).to_pylist() == []


def test_chunks_dictionaries_and_pandas_strings_read_the_same() -> None:
    rows = project_rows()
    chunked = pa.concat_tables([rows.slice(0, 1), rows.slice(1)])
    encoded = rows.set_column(1, "t_project_type", rows["t_project_type"].dictionary_encode())
    pandas = rows.set_column(
        2, "t_status", pa.chunked_array([pa.array(pd.Series(["draft", None, None], dtype="str"))])
    )
    for variant in (chunked, encoded, pandas):
        assert PROJECTS.render(variant).to_pylist() == PROJECTS.render(rows).to_pylist()


def test_free_text_follows_redacted() -> None:
    redactor = Blackener()
    assert CASES.render(case_rows(), redactor).to_pylist() == [
        "Order Braces. Notes: was here on .",
        "Remark: étape.",
        None,
    ]
    own = [["2001-02-03", "Ann"], [], ["Ann", "Bob"]]
    assert redactor.given == [
        (["Ann  was here\non 2001-02-03.", None, " Ann "], own),
        ([None, "e\u0301tape", "Bob"], own),
    ]


def test_free_text_is_never_written_without_a_redactor() -> None:
    with pytest.raises(ValueError, match="free text of cases is not written without a redactor"):
        CASES.render(case_rows())
    for name in ("t_clinical_notes", "t_remark"):
        with pytest.raises(ValueError, match="redactor"):
            CASES.render(case_rows().drop_columns([name]))


def test_rows_without_free_text_have_no_use_for_a_redactor_nor_has_a_document_without_it() -> None:
    plain = case_rows().select(["id", "t_title"])
    assert CASES.render(plain).to_pylist() == ["Order Braces.", None, None]
    with pytest.raises(KeyError, match="known"):
        CASES.render(plain, Blackener())
    assert PROJECTS.render(project_rows(), Blackener()).equals(PROJECTS.render(project_rows()))


def test_the_identifiers_of_nobody_are_none() -> None:
    rows = case_rows(known=[None, None, None])
    redactor = Blackener()
    CASES.render(rows, redactor)
    assert redactor.given[0][1] == [[], [], []]


def test_the_query_names_every_column_as_render_expects_it() -> None:
    assert PROJECTS.select_sql() == PROJECTS.select_sql(free_text=True)
    assert PROJECTS.select_sql() == (
        "SELECT t.id AS id, t.project_type::text AS t_project_type, t.status::text AS t_status, "
        "c.case_type::text AS c_case_type, t.created_at AS t_created_at, t.file_size::text AS t_file_size, "
        "t.is_public AS t_is_public FROM public.projects t LEFT JOIN public.cases c ON c.id = t.case_id"
    )
    assert CASES.select_sql() == "SELECT t.id AS id, t.title AS t_title FROM public.cases t"


def test_what_is_read_of_staged_rows() -> None:
    assert PROJECTS.staged_columns() == {
        "t": ["case_id", "project_type", "status", "created_at", "file_size", "is_public"],
        "c": ["case_type"],
    }
    assert CASES.staged_columns() == {"t": ["title"]}
    assert CASES.staged_columns(free_text=True) == {
        "t": ["title", "clinical", "remark", "patient_id", "doctor_id"],
        "patients": ["first_name", "born", "profile_id"],
        "profiles": ["username", "email"],
    }
    assert CASES.columns_read()["patients"] == ["first_name", "born", "profile_id", "merged_into"]


def staged(**columns: list[str | None]) -> pa.Table:
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def test_staged_rows_read_those_they_refer_to() -> None:
    clean = staged(
        id=["1", "2", "3"],
        legacy_id=["10", "20", "30"],
        case_id=["b", None, "gone"],
        project_type=["model", "model", "model"],
        status=[None, None, None],
        created_at=["2024-03-01 00:10:00+00:15", None, None],
        file_size=["10000000", None, None],
        is_public=["f", "t", None],
    )
    rows = PROJECTS.staged_rows(clean, {"c": staged(id=["a", "b"], case_type=["initial", "refinement"])})
    assert rows.column("legacy_id").to_pylist() == ["10", "20", "30"]
    assert PROJECTS.render(rows).to_pylist() == [
        "Project of type model. Case type refinement. Created in February 2024. File size 10 to 100 MB.",
        "Project of type model. Public.",
        "Project of type model.",
    ]
    empty = PROJECTS.staged_rows(clean, {"c": staged(id=[], case_type=[])})
    assert empty.column("c_case_type").to_pylist() == [None, None, None]
    assert (
        PROJECTS.staged_rows(clean.slice(0, 0), {"c": staged(id=["a"], case_type=["initial"])}).num_rows == 0
    )


TYPED = DocumentSpec(
    entity="things",
    content_type="notes",
    columns=(
        DocumentColumn("t.name", "Name", Kind.TEXT),
        DocumentColumn("t.state", "State"),
        DocumentColumn("t.amount", "Amount code"),
        DocumentColumn("t.roles", "Roles", Kind.CODES),
        DocumentColumn("t.active", "Active", Kind.FLAG),
        DocumentColumn("t.moment", "Moment", Kind.MONTH),
        DocumentColumn("t.local", "Local", Kind.MONTH),
        DocumentColumn("t.day", "Day", Kind.MONTH),
        DocumentColumn("t.size", "Size", Kind.NUMBER_BAND, (-5, 0, 9e15, 9.1e15)),
        DocumentColumn("t.price", "Price", Kind.NUMBER_BAND, (1, 2.5, 1e20)),
        DocumentColumn("t.ratio", "Ratio", Kind.NUMBER_BAND, (0.1, 0.5)),
        DocumentColumn("o.active", "Other active", Kind.FLAG),
        DocumentColumn("o.roles", "Other roles", Kind.CODES),
        DocumentColumn("o.size", "Other size", Kind.NUMBER_BAND, (0, 10)),
        DocumentColumn("o.moment", "Other moment", Kind.MONTH),
    ),
    joins=(Join("o", "things", "other"),),
    free_text=(FreeText("t.clinical", "Notes:", "notes"), FreeText("t.remark", "Remark:")),
    people=(
        Person("persons", "person", ("name", "born"), merged_by="survivor"),
        Person(
            "accounts", "account", ("login",), of=Person("persons", "person", ("name", "born"), "survivor")
        ),
    ),
)
_SCHEMA = """
CREATE TABLE public.accounts (id text PRIMARY KEY, login text);
CREATE TABLE public.persons (id text PRIMARY KEY, name text, born date, account text, survivor text);
CREATE TYPE public.thing_state AS ENUM ('in_use', 'put-away');
CREATE TABLE public.things (id text PRIMARY KEY, name text, state public.thing_state, amount numeric(9, 2),
  roles text[], active boolean, moment timestamptz, "local" timestamp, day date, size bigint, price numeric,
  ratio double precision, other text, clinical jsonb, remark text, person text);
INSERT INTO public.accounts VALUES ('a', 'anna77'), ('b', NULL);
INSERT INTO public.persons VALUES ('p', 'Anna "X" O''Hara', '2001-02-03', 'a', NULL), ('q', '', NULL, 'b', NULL);
"""


@pytest.fixture(scope="module")
def things(server: EmbeddedPostgres) -> Iterator[psycopg.Connection[Any]]:
    """Tables with every type that a document may read."""
    with fresh_database(server) as name, psycopg.connect(server.dsn(name), autocommit=True) as connection:
        connection.execute(_SCHEMA)
        yield connection


def read_by_sql(connection: psycopg.Connection[Any]) -> pa.Table:
    """As the target sends documents."""
    connection.execute("SET LOCAL TimeZone = 'UTC'")
    connection.execute("SET LOCAL DateStyle = 'SQL, DMY'")
    query = f"SELECT to_jsonb(d)::text FROM ({TYPED.select_sql(free_text=True)}) d ORDER BY d.id"
    return pa.Table.from_pylist([json.loads(row[0]) for row in connection.execute(query.encode())])


def read_staged(connection: psycopg.Connection[Any], zone: str) -> pa.Table:
    """As clean rows are staged: PostgreSQL's text, in whichever zone."""
    connection.execute("SET LOCAL DateStyle = 'ISO, MDY'")
    connection.execute("SELECT set_config('TimeZone', %s, true)", [zone])
    entities = {"t": "things", "o": "things", "persons": "persons", "accounts": "accounts"}
    tables = {}
    for table, columns in TYPED.staged_columns(free_text=True).items():
        names = ["id", *columns]
        listed = ", ".join(f'"{name}"' for name in names)
        copy = f"COPY (SELECT {listed} FROM public.{entities[table]} ORDER BY id) TO STDOUT (FORMAT csv)"
        with connection.cursor().copy(copy.encode()) as stream:
            tables[table] = parse_rows(b"".join(bytes(part) for part in stream), names)
    return TYPED.staged_rows(tables.pop("t"), tables, free_text=True)


_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12
) | st.sampled_from(
    [
        "e\u0301tape",
        "\u00e9tape",
        '{"a"}',
        "a,b",
        'say "x" \\ y',
        "NULL",
        " \u00a0",
        "in_use-now",
        "Å\u030a",
        "1.50",
    ]
)
_MOMENTS = st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29)).map(str) | st.sampled_from(
    ["infinity", "-infinity", "0044-03-15 BC", "2024-02-29 23:59:59.999999", "2024-01-01", "12024-05-06"]
)
_THING = st.fixed_dictionaries(
    {
        "name": _TEXT,
        "state": st.sampled_from(["in_use", "put-away"]),
        "amount": st.decimals(-(10**6), 10**6, places=2).map(str),
        "roles": st.lists(st.none() | _TEXT, max_size=4),
        "active": st.booleans(),
        "moment": _MOMENTS,
        "local": _MOMENTS,
        "day": _MOMENTS,
        "size": st.integers(-(2**63), 2**63 - 1) | st.integers(9 * 10**15, 91 * 10**14) | st.integers(-9, 9),
        "price": st.sampled_from(["NaN", "0.5", "1", "2.50", "1e25", "99999999999999999999.99", "-3"]),
        "ratio": st.floats(),
        "other": st.sampled_from(["0", "1", "gone"]),
        "clinical": st.dictionaries(st.sampled_from(["notes", "other"]), st.none() | _TEXT).map(json.dumps)
        | st.sampled_from(["[]", "null", '"notes"', '{"notes": {"a": [1, true]}}', '{"notes": 15}']),
        "remark": _TEXT,
        "person": st.sampled_from(["p", "q", "gone"]),
    }
).flatmap(
    lambda row: st.sets(st.sampled_from(sorted(row))).map(
        lambda missing: {name: None if name in missing else value for name, value in row.items()}
    )
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(_THING, min_size=1, max_size=6),
    zone=st.sampled_from(["UTC", "America/St_Johns", "Asia/Kathmandu", "Pacific/Kiritimati"]),
)
def test_documents_of_loaded_and_of_staged_rows_are_the_same(
    things: psycopg.Connection[Any], rows: list[dict[str, Any]], zone: str
) -> None:
    with things.transaction(force_rollback=True), things.cursor() as cursor:
        cursor.execute("SET LOCAL TimeZone = 'UTC'")
        for place, row in enumerate(rows):
            names = ", ".join(f'"{name}"' for name in row)
            casts = {"clinical": "::jsonb", "state": "::public.thing_state", "roles": "::text[]"}
            values = ", ".join(f"%s{casts.get(name, '')}" for name in row)
            insert = f"INSERT INTO public.things (id, {names}) VALUES ('{place}', {values})"
            cursor.execute(insert.encode(), list(row.values()))
        loaded, staged = read_by_sql(things), read_staged(things, zone)
        first, second = Blackener(), Blackener()
        assert TYPED.render(loaded, first).to_pylist() == TYPED.render(staged, second).to_pylist()
        assert first.given == second.given


def test_the_identifiers_of_merged_rows_belong_to_the_survivor(things: psycopg.Connection[Any]) -> None:
    with things.transaction(force_rollback=True):
        things.execute("INSERT INTO public.accounts VALUES ('m', 'ohara.a')")
        things.execute("INSERT INTO public.persons VALUES ('r', 'Annie', '2001-02-04', 'm', 'p')")
        things.execute("INSERT INTO public.things (id, person) VALUES ('0', 'p'), ('1', 'q'), ('2', NULL)")
        known = read_by_sql(things).column(KNOWN).to_pylist()
    assert [sorted(names) for names in known] == [
        ["2001-02-03", "2001-02-04", 'Anna "X" O\'Hara', "Annie", "anna77", "ohara.a"],
        [],
        [],
    ]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"content_type": "gossip"}, "gossip"),
        ({"columns": ()}, "needs columns"),
        ({"columns": (DocumentColumn("t.a", "A"), DocumentColumn("t.a", "B"))}, "each once"),
        ({"columns": (DocumentColumn("x.a", "A"),)}, "no table is called x"),
        ({"entity": "things; DROP TABLE things"}, "plain name"),
        ({"joins": (Join("t", "others", "other_id"),)}, "two tables"),
        ({"joins": (Join("o", "others", "x.other_id"),)}, "plain name"),
        ({"joins": (Join("o", "others o, secrets", "other_id"),)}, "plain name"),
        ({"free_text": (FreeText("t.notes", "Notes"),)}, "free text needs the people"),
        ({"people": (Person("people", "person_id", ("name",)),)}, "free text needs the people"),
        (
            {
                "free_text": (FreeText("t.notes", "Notes"),),
                "people": (Person("people", "a", ("name || 'x'",)),),
            },
            "plain name",
        ),
        (
            {
                "free_text": (FreeText("t.notes", "Notes"),),
                "people": (Person("accounts", "a", ("login",), of=Person("people", "b", ("name",))),),
            },
            "needs that one declared",
        ),
        (
            {
                "free_text": (FreeText("t.notes", "Notes"),),
                "people": (Person("people", "a", ("name",)),),
                "joins": (Join("people", "people", "a"),),
            },
            "two tables",
        ),
    ],
)
def test_specs_that_make_no_sense_are_refused(changes: dict[str, Any], fault: str) -> None:
    good = DocumentSpec("things", "notes", (DocumentColumn("t.a", "A"),))
    with pytest.raises(ValueError, match=f"things.*{fault}"):
        replace(good, **changes)


@pytest.mark.parametrize(
    ("column_sql", "label", "member"), [("notes", "A", ""), ("t.notes", " ", ""), ("t.notes", "A", "x' || '")]
)
def test_free_text_that_makes_no_sense_is_refused(column_sql: str, label: str, member: str) -> None:
    with pytest.raises(ValueError, match=r"column|label|plain name"):
        FreeText(column_sql, label, member)


def test_a_health_column_is_refused_of_the_entity_and_of_those_it_joins() -> None:
    with pytest.raises(ValueError, match=r"document of projects reads health data: c\.case_type, t\.status"):
        refuse_health_columns(PROJECTS, {"cases": ["case_type"], "projects": ["status", "name"]})
    refuse_health_columns(PROJECTS, {"cases": ["status"], "projects": ["case_type"], "patients": ["status"]})


def test_free_text_is_not_refused_but_only_as_such() -> None:
    refuse_health_columns(CASES, {"cases": ["clinical", "remark"]})
    told = replace(CASES, columns=(DocumentColumn("t.remark", "Remark", Kind.TEXT),), free_text=(), people=())
    with pytest.raises(ValueError, match=r"t\.remark"):
        refuse_health_columns(told, {"cases": ["clinical", "remark"]})


def with_document(name: str, **changes: Any) -> dict[str, Entity]:
    entity = ENTITIES[name]
    assert entity.embeddings is not None
    document = replace(entity.embeddings.document, **changes)
    return {**ENTITIES, name: replace(entity, embeddings=replace(entity.embeddings, document=document))}


@pytest.mark.parametrize(
    ("name", "changes", "fault"),
    [
        (
            "projects",
            {"columns": (DocumentColumn("c.clinical", "Clinical"),)},
            "document of projects reads health data: c.clinical",
        ),
        (
            "projects",
            {"joins": (Join("c", "cases", "creator_id"),)},
            "projects.creator_id is no reference to cases",
        ),
        ("projects", {"joins": (Join("c", "cases", "status"),)}, "projects.status is no reference to cases"),
        ("projects", {"columns": (DocumentColumn("c.colour", "Colour"),)}, "cases has no colour"),
        (
            "projects",
            {"entity": "cases", "joins": (), "columns": (DocumentColumn("t.title", "T"),)},
            "that of cases",
        ),
        ("cases", {"people": (Person("patients", "patient_id", ("first_name",)),)}, "one of their rows only"),
        (
            "cases",
            {"people": (Person("profiles", "patient_id", ("email",)),)},
            "cases.patient_id is no reference to profiles",
        ),
        (
            "cases",
            {"people": (Person("profiles", "assigned_practitioner_id", ("born",)),)},
            "profiles has no born",
        ),
    ],
)
def test_documents_are_checked_against_all_entities(name: str, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        check_documents(with_document(name, **changes))


def test_what_leaves_is_told_in_full() -> None:
    assert columns_sent(PROJECTS, free_text=True) == [
        *("projects.project_type", "projects.status", "cases.case_type"),
        *("projects.created_at", "projects.file_size", "projects.is_public"),
    ]
    assert columns_sent(CASES, free_text=False) == ["cases.title"]
    assert columns_sent(CASES, free_text=True) == ["cases.title", "cases.clinical.notes", "cases.remark"]


def recipe_of(
    spec: DocumentSpec = CASES,
    *,
    model: str = "m",
    dimensions: int = 8,
    free_text: bool = True,
    redaction: str = "1",
) -> str:
    return recipe(spec, model=model, dimensions=dimensions, free_text=free_text, redaction=redaction)


def test_a_recipe_changes_with_all_that_decides_a_vector() -> None:
    recipes = [
        recipe_of(),
        recipe_of(model="n"),
        recipe_of(dimensions=9),
        recipe_of(redaction="2"),
        recipe_of(free_text=False),
        recipe_of(replace(CASES, columns=(DocumentColumn("t.title", "Order"),))),
        recipe_of(replace(CASES, free_text=CASES.free_text[:1])),
        recipe_of(replace(CASES, people=CASES.people[:1])),
        recipe_of(PROJECTS),
    ]
    assert len(set(recipes)) == len(recipes)
    assert recipe_of() == recipe_of()
    assert {len(text) for text in recipes} == {32}


def test_what_decides_nothing_leaves_the_recipe_as_it_is() -> None:
    without = replace(CASES, free_text=(), people=())
    assert recipe_of(free_text=False, redaction="2") == recipe_of(without, free_text=True, redaction="3")
    assert recipe_of(PROJECTS, free_text=True) == recipe_of(PROJECTS, free_text=False)
