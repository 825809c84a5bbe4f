"""A connection to a real PostgreSQL, whose behaviour is what the tests of text formats compare with."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from local.postgres import EmbeddedPostgres
from tests.conftest import fresh_database


@pytest.fixture(scope="package")
def postgres(server: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """One connection for all: hypothesis runs a test's body many times."""
    with fresh_database(server) as name, psycopg.connect(server.dsn(name), autocommit=True) as connection:
        yield connection
