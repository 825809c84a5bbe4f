"""Finds the pairs worth comparing, at a cost that grows with the number of people, not with its square.

Several passes each give every person a key (a hash); two people with an equal key are a candidate pair. No pass
depends on all fields being right. Keys that too many people share are left out of their pass: which ones
is learnt once and kept in the model, so that a pair is a candidate or not whatever other rows are there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import numpy as np

from include.matching.people import People
from include.matching.texts import BoolArray, HashArray, IntArray

PAIRS_AT_ONCE = 250_000
_PAIRS_PER_PERSON = 5.0
_PAIRS_OF_SMALL_TABLES = 250_000.0
_LARGEST_BLOCK = 1_000
_MOST_GROWTH = 5

log = logging.getLogger(__name__)

Share = tuple[int, int]


def blocking_keys(people: People) -> dict[str, HashArray]:
    """The key of each person in each pass, 0 for those in no block of the pass."""
    names, first, last = people.names, people.first, people.last
    birth = people.birth
    year, month, day = birth >> 16, (birth >> 8) & 0xFF, birth & 0xFF
    date = np.where(
        birth > 0, (year << 16) | (np.minimum(month, day) << 8) | np.maximum(month, day), 0
    ).astype(np.uint64)
    year_key, day_key = year.astype(np.uint64), (date & np.uint64(0xFFFF))
    day_key = np.where(date > 0, day_key + np.uint64(1), 0)
    sound, loose, root = names.sound, names.loose, names.root
    heads = _unordered(names.head[first].astype(np.uint64), names.head[last].astype(np.uint64))
    keys = {
        "e-mail": people.email.texts.hash[people.email.code],
        "birth date, initials": _both(date, heads),
        "names by sound": _unordered(sound[first], sound[last]),
        "birth date": date,
        "first name, birth date": _both(root[first], date),
        "last name": loose[last],
        "first name": loose[first],
        "last name by sound, year of birth": _both(sound[last], year_key),
        "first name by sound, year of birth": _both(root[first], year_key),
        "last name by sound, day of birth": _both(sound[last], day_key),
        "first name by sound, day of birth": _both(sound[first], day_key),
        "beginnings of the names": _unordered(names.beginning[first], names.beginning[last]),
        "endings of the names": _both(names.ending[first], names.ending[last]),
        "nickname, last name by sound": _both(root[first], sound[last]),
        "last name, initial": _both(loose[last], names.head[first].astype(np.uint64)),
        "first name, initial": _both(root[first], names.head[last].astype(np.uint64)),
    }
    for column, values in people.evidence.items():
        value = values.texts.hash[values.code]
        keys[column] = value
        keys[f"{column}, initials"] = _both(value, heads)
    return {name: _salted(key, number) for number, (name, key) in enumerate(keys.items())}


def _mixed(key: HashArray) -> HashArray:
    """Spreads a key over all bits (the finalizer of SplitMix64, Steele et al. 2014)."""
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: HashArray = key ^ (key >> np.uint64(31))
    return mixed


def _both(left: HashArray, right: HashArray) -> HashArray:
    """One key per pair of keys, 0 unless both are there."""
    return np.where((left > 0) & (right > 0), _mixed(_mixed(left) + right) | np.uint64(1), np.uint64(0))


def _unordered(left: HashArray, right: HashArray) -> HashArray:
    return _both(np.minimum(left, right), np.maximum(left, right))


def _salted(key: HashArray, salt: int) -> HashArray:
    return np.where(key > 0, _mixed(key + np.uint64(salt)) | np.uint64(1), np.uint64(0))


def too_common(keys: Mapping[str, HashArray]) -> dict[str, HashArray]:
    """The keys to leave out, by pass: the most common ones, until a pass keeps within its budget of pairs."""
    return {name: _beyond_budget(key) for name, key in keys.items()}


def _beyond_budget(key: HashArray) -> HashArray:
    values, sizes = np.unique(key[key > 0], return_counts=True)
    order = np.argsort(sizes, kind="stable")
    pairs = np.cumsum(sizes[order] * (sizes[order] - 1) // 2)
    budget = max(_PAIRS_PER_PERSON * len(key), _PAIRS_OF_SMALL_TABLES)
    # Blocks of one size stay or go together, so that the order of keys decides nothing.
    beyond = int(np.searchsorted(pairs, budget, side="right"))
    largest = int(sizes[order[beyond]]) - 1 if beyond < len(order) else _LARGEST_BLOCK
    return np.sort(values[(sizes > 1) & (sizes > min(largest, _LARGEST_BLOCK))])


def usable_keys(people: People, common: Mapping[str, HashArray]) -> list[HashArray]:
    """The keys of all passes without the too common ones.

    Nor those that became far too common since that was learnt, for instance a placeholder that came into use: blocks of
    any size would be compared.
    """
    keys = blocking_keys(people)
    return [
        _without_grown(name, np.where(_contains(common.get(name), key), np.uint64(0), key))
        for name, key in keys.items()
    ]


def _without_grown(name: str, key: HashArray) -> HashArray:
    values, sizes = np.unique(key[key > 0], return_counts=True)
    grown = values[sizes > _MOST_GROWTH * _LARGEST_BLOCK]
    if not len(grown):
        return key
    log.warning(
        "blocking by %s: %d keys were left out, each shared by more than %d rows now; a model learnt anew"
        " would know them",
        name,
        len(grown),
        _MOST_GROWTH * _LARGEST_BLOCK,
    )
    return np.where(_contains(grown, key), np.uint64(0), key)


def _contains(values: HashArray | None, key: HashArray) -> BoolArray:
    if values is None or not len(values):
        return np.zeros(len(key), dtype=np.bool_)
    place = np.minimum(np.searchsorted(values, key), len(values) - 1)
    found: BoolArray = values[place] == key
    return found


def candidate_pairs(
    keys: list[HashArray], share: Share = (0, 1), changed: BoolArray | None = None
) -> Iterator[tuple[IntArray, IntArray]]:
    """The candidate pairs as chunks of (left, right) positions, left < right, each pair once.

    A pair belongs to the first pass that finds it, and to the share its key falls into, so that the shares of
    one table are disjoint and together complete.

    Args:
        keys: usable keys by pass.
        share: (k, n), the k-th of n shares.
        changed: if given, only pairs of which at least one person is marked.
    """
    number, shares = share
    for place, key in enumerate(keys):
        mine = key > 0
        if shares > 1:
            mine &= (key >> np.uint64(8)) % np.uint64(shares) == np.uint64(number)
        if changed is not None:
            mine &= np.isin(key, np.unique(key[changed & mine]))
        for left, right in pairs_in_blocks(np.where(mine, key, np.uint64(0))):
            new = np.ones(len(left), dtype=np.bool_)
            if changed is not None:
                new &= changed[left] | changed[right]
            for earlier in keys[:place]:
                new &= (earlier[left] != earlier[right]) | (earlier[left] == 0)
            yield left[new], right[new]


def pairs_in_blocks(
    keys: HashArray, pairs_at_once: int = PAIRS_AT_ONCE
) -> Iterator[tuple[IntArray, IntArray]]:
    """All pairs of positions with the same non-zero key, as chunks of (left, right), left < right.

    A chunk holds about ``pairs_at_once`` pairs, and never more than that plus one block's size.
    """
    order = np.flatnonzero(keys)
    order = order[np.argsort(keys[order], kind="stable")]
    ordered = keys[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1 if len(order) else order
    sizes = np.diff(np.append(0, ends))
    partners = np.repeat(ends, sizes) - np.arange(len(order)) - 1
    done = np.append(0, np.cumsum(partners))
    start = 0
    while start < len(order) and done[start] < done[-1]:
        stop = max(start + 1, int(np.searchsorted(done, done[start] + pairs_at_once)))
        stop = min(stop, len(order))
        repeats = partners[start:stop]
        left = np.repeat(np.arange(start, stop), repeats)
        offset = np.arange(len(left)) - np.repeat(done[start:stop] - done[start], repeats)
        yield order[left], order[left + 1 + offset]
        start = stop
