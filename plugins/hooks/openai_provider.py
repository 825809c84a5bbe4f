"""The OpenAI embeddings API, or a server that speaks it.

The client is imported by the first request: it takes over a second, and a run without AI never needs it.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from include.core.errors import MigrationError
from include.core.retry_after import retry_after
from include.embedding.prices import Price, price_of
from include.embedding.provider import (
    Answer,
    EmbeddingRefusal,
    RateLimits,
    Vectors,
    check_texts,
    check_vectors,
)
from include.embedding.tokens import token_counter

if TYPE_CHECKING:
    import openai

OPENAI_URL = "https://api.openai.com/v1"
DEFAULT_MODEL = "text-embedding-3-small"
MODEL_DIMENSIONS = {DEFAULT_MODEL: 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}


@dataclass(frozen=True)
class StartingLimits:
    """Limits per minute of an account of which nothing is known yet."""

    requests_per_minute: int
    tokens_per_minute: int
    as_of: date


TIER_1 = StartingLimits(3_000, 1_000_000, date(2026, 11, 23))
"""The lowest tier of paying accounts at OpenAI; the headers of the first response tell of higher ones."""

_SETTINGS = ("model", "dimensions", "encoding_format")
_MODEL_CODES = {"model_not_found", "invalid_model", "unsupported_model", "model_not_supported"}
_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_SAFE_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_BAD_REQUEST, _UNAUTHORISED, _PAYMENT_REQUIRED, _FORBIDDEN, _SERVER_ERRORS = 400, 401, 402, 403, 500
_NO_SUCH_PLACE = (404, 405)
_LATER = (408, 409, 425, 429)
_RATE_LIMIT = 429


class OpenAIProvider:
    """The OpenAI embeddings API: one request per call of :meth:`embed`, nothing repeated. Thread-safe.

    Args:
        api_key: the key; never part of a message.
        model: the model's name at the provider.
        dimensions: length of the vectors; sent along for models that can shorten theirs.
        base_url: address of the API, version path included.
        timeout_seconds: for one request.
        parallel: requests to keep in flight.
        requests_per_minute: limit to start with; None: tier 1 at OpenAI itself, no limit elsewhere.
        tokens_per_minute: the same of tokens.
        price: instead of the price known for the model.
        max_inputs: most texts of a request.
        max_tokens_per_request: the API takes 300,000, but one second's share of the usual limit per minute
            flows without refusals.
        max_tokens_per_input: what the model reads of a text.
    """

    name = "openai"
    semantic = True
    leaves = True

    def __init__(
        self,
        api_key: str,
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int = MODEL_DIMENSIONS[DEFAULT_MODEL],
        base_url: str = OPENAI_URL,
        timeout_seconds: float = 60.0,
        parallel: int = 4,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        price: Price | None = None,
        max_inputs: int = 2_048,
        max_tokens_per_request: int = 16_000,
        max_tokens_per_input: int = 8_191,
    ) -> None:
        self.model = model
        self.dimensions = dimensions
        self.base_url = base_url
        self.parallel = parallel
        start = TIER_1 if _host(base_url) == _host(OPENAI_URL) else None
        self.requests_per_minute = requests_per_minute or (start.requests_per_minute if start else None)
        self.tokens_per_minute = tokens_per_minute or (start.tokens_per_minute if start else None)
        self.price = price or price_of(model)
        self.max_inputs = max_inputs
        self.max_tokens_per_request = max_tokens_per_request
        self.max_tokens_per_input = min(max_tokens_per_input, max_tokens_per_request)
        self._count = token_counter(model)
        self._api_key = api_key
        self._timeout_seconds = timeout_seconds

    @property
    def account(self) -> str:
        """Whose limits requests count against: provider, host and model."""
        return f"{self.name} {_host(self.base_url)} {self.model}"

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as OpenAI counts them; an estimate on the safe side for other models."""
        return self._count(text)

    def embed(self, texts: Sequence[str]) -> Answer:
        """Embed the texts by one request.

        Raises:
            EmbeddingRefusal: EMBEDDING_KEY_REFUSED, EMBEDDING_MODEL_UNKNOWN, EMBEDDING_QUOTA, EMBEDDING_BUSY,
                EMBEDDING_REFUSED or EMBEDDING_WRONG_ANSWER; with the response's limits.
            MigrationError: EMBEDDING_BUSY or EMBEDDING_UNTRUSTED where there was no response,
                EMBEDDING_REFUSED for texts that are not sent at all.
        """
        check_texts(texts, self.max_inputs)
        if not texts:
            return Answer(np.empty((0, self.dimensions), np.float32))
        with refusals():
            response = self.client.embeddings.with_raw_response.create(
                input=list(texts), **self.request_options
            ).http_response
        limits = RateLimits.of_headers(response.headers)
        tokens = None
        try:
            answer = json_object(response.content)
            tokens = tokens_billed(answer)
            vectors = read_vectors(answer, len(texts), self.dimensions)
        except MigrationError as error:
            raise EmbeddingRefusal(error, limits=limits, tokens=tokens) from None
        return Answer(vectors, tokens, limits)

    @property
    def request_options(self) -> dict[str, Any]:
        """What a request says besides its texts."""
        # Other models refuse dimensions, or ignore them; the answer's length is checked in any case.
        size = {"dimensions": self.dimensions} if "text-embedding-3" in self.model else {}
        return {"model": self.model, "encoding_format": "base64", **size}

    @cached_property
    def client(self) -> openai.OpenAI:
        """The client, with the certificates that the operating system trusts."""
        import openai  # noqa: PLC0415

        # It logs a line for every request.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        return openai.OpenAI(
            api_key=self._api_key,
            base_url=self.base_url,
            timeout=self._timeout_seconds,
            max_retries=0,
            # Texts go to the address that was configured, and to no other that it names.
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )


def _host(base_url: str) -> str:
    parts = urlsplit(base_url)
    return (parts.hostname or "") + (f":{parts.port}" if parts.port else "")


@contextmanager
def refusals() -> Iterator[None]:
    """Turn the client's errors into ours; their messages may quote texts or the key and are left out.

    Raises:
        EmbeddingRefusal: the provider answered, with the limits it named.
        MigrationError: EMBEDDING_BUSY or EMBEDDING_UNTRUSTED: it did not.
    """
    import httpx2  # noqa: PLC0415  # comes with openai
    import openai  # noqa: PLC0415

    try:
        yield
    except openai.APIStatusError as error:
        limits = RateLimits.of_headers(error.response.headers)
        wait = _asked_wait(error.response.headers)
        if wait is None and error.status_code == _RATE_LIMIT and limits:
            wait = limits.exhausted_seconds
        raise EmbeddingRefusal(refusal(error.status_code, error.body, wait), limits=limits) from None
    except (openai.APIConnectionError, httpx2.RequestError) as error:
        raise _unanswered(error) from None


def refusal(status: int, body: object, retry_after_seconds: float | None = None) -> MigrationError:
    """The error that a response stands for.

    Args:
        status: the HTTP status.
        body: the ``error`` object of the answer, where there is one.
        retry_after_seconds: how long the provider asks to be left alone.
    """
    said: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    code = _code(status, said)
    facts: dict[str, object] = {"status": status}
    given = said.get("code") or said.get("type")
    if isinstance(given, str) and _SAFE_CODE.fullmatch(given):
        facts["provider_code"] = given
    setting = _setting_named(said)
    if setting:
        facts["setting"] = setting
    if code == "EMBEDDING_BUSY" and retry_after_seconds is not None:
        facts["retry_after_seconds"] = round(retry_after_seconds, 3)
    return MigrationError(code, "", **facts)


def _code(status: int, said: Mapping[str, Any]) -> str:
    """Which of our errors it is; the provider's codes tell more than the status."""
    codes = {code for code in (said.get("code"), said.get("type")) if isinstance(code, str)}
    verdicts = (
        ("EMBEDDING_QUOTA", status == _PAYMENT_REQUIRED or codes & _QUOTA_CODES),
        ("EMBEDDING_MODEL_UNKNOWN", codes & _MODEL_CODES),
        ("EMBEDDING_KEY_REFUSED", status in (_UNAUTHORISED, _FORBIDDEN)),
        ("EMBEDDING_BUSY", status in _LATER or status >= _SERVER_ERRORS),
        # A redirection is none of the address that was configured: texts do not follow it.
        (
            "EMBEDDING_MODEL_UNKNOWN",
            status < _BAD_REQUEST or status in _NO_SUCH_PLACE or _setting_named(said),
        ),
    )
    return next((code for code, holds in verdicts if holds), "EMBEDDING_REFUSED")


def _setting_named(said: Mapping[str, Any]) -> str | None:
    """The setting that an answer complains about, in OpenAI's form or in FastAPI's."""
    param = said.get("param")
    named = [param] if isinstance(param, str) else []
    details = said.get("detail")
    for item in details if isinstance(details, list) else []:
        place = item.get("loc") if isinstance(item, Mapping) else None
        named += [part for part in place if isinstance(part, str)] if isinstance(place, list) else []
    return next((setting for setting in _SETTINGS if setting in named), None)


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks to wait: the finer header first."""
    milliseconds = retry_after(headers.get("retry-after-ms", ""))
    return retry_after(headers.get("retry-after", "")) if milliseconds is None else milliseconds / 1_000


def _unanswered(error: BaseException) -> MigrationError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return MigrationError("EMBEDDING_UNTRUSTED", "The certificate was not accepted.")
        cause = cause.__cause__ or cause.__context__
    name = type(error.__cause__ or error).__name__
    return MigrationError("EMBEDDING_BUSY", "The request was not answered.", cause=name)


def json_object(content: bytes) -> dict[str, Any]:
    """Read an answer.

    Raises:
        MigrationError: EMBEDDING_WRONG_ANSWER.
    """
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise MigrationError("EMBEDDING_WRONG_ANSWER", "The answer cannot be read.")
    return answer


def tokens_billed(answer: Mapping[str, Any]) -> int | None:
    """What an answer says that it is billed as; None when it does not say."""
    usage = answer.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    return tokens if type(tokens) is int and tokens >= 0 else None


def read_vectors(answer: Mapping[str, Any], count: int, dimensions: int) -> Vectors:
    """Read the vectors out of an answer, put them in the order of the texts, and check them.

    Vectors are base64 of little-endian float32; lists of numbers, which some servers send whatever
    was asked for, are read too.

    Raises:
        MigrationError: EMBEDDING_WRONG_ANSWER.
    """
    try:
        items = answer["data"]
        places = [item["index"] for item in items]
        rows = [_read_vector(item["embedding"]) for item in items]
    except (ValueError, KeyError, TypeError):
        raise MigrationError("EMBEDDING_WRONG_ANSWER", "The answer cannot be read.") from None
    if any(type(place) is not int for place in places) or sorted(places) != list(range(count)):
        raise MigrationError(
            "EMBEDDING_WRONG_ANSWER", "Vectors are missing or repeated.", expected=count, found=len(places)
        )
    wrong = next((row.shape for row in rows if row.shape != (dimensions,)), None)
    if wrong is not None:
        raise MigrationError(
            "EMBEDDING_WRONG_ANSWER", "A vector has the wrong length.", expected=(dimensions,), found=wrong
        )
    vectors = np.empty((count, dimensions), np.float32)
    vectors[places] = rows
    check_vectors(vectors, count, dimensions)
    return vectors


def _read_vector(embedding: object) -> Vectors:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    return np.asarray(embedding, np.float32)
