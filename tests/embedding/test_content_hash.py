from __future__ import annotations

import hashlib

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from include.embedding.content_hash import HASH_CHARACTERS, content_hashes

# Anything that UTF-8 can hold: surrogates cannot reach an Arrow string.
any_text = st.text(st.characters(exclude_categories=["Cs"]))
triples = st.tuples(any_text, any_text, st.integers(1, 20_000))


def single(text: str, model: str, dimensions: int) -> str:
    return content_hashes(pa.array([text]), model, dimensions)[0].as_py()


def test_the_hash_is_the_documented_one() -> None:
    expected = hashlib.sha256(b'["embedding/1", "some-model", 512]\nStatus draft.').hexdigest()[:32]
    assert single("Status draft.", "some-model", 512) == expected
    assert HASH_CHARACTERS == 32


def test_order_nulls_and_representation() -> None:
    texts = ["b", None, "a", "b", ""]
    hashes = content_hashes(pa.array(texts), "m", 8)
    assert [value is None for value in hashes.to_pylist()] == [False, True, False, False, False]
    assert hashes[0] == hashes[3]
    assert len(set(hashes.to_pylist())) == 4
    for same in (pa.array(texts, pa.large_string()), pa.chunked_array([texts[:2], texts[2:]], pa.string())):
        assert content_hashes(same, "m", 8).equals(hashes)


@given(triples, triples)
def test_equal_exactly_when_text_model_and_dimensions_are(
    one: tuple[str, str, int], other: tuple[str, str, int]
) -> None:
    assert (single(*one) == single(*other)) == (one == other)


@given(any_text, st.integers(0, 5))
def test_moving_characters_between_model_and_text_changes_the_hash(text: str, cut: int) -> None:
    whole = "a\n1]" + text
    cut = min(cut, len(whole) - 1)
    assert single(whole, "m", 1) != single(whole[cut + 1 :], "m" + whole[: cut + 1], 1)
