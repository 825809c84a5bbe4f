"""One measurement of this project's matcher, in a process of its own.

    python -m benchmarks.dedup.ours time PEOPLE --evidence COLUMN ... --rounds 3
    python -m benchmarks.dedup.ours score PEOPLE --evidence COLUMN ... --out FOLDER

``time`` runs everything as a migration does. ``score`` keeps pairs of low scores too, so that thresholds can be
compared, and merges at several of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from include.matching.deduplicate import MatchSettings, compare, decide, deduplicate, learn

MERGE_AT = (0.99, 0.95)
LOWEST_SCORE = 0.001
LONG = 20.0
"""Seconds from which on one round is enough."""


def timed(people: pa.Table, settings: MatchSettings, rounds: int) -> list[float]:
    """Seconds of each round."""
    seconds: list[float] = []
    while len(seconds) < rounds and not (seconds and seconds[0] > LONG):
        begun = time.perf_counter()
        deduplicate(people, settings)
        seconds.append(time.perf_counter() - begun)
    return seconds


def score(people: pa.Table, settings: MatchSettings, folder: Path) -> None:
    """Writes ``pairs.parquet`` (down to the lowest score) and, for each ``merge_at``, ``merged-….parquet``."""
    low = replace(settings, review_at=LOWEST_SCORE)
    model = learn(people, low)
    pairs = compare(people, model, low)
    pq.write_table(pairs.select(["left_id", "right_id", "score"]), folder / "pairs.parquet")
    for merge_at in MERGE_AT:
        result = decide(people, model, replace(low, merge_at=merge_at), pairs, None)
        pq.write_table(result.survivors, folder / f"merged-{merge_at}.parquet")
        decided = result.pairs.select(["left_id", "right_id", "score", "decision"])
        pq.write_table(decided, folder / f"decided-{merge_at}.parquet")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("time", "score"))
    parser.add_argument("people", type=Path)
    parser.add_argument("--evidence", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    people = pq.read_table(arguments.people)
    settings = MatchSettings(evidence=tuple(arguments.evidence))
    seconds = [0.0]
    if arguments.task == "time":
        seconds = timed(people, settings, arguments.rounds)
    else:
        score(people, settings, arguments.out)
    sys.stdout.write(json.dumps({"seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
