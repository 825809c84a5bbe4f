"""Content digests: those of PostgreSQL, bucket by bucket."""

from __future__ import annotations

import itertools
import uuid

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.core.fingerprint import Fingerprints, buckets_of, content_digests, record_texts
from local.postgres import EmbeddedPostgres
from tests.core.examples import examples

# Every sign that means something within a record, all white space of C and some that is not, composed and decomposed.
TRICKY = [
    "",
    "NULL",
    '"',
    "\\",
    ",",
    "(",
    ")",
    " ",
    "\t",
    "\n",
    "\v",
    "\f",
    "\r",
    "\x85",
    "\xa0",
    "\u2028",
    "\u3000",
]
TRICKY += [
    "é",
    "e\u0301",
    "\ufeff",
    "\U0001f9b7",
    "\x01",
    "\x1f",
    "{}",
    '{"a": "b\\"c"}',
    "t",
    "''",
    "\\\\",
    '""',
]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
VALUE = st.none() | st.sampled_from(TRICKY) | TEXT
ROWS = st.integers(1, 5).flatmap(lambda width: st.lists(st.tuples(*[VALUE] * width), min_size=1, max_size=20))
Row = tuple[str | None, ...]


@pytest.fixture(scope="module")
def connection(server: EmbeddedPostgres):
    server.create_database("records")
    with psycopg.connect(server.dsn("records"), autocommit=True) as opened:
        yield opened
    server.drop_database("records")


def columns(rows: list[Row]) -> list[pa.Array]:
    return [pa.array([row[place] for row in rows], pa.string()) for place in range(len(rows[0]))]


def digests(rows: list[Row]) -> list[str]:
    return [f"{high:016x}{low:016x}" for high, low in content_digests(columns(rows)).tolist()]


def of_postgres(connection: psycopg.Connection, rows: list[Row]) -> list[tuple[str, str]]:
    """Text and digest of every row."""
    values = ", ".join(["%s::text"] * len(rows[0]))
    query = f"SELECT r::text, md5(r::text) FROM (SELECT ROW({values}) AS r) s"
    return [connection.execute(query.encode(), row).fetchone() for row in rows]


@examples(200)
@given(rows=ROWS)
def test_a_digest_is_that_of_postgresql(connection: psycopg.Connection, rows: list[Row]) -> None:
    expected = of_postgres(connection, rows)
    assert record_texts(columns(rows)).to_pylist() == [text for text, _ in expected]
    assert digests(rows) == [digest for _, digest in expected]


def test_every_tricky_text_in_every_place(connection: psycopg.Connection) -> None:
    rows: list[Row] = [*itertools.product([None, *TRICKY], repeat=2), *[(text * 3, None) for text in TRICKY]]
    assert digests(rows) == [digest for _, digest in of_postgres(connection, rows)]


def test_null_empty_and_the_word_null_differ_in_every_place() -> None:
    rows = list(itertools.product([None, "", "NULL", "null", "\\N"], repeat=3))
    assert len(set(digests(rows))) == len(rows)


def test_contents_that_move_to_the_next_column_differ() -> None:
    parts = [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""), (None, "abc"), ("abc", None), ("a,b", "c")]
    assert len(set(digests(parts))) == len(parts)


def test_digests_of_no_rows_and_of_slices() -> None:
    assert content_digests([pa.array([], pa.string())]).shape == (0, 2)
    column = pa.array(["a", "b", "c"])
    assert content_digests([column.slice(1, 1)]).tolist() == content_digests([pa.array(["b"])]).tolist()


@pytest.mark.parametrize("digits", [1, 2, 8])
def test_a_bucket_is_how_an_id_begins(digits: int) -> None:
    ids = [str(uuid.uuid4()) for _ in range(200)] + ["0" * 8, "f" * 8, "0123abcd", "90abcdef"]
    assert buckets_of(pa.array(ids), digits).tolist() == [int(key[:digits], 16) for key in ids]
    assert buckets_of(pa.array([], pa.string()), digits).tolist() == []


@pytest.mark.parametrize("digits", [0, 9])
def test_other_numbers_of_digits_are_refused(digits: int) -> None:
    with pytest.raises(ValueError, match="digits"):
        buckets_of(pa.array(["ab"]), digits)


def summed(rows: dict[str, tuple[int, int]], digits: int) -> dict[str, tuple[int, int, int]]:
    """Buckets as the target counts them: as whole numbers, negative ones among them."""
    result: dict[str, tuple[int, int, int]] = {}
    for key, (high, low) in rows.items():
        count, highs, lows = result.get(key[:digits], (0, 0, 0))
        result[key[:digits]] = (count + 1, highs + high - 2**64, lows + low)
    return result


IDS = st.uuids().map(str)
HALF = st.integers(0, 2**64 - 1)


@examples(100)
@given(
    rows=st.dictionaries(IDS, st.tuples(HALF, HALF), max_size=30),
    digits=st.integers(1, 3),
    cut=st.integers(0, 30),
)
def test_equal_rows_in_any_order_and_batches_differ_in_no_bucket(
    rows: dict[str, tuple[int, int]], digits: int, cut: int
) -> None:
    counted = Fingerprints(digits)
    keys = sorted(rows)
    for part in (keys[cut:], keys[:cut]):
        halves = np.array([rows[key] for key in part], np.uint64).reshape(-1, 2)
        counted.add(pa.array(part, pa.string()), halves)
    assert counted.differing(summed(rows, digits)) == []
    if rows:
        left = dict(list(rows.items())[1:])
        assert counted.differing(summed(left, digits)) == [next(iter(rows))[:digits]]


def test_rows_that_exchange_their_digests_differ_though_the_sums_of_all_agree() -> None:
    first, second = "1" * 8, "2" * 8
    counted = Fingerprints(1)
    counted.add(pa.array([first, second]), np.array([[1, 2], [3, 4]], np.uint64))
    assert counted.differing({"1": (1, 3, 4), "2": (1, 1, 2)}) == ["1", "2"]
    assert counted.differing({"1": (1, 1, 2), "2": (1, 3, 4)}) == []
    assert counted.differing({"1": (1, 1, 2), "2": (2, 3, 4)}) == ["2"]
    assert counted.differing({"1": (1, 1, 2), "2": (1, 3, 5)}) == ["2"]
