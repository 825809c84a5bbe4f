"""The known duplicates and look-alikes are what their kind says."""

from __future__ import annotations

import unicodedata
from datetime import date
from typing import Any

import pytest
from rapidfuzz.distance import DamerauLevenshtein

from include.synthetic import proportions as p
from include.synthetic.people import misspelt, reformatted
from include.synthetic.sizes import SourceSize
from include.synthetic.truth import duplicate_pairs, lookalike_pairs
from tests.synthetic.sources import SEED, Source

Pairs = dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]


def persons(source: Source) -> dict[int, dict[str, Any]]:
    users = {row["id"]: row for row in source["auth_user"].to_pylist()}
    return {
        row["id"]: {**row, **{k: users[row["user_id"]][k] for k in ("first_name", "last_name", "email")}}
        for row in source["dispatch_patient"].to_pylist()
    }


def by_kind(source: Source, table: Any) -> Pairs:
    known = persons(source)
    result: Pairs = {}
    first, second, kinds = (column.to_pylist() for column in table.columns)
    for one, other, kind in zip(first, second, kinds, strict=True):
        result.setdefault(kind, []).append((known[one], known[other]))
    return result


@pytest.fixture(scope="module")
def duplicates(real: Source) -> Pairs:
    return by_kind(real, duplicate_pairs(SourceSize.real(), SEED))


@pytest.fixture(scope="module")
def lookalikes(real: Source) -> Pairs:
    return by_kind(real, lookalike_pairs(SourceSize.real(), SEED))


def folded(name: str) -> str:
    bare = (c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return " ".join("".join(bare).casefold().split())


def same(one: dict[str, Any], other: dict[str, Any], *fields: str) -> bool:
    return all(one[field] == other[field] for field in fields)


def test_shares(duplicates: Pairs, lookalikes: Pairs):
    assert sum(map(len, duplicates.values())) == pytest.approx(7_850 * p.DUPLICATE_SHARE, rel=0.1)
    assert set(duplicates) == set(p.DUPLICATE_KIND_SHARES)
    for kind, expected in p.LOOKALIKE_SHARES.items():
        assert len(lookalikes[kind]) == pytest.approx(7_850 * expected, abs=1)


def test_every_kind_is_in_a_tenth(tenth: Source, tenth_size: SourceSize):
    for table, kinds in (
        (duplicate_pairs(tenth_size, SEED), p.DUPLICATE_KIND_SHARES),
        (lookalike_pairs(tenth_size, SEED), p.LOOKALIKE_SHARES),
    ):
        found = by_kind(tenth, table)
        assert set(found) == set(kinds)
        assert min(map(len, found.values())) >= 2


def test_pairs_are_distinct_rows_and_triples_exist():
    table = duplicate_pairs(SourceSize.real(), SEED)
    originals = table["original_patient_id"].to_pylist()
    copies = table["duplicate_patient_id"].to_pylist()
    assert len(set(copies)) == len(copies)
    assert not set(originals) & set(copies)
    assert len(set(originals)) < len(originals)


def test_exact_copies(duplicates: Pairs):
    for one, other in duplicates["exact"]:
        assert same(one, other, "first_name", "last_name", "birthdate", "sex")
        assert one["user_id"] != other["user_id"]


def test_format_differences(duplicates: Pairs):
    for one, other in duplicates["format"]:
        assert (one["first_name"], one["last_name"]) != (other["first_name"], other["last_name"])
        assert folded(one["first_name"] + " " + one["last_name"]) == folded(
            other["first_name"] + " " + other["last_name"]
        )
        assert same(one, other, "birthdate")


def test_typos(duplicates: Pairs):
    for one, other in duplicates["typo"]:
        assert same(one, other, "first_name", "birthdate")
        assert DamerauLevenshtein.distance(one["last_name"], other["last_name"]) == 1


def test_swapped_names(duplicates: Pairs):
    for one, other in duplicates["swapped"]:
        assert (one["first_name"], one["last_name"]) == (other["last_name"], other["first_name"])
        assert same(one, other, "birthdate")


def test_missing_birth_dates(duplicates: Pairs):
    for one, other in duplicates["no birth date"]:
        assert same(one, other, "first_name", "last_name")
        assert isinstance(one["birthdate"], date)
        assert other["birthdate"] is None


def test_twins(lookalikes: Pairs):
    for one, other in lookalikes["twins"]:
        assert same(one, other, "last_name", "birthdate", "office_id")
        assert one["first_name"] != other["first_name"]


def test_parent_and_child(lookalikes: Pairs):
    for one, other in lookalikes["parent and child"]:
        assert same(one, other, "first_name", "last_name")
        assert abs((one["birthdate"] - other["birthdate"]).days) > 20 * 365


def test_siblings(lookalikes: Pairs):
    for one, other in lookalikes["siblings on one e-mail"]:
        assert same(one, other, "last_name", "email", "office_id")
        assert one["email"]
        assert one["first_name"] != other["first_name"]
        assert abs((one["birthdate"] - other["birthdate"]).days) > 365


@pytest.mark.parametrize("name", ["Ui", "O'Neil", "Müller", "aaaa", "Nguyen", "mmmm"])
def test_changed_names_always_differ(name: str):
    for word in range(0, 1 << 34, 97_003_351):
        assert misspelt(name, word) != name
        assert reformatted(name, word) != name
        assert folded(reformatted(name, word)) == folded(name)
