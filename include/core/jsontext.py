"""JSON as PostgreSQL's jsonb prints it, built column-wise.

Writing jsonb's own text form (keys ordered by length, then bytes; ``": "`` and ``", "`` as separators) makes
the text that goes in equal to the text that comes back, so content hashes can be compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# jsonb stores numbers as numeric; past these digits a value is certainly not data.
_MOST_DIGITS = 1000
# Fixed, so that the answer depends neither on Python's stack nor on the server's.
_DEEPEST = 100
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


def encode_text(values: pa.Array) -> pa.Array:
    """JSON string literals of a string array; NULL stays NULL."""
    distinct = values.dictionary_encode()
    literals = [json.dumps(value, ensure_ascii=False) for value in distinct.dictionary.to_pylist()]
    return pa.array(literals, pa.string()).take(distinct.indices)


def encode_boolean(values: pa.Array) -> pa.Array:
    """JSON literals of PostgreSQL booleans (``t``/``f``); NULL stays NULL."""
    return pc.if_else(pc.equal(values, "t"), "true", "false")


def build_object(members: Mapping[str, pa.Array], *, keep_null: bool) -> pa.Array:
    """One JSON object per row from arrays of JSON literals.

    Args:
        members: key to literals; NULL means the member is unknown.
        keep_null: write unknown members as ``null`` (a fixed shape) instead of leaving them out.
    """
    parts = []
    for key in sorted(members, key=_jsonb_key_order):
        literals = members[key]
        member = pc.binary_join_element_wise(f", {json.dumps(key, ensure_ascii=False)}: ", literals, "")
        unknown = f", {json.dumps(key, ensure_ascii=False)}: null" if keep_null else ""
        parts.append(pc.fill_null(member, unknown))
    joined = pc.binary_join_element_wise(*parts, "")
    return pc.binary_join_element_wise("{", pc.replace_substring_regex(joined, r"^, ", ""), "}", "")


def normalise(text: str) -> str | None:
    """The text as jsonb would print it, or None when jsonb would refuse it.

    Numbers of more than 1,000 digits and more than 100 levels of nesting are refused as well.
    """
    if _too_deep(text):
        return None
    try:
        value = json.loads(
            text, parse_float=_number, parse_int=_number, parse_constant=_refuse, object_pairs_hook=_ordered
        )
        return _dump(value)
    except (ValueError, ArithmeticError):
        return None


def normalise_all(values: pa.Array) -> pa.Array:
    """:func:`normalise` for an array; NULL and malformed texts become NULL."""
    distinct = values.dictionary_encode()
    texts = [normalise(text) for text in distinct.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(distinct.indices)


def _too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= _DEEPEST:
        return False
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest > _DEEPEST


def _jsonb_key_order(key: str) -> tuple[int, bytes]:
    raw = key.encode()
    return len(raw), raw


def _ordered(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    last_wins = dict(pairs)
    if len(last_wins) < len(pairs):
        for _, value in pairs:
            _dump(value)  # jsonb refuses a bad text also where a later member replaces it
    return {key: last_wins[key] for key in sorted(last_wins, key=_jsonb_key_order)}


def _number(text: str) -> Decimal:
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    if len(text) > _MOST_DIGITS or not isinstance(exponent, int) or abs(exponent) > _MOST_DIGITS:
        raise ValueError("number out of range")
    return number


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _dump(value: object) -> str:
    write: Callable[[Any], str] = _WRITERS[type(value)]
    return write(value)


def _dump_number(value: Decimal) -> str:
    # jsonb prints numerics without an exponent and knows no negative zero.
    text = format(value, "f")
    return text.removeprefix("-") if value.is_zero() else text


def _dump_text(value: str) -> str:
    # NUL and lone surrogates are JSON, but no PostgreSQL text (encode raises a ValueError for the latter).
    if b"\x00" in value.encode():
        raise ValueError("NUL")
    return json.dumps(value, ensure_ascii=False)


def _dump_object(value: Mapping[str, object]) -> str:
    return "{" + ", ".join(f"{_dump_text(key)}: {_dump(item)}" for key, item in value.items()) + "}"


_WRITERS: dict[type, Callable[[Any], str]] = {
    dict: _dump_object,
    list: lambda value: "[" + ", ".join(_dump(item) for item in value) + "]",
    str: _dump_text,
    Decimal: _dump_number,
    bool: lambda value: "true" if value else "false",
    type(None): lambda _: "null",
}
