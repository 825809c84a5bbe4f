"""Builds small tables of invented people for the tests of matching."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from include.matching.comparison import Compared, compare_codes, resolve
from include.matching.deduplicate import (
    COMPARED,
    DECISIONS_SCHEMA,
    DEFAULTS,
    MatchResult,
    MatchSettings,
    compare,
    decide,
    deduplicate,
    learn,
)
from include.matching.learning import learn_model
from include.matching.people import People, encode
from include.matching.rarity import Rarity

SCHEMA = pa.schema([(column, pa.string()) for column in COMPARED])
Row = dict[str, str | None]
Pair = tuple[str, str]


def person(legacy_id: int, name: str | None, birth: str | None = None, **more: str | None) -> Row:
    """One row; ``name`` is "first last", a single word is a first name, and None is no name."""
    first, _, last = (name or "").partition(" ")
    row: Row = dict.fromkeys(COMPARED)
    row.update(
        legacy_id=str(legacy_id), first_name=first or None, last_name=last or None, date_of_birth=birth
    )
    return row | more


def table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def match(*rows: Row, settings: MatchSettings = DEFAULTS, said: dict[Pair, str] | None = None) -> MatchResult:
    return deduplicate(table(list(rows)), settings, decided(said or {}))


def decided(said: dict[Pair, str]) -> pa.Table:
    rows = [{"left_id": a, "right_id": b, "decision": word} for (a, b), word in said.items()]
    return pa.Table.from_pylist(rows, schema=DECISIONS_SCHEMA)


def encoded(*rows: Row) -> People:
    return encode(table(list(rows)), DEFAULTS.evidence)


def compared(*rows: Row) -> Compared:
    """The comparison of the first two rows."""
    people = encoded(*rows)
    rarity = Rarity.of(people, learn_model(people, DEFAULTS).counts)
    pair = compare_codes(people, rarity, np.array([0]), np.array([1]))
    return resolve(people, rarity, {}, pair)


def decisions(result: MatchResult) -> dict[Pair, str]:
    """The decision of each reported pair."""
    return {(row["left_id"], row["right_id"]): row["decision"] for row in result.pairs.to_pylist()}


def merges(result: MatchResult) -> dict[str, str]:
    """The survivor of each merged record."""
    return {row["legacy_id"]: row["survivor_id"] for row in result.survivors.to_pylist()}


def vetoes(result: MatchResult) -> dict[Pair, list[str]]:
    """What held each reported pair back."""
    return {
        (row["left_id"], row["right_id"]): json.loads(row["explanation"])["vetoes"]
        for row in result.pairs.to_pylist()
    }


@dataclass(frozen=True)
class Quality:
    """How good matching is on people whose truth is known.

    ``f1`` is the best over all thresholds; ``merged_precision`` and ``merged_recall`` are of all pairs within
    clusters; ``found`` is the recall of reported pairs, ``waiting`` the pairs left to review; ``calibration`` the
    mean distance of score and share of matches, in tenths of the score.
    """

    f1: float
    merged_precision: float
    merged_recall: float
    found: float
    waiting: int
    calibration: float


def quality(people: pa.Table, person_of_row: np.ndarray, settings: MatchSettings) -> Quality:
    """Measures matching on a table; ``person_of_row`` numbers the person behind each row."""
    model = learn(people, settings)
    pairs = compare(people, model, settings)
    result = decide(people, model, settings, pairs)
    row_of = {legacy_id: row for row, legacy_id in enumerate(people["legacy_id"].to_pylist())}
    left, right = (np.array([row_of[i] for i in pairs[side].to_pylist()]) for side in ("left_id", "right_id"))
    score, hit = pairs["score"].to_numpy(), person_of_row[left] == person_of_row[right]
    true = _pairs_in(person_of_row)
    order = np.argsort(-score, kind="stable")
    f1 = 2 * np.cumsum(hit[order]) / (np.arange(1, len(order) + 1) + true)
    f1[np.append(score[order][1:] == score[order][:-1], False)] = 0
    cluster = np.arange(len(people))
    for merged, survivor in merges(result).items():
        cluster[row_of[merged]] = row_of[survivor]
    right_ones = _pairs_in(pd.factorize(pd.Series(zip(cluster, person_of_row, strict=True)))[0])
    tenth = np.minimum((score * 10).astype(int), 9)
    off = [abs(hit[tenth == n].mean() - score[tenth == n].mean()) * (tenth == n).sum() for n in set(tenth)]
    return Quality(
        f1=float(f1.max()),
        merged_precision=right_ones / max(_pairs_in(cluster), 1),
        merged_recall=right_ones / true,
        found=float(hit.sum() / true),
        waiting=result.pairs["decision"].to_pylist().count("pending"),
        calibration=float(sum(off) / len(score)),
    )


def _pairs_in(groups: np.ndarray) -> int:
    sizes = np.bincount(groups)
    return int((sizes * (sizes - 1) // 2).sum())
