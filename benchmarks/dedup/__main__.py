"""Matching patients: how well, how fast and in how much memory, beside Splink where it is installed.

    python -m benchmarks.dedup [--data NAME ...] [--fields names|all ...] [--rows N] [--peers FOLDER | --no-peers]

Prints one table. Every measurement runs in a process of its own. Times are medians of ``--rounds`` rounds (one
where a round is long) from a table in memory to pairs, learning included; ours also makes clusters and survivors.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.dedup.blocking import blocking_recall
from benchmarks.dedup.data import FIELDS, Case, data_sets
from benchmarks.dedup.ours import MERGE_AT
from benchmarks.dedup.processes import MeasurementError, measured
from benchmarks.dedup.quality import Judge, Quality, best_f1, calibration_error
from include.matching.deduplicate import MatchSettings
from local.demo import Stopwatch

PEERS = Path(".state") / "peers"
PEERS_VARIABLE = "BENCHMARK_PEERS"
_HERE = Path(__file__).parent
_SPLINK = _HERE / "splink_peer.py"
_REVIEW_AT = MatchSettings().review_at


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    case: Case
    matcher: str
    quality: Quality
    blocking: float | None
    seconds: float
    megabytes: float

    def cells(self) -> list[str]:
        """What the table shows."""
        quality = self.quality
        merges = [
            f"{value:.4f}"
            for agreement in quality.merges.values()
            for value in (agreement.f1, agreement.precision, agreement.recall)
        ]
        return [
            f"{self.case.data} {self.case.people.table.num_rows:,}",
            self.case.fields,
            self.matcher,
            f"{quality.best_f1:.4f}",
            *merges,
            f"{quality.found:.4f}",
            f"{quality.queue:.1f}",
            "" if self.blocking is None else f"{self.blocking:.4f}",
            f"{quality.calibration:.3f}",
            f"{self.seconds:,.1f}",
            f"{self.megabytes:,.0f}",
        ]


def headings() -> list[str]:
    """One heading per cell of a line."""
    merges = [f"{what} {merge_at:.2f}" for merge_at in MERGE_AT for what in ("F1", "prec", "rec")]
    ends = ["+review", "queue/1k", "blocking", "calib", "seconds", "MB"]
    return ["data", "fields", "matcher", "best F1", *merges, *ends]


def ours(case: Case, judge: Judge, people: Path, rounds: int) -> Line:
    """Measures this project's matcher."""
    command = [sys.executable, "-m", "benchmarks.dedup.ours"]
    more = [str(people), "--evidence", *case.evidence]
    time = measured([*command, "time", *more, "--rounds", str(rounds)], os.environ)
    with tempfile.TemporaryDirectory() as folder:
        measured([*command, "score", *more, "--out", folder], os.environ)
        quality = quality_of_ours(judge, Path(folder))
    blocking = blocking_recall(case.table, case.evidence, judge)
    return Line(case, "ours", quality, blocking, time.seconds, time.megabytes)


def quality_of_ours(judge: Judge, folder: Path) -> Quality:
    """Judges what the scoring process wrote."""
    scored = pq.read_table(folder / "pairs.parquet")
    clusters = {
        merge_at: judge.clusters(pq.read_table(folder / f"merged-{merge_at}.parquet"))
        for merge_at in MERGE_AT
    }
    decided = pq.read_table(folder / f"decided-{MERGE_AT[0]}.parquet")
    reported = decided.filter(pc.field("score") >= _REVIEW_AT)
    waiting = reported.filter(pc.field("decision") == "pending").num_rows
    return Quality(
        best_f1=best_f1(scored["score"].to_numpy(), judge.right(scored), judge.true_pairs),
        merges={merge_at: judge.of_clusters(cluster) for merge_at, cluster in clusters.items()},
        found=judge.found(reported, clusters[MERGE_AT[0]]),
        queue=1000 * waiting / judge.size,
        calibration=calibration_of(judge, scored),
    )


def splink(case: Case, judge: Judge, people: Path, rounds: int, python: Path) -> Line:
    """Measures Splink."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.parquet"
        command = [str(python), str(_SPLINK), str(people), str(pairs), "--rounds", str(rounds)]
        # An environment of its own: nothing of the project may get into its imports.
        time = measured(command, {"PATH": os.environ.get("PATH", ""), "HOME": folder})
        quality = quality_of_pairs(judge, pq.read_table(pairs))
    return Line(case, time.report["name"], quality, None, time.seconds, time.megabytes)


def quality_of_pairs(judge: Judge, scored: pa.Table) -> Quality:
    """Judges a matcher that scores pairs only: a merge is a pair from the threshold on."""

    def above(score: float) -> pa.Table:
        return scored.filter(pc.field("score") >= score)

    reported = above(_REVIEW_AT)
    waiting = reported.num_rows - above(MERGE_AT[0]).num_rows
    return Quality(
        best_f1=best_f1(scored["score"].to_numpy(), judge.right(scored), judge.true_pairs),
        merges={merge_at: judge.of_pairs(above(merge_at)) for merge_at in MERGE_AT},
        found=judge.found(reported),
        queue=1000 * waiting / judge.size,
        calibration=calibration_of(judge, scored),
    )


def calibration_of(judge: Judge, scored: pa.Table) -> float:
    """The calibration error of the pairs that a person or a merge would see."""
    seen = scored.filter(pc.field("score") >= _REVIEW_AT)
    return calibration_error(seen["score"].to_numpy(), judge.right(seen))


def lines(
    arguments: argparse.Namespace, python: Path | None, progress: Callable[[str], None]
) -> Iterator[Line]:
    """All measurements, one after the other."""
    sets = data_sets(arguments.rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.parquet"
        for data in arguments.data:
            people = sets[data]()
            for fields in arguments.fields:
                case = Case(data, fields, people)
                if case.repeats_names:
                    continue
                pq.write_table(case.table, path)
                judge = Judge(case.table["legacy_id"], people.person)
                yield ours(case, judge, path, arguments.rounds)
                if python:
                    try:
                        yield splink(case, judge, path, arguments.rounds, python)
                    except MeasurementError as error:
                        progress(f"NOT MEASURED: Splink on {data}, {fields}: {error}")


def table(measurements: list[Line]) -> str:
    """The measurements as aligned text."""
    rows = [headings(), *(line.cells() for line in measurements)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 3 else cell.rjust(width)  # noqa: PLR2004 - words left, numbers right
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def peer_python(folder: Path) -> Path | None:
    """The Python of the peers' virtual environment, if there is one."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    return python.absolute() if python.exists() else None


def arguments_of(command_line: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    names = tuple(data_sets(0))
    parser = argparse.ArgumentParser(description="Measure the matching of patients.")
    parser.add_argument(
        "--data", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--fields", nargs="+", choices=FIELDS, default=FIELDS, help="what may be looked at")
    parser.add_argument("--rows", type=int, default=100_000, help="records of the synthetic data")
    parser.add_argument("--rounds", type=int, default=3, help="rounds where one takes less than 20 s")
    peers = parser.add_mutually_exclusive_group()
    peers.add_argument(
        "--peers",
        type=Path,
        default=Path(os.environ.get(PEERS_VARIABLE, PEERS)),
        help=f"virtual environment with peers (or {PEERS_VARIABLE}; {PEERS} otherwise)",
    )
    peers.add_argument("--no-peers", action="store_true", help="measure this project alone")
    return parser.parse_args(command_line)


def main() -> None:
    """The command line."""
    arguments = arguments_of()
    progress = Stopwatch()
    python = None if arguments.no_peers else peer_python(arguments.peers)
    if python is None and not arguments.no_peers:
        progress(
            f"NO PEERS: {arguments.peers} is no virtual environment; benchmarks/README.md says how to make it."
        )
    measurements: list[Line] = []
    for line in lines(arguments, python, progress):
        measurements.append(line)
        progress(" ".join(line.cells()))
    sys.stdout.write(f"\n{table(measurements)}\n")


if __name__ == "__main__":
    main()
