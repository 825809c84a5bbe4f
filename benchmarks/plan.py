"""A long run planned on paper from a short one, and measured.

    python -m benchmarks.plan [--rows 2000000] [--from 200000] [--further 10000000] [--folder FOLDER]

A full migration of `--from` patients and as many users is run by `airflow dags test`; the rates of its phases, as a
preflight would take them from the last complete run, give the plan for `--rows` and `--further`. The plan for `--rows`
is then run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.incremental import (
    DEFAULT_FOLDER,
    SERVER_SETTINGS,
    Measured,
    Progress,
    make_source,
    make_target,
    run,
    size_of,
)
from benchmarks.speed.measured import aligned
from include.core.report import BATCH_PHASES
from include.core.run_estimate import FIXED_SECONDS, phase_times, readable_seconds
from include.entities import ENTITIES
from local.databases import OWNER, READER, legacy_dsn, target_dsn
from local.demo import Stopwatch, migrate_metadata
from local.environment import State, airflow_environment
from local.postgres import EmbeddedPostgres
from local.processes import exclusive, terminate_like_interrupt

WHOLE = "whole run"
_FULL = "mdw_full_migration"


@dataclass(frozen=True)
class Plan:
    """Seconds by phase, and of the whole run, of a size."""

    rows: int
    seconds: Mapping[str, float]


def source_rows(rows: int) -> dict[str, int]:
    """Rows of the legacy tables that entities are made of, with so many patients."""
    size = size_of(rows)
    return {
        "dispatch_patient": size.patients,
        "auth_user": size.users,
        "dispatch_office": size.offices,
        "dispatch_office_doctors": size.office_doctors,
    }


def rates(measured: Measured, rows: int) -> dict[str, float]:
    """Rows per second of the phases of a run with so many patients, in the terms of the preflight's estimate."""
    unit = phase_times(ENTITIES.values(), source_rows(rows), dict.fromkeys(BATCH_PHASES, 1.0), "postgres")
    return {
        time.phase: time.rows / measured.seconds[time.phase]
        for time in unit
        if measured.seconds[time.phase] > 0
    }


def planned(rows: int, measured: Mapping[str, float]) -> Plan:
    """Seconds that a run with so many patients takes at those rates."""
    times = phase_times(ENTITIES.values(), source_rows(rows), measured, "postgres")
    seconds = {time.phase: time.seconds for time in times}
    return Plan(rows, {**seconds, WHOLE: sum(seconds.values()) + FIXED_SECONDS})


def measure(state: State, rows: int, progress: Progress) -> Measured:
    """One full run of that size, in databases of its own."""
    with EmbeddedPostgres(state.postgres, settings=SERVER_SETTINGS) as server:
        for login in (READER, OWNER):
            server.create_login(login)
        environment = airflow_environment(state, legacy_dsn=legacy_dsn(server), target_dsn=target_dsn(server))
        make_source(server, rows)
        make_target(server)
        progress(f"source: {rows:,} users and as many patients")
        migrate_metadata(state, environment, progress)
        result = run(state, environment, _FULL)
    progress(f"{rows:,}: {result.seconds[WHOLE]:,.0f} s, {result.written:,} rows written")
    return result


def table(short: Measured, first: int, plan: Plan, long: Measured | None, further: Plan) -> str:
    """Measured, planned, measured again, and planned further."""
    lines = [
        (
            "seconds",
            f"{first:,} measured",
            f"{plan.rows:,} planned",
            "measured",
            "of the plan",
            f"{further.rows:,} planned",
        )
    ]
    for phase, expected in plan.seconds.items():
        found = None if long is None else long.seconds[phase]
        lines.append(
            (
                phase,
                f"{short.seconds[phase]:,.1f}",
                f"{expected:,.1f}",
                "" if found is None else f"{found:,.1f}",
                "" if found is None else f"{found / expected:.0%}",
                readable_seconds(further.seconds[phase]),
            )
        )
    return aligned(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Plan a long run from a short one, and measure it.")
    parser.add_argument("--rows", type=int, default=2_000_000, help="patients of the run that is checked")
    parser.add_argument(
        "--from", type=int, default=200_000, dest="first", help="of the run that gives the rates"
    )
    parser.add_argument("--further", type=int, default=10_000_000, help="of a run that is only planned")
    parser.add_argument("--unchecked", action="store_true", help="plan only")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="for server, logs and reports")
    arguments = parser.parse_args()
    terminate_like_interrupt()
    state, progress = State(arguments.folder.resolve()), Stopwatch()
    with exclusive(state):
        short = measure(state, arguments.first, progress)
        known = rates(short, arguments.first)
        plan, further = planned(arguments.rows, known), planned(arguments.further, known)
        for each in (plan, further):
            progress(f"{each.rows:,}: planned {readable_seconds(each.seconds[WHOLE])}")
        long = None if arguments.unchecked else measure(state, arguments.rows, progress)
    sys.stdout.write(f"\n{table(short, arguments.first, plan, long, further)}\n")


if __name__ == "__main__":
    main()
