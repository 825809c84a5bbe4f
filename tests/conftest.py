"""Databases for the tests: one private PostgreSQL per session, a fresh database per test."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local.environment import PLATFORM_SQL, State, airflow_settings
from local.postgres import ADMIN, EmbeddedPostgres, run_script

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


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many crashes to make at each point."""
    parser.addoption("--crash-seeds", type=int, default=3, help="crashes at each point of a run (default: 3)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many runs that were killed came to the end of an uninterrupted one."""
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
    if seeds:
        survived = sum(passed for _, passed in seeds.values())
        listed = ", ".join(str(seed) for seed in sorted({seed for seed, _ in seeds.values()}))
        terminalreporter.write_line(f"crash points survived: {survived} of {len(seeds)} (seeds {listed})")


def pytest_unconfigure() -> None:
    """Remove what Airflow wrote."""
    shutil.rmtree(STATE.folder)


@contextmanager
def stopped_with_parent(pid: int) -> Iterator[None]:
    """Stop the server also when the test process is killed: its end of the pipe then closes."""
    watchdog = subprocess.Popen(  # noqa: S603 - a fixed command
        ["/bin/sh", "-c", 'read -r _; kill -INT "$1"', "watchdog", str(pid)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watchdog.kill()
        watchdog.communicate()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A running server; `server.create_database(name)` returns a DSN of its superuser."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres") / "server", settings=FAST_SETTINGS) as running:
        assert running.pid is not None
        with stopped_with_parent(running.pid):
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
