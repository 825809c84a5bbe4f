"""Loading patients: this project beside the raw COPY limit and peers.

    python -m benchmarks.speed [--rows 100000] [--repeat 3] [--only NAME ...] [--peers FOLDER | --no-peers]

Every round measures everybody once, one after the other, each into a new copy of the same target. Ratios are those
of a round, and of them the median: the machine is not the same from minute to minute.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.dedup.__main__ import PEERS, PEERS_VARIABLE, peer_python
from benchmarks.incremental import DEFAULT_FOLDER, Progress
from benchmarks.speed import limit
from benchmarks.speed.contestants import LIMIT, Contestant, contestants
from benchmarks.speed.measured import MeasurementError, Sample, aligned, middle, ratios
from benchmarks.speed.rig import rig
from local.demo import Stopwatch
from local.environment import State
from local.processes import exclusive, terminate_like_interrupt


def measure(
    state: State, rows: int, repeat: int, wanted: Sequence[Contestant], progress: Progress
) -> dict[str, list[Sample]]:
    """Samples of everybody, round by round; who fails is told and left out."""
    results: dict[str, list[Sample]] = {one.name: [] for one in wanted}
    with rig(state, rows, progress) as made:
        limit.prepare(made)
        for _ in range(repeat):
            for one in wanted:
                if one.name not in results:
                    continue
                try:
                    sample = one.run(made)
                except MeasurementError as error:
                    progress(f"NOT MEASURED: {one.name}: {error}")
                    del results[one.name]
                    continue
                results[one.name].append(sample)
                progress(f"{one.name}: {sample.rate:,.0f} rows/s")
    return results


def table(results: Mapping[str, Sequence[Sample]], wanted: Sequence[Contestant]) -> str:
    """Median rates, and how much of the limit they are."""
    lines = [("patients", "rows/s", "of the limit", "client CPU µs/row", "peak MB", "a row is")]
    for one in wanted:
        if one.name not in results:
            continue
        samples = results[one.name]
        sample = middle(samples)
        lines.append(
            (
                one.name,
                f"{sample.rate:,.0f}",
                f"{ratios(samples, results[LIMIT]):.2f}",
                f"{1e6 * sample.cpu_seconds / sample.rows:,.1f}",
                "" if sample.peak_mb is None else f"{sample.peak_mb:,.0f}",
                one.carries,
            )
        )
    return aligned(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure loading of patients against the limit and peers.")
    parser.add_argument("--rows", type=int, default=100_000, help="patients, and users")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="contestants with one of these in their names"
    )
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="for server and staging")
    peers = parser.add_mutually_exclusive_group()
    default = Path(os.environ.get(PEERS_VARIABLE, PEERS))
    peers.add_argument("--peers", type=Path, default=default, help="virtual environment with peers")
    peers.add_argument("--no-peers", action="store_true", help="without those that need it")
    arguments = parser.parse_args()
    terminate_like_interrupt()
    state, progress = State(arguments.folder.resolve()), Stopwatch()
    python = None if arguments.no_peers else peer_python(arguments.peers)
    if python is None and not arguments.no_peers:
        progress(f"NO PEERS: {arguments.peers} is no virtual environment (benchmarks/README.md)")
    wanted = [
        one
        for one in contestants(python, progress)
        if one.name == LIMIT or not arguments.only or any(word in one.name for word in arguments.only)
    ]
    with exclusive(state):
        results = measure(state, arguments.rows, arguments.repeat, wanted, progress)
    sys.stdout.write(f"\n{table(results, wanted)}\n")


if __name__ == "__main__":
    main()
