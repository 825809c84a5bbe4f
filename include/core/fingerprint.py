"""Content digests: the MD5 of a row as PostgreSQL prints its record, made of clean texts without asking the server.

The target makes the same of what it stores (include/sql/migration/0015_content.sql), so rows can be compared by the
bucketful: equal wherever every text is the one that PostgreSQL prints for the value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# What record_out puts into quotes: its own signs, and all that C calls white space.
_QUOTED = r'[ \t\n\v\f\r"\\(),]'
_HALF = np.dtype(">u8")
_HEXADECIMAL = 16
_DIGITS_OF_ID = 8


def record_texts(columns: Sequence[pa.Array]) -> pa.Array:
    """Rows as the text of a PostgreSQL record.

    Args:
        columns: string arrays of one length.
    """
    fields = pc.binary_join_element_wise(*map(_fields, columns), ",")
    return pc.binary_join_element_wise("(", fields, ")", "")


def content_digests(columns: Sequence[pa.Array]) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    """One digest per row over ``columns`` (string arrays of one length), as its two halves: shape (rows, 2)."""
    records = pc.cast(record_texts(columns), pa.binary()).to_pylist()
    digests = b"".join(hashlib.md5(record, usedforsecurity=False).digest() for record in records)
    return np.frombuffer(digests, _HALF).astype(np.uint64).reshape(-1, 2)


def _fields(values: pa.Array) -> pa.Array:
    """Fields of a record: NULL is nothing, so the empty text needs quotes; signs within them are doubled."""
    quoted = pc.or_(pc.match_substring_regex(values, _QUOTED), pc.equal(values, ""))
    if pc.any(quoted).as_py():
        doubled = pc.replace_substring(pc.replace_substring(values, "\\", "\\\\"), '"', '""')
        values = pc.if_else(quoted, pc.binary_join_element_wise('"', doubled, '"', ""), values)
    return pc.fill_null(values, "")


def bucket_names(ids: pa.Array, digits: int) -> pa.Array:
    """The first hexadecimal digits of UUIDs in PostgreSQL's text form; NULL stays NULL."""
    return pc.utf8_slice_codeunits(ids, 0, digits)


def buckets_of(ids: pa.Array, digits: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """:func:`bucket_names` as numbers.

    Args:
        ids: UUIDs in PostgreSQL's text form, without NULL.
        digits: 1 to 8.
    """
    if not 1 <= digits <= _DIGITS_OF_ID:
        raise ValueError(f"{digits} digits")
    prefixes = bucket_names(ids, digits).to_numpy(zero_copy_only=False)
    signs = np.array(prefixes, dtype=f"S{digits}").view(np.uint8).reshape(-1, digits).astype(np.int64)
    values = np.where(signs >= ord("a"), signs - ord("a") + 10, signs - ord("0"))
    weights = _HEXADECIMAL ** np.arange(digits - 1, -1, -1)
    return np.asarray(values @ weights, np.int64)


@dataclass
class Fingerprints:
    """Rows and sums of digests by bucket; memory does not depend on the number of rows.

    Attributes:
        digits: hexadecimal digits of an id that name its bucket.
    """

    digits: int

    def __post_init__(self) -> None:
        size = _HEXADECIMAL**self.digits
        self._rows = np.zeros(size, np.int64)
        self._sums = np.zeros((size, 2), np.uint64)

    def add(self, ids: pa.Array, digests: np.ndarray[tuple[int, int], np.dtype[np.uint64]]) -> None:
        """Count rows; sums are modulo 2^64, so the order of rows does not matter.

        Args:
            ids: UUIDs in PostgreSQL's text form.
            digests: one per id, shape (rows, 2).
        """
        buckets = buckets_of(ids, self.digits)
        np.add.at(self._rows, buckets, 1)
        np.add.at(self._sums, buckets, digests)

    def differing(self, others: dict[str, tuple[int, int, int]]) -> list[str]:
        """Names of buckets that differ, sorted.

        Args:
            others: bucket name to its rows and the sums of both halves; absent where there are no rows.
        """
        rows, sums = np.zeros_like(self._rows), np.zeros_like(self._sums)
        for bucket, (count, high, low) in others.items():
            place = int(bucket, _HEXADECIMAL)
            rows[place], sums[place] = count, (high % 2**64, low % 2**64)
        unequal = (rows != self._rows) | (sums != self._sums).any(axis=1)
        return [f"{place:0{self.digits}x}" for place in np.flatnonzero(unequal)]
