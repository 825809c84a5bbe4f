"""Finds the texts that a provider refuses, so that one of them does not cost its neighbours their vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from include.core.errors import MigrationError
from include.embedding.provider import Vectors

CONTROL_TEXT = "A text that nobody could refuse."
"""Sent when it is not clear yet whether the provider takes any text at all."""

Send = Callable[[Sequence[str]], Vectors]
Keep = Callable[[Sequence[int], Vectors], None]

_MAYBE_POISON = ("EMBEDDING_REFUSED", "EMBEDDING_WRONG_ANSWER")


@dataclass
class Isolated:
    """What became of each text, by its position.

    Attributes:
        vectors: the texts that passed.
        refused: the texts that were refused alone, with the error's code.
        provider_codes: the provider's own code of a refusal, where it gave one.
        requests: how often ``send`` was called, for the control text as well.
    """

    vectors: dict[int, Vectors] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    provider_codes: dict[int, str] = field(default_factory=dict)
    requests: int = 0


def _keep_nothing(_positions: Sequence[int], _vectors: Vectors) -> None:
    """For callers whose ``send`` keeps what is answered."""


def embed_isolating(
    texts: Sequence[str], send: Send, keep: Keep = _keep_nothing, *, proven: bool = False
) -> Isolated:
    """Embed the texts by one request, or by more where some of them are refused.

    A refused part is halved until each refused text stands alone. No text is called refused before
    another one, or the control text, has passed: a provider that takes nothing is not the texts' fault.
    With p texts refused of n there are at most ``2 * p * ceil(log2(n)) + 1`` further requests.

    Args:
        send: embeds some texts by one request; repeats by itself what is worth repeating.
        keep: is given the positions and vectors of each part that passed, before anything else is sent.
        proven: whether the provider has taken a text before; if not, the first refusal is followed by the
            control text. After a return that refused or embedded anything, it is proven.

    Raises:
        MigrationError: the refusal, when the control text is refused too; any other error of ``send`` as
            it is. What was kept before stays kept.
    """
    isolation = _Isolation(texts, send, keep, proven=proven)
    if texts:
        isolation.part(range(len(texts)))
    return isolation.found


class _Isolation:
    def __init__(self, texts: Sequence[str], send: Send, keep: Keep, *, proven: bool) -> None:
        self.found = Isolated()
        self._texts = texts
        self._send = send
        self._keep = keep
        self._proven = proven
        self._passed_here = False

    def part(self, positions: range) -> bool:
        """Send a part; returns whether it passed whole."""
        try:
            vectors = self._request([self._texts[position] for position in positions])
        except MigrationError as error:
            if error.code not in _MAYBE_POISON:
                raise
            self._doubt(error, alone=len(positions) == 1)
            if len(positions) > 1:
                self._halve(positions)
            else:
                self._refuse(positions[0], error)
            return False
        self._keep(positions, vectors)
        self.found.vectors.update(zip(positions, vectors, strict=True))
        return True

    def _halve(self, positions: range) -> None:
        """Both halves of a part that holds a refused text."""
        middle = (len(positions) + 1) // 2
        first, second = positions[:middle], positions[middle:]
        if self.part(first) and len(second) > 1:
            # It is in the second half, then: asking for the whole of that would tell nothing.
            self._halve(second)
        else:
            self.part(second)

    def _refuse(self, position: int, error: MigrationError) -> None:
        self.found.refused[position] = error.code
        code = error.facts.get("provider_code")
        if isinstance(code, str):
            self.found.provider_codes[position] = code

    def _doubt(self, refusal: MigrationError, *, alone: bool) -> None:
        """Ask for the control text before a first refusal is believed, or raise the refusal."""
        if self._passed_here or (self._proven and not alone):
            return
        try:
            self._request([CONTROL_TEXT])
        except MigrationError as error:
            raise (refusal if error.code in _MAYBE_POISON else error) from None

    def _request(self, texts: Sequence[str]) -> Vectors:
        self.found.requests += 1
        vectors = self._send(texts)
        self._passed_here = self._proven = True
        return vectors
