"""What an incremental run costs against a full one: nothing changed, and 1 % of the rows changed.

    python -m benchmarks.incremental [--rows 1000000] [--repeat 1] [--folder FOLDER]

Users and patients are `--rows` each, from the project's own generator. Prints seconds per phase as a table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from include.core.report import BATCH_PHASES
from include.synthetic.sizes import SourceSize
from local.databases import LEGACY, OWNER, READER, TARGET, legacy_dsn, target_dsn
from local.demo import Stopwatch, migrate_metadata
from local.environment import PLATFORM_SQL, PROJECT, State, airflow_environment
from local.legacy_source import fill
from local.postgres import EmbeddedPostgres, run_script
from local.processes import airflow, exclusive, run_to_log, terminate_like_interrupt

DEFAULT_FOLDER = PROJECT / ".state" / "benchmarks"
FULL, CHANGED, UNCHANGED = "full", "1 % changed", "unchanged"
RUNS = (FULL, CHANGED, UNCHANGED)
SEED = 1
_PREPARATION, _WHOLE_RUN, _COMMAND = "preparation and the rest", "whole run", "with Airflow's start"
ROWS = (_PREPARATION, *BATCH_PHASES, _WHOLE_RUN, _COMMAND)
SERVER_SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
# Every hundredth row of both tables, but not the same people: a patient is read again for either.
_CHANGES = (
    b"UPDATE auth_user SET first_name = first_name || 'x' WHERE id %% 100 = %s",
    b"UPDATE dispatch_patient SET suspended = NOT suspended WHERE (id + 50) %% 100 = %s",
)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes:
        seconds: by row of the table.
        read: source rows that the run took up.
        written: business rows inserted, updated or deleted.
    """

    seconds: Mapping[str, float]
    read: int
    written: int


class WrongResultError(RuntimeError):
    """A run did not do what is measured; its time says nothing."""


def size_of(rows: int) -> SourceSize:
    """So many users and patients (and their doctors); of other tables only what references need."""
    few = max(rows // 1_000, 10)
    return SourceSize(
        **{"patients": rows, "users": rows + few, "user_groups": rows + few, "offices": few},
        **{"office_doctors": few},
        **dict.fromkeys(("jaws", "instructions", "projects", "plans", "states", "tasks"), 0),
    )


def make_source(server: EmbeddedPostgres, rows: int) -> None:
    """A new legacy database that the reader may select from."""
    server.drop_database(LEGACY)
    dsn = server.create_database(LEGACY)
    fill(dsn, size_of(rows), SEED, progress=lambda _: None)
    with psycopg.connect(dsn) as connection:
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}".encode())


def make_target(server: EmbeddedPostgres) -> None:
    """A new, empty target like a Supabase project."""
    server.drop_database(TARGET)
    run_script(server.create_database(TARGET, owner=OWNER), PLATFORM_SQL)


def change(server: EmbeddedPostgres, remainder: int) -> int:
    """Update 1 % of the users and 1 % of the patients, spread over their tables; returns how many rows."""
    with psycopg.connect(server.dsn(LEGACY)) as connection:
        return sum(connection.execute(statement, [remainder]).rowcount for statement in _CHANGES)


def run(state: State, environment: Mapping[str, str], dag_id: str) -> Measured:
    """One run in the foreground.

    Raises:
        CommandError: it failed; the message names its log.
    """
    conf = {"dry_run": False, "enable_ai": False}
    log = state.logs / f"{dag_id}-{time.time_ns()}.log"
    before = set(state.reports.glob("*/report.json"))
    begun = time.monotonic()
    run_to_log(airflow("dags", "test", dag_id, "--conf", json.dumps(conf)), environment, log)
    command = time.monotonic() - begun
    (path,) = set(state.reports.glob("*/report.json")) - before
    return measured(json.loads(path.read_text()), command)


def measured(report: Mapping[str, Any], command: float) -> Measured:
    """The figures of a run's report.

    Args:
        command: seconds from the start of the command to its end.
    """
    phases = dict.fromkeys(BATCH_PHASES, 0.0)
    phases |= {phase["phase"]: phase["wall_seconds"] for phase in report["phases"]}
    whole = report["seconds"]
    rest = whole - sum(phases.values())
    entities = report["entities"]
    return Measured(
        {_PREPARATION: rest, **phases, _WHOLE_RUN: whole, _COMMAND: command},
        read=sum(entity["read"] for entity in entities),
        written=sum(entity[fate] for entity in entities for fate in ("inserted", "updated", "deleted")),
    )


def measure(
    state: State, server: EmbeddedPostgres, rows: int, repeat: int, progress: Progress
) -> dict[str, list[Measured]]:
    """All runs, by kind.

    Raises:
        WrongResultError: a run wrote more or less than it should have.
    """
    server.create_login(READER)
    server.create_login(OWNER)
    environment = airflow_environment(state, legacy_dsn=legacy_dsn(server), target_dsn=target_dsn(server))
    make_source(server, rows)
    progress(f"source: {rows:,} users and as many patients")
    migrate_metadata(state, environment, progress)
    results: dict[str, list[Measured]] = {kind: [] for kind in RUNS}
    for round_ in range(repeat):
        make_target(server)
        changed = 0
        for kind in RUNS:
            if kind == CHANGED:
                changed = change(server, round_)
                progress(f"changed {changed:,} rows of the source")
            result = run(state, environment, f"mdw_{'full' if kind == FULL else 'incremental'}_migration")
            results[kind].append(result)
            progress(
                f"{kind}: {result.seconds[_WHOLE_RUN]:,.1f} s, {result.read:,} rows read,"
                f" {result.written:,} written"
            )
            check(kind, result, rows, changed)
    return results


def check(kind: str, result: Measured, rows: int, changed: int) -> None:
    """Whether the run did its work, and not another's."""
    expected = {
        FULL: result.written > rows,
        CHANGED: result.written > 0 and changed <= result.read < rows,
        UNCHANGED: result.written == 0,
    }
    if not expected[kind]:
        raise WrongResultError(
            f"{kind}: {result.read:,} rows read and {result.written:,} written of {rows:,} users and as many"
            f" patients, of which {changed:,} rows were changed."
        )


def table(results: Mapping[str, Sequence[Measured]]) -> str:
    """Median seconds per phase and kind of run, and what they are of the full run's."""
    lines: list[tuple[str, ...]] = [("seconds (median)", *RUNS)]
    for row in ROWS:
        lines.append((row, *(f"{_median(results[kind], row):,.1f}" for kind in RUNS)))
    for name in ("read", "written"):
        counts = (median(getattr(result, name) for result in results[kind]) for kind in RUNS)
        lines.append((f"rows {name}", *(f"{count:,.0f}" for count in counts)))
    full = _median(results[FULL], _WHOLE_RUN)
    ratios = (_median(results[kind], _WHOLE_RUN) / full for kind in RUNS)
    lines.append(("of the full run", *(f"{ratio:.1%}" for ratio in ratios)))
    widths = [max(len(line[place]) for line in lines) for place in range(len(RUNS) + 1)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def _median(results: Sequence[Measured], row: str) -> float:
    return median(result.seconds[row] for result in results)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure incremental runs against a full one.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="users, and patients")
    parser.add_argument("--repeat", type=int, default=1, help="rounds, each with a new target")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="for server, logs and reports")
    arguments = parser.parse_args()
    terminate_like_interrupt()
    state, progress = State(arguments.folder.resolve()), Stopwatch()
    with exclusive(state), EmbeddedPostgres(state.postgres, settings=SERVER_SETTINGS) as server:
        results = measure(state, server, arguments.rows, arguments.repeat, progress)
    sys.stdout.write(f"\n{table(results)}\n")


if __name__ == "__main__":
    main()
