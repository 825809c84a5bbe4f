"""What the client's way into the target costs against a direct connection, by size of the batches.

    python -m benchmarks.ways [--rows 20000] [--repeat 3] [--folder FOLDER]

Loads patients into a new target each time: staged rows to committed batches, ledger included. The API is the real
PostgREST behind a gateway written in Python, all on this machine: over a network both ways wait longer, the client's
once or twice per batch.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.incremental import DEFAULT_FOLDER, Progress, WrongResultError, make_target
from include.core.ids import target_ids
from include.core.tracking import Fates
from include.core.transform import FINDING_SCHEMA, REJECT_SCHEMA, clean_schema
from include.entities import ENTITIES
from local.databases import OWNER, TARGET, target_dsn
from local.demo import Stopwatch
from local.deployment import deploy
from local.environment import State, airflow_settings, connection_variable, supabase_variable
from local.postgres import EmbeddedPostgres
from local.processes import exclusive, terminate_like_interrupt
from local.supabase_api import SupabaseApi
from plugins.hooks.batch_loader import BatchLoader, LoadBatch
from plugins.hooks.target import open_target
from plugins.hooks.tracking import TrackingHook

RUN = "benchmark"
PATIENTS = ENTITIES["patients"]
_AUTHENTICATOR = "authenticator"
_OPENED = {
    **dict.fromkeys(("mapping_version", "rules_version", "code_version", "started_by"), RUN),
    **{"dag_id": RUN, "type": "full", "scope": "everything", "dry_run": False},
    **{"parameters": {"entities": []}, "source_horizon": 1, "source_identity": {}},
}


@dataclass(frozen=True)
class Case:
    """A way in and the rows of a batch."""

    way: str
    batch_rows: int

    def __str__(self) -> str:
        return f"{'direct' if self.way == 'postgres' else 'client'}, batches of {self.batch_rows:,}"


CASES = (
    Case("postgres", 25_000),
    Case("postgres", 1_000),
    *(Case("rest", rows) for rows in (1_000, 500, 100)),
)
"""The first one, the direct way as it is by default, is what the others are compared with."""


def patients(rows: int) -> pa.Table:
    """Clean patients, as the transformation hands them on."""
    keys = pc.cast(pa.array(range(1, rows + 1)), pa.string())
    given = {
        "legacy_id": keys,
        "id": target_ids(PATIENTS.name, keys),
        "legacy_patient_id": keys,
        "patient_number": pc.binary_join_element_wise("P", keys, ""),
        "first_name": pc.binary_join_element_wise("First", keys, " "),
        "last_name": pc.binary_join_element_wise("Last", keys, " "),
        "email": pc.binary_join_element_wise(keys, "example.org", "@"),
        "date_of_birth": pa.repeat("1980-02-29", rows),
        **{name: pa.repeat("{}", rows) for name in ("medical_history", "preferences", "metadata")},
    }
    nothing = pa.nulls(rows, pa.string())
    schema = clean_schema(PATIENTS)
    return pa.table([given.get(name, nothing) for name in schema.names], schema=schema)


def load(case: Case, clean: pa.Table) -> float:
    """Load everything in one run; returns the seconds of the batches.

    Raises:
        WrongResultError: not every row was inserted.
    """
    fates = Fates()
    with open_target(case.way, batch_size=case.batch_rows) as target:
        TrackingHook(target, RUN).open_run(**_OPENED)
        loader = BatchLoader(target, RUN, PATIENTS, dry_run=False)
        begun = time.monotonic()
        for batch in batches(clean, case.batch_rows):
            fates += loader.load(batch, attempt=1)[0]
        seconds = time.monotonic() - begun
    if fates != Fates(clean.num_rows, inserted=clean.num_rows):
        raise WrongResultError(f"{case}: {fates.inserted:,} of {clean.num_rows:,} rows were inserted.")
    return seconds


def batches(clean: pa.Table, rows: int) -> Iterator[LoadBatch]:
    """The table cut into batches."""
    for start in range(0, clean.num_rows, rows):
        name = f"p000-b{start // rows:04d}"
        yield LoadBatch(
            name, "", clean.slice(start, rows), REJECT_SCHEMA.empty_table(), FINDING_SCHEMA.empty_table()
        )


@contextmanager
def connected(server: EmbeddedPostgres, api: SupabaseApi) -> Iterator[None]:
    """A new target, to be reached either way."""
    make_target(server)
    deploy(target_dsn(server))
    os.environ["AIRFLOW_CONN_SUPABASE_DB"] = connection_variable(target_dsn(server))
    os.environ["AIRFLOW_CONN_SUPABASE"] = supabase_variable(api.url, api.keys.secret)
    with api.serving(server.dsn(TARGET, role=_AUTHENTICATOR)):
        yield


def measure(state: State, rows: int, repeat: int, progress: Progress) -> dict[Case, list[float]]:
    """Seconds of every case, round by round."""
    clean = patients(rows)
    results: dict[Case, list[float]] = {case: [] for case in CASES}
    with EmbeddedPostgres(state.postgres) as server, SupabaseApi(state.supabase) as api:
        for login in (OWNER, _AUTHENTICATOR):
            server.create_login(login)
        for _ in range(repeat):
            for case in CASES:
                with connected(server, api):
                    results[case].append(load(case, clean))
                progress(f"{case}: {rows / results[case][-1]:,.0f} rows/s")
    return results


def table(results: Mapping[Case, Sequence[float]], rows: int) -> str:
    """Median rows per second, and what they are of the first case's."""
    rates = {case: rows / median(seconds) for case, seconds in results.items()}
    first = next(iter(rates.values()))
    lines = [(f"{rows:,} patients", "rows/s", "of direct")]
    lines += [(str(case), f"{rate:,.0f}", f"{rate / first:.0%}") for case, rate in rates.items()]
    return "\n".join(f"{name:<26}{rate:>10}{share:>12}" for name, rate, share in lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure loading through the Supabase client.")
    parser.add_argument("--rows", type=int, default=20_000, help="patients")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="for server and logs")
    arguments = parser.parse_args()
    terminate_like_interrupt()
    state = State(arguments.folder.resolve())
    os.environ.update(airflow_settings(state))
    with exclusive(state):
        results = measure(state, arguments.rows, arguments.repeat, Stopwatch())
    sys.stdout.write(f"\n{table(results, arguments.rows)}\n")


if __name__ == "__main__":
    main()
