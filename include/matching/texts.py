"""A vocabulary of distinct texts with everything that comparing them needs, computed once per text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

IntArray = npt.NDArray[np.int64]
CodeArray = npt.NDArray[np.int32]
HashArray = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
TextArray = npt.NDArray[np.object_]

_AFFIX = 3


@dataclass(frozen=True)
class Texts:
    """Distinct comparison keys; every array is indexed by code, and code 0 is "nothing to compare".

    ``hash`` is equal for the same text, the same on every machine; ``loose``, ``sound`` and ``root`` are hashes of
    looser keys; ``beginning`` and ``ending`` of the first and last three letters; ``letters`` is a set of letters
    as 32 bits; ``head`` the first letter; ``initial`` marks single letters that abbreviate, ``numbered`` texts with
    a digit, ``several`` texts of more than one word.
    """

    key: TextArray
    compact: TextArray
    hash: HashArray
    loose: HashArray
    sound: HashArray
    root: HashArray
    beginning: HashArray
    ending: HashArray
    letters: npt.NDArray[np.uint32]
    length: npt.NDArray[np.int16]
    head: npt.NDArray[np.uint32]
    initial: BoolArray
    numbered: BoolArray
    several: BoolArray

    def __len__(self) -> int:
        return len(self.key)


def hashes(texts: Sequence[str]) -> HashArray:
    """A hash of each text, the same in every process; 0 for the empty text only."""
    import pandas as pd  # noqa: PLC0415 - a third of what reading a DAG would cost each task

    if not len(texts):
        return np.zeros(0, dtype=np.uint64)
    values = np.asarray(texts, dtype=object)
    hashed = pd.util.hash_array(values, categorize=False)
    return np.where(values == "", np.uint64(0), hashed | np.uint64(1))


def describe(
    keys: list[str], loose: Callable[[str], str], sound: Callable[[str], str], root: Callable[[str], str]
) -> Texts:
    """Describes the texts; the first must be the empty one."""
    compact = [key.replace(" ", "") for key in keys]
    return Texts(
        key=np.array(keys, dtype=object),
        compact=np.array(compact, dtype=object),
        hash=hashes(compact),
        loose=hashes([loose(key) for key in keys]),
        sound=hashes([sound(key) for key in keys]),
        root=hashes([root(key) for key in keys]),
        beginning=hashes([key[:_AFFIX] for key in compact]),
        ending=hashes([key[-_AFFIX:] for key in compact]),
        letters=np.array([_letters(key) for key in compact], dtype=np.uint32),
        length=np.array([len(key) for key in compact], dtype=np.int16),
        head=np.array([ord(key[:1] or "\0") for key in compact], dtype=np.uint32),
        # One cased letter abbreviates a name; one ideograph is a whole name.
        initial=np.array([len(key) == 1 and key.upper() != key for key in compact], dtype=np.bool_),
        numbered=np.array([any(map(str.isdigit, key)) for key in compact], dtype=np.bool_),
        several=np.array([" " in key for key in keys], dtype=np.bool_),
    )


def _letters(key: str) -> int:
    bits = 0
    for letter in set(key):
        bits |= 1 << (ord(letter) & 31)
    return bits


def encode_texts(
    columns: list[pa.ChunkedArray], key: Callable[[str], str]
) -> tuple[list[str], list[CodeArray]]:
    """The distinct keys of several text columns, the empty one first, and each column as codes of them."""
    joined = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    encoded = joined.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    codes: dict[str, int] = {"": 0}
    table = [codes.setdefault(key(text), len(codes)) for text in encoded.dictionary.to_pylist()]
    of_value = np.array([*table, 0], dtype=np.int32)
    of_row = of_value[encoded.indices.fill_null(len(table)).to_numpy(zero_copy_only=False)]
    ends = np.cumsum([len(column) for column in columns])[:-1]
    return list(codes), list(np.split(of_row, ends))


def pair_codes(left: HashArray, right: HashArray) -> IntArray:
    """A number for each distinct pair of hashes."""
    import pandas as pd  # noqa: PLC0415 - a third of what reading a DAG would cost each task

    mixed = left * np.uint64(0x9E3779B97F4A7C15) + right
    return pd.factorize(mixed)[0].astype(np.int64)
