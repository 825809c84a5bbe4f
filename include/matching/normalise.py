"""Turns people into integer codes that can be compared without looking at text again.

Names are compared on a key: NFKC, case-folded, spaces collapsed, punctuation dropped, accents folded for
Latin letters only, so that names in other scripts (docs/legacy-mdw.md section 1.2 has Japanese and Thai ones)
stay distinct. In every code, 0 means "nothing to compare".
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from include.core.errors import MigrationError

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
TextArray = npt.NDArray[np.object_]

COLUMNS = ("legacy_id", "first_name", "last_name", "date_of_birth", "gender", "email", "updated_at")
GENDERS = {"male": 1, "female": 2, "other": 3}

# Written where a name was not known; compared with the key, that is without punctuation.
PLACEHOLDER_NAMES = frozenset(
    """
    unknown, not known, unnamed, noname, no name, name, anonymous, anonym, n a, none, null, nil, undefined,
    dummy, tbd, tba, xx, unbekannt, inconnu, inconnue, desconocido, desconocida, sconosciuto, sconosciuta,
    不明, 名無し, 未定, ไม่ทราบ, ไม่ระบุ
    """.strip()
    .replace("\n    ", " ")
    .split(", ")
)
PLACEHOLDER_DATES = frozenset({19000101, 19010101})

# Latin letters that Unicode does not decompose into a base letter and an accent.
_LATIN_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h", "ŧ": "t"}
)
_WITHOUT_APOSTROPHES = str.maketrans("", "", "'’‘ʼ`´＇")
_LONGEST_REPEAT = 2  # three times the same letter is no name


@dataclass(frozen=True)
class DateRules:
    """When a birth date says nothing.

    Attributes:
        earliest_year, latest_year: dates outside are no birth dates of patients.
        floor: a date that fewer differently named people share is never called a placeholder.
        factor: how many times more people than expected from its year share a placeholder date.
    """

    earliest_year: int = 1900
    latest_year: int = 2099
    floor: int = 8
    factor: float = 6.0


@dataclass(frozen=True)
class Names:
    """The distinct names of a table; every array is indexed by name code, and code 0 is the missing name.

    ``same`` is equal for names that differ in spacing only, ``undoubled`` for names that differ in doubled
    letters, ``letters`` for names made of the same letters.
    """

    spaced: TextArray
    compact: TextArray
    same: IntArray
    undoubled: IntArray
    letters: IntArray
    length: IntArray
    head: IntArray
    tail: IntArray
    initial: BoolArray
    digits: BoolArray
    several: BoolArray


@dataclass(frozen=True)
class People:
    """A table of people as codes, one entry per person, in the order of their numeric legacy id.

    ``birth`` is yyyymmdd; ``full`` is equal for people with the same words in first and last name together,
    in any order; ``dates_of_name`` counts the different birth dates known under that full name; ``crowded``
    marks e-mail addresses that many differently named people share; ``filled`` counts comparable fields.
    """

    legacy_id: TextArray
    names: Names
    first: IntArray
    last: IntArray
    full: IntArray
    birth: IntArray
    gender: IntArray
    email: IntArray
    crowded: BoolArray
    dates_of_name: IntArray
    filled: IntArray
    updated: IntArray

    def __len__(self) -> int:
        return len(self.legacy_id)


@lru_cache(maxsize=65536)
def _is_latin(character: str) -> bool:
    return unicodedata.name(character, "").startswith("LATIN ")


def fold_latin_accents(text: str) -> str:
    """Drops the accents of Latin letters; marks of other scripts carry meaning and stay."""
    kept: list[str] = []
    after_latin = False
    for character in unicodedata.normalize("NFD", text):
        if unicodedata.combining(character):
            if after_latin:
                continue
        else:
            after_latin = _is_latin(character)
        kept.append(character)
    return unicodedata.normalize("NFC", "".join(kept)).translate(_LATIN_LETTERS)


def _plain(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    return character if category[0] in "LMN" else " "


def name_key(name: str) -> str:
    """The comparison key of a name: lower-case words with single spaces; empty if it holds no letter or is a
    placeholder such as "unknown"."""
    # Apostrophes first: NFKC turns some of them into a space with an accent.
    composed = unicodedata.normalize("NFKC", name.translate(_WITHOUT_APOSTROPHES))
    folded = unicodedata.normalize("NFKC", composed.casefold())
    plain = "".join(_plain(character) for character in folded)
    key = " ".join(fold_latin_accents(plain).split())
    return "" if _is_placeholder(key) else key


def _is_placeholder(key: str) -> bool:
    if key in PLACEHOLDER_NAMES or not any(character.isalpha() for character in key):
        return True
    return len(key) > _LONGEST_REPEAT and len(set(key)) == 1


def email_key(email: str) -> str:
    """The comparison key of an e-mail address; whether it is one was decided before."""
    return unicodedata.normalize("NFKC", email).strip().casefold()


def encode(table: pa.Table, rules: DateRules, crowded_email: int) -> People:
    """Reads the compared columns of a table of people.

    Args:
        table: the columns :data:`COLUMNS`, all text, NULL where unknown; other columns are ignored.
        rules: when a birth date counts as missing.
        crowded_email: an address with more differently named people than this is evidence of nothing.

    Raises:
        MigrationError: TRANSFORM_FAILED if a column is missing or the ids are not distinct integers.
    """
    frame = _frame(table)
    names, first, last = _encode_names(frame["first_name"], frame["last_name"])
    name_pair = pair_codes(names.same[first], names.same[last])
    full = _encode_full_names(names, first, last)
    birth = _encode_birth_dates(frame["date_of_birth"], name_pair, rules)
    gender = _integers(frame["gender"].map(GENDERS).fillna(0))
    email = _text_codes(_by_value(frame["email"], email_key))
    known = np.stack([first, last, birth, gender, email]) > 0
    return People(
        legacy_id=frame["legacy_id"].to_numpy(object),
        names=names,
        first=first,
        last=last,
        full=full,
        birth=birth,
        gender=gender,
        email=email,
        crowded=(_partners(email, name_pair) > crowded_email) & (email > 0),
        dates_of_name=_partners(full, birth),
        filled=known.sum(axis=0),
        updated=_moments(frame["updated_at"]),
    )


def _frame(table: pa.Table) -> pd.DataFrame:
    missing = sorted(set(COLUMNS) - set(table.column_names))
    if missing:
        raise MigrationError(
            "TRANSFORM_FAILED", f"Deduplication lacks columns: {', '.join(missing)}.", entity="patients"
        )
    frame: pd.DataFrame = table.select(list(COLUMNS)).to_pandas()
    numbers = pd.to_numeric(frame["legacy_id"].astype(object), errors="coerce")
    if numbers.isna().any() or numbers.duplicated().any() or (numbers % 1 != 0).any():
        raise MigrationError(
            "TRANSFORM_FAILED",
            "Deduplication needs distinct integers in this column.",
            entity="patients",
            column="legacy_id",
        )
    order = np.argsort(numbers.to_numpy(np.int64), kind="stable")
    return frame.iloc[order].reset_index(drop=True).astype(object)


def _by_value(column: pd.Series[Any], key: Any) -> pd.Series[Any]:
    """Applies a text function once per distinct value; NULL becomes the empty string."""
    filled = column.where(column.notna(), "")
    return filled.map({value: key(value) for value in filled.unique()})


def _text_codes(texts: pd.Series[Any]) -> IntArray:
    codes, _ = pd.factorize(texts.where(texts != "", None))
    return codes.astype(np.int64) + 1


def _name_codes(texts: list[str]) -> IntArray:
    return _text_codes(pd.Series(texts, dtype=object))


def pair_codes(left: IntArray, right: IntArray) -> IntArray:
    """One code for each distinct pair of codes, and 0 where both are 0."""
    combined = left * (int(right.max(initial=0)) + 1) + right
    codes, _ = pd.factorize(np.append(0, combined))
    return codes[1:].astype(np.int64)


def _partners(owner: IntArray, other: IntArray) -> IntArray:
    """For each row, how many different non-zero ``other`` codes its ``owner`` code occurs with."""
    pairs = np.unique(np.stack([owner, other]), axis=1)
    counts = np.bincount(pairs[0][pairs[1] > 0], minlength=int(owner.max(initial=0)) + 1)
    return counts[owner].astype(np.int64)


def _encode_names(first: pd.Series[Any], last: pd.Series[Any]) -> tuple[Names, IntArray, IntArray]:
    keys = _by_value(pd.concat([first, last]), name_key)
    codes = _text_codes(keys)
    spaced = ["", *pd.unique(keys[keys != ""])]
    return _describe(spaced), codes[: len(first)], codes[len(first) :]


def _describe(spaced: list[str]) -> Names:
    compact = [key.replace(" ", "") for key in spaced]
    return Names(
        spaced=np.array(spaced, dtype=object),
        compact=np.array(compact, dtype=object),
        same=_name_codes(compact),
        undoubled=_name_codes([_undouble(key) for key in compact]),
        letters=_name_codes(["".join(sorted(key)) for key in compact]),
        length=np.array([len(key) for key in compact], dtype=np.int64),
        head=np.array([ord(key[:1] or "\0") for key in compact], dtype=np.int64),
        tail=np.array([ord(key[-1:] or "\0") for key in compact], dtype=np.int64),
        # One cased letter abbreviates a name; one ideograph is a whole name.
        initial=np.array([len(key) == 1 and key.upper() != key for key in compact], dtype=np.bool_),
        digits=np.array([any(map(str.isdigit, key)) for key in compact], dtype=np.bool_),
        several=np.array([" " in key for key in spaced], dtype=np.bool_),
    )


def _undouble(key: str) -> str:
    return "".join(letter for letter, before in zip(key, " " + key, strict=False) if letter != before)


def _encode_full_names(names: Names, first: IntArray, last: IntArray) -> IntArray:
    pairs, position = np.unique(np.stack([first, last]), axis=1, return_inverse=True)
    texts = [
        _sorted_words(names.spaced[first_code], names.spaced[last_code])
        for first_code, last_code in pairs.T.tolist()
    ]
    return _name_codes(texts)[position.reshape(-1)]


def _sorted_words(first: str, last: str) -> str:
    """The words of a full name in one order; a single word is no full name."""
    words = sorted(f"{first} {last}".split())
    return " ".join(words) if len(words) > 1 else ""


def _encode_birth_dates(dates: pd.Series[Any], name_pair: IntArray, rules: DateRules) -> IntArray:
    text = dates.where(dates.notna(), "").astype(str)
    iso = text.str.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}").to_numpy(np.bool_)
    birth = np.zeros(len(text), dtype=np.int64)
    birth[iso] = text[iso].str.replace("-", "").to_numpy(object).astype(np.int64)
    year = birth // 10_000
    impossible = (year < rules.earliest_year) | (year > rules.latest_year)
    birth[impossible | np.isin(birth, list(PLACEHOLDER_DATES))] = 0
    birth[_too_frequent(birth, name_pair, rules)] = 0
    return birth


def _too_frequent(birth: IntArray, name_pair: IntArray, rules: DateRules) -> BoolArray:
    """Marks dates that far more people share than the rest of their year lets expect.

    Differently named people are counted, so that one person entered many times makes no placeholder.
    """
    pairs = np.unique(np.stack([birth, name_pair]), axis=1)
    dates, people = np.unique(pairs[0], return_counts=True)
    year = dates // 10_000
    expected = (np.bincount(year, weights=people)[year] - people) / 365
    frequent = (people >= rules.floor) & (people > rules.factor * expected) & (dates > 0)
    return np.isin(birth, dates[frequent])


def _moments(stamps: pd.Series[Any]) -> IntArray:
    """Microseconds since 1970; NULL and what is no moment (infinity, BC) come before everything else."""
    moments = pd.to_datetime(stamps, utc=True, format="ISO8601", errors="coerce")
    return _integers(moments.astype("datetime64[us, UTC]").astype("int64"))


def _integers(numbers: pd.Series[Any]) -> IntArray:
    return np.asarray(numbers, dtype=np.int64)
