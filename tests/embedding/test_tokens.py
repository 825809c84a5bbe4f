from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.embedding.tokens import estimate_tokens, request_size, token_counter

ROOT = Path(__file__).parent.parent.parent

# Tokens as OpenAI's cl100k_base vocabulary counts them.
KNOWN = {
    "Project of type treatment plan. Status draft. Case type refinement. Priority low. "
    "Created in March 2024. File size 10 to 50 MB.": 32,
    "Task name: Upload intraoral scan. Function submit. Required roles admin, doctor, technician. "
    "Not predefined. Extensions obj, ply, stl.": 30,
    "Behandlungsplan für die Verfeinerung der Zahnstellung, Kieferorthopädie, Überprüfung der Schienen.": 31,
    "План лечения пациента, уточнение положения зубов и проверка элайнеров.": 31,
    "治疗计划草案，病例类型为精细调整，等待医生审核。": 31,
    "Status draft.": 3,
    "A. B.": 4,
    "ok": 1,
    "f47ac10b-58cc-4372-a567-0e02b2c3d479": 23,
    "12345678901234567890 98 76 54": 13,
}
any_text = st.text(st.characters(exclude_categories=["Cs"]))
exact = token_counter("text-embedding-3-small")


@pytest.mark.parametrize(
    "model", ["text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"]
)
def test_openais_models_are_counted_exactly(model: str) -> None:
    for name in (model, f"openai/{model}"):
        assert {text: token_counter(name)(text) for text in KNOWN} == KNOWN


@pytest.mark.parametrize("model", ["text-embedding-4", "bge-m3", "universal-sentence-encoder", ""])
def test_other_models_are_estimated(model: str) -> None:
    assert token_counter(model) is estimate_tokens


@pytest.mark.parametrize(
    ("text", "tokens"), [("<|endoftext|>", 7), ("a <|fim_prefix|> b", 8), ("<|endofprompt|>", 7), ("", 0)]
)
def test_what_looks_like_a_special_token_is_text(text: str, tokens: int) -> None:
    assert exact(text) == tokens


@settings(deadline=None)  # the first one loads the vocabulary
@given(any_text)
def test_no_text_fails_and_none_has_more_tokens_than_bytes(text: str) -> None:
    assert (text != "") <= exact(text) <= len(text.encode())


@pytest.mark.parametrize("character", ["a", " ", "\n", "1", "あ"])
def test_a_long_run_of_one_character_is_counted_in_time(character: str) -> None:
    began = time.process_time()
    assert 0 < exact(character * 100_000) <= 300_000
    assert time.process_time() - began < 5


def test_nothing_is_asked_of_the_network_and_nothing_loaded_before_it_is_needed(tmp_path: Path) -> None:
    """In a process without a cached vocabulary, in which every socket and name look-up fails."""
    code = """
import socket, sys
def refuse(*_args, **_kwargs): raise AssertionError("network")
socket.socket = socket.create_connection = socket.getaddrinfo = refuse
from include.embedding.tokens import token_counter
counter = token_counter("text-embedding-3-small")
assert "tiktoken" not in sys.modules
print(counter("Status draft."), *sorted({"requests", "urllib3", "httpx"} & set(sys.modules)))
"""
    environment = {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    ran = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["3"]


@pytest.mark.parametrize(
    ("tokens", "text", "size"),
    [(3, "Status draft.", 4), (1, "ok", 1), (5, "", 5), (0, "日本", 2), (9, "a", 9)],
)
def test_a_request_is_as_large_as_its_tokens_and_a_quarter_of_its_bytes(
    tokens: int, text: str, size: int
) -> None:
    assert request_size(tokens, text) == size


@pytest.mark.parametrize(("text", "tokens"), KNOWN.items())
def test_the_estimate_is_on_the_safe_side(text: str, tokens: int) -> None:
    assert estimate_tokens(text) >= tokens


def test_the_estimate_of_english_documents_is_not_wasteful() -> None:
    for text, tokens in list(KNOWN.items())[:2]:
        assert estimate_tokens(text) <= 1.5 * tokens


@given(any_text, any_text)
def test_the_estimate_grows_with_the_text_and_covers_a_quarter_of_its_bytes(text: str, more: str) -> None:
    assert len(text.encode()) + 1 >= estimate_tokens(text)
    assert estimate_tokens(text) * 4 >= len(text.encode())
    assert estimate_tokens(text + more) >= estimate_tokens(text)
