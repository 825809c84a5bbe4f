"""A deployed target per test, reached the way a task reaches it: through its Airflow connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from include.entities import ENTITIES
from local.environment import connection_variable
from local.postgres import EmbeddedPostgres
from plugins.hooks.target_postgres import TargetPostgresHook
from plugins.hooks.target_schema import deploy_schema, register
from tests.conftest import fresh_database
from tests.hooks.loading import DIMENSIONS, Target


@pytest.fixture(scope="session")
def deployed_template(server: EmbeddedPostgres, target_template: str) -> str:
    """Name of a database with everything deployed and nothing loaded."""
    server.create_database("deployed_template", target_template, owner="postgres")
    dsn = server.dsn("deployed_template", role="postgres")
    with psycopg.connect(dsn, autocommit=True) as connection:
        deploy_schema(connection, DIMENSIONS)
        register(connection, ENTITIES.values())
    return "deployed_template"


@pytest.fixture
def target_dsn(
    server: EmbeddedPostgres, deployed_template: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """DSN of a deployed target of its own, also set as connection `supabase_db`."""
    with fresh_database(server, template=deployed_template, owner="postgres") as name:
        dsn = server.dsn(name, role="postgres")
        monkeypatch.setenv("AIRFLOW_CONN_SUPABASE_DB", connection_variable(dsn))
        yield dsn


@pytest.fixture
def session(target_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A session of the hook in a deployed target."""
    with TargetPostgresHook().session() as connection:
        yield connection


@pytest.fixture
def target(session: psycopg.Connection[Any]) -> Target:
    """The deployed target as tests load and look at it."""
    return Target(session)
