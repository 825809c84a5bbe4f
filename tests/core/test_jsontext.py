"""Our JSON text against what a real PostgreSQL's jsonb prints and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.core.jsontext import build_object, encode_boolean, encode_text, normalise, normalise_all
from tests.core.examples import examples

_JSONB = """SELECT CASE WHEN pg_input_is_valid(t, 'jsonb') THEN (t::jsonb)::text END
FROM unnest(%s::text[]) WITH ORDINALITY AS u (t, n) ORDER BY n"""

Jsonb = Callable[[list[str]], list[str | None]]


@pytest.fixture(scope="module")
def jsonb(postgres: psycopg.Connection) -> Jsonb:
    """What jsonb prints for each text; None for those it refuses."""

    def ask(texts: list[str]) -> list[str | None]:
        return [row[0] for row in postgres.execute(_JSONB, [texts])]

    return ask


DIGITS = st.integers(0, 10**25).map(str)
NUMBERS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "-", "+", "--"]),
        DIGITS | st.sampled_from(["0", "00", "01", "", "1."]),
        st.just("") | DIGITS.map(".{}".format) | st.sampled_from([".", ".0", ".000"]),
        st.just("")
        | st.builds("{}{}".format, st.sampled_from(["e", "E+", "e-", "e", "E"]), st.integers(0, 400)),
    ),
)
# Characters that PostgreSQL's text can hold: no NUL, no lone surrogate.
CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
ESCAPES = st.sampled_from(
    [
        # Surrogate pairs whole, alone, swapped and interrupted; NUL.
        *(
            r"\u0000",
            r"\ud83d\ude00",
            r"\uD834\uDD1E",
            r"\ud83d",
            r"\ude00",
            r"\ude00\ud83d",
            r"\ud83d\ud83d",
        ),
        *(r"\ud83dx", r"\ud83d\n", r"\u00e9", r"\u12", r"\u12g4", r"\x", r"\'", r"\/", r"\b", r"\f", r"\n"),
        *(
            r"\r",
            r"\t",
            r"\\",
            r"\"",
            r"\u0001",
            r"\u001f",
            r"\u007f",
            r"\u2028",
            r"\uffff",
            r"\ufeff",
            r"\0",
        ),
        *("\n", "\t", "\x01", "\x1f", "\x7f", "\u2028", "é", "😀", "\ufeff", "e\u0301"),
    ]
)
STRINGS = st.lists(ESCAPES | CHARACTERS.filter(lambda c: c not in '"\\'), max_size=6).map(
    lambda parts: '"' + "".join(parts) + '"'
)
KEYS = st.sampled_from(['"a"', '"b"', '"aa"', '"é"', '""', r'"\u0061"', r'"\u0000"', '"B"', '"z"']) | STRINGS
BLANKS = st.sampled_from(["", "", "", " ", "\n", "\t", "\r", "\f", "\u00a0", "\ufeff"])
SCALARS = (
    NUMBERS
    | STRINGS
    | st.sampled_from(
        [
            "true",
            "false",
            "null",
            "NaN",
            "Infinity",
            "-Infinity",
            "True",
            "nul",
            "",
            "-0",
            "-0.00",
            "-0e3",
            "'a'",
        ]
    )
)


def padded(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("{}{}{}".format, BLANKS, parts, BLANKS)


def containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    member = st.builds("{}:{}".format, padded(KEYS), padded(inner))
    return st.builds("[{}]".format, st.lists(padded(inner), max_size=4).map(",".join)) | st.builds(
        "{{{}}}".format, st.lists(member, max_size=4).map(",".join)
    )


HOSTILE = padded(st.recursive(SCALARS, containers, max_leaves=8))
# Valid JSON as programs write it, and what is left of it after an accident.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(CHARACTERS, max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(CHARACTERS, max_size=4), inner, max_size=4)
    ),
    max_leaves=10,
)
WRITTEN = st.builds(json.dumps, VALUES, ensure_ascii=st.booleans(), indent=st.sampled_from([None, 1]))
CUT = st.builds(lambda text, start, end: text[start:end], WRITTEN, st.integers(0, 3), st.integers(-3, 60))
SOUP = st.text(st.sampled_from('{}[]",:\\u0dD8eE+-.19ntrfalsu '), max_size=12)


@examples(40)
@given(st.lists(HOSTILE | WRITTEN | CUT | SOUP, min_size=20, max_size=120))
def test_normalise_prints_and_refuses_what_jsonb_does(jsonb: Jsonb, texts: list[str]) -> None:
    expected = jsonb(texts)
    assert [normalise(text) for text in texts] == expected
    assert normalise_all(pa.array(texts, pa.string())).to_pylist() == expected


KNOWN = [
    '{"b": 1, "a": 2, "aa": 3, "B": 4, "é": 5, "": 6}',
    '{"a": 1, "a": 2}',
    r'{"a": 1, "\u0061": 2}',
    r'{"a": "\u0000", "a": 1}',
    r'{"a": ["\ud83d"], "a": 1}',
    r'{"a": {"b": "\u0000", "b": 2}}',
    r'{"\u0000": 1}',
    r'{"\u0000": 1, "\u0000": 2}',
    '{"a": NaN, "a": 1}',
    "[1e2, 1.50, 1.5e1, 1.500e1, 1e-3, 0e5, 0e-5, -0, -0.0, 0.10, 1E400, 1e-400]",
    "[" * 100 + "]" * 100,
    '{"a":' * 100 + "null" + "}" * 100,
    "[" * 50 + '"' + "[" * 5000 + '"' + "]" * 50,
    "[" + ",".join(['{"a": [1]}'] * 500) + "]",
    '"' + "\\\\" * 200 + '"',
    "9" * 1000,
    "0." + "1" * 998,
    "",
    " ",
    "[",
    "]" * 300,
    '{"a": 1,}',
    "{'a': 1}",
    "1 2",
    "// a\n1",
    "\ufeff1",
]


@pytest.mark.parametrize(
    "text", KNOWN, ids=lambda text: text[:30].encode("ascii", "backslashreplace").decode()
)
def test_known_traps(jsonb: Jsonb, text: str) -> None:
    assert [normalise(text)] == jsonb([text])


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 101 + "]" * 101, '{"a":' * 101 + "1" + "}" * 101, "[" * 100_000),
        *("1e1001", "1e-1001", "9" * 1001, "1e99999999999999999999", "-1e-99999999999999999999"),
    ],
    ids=lambda text: text[:24],
)
def test_what_is_certainly_no_data_is_refused_whatever_the_stack(text: str) -> None:
    def deeper(levels: int) -> str | None:
        return normalise(text) if levels == 0 else deeper(levels - 1)

    assert normalise(text) is None
    assert deeper(200) is None


def test_the_deepest_text_is_accepted_far_down_the_stack() -> None:
    def deeper(levels: int) -> str | None:
        return normalise("[" * 100 + "]" * 100) if levels == 0 else deeper(levels - 1)

    assert deeper(300) == "[" * 100 + "]" * 100


@examples(25)
@given(st.lists(st.text(CHARACTERS), min_size=10, max_size=60))
def test_text_literals_are_those_of_to_jsonb(postgres: psycopg.Connection, texts: list[str]) -> None:
    rows = postgres.execute(
        "SELECT to_jsonb(t)::text FROM unnest(%s::text[]) WITH ORDINALITY AS u (t, n) ORDER BY n", [texts]
    )
    assert encode_text(pa.array(texts)).to_pylist() == [row[0] for row in rows]


def test_literals_keep_null_and_length() -> None:
    assert encode_text(pa.array(["a", None, "a"])).to_pylist() == ['"a"', None, '"a"']
    assert encode_text(pa.array([None, None], pa.string())).to_pylist() == [None, None]
    assert encode_text(pa.array([], pa.string())).to_pylist() == []
    assert encode_boolean(pa.array(["t", "f", None])).to_pylist() == ["true", "false", None]
    assert normalise_all(pa.array([None, "{", "1"], pa.string())).to_pylist() == [None, None, "1"]
    assert normalise_all(pa.array([], pa.string())).to_pylist() == []


MEMBER_KEYS = st.text(CHARACTERS, max_size=5)


@examples(25)
@given(
    st.dictionaries(
        MEMBER_KEYS, st.lists(st.none() | st.text(CHARACTERS, max_size=5), min_size=3, max_size=3)
    ),
    st.booleans(),
)
def test_objects_are_built_as_jsonb_prints_them(
    jsonb: Jsonb, members: dict[str, list[str | None]], keep_null: bool
) -> None:
    if not members:
        return
    literals = {key: encode_text(pa.array(values, pa.string())) for key, values in members.items()}
    built = build_object(literals, keep_null=keep_null).to_pylist()
    expected = [
        {key: values[row] for key, values in members.items() if keep_null or values[row] is not None}
        for row in range(3)
    ]
    assert [json.loads(text) for text in built] == expected
    assert jsonb(built) == built


def test_an_object_of_no_rows_has_no_rows() -> None:
    assert build_object({"a": pa.array([], pa.string())}, keep_null=True).to_pylist() == []
