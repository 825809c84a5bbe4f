"""`make demo`: the full migration of a synthetic legacy MDW into a local target, in one command.

`make night`: some rows of that source change, and the incremental migration follows.

    python -m local.demo [--patients 785 | --night] [--via postgres|rest] [--conf JSON] [--timeout SECONDS]

Exit code: that of the run; 130 when interrupted, 124 when it took too long, 1 when nothing could be started
or the run left no report.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from include.core.errors import MigrationError
from include.synthetic.sizes import SourceSize
from local.api_keys import ApiKeys
from local.changes import change
from local.databases import DEFAULT_PATIENTS, LEGACY, TARGET, legacy_dsn, prepare, target_dsn
from local.deployment import deploy
from local.environment import State, airflow_environment, supabase_variable
from local.gateway import KEYS_FILE
from local.legacy_files import fill
from local.postgres import EmbeddedPostgres, ServerError
from local.postgrest import PostgrestError
from local.processes import (
    BusyError,
    CommandError,
    airflow,
    exclusive,
    run_to_log,
    spawn,
    stop_group,
    terminate_like_interrupt,
)
from local.storage_server import StorageServer
from local.supabase_api import SupabaseApi

DAG_ID = "mdw_full_migration"
NIGHTLY_DAG_ID = "mdw_incremental_migration"
# The night may come before the day: then it loads everything.
DEFAULT_CONF: Mapping[str, Mapping[str, Any]] = {
    DAG_ID: {"dry_run": False},
    NIGHTLY_DAG_ID: {"allow_initial_full": True},
}
DEFAULT_TIMEOUT = 1800.0
# The ways to the target: its database, or the URL and the service key of its API.
POSTGRES, REST = "postgres", "rest"
WAYS = (POSTGRES, REST)
MARKER = "[migration]"
INTERRUPTED, TIMED_OUT = 130, 124

# What Airflow's console log puts behind the message: the logger's name and key=value pairs.
_LOG_TRAILER = re.compile(r"\s+\[[\w.]+\]( \S+=.*)?$")
_TAIL_LINES = 25


def progress_text(line: str) -> str | None:
    """The message of a progress line of the migration, None for any other line of the log.

    >>> progress_text("2026-01-31T10:00:00Z [info     ] [migration] loading.patients: 785 [task] loc=a.py:1")
    'loading.patients: 785'
    """
    _, marker, message = line.rstrip().partition(MARKER)
    return _LOG_TRAILER.sub("", message).strip() if marker else None


def show(text: str) -> None:
    """A line on the terminal, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Stopwatch:
    """Progress lines with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, text: str) -> None:
        show(f"{time.monotonic() - self._start:7.1f} s  {text}")


@contextmanager
def prepared_environment(
    state: State, patients: int | None, via: str, progress: Callable[[str], None]
) -> Iterator[dict[str, str]]:
    """Server, databases and Airflow's metadata, each made only when missing; gives Airflow's variables.

    `patients` None keeps the databases that are there, whatever their size. `via` is the way to the target that
    Airflow gets to know; the API of "rest" lasts as long as the context.

    Raises:
        ServerError, PostgrestError, CommandError: something does not start.
        MigrationError: for "rest", the schema cannot be deployed.
    """
    server = EmbeddedPostgres(state.postgres)
    server.start()
    progress(f"PostgreSQL {server.major} listens on 127.0.0.1:{server.port}")
    prepare(server, patients=patients, progress=progress)
    fill(server.dsn(LEGACY), state.files, progress)
    serve = served_target if via == REST else served_storage
    with serve(state, server, progress) as supabase:
        environment = airflow_environment(
            state,
            legacy_dsn=legacy_dsn(server),
            target_dsn=target_dsn(server) if via == POSTGRES else None,
            supabase=supabase,
        ) | {"MIGRATION_FILES_URI": f"file://{state.files}"}
        migrate_metadata(state, environment, progress)
        yield environment


@contextmanager
def served_target(state: State, server: EmbeddedPostgres, progress: Callable[[str], None]) -> Iterator[str]:
    """The target behind a local Supabase API, its schema deployed; gives the connection to it."""
    for line in deploy(target_dsn(server)):
        progress(f"{TARGET}: {line}")
    server.create_login("authenticator")
    keys = ApiKeys.kept_in(state.supabase / KEYS_FILE)
    with (
        StorageServer(state.supabase / "storage", keys.jwt_secret) as storage,
        SupabaseApi(state.supabase, storage=storage.url) as api,
        api.serving(server.dsn(TARGET, role="authenticator")),
    ):
        progress(f"Supabase API: PostgREST and a storage server behind {api.url}")
        yield supabase_variable(api.url, keys.secret)


@contextmanager
def served_storage(state: State, _: EmbeddedPostgres, progress: Callable[[str], None]) -> Iterator[str]:
    """Storage alone, which has no other way in; gives the connection to it."""
    keys = ApiKeys.kept_in(state.supabase / KEYS_FILE)
    with (
        StorageServer(state.supabase / "storage", keys.jwt_secret) as storage,
        SupabaseApi(state.supabase, storage=storage.url) as api,
    ):
        progress(f"Supabase API: a storage server behind {api.url}")
        yield supabase_variable(api.url, keys.secret)


def migrate_metadata(state: State, environment: Mapping[str, str], progress: Callable[[str], None]) -> None:
    """Create or upgrade Airflow's metadata database, once per version of Airflow."""
    stamp = state.airflow / f"metadata-{version('apache-airflow-core')}"
    if stamp.exists() and (state.airflow / "airflow.db").exists():
        return
    progress("Airflow: creating the metadata database")
    run_to_log(airflow("db", "migrate"), environment, state.logs / "db-migrate.log")
    stamp.touch()


def run_dag(
    environment: Mapping[str, str],
    conf: Mapping[str, Any],
    *,
    dag_id: str = DAG_ID,
    log: Path,
    timeout: float,
    progress: Callable[[str], None],
) -> int:
    """One run of a DAG in the foreground; its log goes to a file, its progress to `progress`."""
    command = airflow("dags", "test", dag_id, "--conf", json.dumps(conf))
    process = spawn(command, environment, subprocess.PIPE)
    if process.stdout is None:
        raise AssertionError("the output was asked for as a pipe")
    reader = threading.Thread(target=_copy_output, args=(process.stdout, log, progress), daemon=True)
    reader.start()
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        progress(f"stopped: the run took longer than {timeout:,.0f} s")
        return TIMED_OUT
    finally:
        stop_group([process])
        reader.join()


def _copy_output(source: IO[bytes], log: Path, progress: Callable[[str], None]) -> None:
    with log.open("wb") as target:
        for line in source:
            target.write(line)
            target.flush()
            text = progress_text(line.decode(errors="replace"))
            if text is not None:
                progress(text)


def newest_summary(reports: Path, since: float) -> Path | None:
    """The summary of the newest run that was written after a time (seconds of the epoch)."""
    found = [(file.stat().st_mtime, file) for file in reports.glob("*/summary.txt")]
    recent = [entry for entry in found if entry[0] >= since]
    return max(recent)[1] if recent else None


def show_result(state: State, code: int, log: Path, since: float) -> int:
    """The run's summary and where to read on; returns the exit code of the command."""
    summary = newest_summary(state.reports, since)
    if summary is not None:
        show("\n" + summary.read_text().rstrip() + "\n")
        show(f"Report: {summary.parent}")
    else:
        show(f"\nThe last lines of {log}:")
        show("\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]))
        show(f"\nThe run left no report in {state.reports}.")
    show(f"Log:    {log}")
    show("The database server keeps running for the next command; `make stop` ends it.")
    return code if code != 0 or summary is not None else 1


def demo(
    state: State, *, patients: int | None, conf: Mapping[str, Any], timeout: float, via: str = POSTGRES
) -> int:
    """Everything that `make demo` does, or with `patients` None `make night`; returns its exit code."""
    progress = Stopwatch()
    dag_id = DAG_ID if patients else NIGHTLY_DAG_ID
    conf = {**DEFAULT_CONF[dag_id], **conf}
    with exclusive(state), prepared_environment(state, patients, via, progress) as environment:
        if dag_id == NIGHTLY_DAG_ID:
            for line in change(EmbeddedPostgres(state.postgres).dsn(LEGACY)):
                progress(f"{LEGACY}: {line}")
        since = time.time()
        log = state.logs / f"demo-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.log"
        progress(f"Airflow: running {dag_id} with {json.dumps(conf)}")
        code = run_dag(environment, conf, dag_id=dag_id, log=log, timeout=timeout, progress=progress)
        progress(f"Airflow: finished with exit code {code}")
        return show_result(state, code, log, since)


def conf_argument(text: str) -> dict[str, Any]:
    """The run's parameters from the command line."""
    try:
        given = json.loads(text or "{}")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(given, dict):
        raise argparse.ArgumentTypeError("a JSON object is expected")
    return given


def patients_argument(text: str) -> int:
    """A number of patients that a synthetic source can have."""
    try:
        return SourceSize.real().scaled(patients=int(text)).patients
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m local.demo", description="The migration, run locally.")
    parser.add_argument("--patients", type=patients_argument, default=DEFAULT_PATIENTS)
    parser.add_argument("--night", action="store_true", help="change some rows, then migrate what changed")
    parser.add_argument("--via", choices=WAYS, default=POSTGRES, help="what Airflow knows of the target")
    parser.add_argument("--conf", type=conf_argument, default={}, help="parameters of the run, JSON")
    parser.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT, help="seconds")
    options = parser.parse_args(arguments)
    terminate_like_interrupt()
    try:
        patients = None if options.night else options.patients
        return demo(State(), patients=patients, conf=options.conf, timeout=options.timeout, via=options.via)
    except (ServerError, PostgrestError, BusyError, CommandError, MigrationError) as error:
        show(str(error))
        return 1
    except KeyboardInterrupt:
        show("Interrupted.")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
