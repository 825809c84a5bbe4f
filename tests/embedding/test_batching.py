from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.embedding.batching import cut_texts, plan_batches
from include.embedding.tokens import TokenCounter, estimate_tokens, token_counter

sizes_strategy = st.lists(st.integers(0, 50), max_size=60)
exact = token_counter("text-embedding-3-small")


@given(sizes_strategy, st.integers(1, 9), st.integers(0, 200))
def test_batches_are_complete_disjoint_ordered_and_within_both_limits(
    sizes: list[int], max_inputs: int, room: int
) -> None:
    max_tokens = max([1, *sizes]) + room
    batches = plan_batches(sizes, max_inputs, max_tokens)
    assert [position for batch in batches for position in batch] == list(range(len(sizes)))
    assert all(1 <= len(batch) <= max_inputs for batch in batches)
    assert all(sum(sizes[i] for i in batch) <= max_tokens for batch in batches)


@given(sizes_strategy, st.integers(1, 9), st.integers(0, 200))
def test_no_batch_could_have_taken_the_next_text(sizes: list[int], max_inputs: int, room: int) -> None:
    max_tokens = max([1, *sizes]) + room
    for batch in plan_batches(sizes, max_inputs, max_tokens)[:-1]:
        grown = sum(sizes[i] for i in batch) + sizes[batch.stop]
        assert len(batch) == max_inputs or grown > max_tokens


def test_items_and_tokens_each_close_a_batch() -> None:
    assert plan_batches([1] * 5, 2, 100) == [range(0, 2), range(2, 4), range(4, 5)]
    assert plan_batches([3, 2, 4, 1], 10, 5) == [range(0, 2), range(2, 4)]
    assert plan_batches([], 10, 5) == []


def test_a_text_over_the_limit_is_not_lost_silently() -> None:
    with pytest.raises(ValueError, match="position 1 alone has more than 5 tokens"):
        plan_batches([3, 6], 10, 5)


@pytest.mark.parametrize(("max_inputs", "max_tokens"), [(0, 5), (5, 0)])
def test_limits_below_one_are_refused(max_inputs: int, max_tokens: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        plan_batches([1], max_inputs, max_tokens)


@pytest.mark.parametrize("count", [estimate_tokens, exact], ids=["estimated", "exact"])
@settings(deadline=None)  # the first one loads the vocabulary
@given(texts=st.lists(st.text(min_size=1, max_size=80), max_size=8), max_tokens=st.integers(5, 40))
def test_cut_texts_fit_and_only_long_ones_are_touched(
    count: TokenCounter, texts: list[str], max_tokens: int
) -> None:
    cut = cut_texts(texts, max_tokens, count)
    assert cut.shortened == [i for i, text in enumerate(texts) if count(text) > max_tokens]
    assert len(cut.texts) == len(texts)
    for position, (before, after) in enumerate(zip(texts, cut.texts, strict=True)):
        assert after
        assert before.startswith(after)
        assert count(after) <= max_tokens
        assert (after != before) == (position in cut.shortened)


@given(st.lists(st.sampled_from(["tooth ", "scan", " ", "réf. ", "12", "日本"]), min_size=30).map("".join))
def test_a_cut_keeps_as_much_as_fits(text: str) -> None:
    most = 20
    (kept,) = cut_texts([text], most, len).texts
    assert kept == text if len(text) <= most else len(kept) > most // 2
    assert len(kept) <= most
    assert len(kept) in (most, len(text)) or text[len(kept)] == " "


def test_texts_that_fit_by_their_bytes_are_not_counted() -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return len(text)

    assert cut_texts(["short", "just not", "far too long"], 8, count).texts == [
        "short",
        "just not",
        "far too",
    ]
    assert "short" not in counted
    assert max(map(len, counted)) == len("far too long")


def test_no_more_than_twice_the_result_is_counted_again_and_again() -> None:
    lengths: list[int] = []

    def count(text: str) -> int:
        lengths.append(len(text))
        return len(text) // 4

    text = "a word " * 100_000
    (kept,) = cut_texts([text], 1_000, count).texts
    assert 3_990 < len(kept) <= 4_003
    assert lengths[0] == len(text)
    assert max(lengths[1:]) <= 2 * 4_003


def test_a_cut_never_has_more_tokens_than_the_longer_text_had() -> None:
    """A vocabulary may need more tokens for a text that is cut than for the whole."""
    cut = cut_texts(["one two three"], 9, lambda text: 99 if text.endswith("two") else len(text))
    assert cut.texts == ["one two t"]


def test_a_cut_falls_between_words_where_there_are_any() -> None:
    assert cut_texts(["one two three four"], 12, len).texts == ["one two"]
    assert cut_texts(["a " + "b" * 20], 12, len).texts == ["a " + "b" * 10]
    assert cut_texts(["one two"], 7, len).shortened == []


def test_a_text_of_which_nothing_fits_is_reported() -> None:
    with pytest.raises(ValueError, match="position 0"):
        cut_texts(["日本"], 2, lambda text: len(text.encode()))
