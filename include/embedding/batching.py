"""How texts are packed into requests: at most so many texts and so many tokens in each."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TokenCounter = Callable[[str], int]

_CHEAP_BYTES = (string.ascii_letters + " ").encode()
_LETTERS_PER_TOKEN = 4


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


def plan_batches(
    texts: Sequence[str],
    max_inputs: int,
    max_tokens: int,
    count_tokens: TokenCounter = estimate_tokens,
) -> list[range]:
    """Cut the texts into consecutive batches that keep both limits.

    Returns:
        Non-empty ranges of positions: in order, disjoint, and together every position once.

    Raises:
        ValueError: a limit below 1, or a single text above ``max_tokens`` (:func:`cut_texts` first).
    """
    if max_inputs < 1 or max_tokens < 1:
        raise ValueError("a batch must be allowed at least one text and one token")
    batches: list[range] = []
    first, tokens = 0, 0
    for position, text in enumerate(texts):
        size = count_tokens(text)
        if size > max_tokens:
            raise ValueError(f"the text at position {position} alone has more than {max_tokens} tokens")
        if position > first and (position - first == max_inputs or tokens + size > max_tokens):
            batches.append(range(first, position))
            first, tokens = position, 0
        tokens += size
    if first < len(texts):
        batches.append(range(first, len(texts)))
    return batches


@dataclass(frozen=True)
class CutTexts:
    """Texts that all fit, and the positions of those that had to be shortened for it."""

    texts: list[str]
    shortened: list[int]


def cut_texts(
    texts: Sequence[str], max_tokens: int, count_tokens: TokenCounter = estimate_tokens
) -> CutTexts:
    """Shorten every text that has more than ``max_tokens`` to its beginning.

    The rule: the longest beginning that fits, taken back to the last space in its second half so that
    no word is split. ``count_tokens`` must not fall as a text grows.

    Raises:
        ValueError: not even the first character of a text fits.
    """
    kept: list[str] = []
    shortened: list[int] = []
    for position, text in enumerate(texts):
        if count_tokens(text) <= max_tokens:
            kept.append(text)
            continue
        beginning = _longest_beginning(text, max_tokens, count_tokens)
        if not beginning:
            raise ValueError(f"no part of the text at position {position} fits {max_tokens} tokens")
        kept.append(beginning)
        shortened.append(position)
    return CutTexts(kept, shortened)


def _longest_beginning(text: str, max_tokens: int, count_tokens: TokenCounter) -> str:
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if count_tokens(text[:middle]) <= max_tokens:
            fits = middle
        else:
            too_long = middle
    beginning = text[:fits]
    space = beginning.rfind(" ")
    return beginning[:space] if space > fits // 2 else beginning
