"""Databases for the tests: one private PostgreSQL per session, a fresh database per test."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg
import pytest

from local.environment import PLATFORM_SQL, State, airflow_settings
from local.postgres import ADMIN, EmbeddedPostgres, run_script
from local.postgrest import missing_program
from local.processes import stopped_with_parent
from local.supabase_api import SupabaseApi

# Before any test imports Airflow, which writes into its home at import.
STATE = State(Path(tempfile.mkdtemp(prefix="migration-tests-")))
os.environ.update(airflow_settings(STATE))

FAST_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    # Locks that outlive the session that took them.
    "max_prepared_transactions": "8",
}
CRASH_POINT = "crash point"
"""Property of a test that kills a run: its seed."""
NOT_TESTED = "NOT TESTED: "
"""Begins the reason of a skip that leaves a part of the project untested, and is said at the end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many crashes to make at each point."""
    parser.addoption("--crash-seeds", type=int, default=2, help="crashes at each point of a run (default: 2)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Runs that were killed and came to the end of an uninterrupted one; what could not be tested here."""
    reports = [
        report
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.getreports(outcome)
        if isinstance(report, pytest.TestReport) and (report.when == "call" or report.failed)
    ]
    seeds = {
        report.nodeid: (dict(report.user_properties)[CRASH_POINT], report.passed)
        for report in reports
        if CRASH_POINT in dict(report.user_properties)
    }
    skipped = [str(report.longrepr) for report in terminalreporter.getreports("skipped")]
    for reason, count in Counter(text.partition(NOT_TESTED)[2].rstrip("')") for text in skipped).items():
        if reason:
            terminalreporter.write_line(f"{NOT_TESTED}{reason} ({count} tests)", yellow=True, bold=True)
    if seeds:
        survived = sum(passed for _, passed in seeds.values())
        listed = ", ".join(str(seed) for seed in sorted({seed for seed, _ in seeds.values()}))
        terminalreporter.write_line(f"crash points survived: {survived} of {len(seeds)} (seeds {listed})")


def pytest_unconfigure() -> None:
    """Remove what Airflow wrote."""
    shutil.rmtree(STATE.folder)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A running server; `server.create_database(name)` returns a DSN of its superuser."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres") / "server", settings=FAST_SETTINGS) as running:
        assert running.pid is not None
        with stopped_with_parent(running.pid, signal.SIGINT):
            yield running


@pytest.fixture(scope="session")
def target_template(server: EmbeddedPostgres) -> str:
    """Name of a database with what Supabase gives; tests copy it."""
    server.create_login("postgres")
    run_script(server.create_database("target_template"), PLATFORM_SQL)
    return "target_template"


@pytest.fixture
def database(server: EmbeddedPostgres) -> Iterator[str]:
    """DSN of the superuser in an empty database of its own."""
    with fresh_database(server) as name:
        yield server.dsn(name)


@pytest.fixture
def target_database(server: EmbeddedPostgres, target_template: str) -> Iterator[str]:
    """DSN of Supabase's role `postgres` (owner, no superuser) in a database like a new Supabase project."""
    with fresh_database(server, template=target_template, owner="postgres") as name:
        yield server.dsn(name, role="postgres")


@pytest.fixture(scope="session")
def supabase_api(
    server: EmbeddedPostgres, target_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SupabaseApi]:
    """Gateway and keys of the API; which database it serves is for `serving` to say."""
    missing = missing_program()
    if missing is not None:
        # Where PostgREST has been installed on purpose, its absence is a fault.
        outcome = pytest.fail if os.environ.get("REQUIRE_POSTGREST") else pytest.skip
        outcome(NOT_TESTED + missing)
    server.create_login("authenticator")
    with SupabaseApi(tmp_path_factory.mktemp("supabase")) as api:
        yield api


Serving = Callable[[str], AbstractContextManager[SupabaseApi]]


@pytest.fixture
def serving(server: EmbeddedPostgres, supabase_api: SupabaseApi) -> Serving:
    """`with serving(dsn) as api:` puts the database of a DSN (of any role) behind the API, one at a time."""

    @contextmanager
    def serve(dsn: str) -> Iterator[SupabaseApi]:
        database = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        with supabase_api.serving(server.dsn(str(database), role="authenticator")):
            yield supabase_api

    return serve


@pytest.fixture
def target_api(target_database: str, serving: Serving) -> Iterator[SupabaseApi]:
    """The API of `target_database`."""
    with serving(target_database) as api:
        yield api


@contextmanager
def fresh_database(
    server: EmbeddedPostgres, *, template: str | None = None, owner: str = ADMIN
) -> Iterator[str]:
    """Name of a database that is gone afterwards, whatever is still connected to it."""
    name = f"test_{uuid.uuid4().hex}"
    server.create_database(name, template, owner=owner)
    try:
        yield name
    finally:
        server.drop_database(name)
