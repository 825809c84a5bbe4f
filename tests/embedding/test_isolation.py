from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from math import ceil, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.core.errors import MigrationError
from include.embedding.isolation import CONTROL_TEXT, Isolated, embed_isolating
from include.embedding.provider import Vectors

sizes = st.integers(1, 300)
codes = st.sampled_from(["EMBEDDING_REFUSED", "EMBEDDING_WRONG_ANSWER"])


class Provider:
    """Takes every request without a poison; the vector of a text is its number."""

    def __init__(self, poisons: Sequence[int] = (), code: str = "EMBEDDING_REFUSED") -> None:
        self.poisons = {str(number) for number in poisons}
        self.code = code
        self.fails: Callable[[int, Sequence[str]], MigrationError | None] = lambda number, texts: None
        self.requests: list[list[str]] = []
        self.kept: list[tuple[list[int], list[float]]] = []
        # Requests that were answered, and not kept before the next one.
        self.late = 0

    def send(self, texts: Sequence[str]) -> Vectors:
        answered = sum(1 for texts in self.passed if texts != [CONTROL_TEXT])
        self.late += answered != len(self.kept)
        self.requests.append(list(texts))
        failure = self.fails(len(self.requests), texts)
        if failure is None and self.poisons & set(texts):
            failure = MigrationError(self.code, "", provider_code="bad_text")
        if failure is not None:
            raise failure
        return np.array([[float(text) if text != CONTROL_TEXT else -1] for text in texts], np.float32)

    @property
    def passed(self) -> list[list[str]]:
        return [texts for texts in self.requests if not self.poisons & set(texts)]

    def keep(self, positions: Sequence[int], vectors: Vectors) -> None:
        self.kept.append((list(positions), vectors[:, 0].tolist()))

    def isolate(self, size: int, *, proven: bool = False) -> Isolated:
        return embed_isolating([str(n) for n in range(size)], self.send, self.keep, proven=proven)


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, set[int]]:
    size = draw(sizes)
    few = draw(st.sets(st.integers(0, size - 1), max_size=8))
    return size, draw(st.sampled_from([few, set(range(size)) - few]))


@given(batches(), codes, st.booleans())
def test_the_poisons_are_refused_alone_and_every_other_text_gets_its_vector_once(
    batch: tuple[int, set[int]], code: str, proven: bool
) -> None:
    size, poisons = batch
    provider = Provider(sorted(poisons), code)
    found = provider.isolate(size, proven=proven)

    assert found.refused == dict.fromkeys(poisons, code)
    assert found.provider_codes == dict.fromkeys(poisons, "bad_text")
    assert {place: float(vector[0]) for place, vector in found.vectors.items()} == {
        place: float(place) for place in range(size) if place not in poisons
    }
    # Once each, right when it was answered.
    assert sorted(place for places, _ in provider.kept for place in places) == sorted(found.vectors)
    assert all(places == values for places, values in provider.kept)
    assert provider.late == 0
    # Refused is only what was sent alone.
    assert {str(place) for place in found.refused} == {
        texts[0] for texts in provider.requests if len(texts) == 1 and texts[0] in provider.poisons
    }


@given(batches(), st.booleans())
def test_the_search_costs_few_requests(batch: tuple[int, set[int]], proven: bool) -> None:
    size, poisons = batch
    provider = Provider(sorted(poisons))
    found = provider.isolate(size, proven=proven)
    assert found.requests == len(provider.requests)
    control = sum(texts == [CONTROL_TEXT] for texts in provider.requests)
    assert control <= 1
    assert found.requests - 1 - control <= 2 * len(poisons) * ceil(log2(size))


def test_one_poison_of_two_thousand_costs_what_halving_costs() -> None:
    worst = max(Provider([place]).isolate(2_048, proven=True).requests for place in range(0, 2_048, 31))
    assert worst <= 1 + 2 * 11 + 1


@given(batches())
def test_nothing_is_asked_twice(batch: tuple[int, set[int]]) -> None:
    size, poisons = batch
    provider = Provider(sorted(poisons))
    provider.isolate(size)
    assert len({tuple(texts) for texts in provider.requests}) == len(provider.requests)


def test_without_a_refusal_there_is_one_request() -> None:
    provider = Provider()
    assert provider.isolate(50).requests == 1
    assert provider.requests == [[str(n) for n in range(50)]]
    assert embed_isolating([], provider.send).requests == 0


@pytest.mark.parametrize("code", ["EMBEDDING_REFUSED", "EMBEDDING_WRONG_ANSWER"])
def test_a_provider_that_takes_nothing_is_not_the_texts_fault(code: str) -> None:
    provider = Provider(range(100), code)
    provider.poisons.add(CONTROL_TEXT)
    with pytest.raises(MigrationError) as caught:
        provider.isolate(100)
    assert (caught.value.code, caught.value.facts) == (code, {"provider_code": "bad_text"})
    assert [len(texts) for texts in provider.requests] == [100, 1]
    assert provider.kept == []


def test_nor_when_it_took_texts_before() -> None:
    provider = Provider(range(100))
    provider.poisons.add(CONTROL_TEXT)
    with pytest.raises(MigrationError) as caught:
        provider.isolate(100, proven=True)
    assert caught.value.code == "EMBEDDING_REFUSED"
    # It notices with the first text that would be refused.
    assert len(provider.requests) <= 1 + ceil(log2(100)) + 1


def test_a_first_refusal_is_believed_once_the_control_text_passed() -> None:
    provider = Provider([0])
    assert provider.isolate(1).refused == {0: "EMBEDDING_REFUSED"}
    assert provider.requests == [["0"], [CONTROL_TEXT]]


def test_other_refusals_of_the_control_text_are_raised_as_they_are() -> None:
    provider = Provider([0])
    provider.fails = lambda number, texts: MigrationError("EMBEDDING_QUOTA", "") if number == 2 else None
    with pytest.raises(MigrationError) as caught:
        provider.isolate(4)
    assert caught.value.code == "EMBEDDING_QUOTA"


@given(batches(), st.integers(1, 40), st.sampled_from(["EMBEDDING_BUSY", "EMBEDDING_QUOTA", "RUN_STOPPED"]))
def test_other_errors_end_it_at_once_and_what_was_kept_stays_kept(
    batch: tuple[int, set[int]], number: int, code: str
) -> None:
    size, poisons = batch
    provider = Provider(sorted(poisons))
    provider.fails = lambda count, texts: MigrationError(code, "") if count == number else None
    with suppress(MigrationError):
        assert provider.isolate(size).requests < number
    assert len(provider.requests) <= number
    kept = [place for places, _ in provider.kept for place in places]
    assert len(kept) == len(set(kept))
    answered = [texts for texts in provider.passed if texts != [CONTROL_TEXT]]
    if len(provider.requests) == number and answered and answered[-1] is provider.requests[-1]:
        answered.pop()
    assert sorted(kept) == sorted(int(text) for texts in answered for text in texts)


def test_other_errors_are_raised_as_they_are() -> None:
    provider = Provider([5])
    busy = MigrationError("EMBEDDING_BUSY", "")
    provider.fails = lambda number, texts: busy if number == 3 else None
    with pytest.raises(MigrationError) as caught:
        provider.isolate(8, proven=True)
    assert caught.value is busy
    assert [places for places, _ in provider.kept] == [[0, 1, 2, 3]]


def test_an_answer_that_cannot_be_kept_ends_it() -> None:
    provider = Provider([3])

    def keep(positions: Sequence[int], vectors: Vectors) -> None:
        raise MigrationError("TARGET_UNREACHABLE", "")

    with pytest.raises(MigrationError) as caught:
        embed_isolating([str(n) for n in range(8)], provider.send, keep, proven=True)
    assert caught.value.code == "TARGET_UNREACHABLE"
    # The whole, its refused first half, and the half of that which passed.
    assert [len(texts) for texts in provider.requests] == [8, 4, 2]


def test_requests_that_are_too_large_are_only_made_smaller() -> None:
    provider = Provider()
    provider.fails = lambda number, texts: (
        MigrationError("EMBEDDING_REFUSED", "") if len(texts) > 10 else None
    )
    found = provider.isolate(64)
    assert found.refused == {}
    assert sorted(found.vectors) == list(range(64))
