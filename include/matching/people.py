"""A table of people as codes that can be compared without looking at text again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from include.core.errors import MigrationError
from include.matching.nicknames import nickname_root
from include.matching.normalise import (
    birth_code,
    email_key,
    loose_key,
    mailbox_key,
    name_key,
    sound_key,
    value_key,
)
from include.matching.texts import (
    BoolArray,
    CodeArray,
    HashArray,
    IntArray,
    TextArray,
    Texts,
    describe,
    encode_texts,
)

GENDERS = {"male": 1, "female": 2}
"""Sexes that are evidence; "other" is none, since the legacy code behind it has no certain meaning."""

_SHORTEST_NAME_IN_ADDRESS = 3


@dataclass(frozen=True)
class Column:
    """One further column: its distinct values and the value of each person."""

    texts: Texts
    code: CodeArray


@dataclass(frozen=True)
class People:
    """People in the order of their numeric legacy id; in every code, 0 means "nothing to compare".

    ``birth`` holds the decimal digits of the date, four bits each; ``named_address`` marks e-mail addresses
    made of the person's own name; ``filled`` counts fields with a value; ``updated`` is in microseconds.
    """

    legacy_id: TextArray
    names: Texts
    first: CodeArray
    last: CodeArray
    birth: IntArray
    gender: npt.NDArray[np.int8]
    email: Column
    named_address: BoolArray
    evidence: dict[str, Column]
    filled: IntArray
    updated: IntArray

    def __len__(self) -> int:
        return len(self.legacy_id)


def encode(table: pa.Table, evidence: tuple[str, ...]) -> People:
    """Reads the compared columns of a table of people.

    Args:
        table: ``legacy_id`` (distinct integers) and the columns of settings.COMPARED, all text; a missing
            column counts as all NULL, others are ignored.
        evidence: further columns to read.

    Raises:
        MigrationError: TRANSFORM_FAILED if the ids are missing or no distinct integers.
    """
    table = _by_id(table)
    keys, (first, last) = encode_texts([_text(table, "first_name"), _text(table, "last_name")], name_key)
    names = describe(keys, loose_key, sound_key, nickname_root)
    mails, (mail,) = encode_texts([_text(table, "email")], email_key)
    mailboxes = describe(mails, mailbox_key, _nothing, _nothing)
    dates, (date,) = encode_texts([_text(table, "date_of_birth")], str.strip)
    sexes, (sex,) = encode_texts([_text(table, "gender")], lambda text: text.strip().casefold())
    birth = np.array([birth_code(text) for text in dates], dtype=np.int64)[date]
    gender = np.array([GENDERS.get(text, 0) for text in sexes], dtype=np.int8)[sex]
    columns = {}
    for name in evidence:
        values, (code,) = encode_texts([_text(table, name)], value_key)
        columns[name] = Column(describe(values, loose_key, _nothing, _nothing), code)
    known = np.stack([first, last, birth, gender, mail, *(column.code for column in columns.values())]) > 0
    return People(
        legacy_id=table.column("legacy_id").to_pandas().to_numpy(object),
        names=names,
        first=first,
        last=last,
        birth=birth,
        gender=gender,
        email=Column(mailboxes, mail),
        named_address=_named_addresses(names, first, last, mailboxes, mail),
        evidence=columns,
        filled=known.sum(axis=0),
        updated=_moments(_text(table, "updated_at")),
    )


def without_placeholders(people: People, placeholders: Mapping[str, HashArray]) -> People:
    """Takes values that stand for "not known" (hashes by column) for missing."""
    mail = np.isin(people.email.texts.hash, placeholders["email"])[people.email.code]
    birth = np.isin(people.birth.astype(np.uint64), placeholders["date_of_birth"])
    return replace(
        people,
        birth=np.where(birth, 0, people.birth),
        email=replace(people.email, code=np.where(mail, 0, people.email.code).astype(np.int32)),
    )


def _nothing(_text: str) -> str:
    return ""


def _text(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
    return table.column(name).cast(pa.string())


def _by_id(table: pa.Table) -> pa.Table:
    import pandas as pd  # noqa: PLC0415 - a third of what reading a DAG would cost each task

    ids = _text(table, "legacy_id").to_pandas()
    numbers = pd.to_numeric(ids.astype(object), errors="coerce")
    if numbers.isna().any() or numbers.duplicated().any() or (numbers % 1 != 0).any():
        raise MigrationError(
            "TRANSFORM_FAILED",
            "Deduplication needs distinct integers in this column.",
            entity="patients",
            column="legacy_id",
        )
    return table.take(pa.array(np.argsort(numbers.to_numpy(np.int64), kind="stable")))


def _named_addresses(
    names: Texts, first: CodeArray, last: CodeArray, mailboxes: Texts, mail: CodeArray
) -> BoolArray:
    named = np.zeros(len(mail), dtype=np.bool_)
    boxes = [mailbox_key(address) for address in mailboxes.key]
    for row in np.flatnonzero(mail):
        box = boxes[mail[row]]
        named[row] = any(
            len(name) >= _SHORTEST_NAME_IN_ADDRESS and name in box
            for name in (names.compact[first[row]], names.compact[last[row]])
        )
    return named


def _moments(stamps: pa.ChunkedArray) -> IntArray:
    """Microseconds since 1970; NULL and what is no moment (infinity, BC) come before everything else."""
    import pandas as pd  # noqa: PLC0415 - a third of what reading a DAG would cost each task

    moments = pd.to_datetime(stamps.to_pandas().astype(object), utc=True, format="ISO8601", errors="coerce")
    return np.asarray(moments.astype("datetime64[us, UTC]").astype("int64"), dtype=np.int64)
