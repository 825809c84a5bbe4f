"""What an embedding provider is, and the checks that hold for all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from include.core.errors import MigrationError

if TYPE_CHECKING:
    from include.embedding.prices import Price

Vectors = npt.NDArray[np.float32]

_UNIT_SECONDS = {
    "d": 86_400.0,
    "h": 3_600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
}
_PART = r"([0-9]+(?:\.[0-9]+)?)(ms|us|µs|ns|d|h|m|s)"


@dataclass(frozen=True)
class RateLimits:
    """What the headers of a response said of an account's limits; None: not said.

    The ``*_reset_seconds`` are the time until the full limit is free again.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    requests_reset_seconds: float | None = None
    tokens_reset_seconds: float | None = None

    @classmethod
    def of_headers(cls, headers: Mapping[str, str]) -> RateLimits | None:
        """Read the ``x-ratelimit-*`` headers (names in lower case); None when they say nothing."""

        def value(name: str) -> str:
            return headers.get(f"x-ratelimit-{name}", "")

        limits = cls(
            _whole(value("limit-requests"), least=1),
            _whole(value("limit-tokens"), least=1),
            _whole(value("remaining-requests"), least=0),
            _whole(value("remaining-tokens"), least=0),
            duration_seconds(value("reset-requests")),
            duration_seconds(value("reset-tokens")),
        )
        return limits if any(part is not None for part in astuple(limits)) else None

    @property
    def exhausted_seconds(self) -> float | None:
        """Seconds until what is used up is free again; None when nothing is, or nobody said when."""
        waits = (
            reset
            for remaining, reset in (
                (self.remaining_requests, self.requests_reset_seconds),
                (self.remaining_tokens, self.tokens_reset_seconds),
            )
            if remaining == 0 and reset is not None
        )
        return max(waits, default=None)


def duration_seconds(text: str) -> float | None:
    """Seconds of a duration such as "1s", "6m0s", "120ms" or "1h2m"; None for anything else."""
    text = text.strip()
    if not re.fullmatch(f"(?:{_PART})+", text):
        return None
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in re.findall(_PART, text))


def _whole(text: str, *, least: int) -> int | None:
    text = text.strip()
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) and int(text) >= least else None


@dataclass(frozen=True)
class Answer:
    """What a provider made of the texts of one request.

    Attributes:
        vectors: float32, shape (texts, dimensions), row i for text i.
        tokens: what the provider counted and bills; None when it did not say.
        limits: what the response's headers said; None when they said nothing.
    """

    vectors: Vectors
    tokens: int | None = None
    limits: RateLimits | None = None


class EmbeddingRefusal(MigrationError):
    """A request that got no usable vectors, with what its response said besides.

    ``limits`` and ``tokens`` (billed although the answer is of no use) are for whoever paces and
    counts the requests; they are no part of the message and do not travel between processes.
    """

    def __init__(
        self, error: MigrationError, *, limits: RateLimits | None = None, tokens: int | None = None
    ) -> None:
        super().__init__(error.code, error.detail, **error.facts)
        self.limits = limits
        self.tokens = tokens

    def about(self, **facts: object) -> EmbeddingRefusal:
        """The same with more facts; what it says already stays."""
        return EmbeddingRefusal(super().about(**facts), limits=self.limits, tokens=self.tokens)


class EmbeddingProvider(Protocol):
    """Turns texts into vectors, one request at a time; pacing and repeating are the caller's.

    Attributes:
        name: 'openai', 'local' or 'hash'.
        model: identifies the model; two models that give different vectors have different names.
        dimensions: length of every vector.
        semantic: whether near vectors mean near meanings (false for the hash provider).
        leaves: whether the texts leave this system.
        account: whose limits requests count against: provider, host and model; holds no secret.
        max_inputs: most texts in one call of :meth:`embed`.
        max_tokens_per_request: most tokens over all texts of one call.
        max_tokens_per_input: most tokens of one text.
        parallel: requests to keep in flight.
        requests_per_minute: limit to start with, before a response says better; None: no limit.
        tokens_per_minute: the same of tokens.
        price: what tokens cost; None when it is not known.
    """

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def semantic(self) -> bool: ...
    @property
    def leaves(self) -> bool: ...
    @property
    def account(self) -> str: ...
    @property
    def max_inputs(self) -> int: ...
    @property
    def max_tokens_per_request(self) -> int: ...
    @property
    def max_tokens_per_input(self) -> int: ...
    @property
    def parallel(self) -> int: ...
    @property
    def requests_per_minute(self) -> int | None: ...
    @property
    def tokens_per_minute(self) -> int | None: ...
    @property
    def price(self) -> Price | None: ...

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as the provider counts them, or an estimate on the safe side."""
        ...

    def embed(self, texts: Sequence[str]) -> Answer:
        """Embed the texts by one request.

        Raises:
            MigrationError: one of the EMBEDDING_* codes; ``retry_after_seconds`` among its facts when the
                provider named a time. :class:`EmbeddingRefusal` where there was a response.
        """
        ...


def check_texts(texts: Sequence[str], max_inputs: int) -> None:
    """Refuse, before anything is sent, a request that no provider would take.

    Raises:
        MigrationError: EMBEDDING_REFUSED for a blank text or for more texts than ``max_inputs``.
    """
    if len(texts) > max_inputs:
        raise MigrationError(
            "EMBEDDING_REFUSED", "More texts than one request may hold.", texts=len(texts), most=max_inputs
        )
    blank = next((position for position, text in enumerate(texts) if not text.strip()), None)
    if blank is not None:
        raise MigrationError("EMBEDDING_REFUSED", "A text of the request is blank.", position=blank)


def check_vectors(vectors: Vectors, count: int, dimensions: int) -> None:
    """Refuse an answer that is not one finite, non-zero vector of the right length per text.

    Raises:
        MigrationError: EMBEDDING_WRONG_ANSWER, with the first offending position where there is one.
    """
    if vectors.shape != (count, dimensions):
        raise MigrationError(
            "EMBEDDING_WRONG_ANSWER",
            "The vectors have the wrong shape.",
            expected=(count, dimensions),
            found=vectors.shape,
        )
    _refuse_rows(np.flatnonzero(~np.isfinite(vectors).all(axis=1)), "A vector holds NaN or infinity.")
    _refuse_rows(np.flatnonzero(~vectors.any(axis=1)), "A vector is all zeros.")


def _refuse_rows(positions: npt.NDArray[np.intp], detail: str) -> None:
    if positions.size:
        raise MigrationError(
            "EMBEDDING_WRONG_ANSWER", detail, position=int(positions[0]), vectors=positions.size
        )
