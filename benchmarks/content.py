"""What the proof of every row costs against reading the same rows once.

    python -m benchmarks.content [--rows 100000] [--repeat 3] [--folder FOLDER]

Loads generated users and patients, `--rows` each, into a new target. Then, round by round: the source's rows read
once by COPY and thrown away; the proof (read, transformed and hashed here, hashed there); the proof where one row
differs, so that rows are read a second time; and the question who else wrote the target.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import psycopg

from benchmarks.incremental import DEFAULT_FOLDER, Progress, WrongResultError, make_source, make_target
from include.core.batches import Partition
from include.core.source_query import select_rows
from include.core.tracking import failures
from include.core.transform import transform
from include.entities import ENTITIES
from local.databases import OWNER, READER, legacy_dsn, target_dsn
from local.demo import Stopwatch
from local.deployment import deploy
from local.environment import State, airflow_settings, connection_variable
from local.postgres import EmbeddedPostgres
from local.processes import exclusive, terminate_like_interrupt
from plugins.hooks.batch_loader import BatchLoader, LoadBatch
from plugins.hooks.content import ContentProof, whole
from plugins.hooks.legacy_mdw import LegacyMdwHook
from plugins.hooks.target import open_target
from plugins.hooks.tracking import TrackingHook, peak_memory_mb

RUN = "benchmark"
PROVED = [ENTITIES[name] for name in ("practices", "profiles", "practice_members", "patients")]
"""What the source has rows of."""
BATCH_ROWS = 25_000
READ, PROOF, DIFFERING, FOREIGN = "read once", "proof", "proof, one row differs", "foreign writes"
CASES = (READ, PROOF, DIFFERING, FOREIGN)
_SERVER = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
_OPENED = {
    **dict.fromkeys(("mapping_version", "rules_version", "code_version", "started_by"), RUN),
    **{"dag_id": RUN, "type": "full", "scope": "everything", "dry_run": False},
    **{"parameters": {"entities": []}, "source_horizon": 1, "source_identity": {}},
}
_SPOIL = (
    "UPDATE public.patients SET suspended = NOT suspended"
    " WHERE legacy_patient_id = (SELECT max(legacy_patient_id) FROM public.patients)"
)


def load() -> int:
    """Migrate what is proved; returns the number of rows."""
    rows = 0
    with LegacyMdwHook().snapshot() as source, open_target("postgres") as target:
        TrackingHook(target, RUN).open_run(**_OPENED)
        for entity in PROVED:
            loader = BatchLoader(target, RUN, entity, dry_run=False)
            for number, raw in enumerate(whole(source, entity, BATCH_ROWS)()):
                made = transform(entity, raw)
                batch = LoadBatch(f"p000-b{number:04d}", "", made.clean, made.rejects, made.findings)
                rows += loader.load(batch, 1)[0].extracted
                target.call("refresh_statistics", entity=entity.name)
    return rows


def read_once(dsn: str) -> None:
    """Every row that is proved, by COPY, looked at by nobody."""
    with LegacyMdwHook().snapshot() as source, psycopg.connect(dsn) as connection:
        for entity in PROVED:
            query = select_rows(entity, source.existing(entity), Partition(entity.name, 0, None, None))
            with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
                for _ in copy:
                    pass


def prove() -> int:
    """The whole proof; returns the number of rows that differ."""
    differing = 0
    with LegacyMdwHook().snapshot() as source, open_target("postgres") as target:
        proof = ContentProof(target, RUN)
        for entity in PROVED:
            checks = failures(proof.prove(entity, whole(source, entity, BATCH_ROWS)))
            differing += sum(int(check.found.partition(":")[0]) for check in checks)
    return differing


def ask_for_foreign_writes() -> int:
    """Who else wrote the target; returns the number of rows."""
    with open_target("postgres") as target:
        proof = ContentProof(target, RUN)
        return sum(proof.foreign_writes(entity).rows for entity in PROVED)


def measure(state: State, rows: int, repeat: int, progress: Progress) -> tuple[int, dict[str, list[float]]]:
    """Rows that were loaded, and seconds of every case, round by round.

    Raises:
        WrongResultError: something else was found than differs.
    """
    results: dict[str, list[float]] = {case: [] for case in CASES}
    with EmbeddedPostgres(state.postgres, settings=_SERVER) as server:
        for login in (READER, OWNER):
            server.create_login(login)
        make_source(server, rows)
        make_target(server)
        deploy(target_dsn(server))
        os.environ["AIRFLOW_CONN_LEGACY_MDW"] = connection_variable(legacy_dsn(server))
        os.environ["AIRFLOW_CONN_SUPABASE_DB"] = connection_variable(target_dsn(server))
        loaded = load()
        progress(f"loaded {loaded:,} rows; peak memory {peak_memory_mb():,.0f} MB")
        for round_ in range(repeat):
            timed(results[READ], lambda: read_once(legacy_dsn(server)), expected=None)
            timed(results[PROOF], prove, expected=0)
            timed(results[FOREIGN], ask_for_foreign_writes, expected=0)
            spoil(server)
            timed(results[DIFFERING], prove, expected=1)
            spoil(server)
            progress(", ".join(f"{case} {results[case][round_]:.1f} s" for case in CASES))
        progress(f"peak memory {peak_memory_mb():,.0f} MB")
    return loaded, results


def spoil(server: EmbeddedPostgres) -> None:
    """Change a row of the target, or change it back."""
    with psycopg.connect(target_dsn(server)) as connection:
        connection.execute(_SPOIL)


def timed(seconds: list[float], work: Callable[[], int | None], *, expected: int | None) -> None:
    """Do it, and keep how long it took.

    Raises:
        WrongResultError: it came to something else.
    """
    begun = time.monotonic()
    result = work()
    seconds.append(time.monotonic() - begun)
    if result != expected:
        raise WrongResultError(f"{result} rows differ, expected were {expected}.")


def table(results: Mapping[str, Sequence[float]], rows: int) -> str:
    """Median seconds, rows per second, and how often the source could have been read meanwhile."""
    seconds = {case: median(results[case]) for case in CASES}
    lines = [(f"{rows:,} rows", "seconds", "rows/s", "of reading once")]
    lines += [
        (case, f"{took:.1f}", f"{rows / took:,.0f}", f"{took / seconds[READ]:.2f}")
        for case, took in seconds.items()
    ]
    return "\n".join(f"{name:<30}{took:>10}{rate:>12}{ratio:>18}" for name, took, rate, ratio in lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the proof of every row.")
    parser.add_argument("--rows", type=int, default=100_000, help="users, and patients")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="for server and logs")
    arguments = parser.parse_args()
    terminate_like_interrupt()
    state = State(arguments.folder.resolve())
    os.environ.update(airflow_settings(state))
    with exclusive(state):
        rows, results = measure(state, arguments.rows, arguments.repeat, Stopwatch())
    sys.stdout.write(f"\n{table(results, rows)}\n")


if __name__ == "__main__":
    main()
