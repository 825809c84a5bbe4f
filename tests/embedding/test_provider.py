from __future__ import annotations

import numpy as np
import pytest

from include.core.errors import MigrationError
from include.embedding.provider import check_texts, check_vectors


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
