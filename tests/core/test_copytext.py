"""COPY CSV through a real PostgreSQL: every text arrives as it was, both ways."""

from __future__ import annotations

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.core.copytext import format_rows, parse_rows
from tests.core.examples import examples

TRAPS = [
    *("", "NULL", "null", "\\N", "\\.", "\\.\n", "\n\\.\n", "a\n\\.\nb", "\\", "\\\\", '"', '""', '"a', "'"),
    *(
        ",",
        ",,",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        " ",
        "  a ",
        "n/a",
        "NaN",
        "true",
        "#",
        "-",
        "\ufeff",
        "\ufeffa",
    ),
    *("é", "e\u0301", "歯科", "ฟัน", "😀", "\x01", "\x1f", "\x7f", "\u2028", "\x85", "a\x0bb\x0cc"),
]
TEXT = st.sampled_from(TRAPS) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12
)

VALUE = st.none() | TEXT | st.lists(st.sampled_from(TRAPS), max_size=3).map("".join)
Rows = list[tuple[str | None, ...]]
ROWS = st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[VALUE] * width), max_size=30))


def table_of(rows: Rows, names: list[str]) -> pa.Table:
    return pa.table({name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(names)})


def rows_of(table: pa.Table) -> Rows:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def sent_by_copy(connection: psycopg.Connection, rows: Rows, names: list[str]) -> bytes:
    values = ", ".join("(" + ", ".join(["%s::text"] * len(names)) + ")" for _ in rows)
    flat = [value for row in rows for value in row]
    with connection.cursor() as cursor:
        query = psycopg.ClientCursor(connection).mogrify(
            f"COPY (VALUES {values}) TO STDOUT WITH (FORMAT csv)", flat
        )
        with cursor.copy(query) as copy:
            return b"".join(bytes(part) for part in copy)


def stored_by_copy(connection: psycopg.Connection, data: bytes, names: list[str]) -> Rows:
    with connection.transaction(force_rollback=True), connection.cursor() as cursor:
        columns = ", ".join(f"{name} text" for name in names)
        cursor.execute(f"CREATE TEMPORARY TABLE arrived (n serial, {columns})")
        with cursor.copy(f"COPY arrived ({', '.join(names)}) FROM STDIN WITH (FORMAT csv)") as copy:
            copy.write(data)
        return cursor.execute(f"SELECT {', '.join(names)} FROM arrived ORDER BY n").fetchall()


def names_for(rows: Rows) -> list[str]:
    return [f"c{i}" for i in range(len(rows[0]) if rows else 2)]


@examples(60)
@given(ROWS)
def test_what_copy_sends_is_parsed_to_the_same_texts(postgres: psycopg.Connection, rows: Rows) -> None:
    names = names_for(rows)
    data = sent_by_copy(postgres, rows, names) if rows else b""
    assert rows_of(parse_rows(data, names)) == rows


@examples(60)
@given(ROWS)
def test_what_is_formatted_arrives_as_the_same_texts(postgres: psycopg.Connection, rows: Rows) -> None:
    names = names_for(rows)
    assert stored_by_copy(postgres, format_rows(table_of(rows, names)), names) == rows


@pytest.mark.parametrize("width", [1, 2])
def test_every_trap_alone_and_beside_others(postgres: psycopg.Connection, width: int) -> None:
    rows: Rows = [(value,) * width for value in [None, *TRAPS, None]]
    names = names_for(rows)
    assert rows_of(parse_rows(sent_by_copy(postgres, rows, names), names)) == rows
    assert stored_by_copy(postgres, format_rows(table_of(rows, names)), names) == rows


def test_a_single_column_of_nulls_keeps_its_rows(postgres: psycopg.Connection) -> None:
    rows: Rows = [(None,), ("1",), (None,), (None,)]
    assert rows_of(parse_rows(sent_by_copy(postgres, rows, ["key"]), ["key"])) == rows
    assert stored_by_copy(postgres, format_rows(table_of(rows, ["key"])), ["key"]) == rows


def test_nothing_gives_an_empty_table_with_its_columns() -> None:
    table = parse_rows(b"", ["a", "b"])
    assert (table.num_rows, table.column_names) == (0, ["a", "b"])
    assert {field.type for field in table.schema} == {pa.string()}
    assert format_rows(table) == b""


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (0, 2, 1), (1, 1, 0)])
def test_chunked_tables_are_written_whole(postgres: psycopg.Connection, order: tuple[int, ...]) -> None:
    contents: list[Rows] = [[("a", None)], [], [("", "b"), (None, "c")]]
    parts = [table_of(contents[n], ["x", "y"]) for n in order]
    data = format_rows(pa.concat_tables(parts))
    assert stored_by_copy(postgres, data, ["x", "y"]) == [row for n in order for row in contents[n]]


def test_a_large_value_with_line_breaks_stays_one_value() -> None:
    value = 'line\n"quoted", and\r\nmore ' * 100_000
    data = format_rows(table_of([("1", value), ("2", None)], ["id", "text"]))
    assert rows_of(parse_rows(data, ["id", "text"])) == [("1", value), ("2", None)]
