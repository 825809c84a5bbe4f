"""Which text was embedded by which model: the key that keeps unchanged text from being paid for twice."""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa

HASH_CHARACTERS = 32
"""Hexadecimal digits kept of the SHA-256 digest: 16 bytes. Among 10^9 documents the chance that any two
different ones share a hash is about 10^-21."""

_SCHEME = "embedding/1"


def content_hashes(texts: pa.Array | pa.ChunkedArray, model: str, dimensions: int) -> pa.Array:
    """Hash each text together with the model and the number of dimensions.

    Model and dimensions go first, as one line of JSON (which holds no raw line break), so no two
    different triples are hashed as the same bytes.

    Args:
        texts: strings, as they are sent to the provider; NULL (no document) stays NULL.
        model: the provider's model.
        dimensions: length of its vectors.

    Returns:
        Strings of :data:`HASH_CHARACTERS` lower-case hexadecimal digits, in the order of ``texts``.
    """
    prefix = hashlib.sha256(json.dumps([_SCHEME, model, dimensions]).encode() + b"\n")

    def digest(text: bytes) -> str:
        state = prefix.copy()
        state.update(text)
        return state.hexdigest()[:HASH_CHARACTERS]

    raw = texts.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()
    return pa.array([None if text is None else digest(text) for text in raw], pa.string())
