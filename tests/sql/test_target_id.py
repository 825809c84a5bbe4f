"""The id of a row is the same in SQL and in Python."""

import hashlib

import psycopg
import pytest

from include.core.ids import target_id
from plugins.hooks.target_schema import deploy_schema


@pytest.fixture
def connection(target_database):
    with psycopg.connect(target_database, autocommit=True) as connection:
        deploy_schema(connection, None)
        yield connection


def test_same_ids_in_sql_and_python(connection):
    rows = [("patients", str(n)) for n in (0, 1, 42, 523_000)] + [
        ("workflow_performance", "17:250000"),
        ("ä", "-1"),
    ]
    found = [
        connection.execute("SELECT migration.target_id(%s, %s)::text", row).fetchone()[0] for row in rows
    ]
    assert found == [target_id(*row) for row in rows]


def test_sha1_around_the_block_size(connection):
    for length in (0, 1, 54, 55, 56, 63, 64, 65, 119, 120, 300):
        message = bytes(n % 251 for n in range(length))
        found = connection.execute("SELECT migration.sha1(%s)", [message]).fetchone()[0]
        assert bytes(found) == hashlib.sha1(message, usedforsecurity=False).digest(), length
