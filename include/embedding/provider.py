"""What an embedding provider is, and the checks that hold for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from include.core.errors import MigrationError

Vectors = npt.NDArray[np.float32]


class EmbeddingProvider(Protocol):
    """Turns texts into vectors.

    Attributes:
        name: 'openai', 'local' or 'hash'.
        model: identifies the model; two models that give different vectors have different names.
        dimensions: length of every vector.
        semantic: whether near vectors mean near meanings (false for the hash provider).
        max_inputs: most texts in one call of :meth:`embed`.
        max_tokens_per_request: most tokens over all texts of one call.
        max_tokens_per_input: most tokens of one text.
    """

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def semantic(self) -> bool: ...
    @property
    def max_inputs(self) -> int: ...
    @property
    def max_tokens_per_request(self) -> int: ...
    @property
    def max_tokens_per_input(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed the texts: float32, shape (len(texts), dimensions), row i for text i.

        Raises:
            MigrationError: one of the EMBEDDING_* codes.
        """
        ...


def check_texts(texts: Sequence[str], max_inputs: int) -> None:
    """Refuse, before anything is sent, a request that no provider would take.

    Raises:
        MigrationError: EMBEDDING_REFUSED for a blank text or for more texts than ``max_inputs``.
    """
    if len(texts) > max_inputs:
        raise MigrationError(
            "EMBEDDING_REFUSED", "More texts than one request may hold.", texts=len(texts), most=max_inputs
        )
    blank = next((position for position, text in enumerate(texts) if not text.strip()), None)
    if blank is not None:
        raise MigrationError("EMBEDDING_REFUSED", "A text of the request is blank.", position=blank)


def check_vectors(vectors: Vectors, count: int, dimensions: int) -> None:
    """Refuse an answer that is not one finite, non-zero vector of the right length per text.

    Raises:
        MigrationError: EMBEDDING_WRONG_ANSWER, with the first offending position where there is one.
    """
    if vectors.shape != (count, dimensions):
        raise MigrationError(
            "EMBEDDING_WRONG_ANSWER",
            "The vectors have the wrong shape.",
            expected=(count, dimensions),
            found=vectors.shape,
        )
    _refuse_rows(np.flatnonzero(~np.isfinite(vectors).all(axis=1)), "A vector holds NaN or infinity.")
    _refuse_rows(np.flatnonzero(~vectors.any(axis=1)), "A vector is all zeros.")


def _refuse_rows(positions: npt.NDArray[np.intp], detail: str) -> None:
    if positions.size:
        raise MigrationError(
            "EMBEDDING_WRONG_ANSWER", detail, position=int(positions[0]), vectors=positions.size
        )
