"""Everybody who loads patients in the same rounds: this project, peers, a naive client."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.incremental import WrongResultError
from benchmarks.speed import limit
from benchmarks.speed.measured import Sample, of_process
from benchmarks.speed.pipeline import Loaded, opened, workers
from benchmarks.speed.rig import PREPARED, Rig

LIMIT, ONE, TWO = "raw COPY limit", "this project, 1 worker", "this project, 2 workers"
LANDING = "landing"
_SCRIPTS = Path(__file__).parent / "peers"
_NAIVE_BATCHES = (5_000, 1_000, 100)
# The naive client's rate does not depend on how many rows it loads, and it is slow.
_NAIVE_SECONDS_ROWS = {5_000: 20_000, 1_000: 20_000, 100: 10_000}
_PGLOADER = """LOAD DATABASE FROM {source} INTO {target}
WITH include drop, create tables, no truncate, workers = 2, concurrency = 1
SET work_mem TO '64MB'
MATERIALIZE VIEWS patient_join
INCLUDING ONLY TABLE NAMES MATCHING 'patient_join' IN SCHEMA 'public'
ALTER SCHEMA 'public' RENAME TO 'landing';
"""


@dataclass(frozen=True)
class Contestant:
    """Somebody who loads patients.

    Attributes:
        carries: what becomes of a row: all that this project does, or less.
        run: loads into the rig's target and tells how long it took.
    """

    name: str
    carries: str
    run: Callable[[Rig], Sample]


def ours(made: Rig, count: int, *, batch_rows: int = 25_000) -> Sample:
    """Load all patients with so many workers.

    Raises:
        WrongResultError: not every row came.
    """
    loaded = migrated(made, count, batch_rows=batch_rows)
    return Sample(loaded.rows, loaded.work_seconds, loaded.cpu_seconds, loaded.peak_mb)


def migrated(made: Rig, count: int, *, batch_rows: int = 25_000, run_id: str = "patients") -> Loaded:
    """The same, phase by phase, into a new target.

    Raises:
        WrongResultError: not every row came.
    """
    target = made.fresh_target()
    with partitions_for(made.rows, count), opened(run_id), workers(count) as processes:
        loaded = processes.migrate(run_id, "patients", {"batch_size": batch_rows})
    expect_rows(target, "public.patients", made.rows)
    return loaded


@contextmanager
def partitions_for(rows: int, count: int) -> Iterator[None]:
    """As many partitions as workers, as in a table that is large enough for it."""
    os.environ["MIGRATION_PARTITION_ROWS"] = str(-(-rows // count))
    try:
        yield
    finally:
        del os.environ["MIGRATION_PARTITION_ROWS"]


def expect_rows(dsn: str, table: str, rows: int) -> None:
    """Raises WrongResultError where a table has another number of rows."""
    with psycopg.connect(dsn) as connection:
        counted = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table.split(".")))
        found = connection.execute(counted).fetchone()
    if found != (rows,):
        raise WrongResultError(f"{table} has {found} rows, expected were {rows:,}.")


def contestants(python: Path | None, progress: Callable[[str], None]) -> list[Contestant]:
    """All that can be measured here; who cannot is told."""
    found = [
        Contestant(LIMIT, "transformed, constrained table", limit.run),
        Contestant(ONE, "everything", lambda made: ours(made, 1)),
        Contestant(TWO, "everything", lambda made: ours(made, 2)),
    ]
    if python is not None:
        found += _of_python(python)
    pgloader = os.environ.get("PGLOADER") or shutil.which("pgloader")
    if pgloader:
        found.append(_landed("pgloader", lambda made: _pgloader(made, pgloader)))
    else:
        progress("NOT MEASURED: pgloader is not installed (or named by PGLOADER)")
    return found


def _of_python(python: Path) -> list[Contestant]:
    found = [
        _landed("dlt, append", lambda made: _dlt(made, python, "append")),
        _landed("dlt, upsert", lambda made: _dlt(made, python, "merge")),
    ]
    sling = _sling_of(python)
    if sling is not None:
        found.append(_landed("sling", lambda made: _sling(made, sling)))
    for rows in _NAIVE_BATCHES:
        run = partial(_naive, python=python, batch_rows=rows)
        name = f"naive client, batches of {rows:,}"
        found.append(Contestant(name, "transformed, constrained table", run))
    return found


def _landed(name: str, run: Callable[[Rig], Sample]) -> Contestant:
    return Contestant(name, "the raw join, unconstrained table", run)


def _landing_target(made: Rig) -> str:
    dsn = made.fresh_target(PREPARED)
    with psycopg.connect(dsn) as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {LANDING}".encode())
    return dsn


def _bare(home: str, **more: str) -> Mapping[str, str]:
    """An environment of its own: nothing of the project may get into a peer."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": home, "TZ": "UTC", **more}


def _dlt(made: Rig, python: Path, disposition: str) -> Sample:
    target = made.fresh_target()
    with tempfile.TemporaryDirectory() as home:
        command = [str(python), str(_SCRIPTS / "dlt_peer.py"), made.source, target, disposition]
        silent = {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR"}
        sample = of_process(command, _bare(home, DLT_DATA_DIR=home, **silent), made.rows)
    expect_rows(target, f"{LANDING}.patient_join", made.rows)
    return sample


def _sling_of(python: Path) -> Path | None:
    """The program within the wheel: the package `sling` would download another one."""
    return next(python.parent.parent.glob("lib/*/site-packages/sling_linux_amd64/bin/sling-linux-*"), None)


def _sling(made: Rig, program: Path) -> Sample:
    target = _landing_target(made)
    with tempfile.TemporaryDirectory() as home:
        command = [str(program), "run", "--src-conn", "SOURCE", "--src-stream", "public.patient_join"]
        command += [
            "--tgt-conn",
            "TARGET",
            "--tgt-object",
            f"{LANDING}.patient_join",
            "--mode",
            "full-refresh",
        ]
        addresses = {"SOURCE": f"{made.source}?sslmode=disable", "TARGET": f"{target}?sslmode=disable"}
        silent = {"SLING_DISABLE_TELEMETRY": "true", "SLING_HOME_DIR": home}
        program.chmod(0o755)
        sample = of_process(command, _bare(home, **addresses, **silent), made.rows)
    expect_rows(target, f"{LANDING}.patient_join", made.rows)
    return sample


def _pgloader(made: Rig, program: str) -> Sample:
    target = _landing_target(made)
    with tempfile.TemporaryDirectory() as home:
        script = Path(home) / "patients.load"
        script.write_text(_PGLOADER.format(source=made.source, target=target))
        sample = of_process([program, "--quiet", str(script)], _bare(home), made.rows)
    expect_rows(target, f"{LANDING}.patient_join", made.rows)
    return sample


def _naive(made: Rig, python: Path, batch_rows: int) -> Sample:
    rows = min(made.rows, _NAIVE_SECONDS_ROWS[batch_rows])
    target = made.fresh_target()
    with tempfile.TemporaryDirectory() as home:
        command = [str(python), str(_SCRIPTS / "naive_client.py"), made.source, target]
        sample = of_process([*command, str(batch_rows), str(rows)], _bare(home), rows)
    expect_rows(target, "public.patients", rows)
    return sample
