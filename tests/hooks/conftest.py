"""A deployed target per test, reached the way a task reaches it: through its Airflow connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from include.entities import ENTITIES
from local.environment import connection_variable
from local.postgres import EmbeddedPostgres
from plugins.hooks import target_postgres
from plugins.hooks.target_rest import open_rest
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
    with target_postgres.session() as connection:
        yield connection


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Modules that say BOTH_WAYS hold for either way into the target."""
    if "target" in metafunc.fixturenames and getattr(metafunc.module, "BOTH_WAYS", False):
        metafunc.parametrize("target", ["postgres", "rest"], indirect=True)


@pytest.fixture
def target(
    request: pytest.FixtureRequest,
    session: psycopg.Connection[Any],
    target_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Target]:
    """The deployed target as tests load and look at it: over a direct connection, or as ``rest`` through the API."""
    if getattr(request, "param", "postgres") == "postgres":
        yield Target(session)
        return
    with request.getfixturevalue("serving")(target_dsn) as api:
        connection = {"conn_type": "supabase", "host": api.url, "password": api.keys.secret}
        monkeypatch.setenv("AIRFLOW_CONN_SUPABASE", json.dumps(connection))
        with open_rest(max_retries=0, batch_size=1_000) as rest:
            yield Target(session, rest)
