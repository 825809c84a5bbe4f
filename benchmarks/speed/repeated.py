"""What more batches, more rows and a second run cost.

    python -m benchmarks.speed.repeated batches|memory|again [--rows 100000] [--repeat 3] [--folder FOLDER]

`batches` loads the same patients in ever smaller batches, `memory` a table and one of four times its size, `again` a
table once more that is finished, and once more when 1 % of its rows changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psycopg

from benchmarks.incremental import DEFAULT_FOLDER, Progress, WrongResultError
from benchmarks.speed.contestants import migrated
from benchmarks.speed.measured import aligned
from benchmarks.speed.pipeline import Loaded, opened, workers
from benchmarks.speed.rig import Rig, rig
from local.databases import LEGACY
from local.demo import Stopwatch
from local.environment import State
from local.processes import exclusive, terminate_like_interrupt

BATCH_ROWS = (25_000, 5_000, 1_000)
TIMES = 4
FIRST, AGAIN, UNCHANGED, CHANGED = "first load", "full run again", "nothing changed", "1 % changed"
_KINDS = {AGAIN: "full", UNCHANGED: "incremental", CHANGED: "incremental"}
_CHANGE = b"UPDATE dispatch_patient SET suspended = NOT suspended WHERE id %% 100 = %s"
_WRITTEN = """SELECT count(*), md5(string_agg(r.version, ',' ORDER BY r.version)) FROM (
  SELECT xmin || ' ' || id AS version FROM public.patients
  UNION ALL SELECT xmin || ' ' || legacy_id FROM migration.id_map WHERE entity = 'patients') r"""


def batches(state: State, rows: int, repeat: int, progress: Progress) -> str:
    """Cost of a batch more, everything included."""
    results: dict[int, list[Loaded]] = {size: [] for size in BATCH_ROWS}
    with rig(state, rows, progress) as made:
        for _ in range(repeat):
            for size in BATCH_ROWS:
                results[size].append(migrated(made, 1, batch_rows=size))
                progress(f"batches of {size:,}: {rows / results[size][-1].work_seconds:,.0f} rows/s")
    lines = [("rows in a batch", "batches", "seconds", "rows/s", "ms for a batch more")]
    fewest = results[BATCH_ROWS[0]]
    for size, loads in results.items():
        seconds = median(load.work_seconds for load in loads)
        more = loads[0].batches - fewest[0].batches
        longer = median(
            load.work_seconds - first.work_seconds for load, first in zip(loads, fewest, strict=True)
        )
        each = f"{1_000 * longer / more:,.0f}" if more else ""
        lines.append((f"{size:,}", f"{loads[0].batches:,}", f"{seconds:.1f}", f"{rows / seconds:,.0f}", each))
    return aligned(lines)


def memory(state: State, rows: int, repeat: int, progress: Progress) -> str:
    """Peak memory of a worker that loads a table, and one that loads four times as much."""
    lines = [("patients", "rows/s", "client CPU µs/row", "peak MB")]
    for size in (rows, TIMES * rows):
        with rig(state, size, progress) as made:
            loads = [migrated(made, 1) for _ in range(repeat)]
        cpu = median(1e6 * load.cpu_seconds / load.rows for load in loads)
        rate = median(load.rows / load.work_seconds for load in loads)
        lines.append(
            (f"{size:,}", f"{rate:,.0f}", f"{cpu:.1f}", f"{max(load.peak_mb for load in loads):,.0f}")
        )
        progress(f"{size:,} patients: {rate:,.0f} rows/s")
    return aligned(lines)


@dataclass(frozen=True)
class Round:
    """A first load and what came behind it, by name."""

    loads: Mapping[str, Loaded]

    def seconds(self, name: str) -> float:
        """Of the whole way, planning included."""
        return sum(self.loads[name].seconds.values())


def again(state: State, rows: int, repeat: int, progress: Progress) -> str:
    """A table that is there, loaded again.

    Raises:
        WrongResultError: a row was written that did not change.
    """
    rounds = []
    with rig(state, rows, progress) as made:
        for number in range(repeat):
            rounds.append(_round(made, number))
            progress(", ".join(f"{name} {rounds[-1].seconds(name):.1f} s" for name in rounds[-1].loads))
    return _again_table(rounds)


def _round(made: Rig, number: int) -> Round:
    loads = {FIRST: migrated(made, 1, run_id=FIRST)}
    before = _written(made)
    loads |= {name: _once_more(name) for name in (AGAIN, UNCHANGED)}
    if _written(made) != before:
        raise WrongResultError("A row was written that did not change.")
    with psycopg.connect(made.admin(LEGACY)) as connection:
        changed = connection.execute(_CHANGE, [number]).rowcount
    loads[CHANGED] = _once_more(CHANGED)
    with psycopg.connect(made.admin()) as connection:
        written = connection.execute(
            "SELECT count(*) FROM migration.id_map WHERE entity = 'patients' AND last_run = %s", [CHANGED]
        ).fetchone()
    if written != (changed,):
        raise WrongResultError(f"{written} rows were written, {changed} had changed.")
    return Round(loads)


def _written(made: Rig) -> tuple[object, ...] | None:
    """Which transaction wrote which row."""
    with psycopg.connect(made.admin()) as connection:
        return connection.execute(_WRITTEN).fetchone()


def _once_more(name: str) -> Loaded:
    kind = _KINDS[name]
    with opened(name, kind=kind), workers(1) as one:
        return one.migrate(name, "patients", {}, kind=kind)


def _again_table(rounds: Sequence[Round]) -> str:
    lines = [("patients", "seconds", "of the first", "rows/s", "loading alone, times as fast")]
    rows = rounds[0].loads[FIRST].rows
    for name in rounds[0].loads:
        seconds = median(each.seconds(name) for each in rounds)
        share = median(each.seconds(name) / each.seconds(FIRST) for each in rounds)
        faster = median(
            each.loads[FIRST].seconds["loading"] / each.loads[name].seconds["loading"] for each in rounds
        )
        told = f"{faster:.1f}" if name == AGAIN else ""
        lines.append((name, f"{seconds:.2f}", f"{share:.1%}", f"{rows / seconds:,.0f}", told))
    return aligned(lines)


TABLES: Mapping[str, Callable[[State, int, int, Progress], str]] = {
    "batches": batches,
    "memory": memory,
    "again": again,
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure more batches, more rows, and a second run.")
    parser.add_argument("table", choices=TABLES, help="what to measure")
    parser.add_argument("--rows", type=int, default=100_000, help="patients, and users")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="for server and staging")
    arguments = parser.parse_args()
    terminate_like_interrupt()
    state = State(arguments.folder.resolve())
    with exclusive(state):
        result = TABLES[arguments.table](state, arguments.rows, arguments.repeat, Stopwatch())
    sys.stdout.write(f"\n{result}\n")


if __name__ == "__main__":
    main()
