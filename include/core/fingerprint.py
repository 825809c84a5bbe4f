"""Content hashes: equal exactly when every column of two rows is equal, NULL and '' told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

# Bytes that no UTF-8 text contains, so no value can imitate a separator or a NULL.
_SEPARATOR = b"\xfe"
_NULL = b"\xff"
_DIGEST_BYTES = 16


def content_hashes(columns: Sequence[pa.Array]) -> pa.Array:
    """One hash per row over ``columns`` (string arrays of one length), as PostgreSQL bytea text (``\\x…``)."""
    binary = [pc.fill_null(column.cast(pa.binary()), _NULL) for column in columns]
    rows = pc.binary_join_element_wise(*binary, _SEPARATOR)
    return pa.array([_digest(row) for row in rows.to_pylist()], pa.string())


def _digest(row: bytes) -> str:
    return "\\x" + hashlib.blake2b(row, digest_size=_DIGEST_BYTES).hexdigest()
