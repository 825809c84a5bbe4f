"""The target over a direct PostgreSQL connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from airflow.sdk import BaseHook

from plugins.hooks.connect import TARGET, connect, translated

# Sent as one, for the target may be far away.
_SESSION = """SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET statement_timeout = '60min';
SET lock_timeout = '60s';
SET client_min_messages = 'warning'"""


class TargetPostgresHook(BaseHook):
    """Writes and reads the target."""

    def __init__(self) -> None:
        super().__init__()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    @contextmanager
    def session(self, **facts: object) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection in autocommit (transactions are explicit), its errors translated."""
        with translated(TARGET, **facts), connect(TARGET) as connection:
            connection.autocommit = True
            self._connection = connection
            try:
                connection.execute(_SESSION)
                yield connection
            finally:
                self._connection = None

    def cancel(self) -> None:
        """Cancel what runs in the server; for a task that is being killed."""
        if self._connection is not None:
            self._connection.cancel()
