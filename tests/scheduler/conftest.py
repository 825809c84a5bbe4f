"""One Airflow with a scheduler for all tests here, over one source and one target that tests make anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from include.entities import ENTITIES
from include.synthetic.sizes import SourceSize
from local.environment import State
from local.legacy_source import fill
from local.postgres import EmbeddedPostgres
from plugins.hooks.target_schema import deploy_schema, register
from tests.end_to_end.conftest import READER, allow_reading, metadata_template
from tests.end_to_end.content import Content, content
from tests.end_to_end.runs import Databases, copy_metadata
from tests.scheduler.scheduler import (
    FULL,
    INCREMENTAL,
    Place,
    Run,
    Scheduler,
    TaskInstance,
    await_healthy,
    running_scheduler,
)

__all__ = ["metadata_template"]

SEED = 1
SIZE = SourceSize.real().scaled(40, tasks=120, projects=80, plans=60)
# Partitions of two batches; three of them for cases (MIGRATION_PARTITION_ROWS says 40).
CONF: dict[str, Any] = {
    "dry_run": False,
    "batch_size": 20,
    "entities": ["practices", "profiles", "patients", "cases"],
}
_SOURCE, _TARGET, DEPLOYED, FINISHED, LOADED = (
    f"scheduler_{name}" for name in ("source", "target", "deployed", "finished", "loaded")
)


@dataclass(frozen=True)
class Target:
    """The one target that the scheduler knows, as a test left or wants it."""

    server: EmbeddedPostgres
    databases: Databases

    def make(self, template: str = DEPLOYED) -> Databases:
        """Replaces it by a copy of another database: by default with the schema and no row."""
        self.server.drop_database(_TARGET)
        self.server.create_database(_TARGET, template, owner="postgres")
        return self.databases

    def keep(self, name: str) -> None:
        """Copies it, rows with the transactions that wrote them."""
        self.server.create_database(name, _TARGET, owner="postgres")


@dataclass(frozen=True)
class Finished:
    """An uninterrupted run and what it left."""

    run: Run
    state: str
    instances: dict[Place, TaskInstance]
    content: Content


@pytest.fixture(scope="session")
def ends(server: EmbeddedPostgres, target_template: str) -> Databases:
    """Where the source and the target are going to be."""
    server.create_login(READER)
    return Databases(
        source=server.dsn(_SOURCE, role=READER),
        target=server.dsn(_TARGET, role="postgres"),
        source_admin=server.dsn(_SOURCE),
    )


@pytest.fixture(scope="session")
def scheduler(
    tmp_path_factory: pytest.TempPathFactory,
    metadata_template: Path,
    server: EmbeddedPostgres,
    target_template: str,
    ends: Databases,
) -> Iterator[Scheduler]:
    """Airflow at work; the databases are filled while its parts start."""
    state = State(tmp_path_factory.mktemp("scheduler"))
    state.create()
    copy_metadata(metadata_template, state.airflow / "airflow.db")
    with running_scheduler(state, ends) as address:
        fill(server.create_database(_SOURCE), SIZE, SEED, progress=lambda _: None)
        allow_reading(ends.source_admin)
        _deploy(server, target_template)
        await_healthy(address, state)
        scheduler = Scheduler(address)
        for dag_id in (FULL, INCREMENTAL):
            scheduler.unpause(dag_id)
        yield scheduler
        scheduler.close()


@pytest.fixture(scope="session")
def target(server: EmbeddedPostgres, ends: Databases) -> Target:
    """Makes the target of each test."""
    return Target(server, ends)


@pytest.fixture(scope="session")
def finished(scheduler: Scheduler, target: Target) -> Finished:
    """Made once; `target.make(FINISHED)` brings its target back."""
    databases = target.make()
    run = scheduler.trigger(**CONF)
    state = scheduler.finished(run)
    target.keep(FINISHED)
    return Finished(run, state, scheduler.instances(run), content(databases))


def _deploy(server: EmbeddedPostgres, template: str) -> None:
    server.create_database(DEPLOYED, template, owner="postgres")
    with psycopg.connect(server.dsn(DEPLOYED, role="postgres"), autocommit=True) as connection:
        deploy_schema(connection, None)
        register(connection, ENTITIES.values())
