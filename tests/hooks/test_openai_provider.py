"""OpenAI's embeddings API by the real client over a socket."""

from __future__ import annotations

import base64
import email.utils
import logging
import pickle
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from include.core.errors import MigrationError
from include.embedding.isolation import embed_isolating
from include.embedding.prices import Price, price_of
from include.embedding.provider import EmbeddingRefusal, RateLimits
from plugins.hooks.openai_provider import TIER_1, OpenAIProvider
from tests.embedding_server import KEY, POISON, EmbeddingServer, Fault, Items, encoded, tokens_of, true_vector

DIMENSIONS = 8
TEXTS = ["first secret words", "second secret words", "third secret words"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with EmbeddingServer(dimensions=DIMENSIONS) as running:
        yield running


def provider(server: EmbeddingServer, **options: Any) -> OpenAIProvider:
    return OpenAIProvider(KEY, **{"dimensions": DIMENSIONS, "base_url": server.url, **options})


def expected(texts: list[str]) -> list[np.ndarray]:
    return [true_vector(text, DIMENSIONS) for text in texts]


def failure(server: EmbeddingServer, fault: Fault, **options: Any) -> MigrationError:
    """What one request ends with, by which nothing is given away."""
    server.always = fault
    asked = len(server.requests)
    with pytest.raises(MigrationError) as caught:
        provider(server, **options).embed(TEXTS)
    assert len(server.requests) == asked + 1
    give_nothing_away(caught.value)
    return caught.value


def give_nothing_away(error: MigrationError) -> None:
    shown = f"{error}{error.facts}{pickle.dumps(error)!r}"
    assert "secret" not in shown
    assert KEY not in shown
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


# --- right answers ---


def test_each_text_gets_its_vector(server: EmbeddingServer) -> None:
    answer = provider(server).embed(TEXTS)
    assert answer.vectors.dtype == np.float32
    assert answer.vectors.shape == (3, DIMENSIONS)
    np.testing.assert_array_equal(answer.vectors, expected(TEXTS))
    [request] = server.requests
    assert request.path == "/v1/embeddings"
    assert request.json == {
        "input": TEXTS,
        "model": "text-embedding-3-small",
        "dimensions": DIMENSIONS,
        "encoding_format": "base64",
    }
    assert request.headers["authorization"] == f"Bearer {KEY}"


def test_an_answer_says_what_is_billed(server: EmbeddingServer) -> None:
    asked = provider(server)
    answer = asked.embed(TEXTS)
    assert answer.tokens == sum(map(tokens_of, TEXTS)) == server.tokens
    assert answer.tokens == sum(map(asked.count_tokens, TEXTS))


@pytest.mark.parametrize(
    "usage", [b"{}", b'{"total_tokens": "many"}', b'{"total_tokens": -1}', b"7", b"null"]
)
def test_a_bill_that_says_nothing_is_none(server: EmbeddingServer, usage: bytes) -> None:
    item = b'{"index": 0, "embedding": "%b"}' % encoded(np.ones(DIMENSIONS)).encode()
    server.always = Fault(raw=b'{"data": [%b], "usage": %b}' % (item, usage))
    assert provider(server).embed(["one"]).tokens is None


def test_an_answer_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    limits = {"requests_per_minute": 60, "tokens_per_minute": 6_000}
    with EmbeddingServer(dimensions=DIMENSIONS, burst_seconds=10, **limits) as server:
        found = provider(server).embed(TEXTS).limits
    assert found is not None
    tokens = sum(map(tokens_of, TEXTS))
    assert (found.requests_per_minute, found.tokens_per_minute) == (60, 6_000)
    assert (found.remaining_requests, found.remaining_tokens) == (9, 1_000 - tokens)
    assert found.requests_reset_seconds == pytest.approx(1, abs=0.1)
    assert found.tokens_reset_seconds == pytest.approx(tokens / 100, abs=0.1)


def test_without_headers_nothing_is_said_of_limits(server: EmbeddingServer) -> None:
    assert provider(server).embed(TEXTS).limits is None


def test_shuffled_answers_are_put_in_order(server: EmbeddingServer) -> None:
    texts = [f"text {number}" for number in range(200)]
    server.always = Fault(change=lambda items: random.Random(1).sample(items, len(items)))
    np.testing.assert_array_equal(provider(server).embed(texts).vectors, expected(texts))


def test_lists_of_numbers_are_read_too(server: EmbeddingServer) -> None:
    def as_lists(items: Items) -> Items:
        return [
            item | {"embedding": vector.tolist()} for item, vector in zip(items, expected(TEXTS), strict=True)
        ]

    server.always = Fault(change=as_lists)
    np.testing.assert_array_equal(provider(server).embed(TEXTS).vectors, expected(TEXTS))


def test_other_models_are_not_sent_a_size(server: EmbeddingServer) -> None:
    provider(server, model="some-model").embed(TEXTS)
    assert "dimensions" not in server.requests[0].json


def test_nothing_is_sent_for_no_texts_or_a_blank_one(server: EmbeddingServer) -> None:
    assert provider(server).embed([]).vectors.shape == (0, DIMENSIONS)
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


# --- wrong answers ---


def _with(position: int, embedding: object) -> Callable[[Items], Any]:
    def change(items: Items) -> Items:
        items[position]["embedding"] = embedding
        return items

    return change


def _index(position: int, index: object) -> Callable[[Items], Any]:
    def change(items: Items) -> Items:
        items[position]["index"] = index
        return items

    return change


NAN = np.full(DIMENSIONS, np.nan)
WRONG_ANSWERS = {
    "missing vector": (Fault(change=lambda items: items[:-1]), "missing or repeated"),
    "extra vector": (Fault(change=lambda items: [*items, items[0] | {"index": 3}]), "missing or repeated"),
    "repeated index": (Fault(change=_index(2, 0)), "missing or repeated"),
    "index beyond": (Fault(change=_index(2, 3)), "missing or repeated"),
    "negative index": (Fault(change=_index(2, -1)), "missing or repeated"),
    "boolean index": (Fault(change=_index(1, True)), "missing or repeated"),
    "no vectors": (Fault(change=lambda items: []), "missing or repeated"),
    "data no list": (Fault(change=lambda items: {"a": 1}), "cannot be read"),
    "data null": (Fault(change=lambda items: None), "cannot be read"),
    "one short vector": (Fault(change=_with(1, encoded(np.ones(DIMENSIONS - 1)))), "wrong length"),
    "all long vectors": (
        Fault(change=lambda items: [i | {"embedding": encoded(np.ones(16))} for i in items]),
        "wrong length",
    ),
    "nested vector": (Fault(change=_with(0, [[1.0] * DIMENSIONS])), "wrong length"),
    "null vector": (Fault(change=_with(0, None)), "wrong length"),
    "NaN": (Fault(change=_with(2, encoded(NAN))), "NaN or infinity"),
    "NaN in a list": (Fault(change=_with(2, NAN.tolist())), "NaN or infinity"),
    "infinity": (Fault(change=_with(0, encoded(NAN * 0 + np.inf))), "NaN or infinity"),
    "zero": (Fault(change=_with(1, encoded(np.zeros(DIMENSIONS)))), "all zeros"),
    "no base64": (Fault(change=_with(1, "~~~~")), "cannot be read"),
    "half a number": (Fault(change=_with(1, base64.b64encode(b"12345").decode())), "cannot be read"),
    "words": (Fault(change=_with(1, ["a"] * DIMENSIONS)), "cannot be read"),
    "truncated JSON": (Fault(raw=b'{"object": "list", "data": [{"index": 0, "embe'), "cannot be read"),
    "a web page": (Fault(raw=b"<html>Service temporarily elsewhere</html>"), "cannot be read"),
    "not UTF-8": (Fault(raw=b"\xff\xfe"), "cannot be read"),
    "error with status 200": (Fault(raw=b'{"error": {"code": "odd"}}'), "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_wrong_answers_are_noticed(server: EmbeddingServer, name: str) -> None:
    fault, words = WRONG_ANSWERS[name]
    error = failure(server, fault)
    assert error.code == "EMBEDDING_WRONG_ANSWER"
    assert words in error.detail


def test_a_wrong_answer_is_billed_all_the_same(server: EmbeddingServer) -> None:
    error = failure(server, WRONG_ANSWERS["NaN"][0])
    assert isinstance(error, EmbeddingRefusal)
    assert error.tokens == server.tokens > 0


# --- refusals and failures ---


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(401, error={"code": "invalid_api_key"}), "EMBEDDING_KEY_REFUSED"),
        (Fault(403, error={"code": "unsupported_country_region_territory"}), "EMBEDDING_KEY_REFUSED"),
        (Fault(403, error={"code": "model_not_found"}), "EMBEDDING_MODEL_UNKNOWN"),
        (Fault(404, error={"code": "model_not_found"}), "EMBEDDING_MODEL_UNKNOWN"),
        (Fault(404, raw=b"<html>Not Found</html>"), "EMBEDDING_MODEL_UNKNOWN"),
        (Fault(405, error={}), "EMBEDDING_MODEL_UNKNOWN"),
        (Fault(400, error={"code": "model_not_found"}), "EMBEDDING_MODEL_UNKNOWN"),
        (Fault(400, error={"param": "dimensions", "code": None}), "EMBEDDING_MODEL_UNKNOWN"),
        (Fault(422, error={"param": "encoding_format"}), "EMBEDDING_MODEL_UNKNOWN"),
        (Fault(422, raw=b'{"detail": [{"loc": ["body", "dimensions"]}]}'), "EMBEDDING_MODEL_UNKNOWN"),
        (Fault(422, raw=b'{"detail": [{"loc": ["body", "input", 3]}]}'), "EMBEDDING_REFUSED"),
        (Fault(422, raw=b'{"detail": "secret"}'), "EMBEDDING_REFUSED"),
        (Fault(307, headers={"Location": "/v2/embeddings"}, error={}), "EMBEDDING_MODEL_UNKNOWN"),
        (Fault(429, error={"code": "insufficient_quota"}), "EMBEDDING_QUOTA"),
        (Fault(429, error={"code": "billing_not_active"}), "EMBEDDING_QUOTA"),
        (Fault(429, error={"type": "insufficient_quota", "code": None}), "EMBEDDING_QUOTA"),
        (Fault(402, error={}), "EMBEDDING_QUOTA"),
        (POISON, "EMBEDDING_REFUSED"),
        (Fault(400, error={"code": 400, "type": "BadRequestError", "param": None}), "EMBEDDING_REFUSED"),
        (Fault(400, error={"param": ["model"], "code": {"a": 1}}), "EMBEDDING_REFUSED"),
        (Fault(413, raw=b"too large"), "EMBEDDING_REFUSED"),
        (Fault(422, raw=b"no JSON"), "EMBEDDING_REFUSED"),
    ],
)
def test_permanent_refusals_are_named(server: EmbeddingServer, fault: Fault, code: str) -> None:
    error = failure(server, fault)
    assert (error.code, error.transient) == (code, False)
    assert error.facts["status"] == fault.status


def test_the_providers_code_is_a_fact_but_free_text_is_not(server: EmbeddingServer) -> None:
    assert failure(server, Fault(404, error={"code": "model_not_found"})).facts == {
        "status": 404,
        "provider_code": "model_not_found",
    }
    assert failure(server, Fault(400, error={"code": "bad input: first secret words"})).facts == {
        "status": 400
    }
    assert failure(server, Fault(400, error={"param": "dimensions"})).facts == {
        "status": 400,
        "setting": "dimensions",
    }


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, error={"code": "rate_limit_exceeded"}),
        Fault(500, error={"code": "server_error"}),
        Fault(503, raw=b"<html>busy</html>"),
        Fault(408, error={}),
        Fault(409, error={}),
        Fault(reset=True),
        Fault(reset=True, after=True),
        Fault(promised_length=10_000),
    ],
    ids=["429", "500", "503", "408", "409", "reset", "reset after work", "cut short"],
)
def test_busy_answers_are_transient_and_not_repeated_here(server: EmbeddingServer, fault: Fault) -> None:
    error = failure(server, fault)
    assert (error.code, error.transient) == ("EMBEDDING_BUSY", True)


def test_a_timeout_is_transient(server: EmbeddingServer) -> None:
    error = failure(server, Fault(delay=1.0), timeout_seconds=0.2)
    assert (error.code, error.transient) == ("EMBEDDING_BUSY", True)
    assert "status" not in error.facts


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "300"}, 300),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "1", "retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "soon", "Retry-After": "2"}, 2),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 360),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "120ms",
                "x-ratelimit-remaining-tokens": "5",
                "x-ratelimit-reset-tokens": "1h",
            },
            0.12,
        ),
    ],
)
def test_the_time_that_the_provider_names_is_a_fact(
    server: EmbeddingServer, headers: dict[str, str], seconds: float
) -> None:
    assert failure(server, Fault(429, headers, error={})).facts["retry_after_seconds"] == seconds


def test_a_retry_after_date_is_understood(server: EmbeddingServer) -> None:
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    error = failure(server, Fault(503, {"Retry-After": later}, error={}))
    assert 90 < error.facts["retry_after_seconds"] <= 100  # type: ignore[operator]


@pytest.mark.parametrize("value", ["soon", "-5", "inf", "nan", "Mon, 99 Foo 2024"])
def test_a_retry_after_that_says_nothing_is_ignored(server: EmbeddingServer, value: str) -> None:
    assert "retry_after_seconds" not in failure(server, Fault(503, {"Retry-After": value}, error={})).facts


def test_a_refusal_brings_the_limits_beside_its_facts(server: EmbeddingServer) -> None:
    headers = {"x-ratelimit-limit-tokens": "40000", "x-ratelimit-remaining-tokens": "17"}
    error = failure(server, Fault(429, headers, error={"code": "rate_limit_exceeded"}))
    assert isinstance(error, EmbeddingRefusal)
    assert error.limits == RateLimits(tokens_per_minute=40_000, remaining_tokens=17)
    assert error.facts == {"status": 429, "provider_code": "rate_limit_exceeded"}


def test_the_limits_of_the_server_are_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with EmbeddingServer(dimensions=DIMENSIONS, requests_per_minute=600, burst_seconds=0.2) as server:
        asked = provider(server)
        for _ in range(2):
            asked.embed(["a"])
        with pytest.raises(EmbeddingRefusal) as caught:
            asked.embed(["a"])
        wait = caught.value.facts["retry_after_seconds"]
        assert isinstance(wait, float)
        assert 0 < wait <= 0.1
        time.sleep(wait)
        asked.embed(["a"])
        assert (server.refused_by_limit, server.answered["a"]) == (1, 3)


def test_the_servers_limit_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    # Benchmarks measure themselves against it.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    text = "word " * 25
    with EmbeddingServer(dimensions=DIMENSIONS, tokens_per_minute=120_000, burst_seconds=0.25) as server:
        asked = provider(server)
        asked.embed(["warm"])
        time.sleep(0.1)
        started, before = time.monotonic(), server.tokens
        until = started + 1

        def hammer() -> None:
            while time.monotonic() < until:
                try:
                    asked.embed([text])
                except EmbeddingRefusal:
                    time.sleep(0.002)

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(hammer) for _ in range(4)]:
                done.result()
        permitted = 2_000 * (time.monotonic() - started) + 500
        assert 0.9 * permitted <= server.tokens - before <= permitted
        assert server.refused_by_limit > 0


def test_a_server_that_is_not_there_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    gone = OpenAIProvider(KEY, dimensions=DIMENSIONS, base_url=f"http://127.0.0.1:{port}/v1")
    with pytest.raises(MigrationError) as caught:
        gone.embed(TEXTS)
    assert caught.value.code == "EMBEDDING_BUSY"
    assert caught.value.facts == {"cause": "ConnectError"}


def test_texts_do_not_follow_to_another_address(server: EmbeddingServer) -> None:
    with EmbeddingServer(dimensions=DIMENSIONS) as other:
        elsewhere = {"Location": f"{other.url}/embeddings"}
        assert failure(server, Fault(307, elsewhere, error={})).code == "EMBEDDING_MODEL_UNKNOWN"
        assert other.requests == []


# --- single texts that are refused ---


def test_refused_texts_are_isolated_and_every_other_one_is_billed_once(server: EmbeddingServer) -> None:
    texts = [f"text {number}" for number in range(300)]
    server.poison = {
        texts[7]: POISON,
        texts[123]: Fault(422, raw=b"no JSON"),
        texts[299]: Fault(413, error={}),
    }
    asked = provider(server)
    found = embed_isolating(texts, lambda some: asked.embed(some).vectors)
    assert found.refused == dict.fromkeys((7, 123, 299), "EMBEDDING_REFUSED")
    assert found.provider_codes == {7: "invalid_prompt"}
    for place, vector in found.vectors.items():
        np.testing.assert_array_equal(vector, true_vector(texts[place], DIMENSIONS))
    assert {text: server.answered[text] for text in texts} == {
        text: int(text not in server.poison) for text in texts
    }
    assert found.requests == len(server.requests) <= 1 + 2 * 3 * 9 + 1


def test_a_wrong_number_of_dimensions_is_no_texts_fault(server: EmbeddingServer) -> None:
    asked = provider(server, model="some-model", dimensions=16)
    with pytest.raises(MigrationError, match="wrong length") as caught:
        embed_isolating(TEXTS, lambda some: asked.embed(some).vectors)
    assert caught.value.code == "EMBEDDING_WRONG_ANSWER"
    assert len(server.requests) == 2


# --- certificates ---


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for the loopback address that nobody signed but itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + private)
    return file


@pytest.fixture
def encrypted(server: EmbeddingServer, certificate: Path) -> EmbeddingServer:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def test_a_certificate_that_is_not_trusted_is_permanent(encrypted: EmbeddingServer) -> None:
    with pytest.raises(MigrationError) as caught:
        provider(encrypted, base_url=encrypted.url.replace("http", "https")).embed(TEXTS)
    assert (caught.value.code, caught.value.transient) == ("EMBEDDING_UNTRUSTED", False)
    assert encrypted.requests == []


def test_the_operating_systems_certificates_are_trusted(
    encrypted: EmbeddingServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    answer = provider(encrypted, base_url=encrypted.url.replace("http", "https")).embed(TEXTS)
    np.testing.assert_array_equal(answer.vectors, expected(TEXTS))


# --- what it says of itself ---


def test_the_account_names_provider_host_and_model_and_no_secret() -> None:
    assert OpenAIProvider(KEY).account == "openai api.openai.com text-embedding-3-small"
    other = OpenAIProvider(KEY, base_url="https://me:secret@mine.example:8443/v1?key=secret", model="m")
    assert other.account == "openai mine.example:8443 m"


def test_limits_begin_with_those_of_the_lowest_tier_at_openai_alone() -> None:
    chosen = OpenAIProvider(KEY)
    assert (chosen.requests_per_minute, chosen.tokens_per_minute) == (3_000, 1_000_000)
    assert TIER_1.as_of.year >= 2026
    other = OpenAIProvider(KEY, base_url="https://mine.example/v1")
    assert (other.requests_per_minute, other.tokens_per_minute) == (None, None)
    told = OpenAIProvider(KEY, requests_per_minute=7, tokens_per_minute=8)
    assert (told.requests_per_minute, told.tokens_per_minute) == (7, 8)


def test_the_price_is_the_models_unless_told() -> None:
    assert OpenAIProvider(KEY).price == price_of("text-embedding-3-small")
    assert OpenAIProvider(KEY).price is not None
    assert OpenAIProvider(KEY, model="unheard-of").price is None
    price = Price(Decimal("0.5"), Decimal("0.5"), datetime.now(UTC).date())
    assert OpenAIProvider(KEY, price=price).price == price


def test_a_text_is_never_larger_than_a_request() -> None:
    assert OpenAIProvider(KEY, max_tokens_per_request=1_000).max_tokens_per_input == 1_000


def test_tokens_are_counted_as_the_model_does() -> None:
    text = "Behandlungsplan, Phase 2: 日本 <|endoftext|>"
    assert OpenAIProvider(KEY).count_tokens(text) == tokens_of(text)
    assert OpenAIProvider(KEY, model="unheard-of").count_tokens(text) >= tokens_of(text)


def test_the_texts_of_one_request_are_read_from_its_body(server: EmbeddingServer) -> None:
    # What the tests of a whole run search for planted names.
    provider(server).embed(TEXTS)
    assert re.search(rb"second secret words", server.requests[0].body)
    assert server.sent == dict.fromkeys(TEXTS, 1)
