"""Arrow columns made from random numbers, without a Python loop over the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.synthetic.draws import Bools, Draws, Ints

# Indexes may be held in narrower integers to save memory.
AnyInts = NDArray[np.int32] | Ints

STAMP = pa.timestamp("us", "UTC")
MICROSECONDS_PER_DAY = 86_400_000_000
# The synthetic source is as of 15 August 2025; its users joined from 2016 on. Microseconds since 1970.
FIRST_STAMP = 1_451_606_400_000_000
NOW_STAMP = 1_755_244_800_000_000


@dataclass(frozen=True)
class Table:
    """One source table: its columns, its number of rows, and how to make any stretch of them."""

    name: str
    schema: pa.Schema
    count: int
    rows: Callable[[int, int], dict[str, pa.Array]]

    def chunk(self, start: int, stop: int) -> pa.Table:
        """Rows ``start`` to before ``stop``, in id order."""
        columns = self.rows(start, stop)
        arrays = [_typed(columns[field.name], field.type) for field in self.schema]
        return pa.Table.from_arrays(arrays, schema=self.schema)


def _typed(column: pa.Array, kind: pa.DataType) -> pa.Array:
    array = column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column)
    return array if array.type == kind else array.cast(kind)


def schema(**columns: pa.DataType) -> pa.Schema:
    """A schema from keyword arguments; a trailing underscore keeps Python's reserved words free."""
    return pa.schema([(name.rstrip("_"), kind) for name, kind in columns.items()])


def nullable(values: NDArray[np.generic] | pa.Array, missing: Bools) -> pa.Array:
    """``values`` with NULL where ``missing``."""
    if isinstance(values, pa.Array):
        return pc.if_else(pa.array(missing), pa.scalar(None, values.type), values)
    return pa.array(values, mask=missing)


def reference(ids: Ints, index: AnyInts, otherwise: Ints | None = None) -> pa.Array:
    """``ids[index]``; NULL where the index is -1, and ``otherwise`` where it is below that."""
    found = ids[np.maximum(index, 0)] if len(ids) else np.zeros(len(index), dtype=np.int64)
    if otherwise is not None:
        found = np.where(index < -1, otherwise, found)
    return pa.array(found, mask=index == -1)


def chosen(values: Sequence[object], index: Ints, kind: pa.DataType | None = None) -> pa.Array:
    """``values[index]``; values may hold None."""
    return pa.array(list(values), kind).take(pa.array(index))


def patched(values: pa.Array, rows: Ints, replacements: Sequence[str | None]) -> pa.Array:
    """``values`` with other texts in some rows (rising row numbers)."""
    if not len(rows):
        return values
    mask = np.zeros(len(values), dtype=np.bool_)
    mask[rows] = True
    return pc.replace_with_mask(values, pa.array(mask), pa.array(list(replacements), values.type))


def joined(*parts: pa.Array | str, separator: str = "") -> pa.Array:
    """Texts put together row by row; NULL parts make the row NULL."""
    return pc.binary_join_element_wise(*parts, separator)


def stamps(microseconds: Ints, missing: Bools | None = None) -> pa.Array:
    """Time stamps from microseconds since 1970."""
    return pa.array(microseconds, pa.int64(), mask=missing).cast(STAMP)


def rising_stamps(draws: Draws, total: int) -> Ints:
    """Stamps from FIRST_STAMP to NOW_STAMP that rise with the row, roughly: neighbours may swap."""
    step = max((NOW_STAMP - FIRST_STAMP) // max(total, 1), 1)
    row = draws.start + np.arange(draws.count, dtype=np.int64)
    moment: Ints = np.minimum(FIRST_STAMP + row * step + draws.below("moment", 2 * step), NOW_STAMP)
    return moment


def zero_padded(numbers: Ints, width: int) -> pa.Array:
    """Decimal texts of one width."""
    return pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")


_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), dtype="S2")
_UUID_BYTES, _UUID_CHARS = 16, 36
# Where the 32 hex digits stand in the 36 characters of a uuid; dashes take the rest.
_UUID_DIGITS = [place for place in range(_UUID_CHARS) if place not in {8, 13, 18, 23}]


def hex_texts(words: NDArray[np.uint64]) -> pa.Array:
    """Each word as 16 hex digits."""
    octets = words.astype(">u8").view(np.uint8).reshape(-1, 8)
    return _fixed_texts(np.ascontiguousarray(_HEX[octets]).view(np.uint8).reshape(len(words), 16))


def uuid_texts(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> pa.Array:
    """Random (version 4) uuids as text."""
    octets = np.empty((len(high), _UUID_BYTES), dtype=np.uint8)
    octets[:, :8] = high.astype(">u8").view(np.uint8).reshape(-1, 8)
    octets[:, 8:] = low.astype(">u8").view(np.uint8).reshape(-1, 8)
    octets[:, 6] = octets[:, 6] & 0x0F | 0x40
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80
    text = np.full((len(high), _UUID_CHARS), ord("-"), dtype=np.uint8)
    text[:, _UUID_DIGITS] = np.ascontiguousarray(_HEX[octets]).view(np.uint8).reshape(len(high), 32)
    return _fixed_texts(text)


def _fixed_texts(characters: NDArray[np.uint8]) -> pa.Array:
    count, width = characters.shape
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
    buffers = [pa.py_buffer(offsets.tobytes()), pa.py_buffer(characters.tobytes())]
    return pa.StringArray.from_buffers(count, *buffers)


def bit_strings(numbers: Ints) -> pa.Array:
    """The lowest 16 bits of each number as 16 characters 0 and 1."""
    bits = numbers[:, None] >> np.arange(15, -1, -1) & 1
    return _fixed_texts((bits + ord("0")).astype(np.uint8))
