"""The target as a page reaches it: for one request, and never for long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from plugins.hooks.target import Target, choose_way
from plugins.hooks.target_postgres import PostgresTarget, session
from plugins.hooks.target_rest import open_rest

_RETRIES = 1
# Rows per request of the API; pages send none.
_ROWS = 1_000


@contextmanager
def page_target() -> Iterator[Target]:
    """The target over whichever way is configured, closed behind the block.

    A run beside it has priority: what waits for a lock or takes long is given up. Through the API the functions
    themselves say how long they may take.

    Raises:
        MigrationError: those of open_target.
    """
    if choose_way("auto") == "rest":
        with open_rest(max_retries=_RETRIES, batch_size=_ROWS) as target:
            yield target
        return
    with session() as connection:
        connection.execute("SET statement_timeout = '10s'; SET lock_timeout = '2s'")
        yield PostgresTarget(connection)
