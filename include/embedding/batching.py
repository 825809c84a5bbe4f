"""How texts are packed into requests: at most so many texts and so many tokens in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from include.embedding.tokens import TokenCounter, estimate_tokens


def plan_batches(sizes: Sequence[int], max_inputs: int, max_tokens: int) -> list[range]:
    """Cut texts into consecutive batches that keep both limits.

    Args:
        sizes: what each text takes of ``max_tokens``.
        max_inputs: most texts in a batch.
        max_tokens: most tokens in a batch.

    Returns:
        Non-empty ranges of positions: in order, disjoint, and together every position once.

    Raises:
        ValueError: a limit below 1, or a single text above ``max_tokens`` (:func:`cut_texts` first).
    """
    if max_inputs < 1 or max_tokens < 1:
        raise ValueError("a batch must be allowed at least one text and one token")
    batches: list[range] = []
    first, tokens = 0, 0
    for position, size in enumerate(sizes):
        if size > max_tokens:
            raise ValueError(f"the text at position {position} alone has more than {max_tokens} tokens")
        if position > first and (position - first == max_inputs or tokens + size > max_tokens):
            batches.append(range(first, position))
            first, tokens = position, 0
        tokens += size
    if first < len(sizes):
        batches.append(range(first, len(sizes)))
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
    no word is split. Texts of fewer bytes than ``max_tokens`` are not counted at all.

    Raises:
        ValueError: not even the first character of a text fits.
    """
    kept: list[str] = []
    shortened: list[int] = []
    for position, text in enumerate(texts):
        if len(text.encode()) < max_tokens or count_tokens(text) <= max_tokens:
            kept.append(text)
            continue
        beginning = _longest_beginning(text, max_tokens, count_tokens)
        if not beginning:
            raise ValueError(f"no part of the text at position {position} fits {max_tokens} tokens")
        kept.append(beginning)
        shortened.append(position)
    return CutTexts(kept, shortened)


def _longest_beginning(text: str, max_tokens: int, count_tokens: TokenCounter) -> str:
    """By doubling, then halving, so that no more than about twice the result is ever counted."""
    fits, too_long = 0, max_tokens
    while too_long < len(text) and count_tokens(text[:too_long]) <= max_tokens:
        fits, too_long = too_long, 2 * too_long
    too_long = min(too_long, len(text))
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if count_tokens(text[:middle]) <= max_tokens:
            fits = middle
        else:
            too_long = middle
    return _whole_words(text[:fits], max_tokens, count_tokens)


def _whole_words(beginning: str, max_tokens: int, count_tokens: TokenCounter) -> str:
    space = beginning.rfind(" ")
    if space <= len(beginning) // 2:
        return beginning
    # A vocabulary may need more tokens for less text.
    return beginning[:space] if count_tokens(beginning[:space]) <= max_tokens else beginning
