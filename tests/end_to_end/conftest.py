"""What the end-to-end tests share: one Airflow worker, one synthetic source, and its three first runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from include.synthetic.sizes import SourceSize
from local.environment import State, airflow_settings
from local.legacy_source import fill
from local.postgres import EmbeddedPostgres
from tests.conftest import fresh_database
from tests.end_to_end.content import Content, content
from tests.end_to_end.runs import Airflow, Databases, Outcome, airflow_home

SEED = 1
SIZE = SourceSize.real().scaled(120, tasks=400, projects=200, plans=180)
READER = "mdw_reader"

MakeDatabases = Callable[..., Databases]


@dataclass(frozen=True)
class FirstRuns:
    """A dry run, a real run (as a command) and a second real run of one source into one target."""

    databases: Databases
    dry: Outcome
    real: Outcome
    again: Outcome
    after_dry: Content
    after_real: Content
    after_again: Content
    staged_files: int


@pytest.fixture(scope="session")
def metadata_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Airflow's metadata database with its tables and nothing else."""
    state = State(tmp_path_factory.mktemp("metadata"))
    state.create()
    subprocess.run(
        [sys.executable, "-c", "from airflow.utils.db import initdb; initdb()"],
        env=airflow_settings(state),
        check=True,
        capture_output=True,
    )
    return state.airflow / "airflow.db"


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory, metadata_template: Path) -> Iterator[Airflow]:
    """The Airflow home of all tests that do not look into it."""
    with airflow_home(tmp_path_factory.mktemp("airflow"), metadata_template) as home:
        yield home


@pytest.fixture(scope="module")
def own_airflow(tmp_path_factory: pytest.TempPathFactory, metadata_template: Path) -> Iterator[Airflow]:
    """An Airflow home of one module's own: for tests that look into it, or whose worker imports a provider."""
    with airflow_home(tmp_path_factory.mktemp("airflow"), metadata_template) as home:
        yield home


@pytest.fixture(scope="session")
def source_template(server: EmbeddedPostgres) -> Iterator[str]:
    """Name of a database with a synthetic source; nobody is connected to it."""
    with fresh_database(server) as name:
        fill(server.dsn(name), SIZE, SEED, progress=lambda _: None)
        yield name


@pytest.fixture(scope="session")
def make_databases(
    server: EmbeddedPostgres, target_template: str, source_template: str
) -> Iterator[MakeDatabases]:
    """Makes a source (a copy of the synthetic one, or of another database) and an empty target."""
    server.create_login(READER)
    with ExitStack() as stack:

        def make(source: str | None = source_template) -> Databases:
            name = stack.enter_context(fresh_database(server, template=source))
            allow_reading(server.dsn(name))
            target = stack.enter_context(fresh_database(server, template=target_template, owner="postgres"))
            return Databases(
                source=server.dsn(name, role=READER),
                target=server.dsn(target, role="postgres"),
                source_admin=server.dsn(name),
            )

        yield make


@pytest.fixture(scope="session")
def first_runs(airflow: Airflow, make_databases: MakeDatabases) -> FirstRuns:
    """Made once: other tests compare with the content that these runs left."""
    databases = make_databases()
    # What failed runs of other tests keep for their repetition is none of theirs.
    before = staged_files(airflow.state)
    dry = airflow.run(databases, dry_run=True)
    after_dry = content(databases)
    real = airflow.run_command(databases, dry_run=False)
    after_real = content(databases)
    again = airflow.run(databases, dry_run=False)
    staged = len(staged_files(airflow.state) - before)
    return FirstRuns(databases, dry, real, again, after_dry, after_real, content(databases), staged)


def staged_files(state: State) -> set[Path]:
    """All that runs keep on disk between their tasks."""
    return {path for path in state.staging.rglob("*") if path.is_file()}


def allow_reading(dsn: str) -> None:
    """SELECT and nothing else for the reader."""
    with psycopg.connect(dsn) as connection:
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}".encode())
