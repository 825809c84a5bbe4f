from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.embedding.batching import cut_texts, estimate_tokens, plan_batches

texts_strategy = st.lists(st.text(max_size=40), max_size=60)


@given(texts_strategy, st.integers(1, 9), st.integers(0, 200))
def test_batches_are_complete_disjoint_ordered_and_within_both_limits(
    texts: list[str], max_inputs: int, room: int
) -> None:
    max_tokens = max([1, *map(estimate_tokens, texts)]) + room
    batches = plan_batches(texts, max_inputs, max_tokens)
    assert [position for batch in batches for position in batch] == list(range(len(texts)))
    assert all(1 <= len(batch) <= max_inputs for batch in batches)
    assert all(sum(estimate_tokens(texts[i]) for i in batch) <= max_tokens for batch in batches)


@given(texts_strategy, st.integers(1, 9), st.integers(0, 200))
def test_no_batch_could_have_taken_the_next_text(texts: list[str], max_inputs: int, room: int) -> None:
    max_tokens = max([1, *map(estimate_tokens, texts)]) + room
    batches = plan_batches(texts, max_inputs, max_tokens)
    for batch in batches[:-1]:
        grown = sum(estimate_tokens(texts[i]) for i in batch) + estimate_tokens(texts[batch.stop])
        assert len(batch) == max_inputs or grown > max_tokens


def test_items_and_tokens_each_close_a_batch() -> None:
    assert plan_batches(["a"] * 5, 2, 100, len) == [range(0, 2), range(2, 4), range(4, 5)]
    assert plan_batches(["aaa", "aa", "aaaa", "a"], 10, 5, len) == [range(0, 2), range(2, 4)]
    assert plan_batches([], 10, 5, len) == []


def test_a_text_over_the_limit_is_not_lost_silently() -> None:
    with pytest.raises(ValueError, match="position 1 alone has more than 5 tokens"):
        plan_batches(["aaa", "aaaaaa"], 10, 5, len)


@pytest.mark.parametrize(("max_inputs", "max_tokens"), [(0, 5), (5, 0)])
def test_limits_below_one_are_refused(max_inputs: int, max_tokens: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        plan_batches(["a"], max_inputs, max_tokens, len)


@given(st.lists(st.text(min_size=1, max_size=80), max_size=8), st.integers(5, 40))
def test_cut_texts_fit_and_only_long_ones_are_touched(texts: list[str], max_tokens: int) -> None:
    cut = cut_texts(texts, max_tokens)
    assert cut.shortened == [i for i, text in enumerate(texts) if estimate_tokens(text) > max_tokens]
    assert len(cut.texts) == len(texts)
    for position, (before, after) in enumerate(zip(texts, cut.texts, strict=True)):
        assert after
        assert before.startswith(after)
        assert estimate_tokens(after) <= max_tokens
        assert (after != before) == (position in cut.shortened)


def test_a_cut_falls_between_words_where_there_are_any() -> None:
    assert cut_texts(["one two three four"], 12, len).texts == ["one two"]
    assert cut_texts(["a " + "b" * 20], 12, len).texts == ["a " + "b" * 10]
    assert cut_texts(["one two"], 7, len).shortened == []


def test_a_text_of_which_nothing_fits_is_reported() -> None:
    with pytest.raises(ValueError, match="position 0"):
        cut_texts(["日本"], 2, lambda text: len(text.encode()))


# Tokens as OpenAI's cl100k_base vocabulary counts them.
KNOWN = {
    "Project of type treatment plan. Status draft. Case type refinement. Priority low. "
    "Created in March 2024. File size 10 to 50 MB.": 32,
    "Task name: Upload intraoral scan. Function submit. Required roles admin, doctor, technician. "
    "Not predefined. Extensions obj, ply, stl.": 30,
    "Behandlungsplan für die Verfeinerung der Zahnstellung, Kieferorthopädie, Überprüfung der Schienen.": 31,
    "План лечения пациента, уточнение положения зубов и проверка элайнеров.": 31,
    "治疗计划草案，病例类型为精细调整，等待医生审核。": 31,
    "Status draft.": 3,
    "A. B.": 4,
    "ok": 1,
    "f47ac10b-58cc-4372-a567-0e02b2c3d479": 23,
    "12345678901234567890 98 76 54": 13,
}


@pytest.mark.parametrize(("text", "tokens"), KNOWN.items())
def test_the_estimate_is_on_the_safe_side(text: str, tokens: int) -> None:
    assert estimate_tokens(text) >= tokens


def test_the_estimate_of_english_documents_is_not_wasteful() -> None:
    for text, tokens in list(KNOWN.items())[:2]:
        assert estimate_tokens(text) <= 1.5 * tokens


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_the_estimate_grows_with_the_text_and_covers_a_quarter_of_its_bytes(text: str, more: str) -> None:
    assert estimate_tokens(text) * 4 >= len(text.encode())
    assert estimate_tokens(text + more) >= estimate_tokens(text)
