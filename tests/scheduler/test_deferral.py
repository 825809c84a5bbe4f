"""A job of the Batch API under a real scheduler: its task waits without a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from include.synthetic.sizes import SourceSize
from local.environment import State
from local.legacy_source import fill
from local.postgres import EmbeddedPostgres
from tests.conftest import fresh_database
from tests.embedding_server import KEY, EmbeddingServer
from tests.end_to_end.conftest import READER, allow_reading
from tests.end_to_end.runs import Databases, copy_metadata
from tests.scheduler.scheduler import (
    FULL,
    PARTS,
    RUN_SECONDS,
    Place,
    Run,
    Scheduler,
    await_healthy,
    await_true,
    running_scheduler,
)

ENTITY = "workflow_template_tasks"
EMBED: Place = (f"ai_enhancement.{ENTITY}", 0)
DIMENSIONS = 64
_WITH_TRIGGERER = {**PARTS, "triggerer": ("triggerer", "--skip-serve-logs")}


@dataclass(frozen=True)
class Deferring:
    """An Airflow with a triggerer, whose tasks embed through a job that takes a second."""

    scheduler: Scheduler
    databases: Databases
    server: EmbeddingServer


@pytest.fixture
def deferring(
    tmp_path: Path, metadata_template: Path, server: EmbeddedPostgres, target_template: str
) -> Iterator[Deferring]:
    state = State(tmp_path)
    state.create()
    copy_metadata(metadata_template, state.airflow / "airflow.db")
    server.create_login(READER)
    with (
        fresh_database(server) as source,
        fresh_database(server, template=target_template, owner="postgres") as target,
        EmbeddingServer(dimensions=DIMENSIONS) as provider,
    ):
        provider.batch_seconds = 1
        databases = Databases(
            source=server.dsn(source, role=READER),
            target=server.dsn(target, role="postgres"),
            source_admin=server.dsn(source),
        )
        changes = {
            "MIGRATION_EMBEDDING_PROVIDER": "openai",
            "MIGRATION_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": provider.url,
        }
        with running_scheduler(state, databases, _WITH_TRIGGERER, changes) as address:
            fill(server.dsn(source), SourceSize.real().scaled(40, tasks=20), 1, progress=lambda _: None)
            allow_reading(databases.source_admin)
            await_healthy(address, state)
            scheduler = Scheduler(address)
            scheduler.unpause(FULL)
            yield Deferring(scheduler, databases, provider)
            scheduler.close()


def state_of(scheduler: Scheduler, run: Run) -> str | None:
    instance = scheduler.instances(run).get(EMBED)
    return instance.state if instance else None


def test_a_task_that_waits_for_its_job_is_deferred_and_wakes_up(deferring: Deferring) -> None:
    scheduler = deferring.scheduler
    run = scheduler.trigger(
        FULL, dry_run=False, entities=["workflow_templates", ENTITY], ai_batch_api=True, max_retries=0
    )
    await_true(
        lambda: state_of(scheduler, run) == "deferred",
        RUN_SECONDS,
        lambda: f"it was never deferred: {scheduler.instances(run)}",
    )
    assert deferring.databases.read("SELECT count(*) FROM public.workflow_template_embeddings") == [(0,)]
    assert scheduler.finished(run) == "success"
    [(vectors, rows)] = deferring.databases.read(
        "SELECT (SELECT count(*) FROM public.workflow_template_embeddings), count(*)"
        " FROM public.workflow_template_tasks"
    )
    assert vectors == rows > 0
    assert deferring.server.embedding_requests == []
    assert len(deferring.server.jobs) == 1
