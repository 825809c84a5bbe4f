from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.core.errors import MigrationError
from include.embedding.provider import (
    EmbeddingRefusal,
    RateLimits,
    check_texts,
    check_vectors,
    duration_seconds,
)


def vectors() -> np.ndarray:
    return np.arange(1, 13, dtype=np.float32).reshape(3, 4)


def test_a_right_answer_passes() -> None:
    good = vectors()
    good[1] = [0, 0, 0, -1]
    check_vectors(good, 3, 4)
    check_vectors(np.empty((0, 4), np.float32), 0, 4)


@pytest.mark.parametrize("shape", [(2, 4), (4, 3), (12,), (3, 4, 1)])
def test_the_shape_is_checked(shape: tuple[int, ...]) -> None:
    with pytest.raises(MigrationError, match="wrong shape") as caught:
        check_vectors(np.ones(shape, np.float32), 3, 4)
    assert caught.value.code == "EMBEDDING_WRONG_ANSWER"
    assert caught.value.facts["found"] == shape


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_spoils_the_answer(value: float) -> None:
    bad = vectors()
    bad[2, 3] = value
    with pytest.raises(MigrationError, match="NaN or infinity") as caught:
        check_vectors(bad, 3, 4)
    assert caught.value.code == "EMBEDDING_WRONG_ANSWER"
    assert caught.value.facts == {"position": 2, "vectors": 1}


def test_a_zero_vector_spoils_the_answer() -> None:
    bad = vectors()
    bad[0] = 0
    with pytest.raises(MigrationError, match="all zeros") as caught:
        check_vectors(bad, 3, 4)
    assert caught.value.code == "EMBEDDING_WRONG_ANSWER"


@pytest.mark.parametrize(("texts", "fact"), [(["a", " \n"], "position=1"), (["a"] * 4, "texts=4")])
def test_requests_that_no_provider_takes_are_refused(texts: list[str], fact: str) -> None:
    with pytest.raises(MigrationError, match=fact) as caught:
        check_texts(texts, 3)
    assert caught.value.code == "EMBEDDING_REFUSED"


# --- limits ---

HEADERS = {
    "x-ratelimit-limit-requests": "3000",
    "x-ratelimit-limit-tokens": "1000000",
    "x-ratelimit-remaining-requests": "2999",
    "x-ratelimit-remaining-tokens": "0",
    "x-ratelimit-reset-requests": "20ms",
    "x-ratelimit-reset-tokens": "6m0s",
}


def test_the_headers_say_limits_remainders_and_times() -> None:
    limits = RateLimits.of_headers(HEADERS)
    assert limits == RateLimits(3_000, 1_000_000, 2_999, 0, 0.02, 360.0)
    assert limits.exhausted_seconds == 360


@pytest.mark.parametrize("value", ["", "-1", "0", "1e6", "many", "1" * 16, "٣"])
def test_a_limit_that_is_none_is_not_said(value: str) -> None:
    assert RateLimits.of_headers({"x-ratelimit-limit-tokens": value, "date": "today"}) is None


def test_what_is_left_or_has_no_time_is_not_exhausted() -> None:
    assert RateLimits(remaining_tokens=1, tokens_reset_seconds=5).exhausted_seconds is None
    assert RateLimits(remaining_tokens=0).exhausted_seconds is None
    assert RateLimits(None, None, 0, 0, 3, 5).exhausted_seconds == 5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("120ms", 0.12),
        ("1h2m", 3_720),
        ("1h2m3.5s", 3_723.5),
        ("2d", 172_800),
        (" 0s ", 0),
        ("15µs", 15e-6),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5", "1.s", "-1s", "1s later", "1 s", "inf"])
def test_other_texts_are_no_durations(text: str) -> None:
    assert duration_seconds(text) is None


@given(st.text())
def test_no_header_is_an_error(text: str) -> None:
    duration_seconds(text)
    RateLimits.of_headers(dict.fromkeys(HEADERS, text))


def test_a_refusal_keeps_what_the_response_said_to_itself() -> None:
    limits = RateLimits(tokens_per_minute=40_000)
    error = EmbeddingRefusal(MigrationError("EMBEDDING_BUSY", "Later.", status=429), limits=limits, tokens=7)
    assert str(error) == str(MigrationError("EMBEDDING_BUSY", "Later.", status=429))
    assert error.facts == {"status": 429}
    more = error.about(entity="cases", status=500)
    assert (more.facts, more.limits, more.tokens) == ({"entity": "cases", "status": 429}, limits, 7)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (str(copy), copy.facts) == (str(error), error.facts)
