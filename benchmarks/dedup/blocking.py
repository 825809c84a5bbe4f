"""How many of the true pairs are compared at all."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from benchmarks.dedup.quality import Judge
from include.matching.blocking import usable_keys
from include.matching.deduplicate import MatchSettings, learn
from include.matching.people import encode, without_placeholders


def blocking_recall(table: pa.Table, evidence: tuple[str, ...], judge: Judge) -> float:
    """The share of the true pairs with an equal key in at least one pass."""
    model = learn(table, MatchSettings(evidence=evidence))
    people = without_placeholders(encode(table, evidence), model.placeholders)
    keys = usable_keys(people, model.common)
    # The matcher orders people by their number.
    place = np.empty(judge.size, dtype=np.int64)
    place[judge.rows(pa.chunked_array([pa.array(people.legacy_id, pa.string())]))] = np.arange(judge.size)
    left, right = place[judge.true_left], place[judge.true_right]
    found = np.zeros(len(left), dtype=np.bool_)
    for key in keys:
        found |= (key[left] > 0) & (key[left] == key[right])
    return float(found.mean()) if len(found) else 1.0
