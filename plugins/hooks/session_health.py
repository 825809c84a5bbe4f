"""Questions to a PostgreSQL server that change nothing there: read-only, short, each in a transaction of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from include.core.preflight import Outcome, failed, passed, warned
from plugins.hooks.connect import System, connect, in_the_clear, translated

STATEMENT_SECONDS = 5.0
"""Longest time that one question may take …"""
TOTAL_SECONDS = 60.0
"""… and all of a server together, after which each has a fraction of a second."""
_LEAST_SECONDS = 0.25
# Where Supabase's pooler listens in transaction mode.
_TRANSACTION_MODE_PORT = 6543
_ENCRYPTION = """SELECT s.version FROM pg_catalog.pg_stat_ssl s
WHERE s.ssl AND s.pid = pg_catalog.pg_backend_pid()"""
_VERIFIED = ("verify-ca", "verify-full")


class HealthSession:
    """A connection that is asked questions. Only SELECT is possible: every transaction is read-only.

    Args:
        system: whose errors these are.
    """

    def __init__(
        self,
        system: System,
        connection: psycopg.Connection[tuple[Any, ...]],
        *,
        statement_seconds: float = STATEMENT_SECONDS,
        total_seconds: float = TOTAL_SECONDS,
    ) -> None:
        self.system = system
        self.connection = connection
        self._statement_seconds = statement_seconds
        self._until = time.monotonic() + total_seconds
        connection.autocommit = True
        connection.read_only = True

    @contextmanager
    def reading(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A read-only transaction; what it sets ends with it, also behind a pooler."""
        left = min(self._statement_seconds, max(_LEAST_SECONDS, self._until - time.monotonic()))
        with translated(self.system), self.connection.transaction():
            self.connection.execute(
                f"SET LOCAL statement_timeout = {round(left * 1000)}; SET LOCAL lock_timeout = '1s';"
                " SET LOCAL client_encoding = 'UTF8'; SET LOCAL TimeZone = 'UTC'; SET LOCAL row_security = off"
            )
            yield self.connection

    def ask(self, query: Any, parameters: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        """Rows of one query.

        Raises:
            MigrationError: …_QUERY_FAILED (sqlstate 57014: it took too long) or …_INTERRUPTED.
        """
        with self.reading() as connection:
            return connection.execute(query, parameters).fetchall()

    def single(self, query: Any, parameters: Sequence[object] | None = None) -> Any:
        """The one value of a query, None where there is no row."""
        rows = self.ask(query, parameters)
        return rows[0][0] if rows else None


@contextmanager
def opened(system: System, **limits: float) -> Iterator[HealthSession]:
    """A session, closed behind the block.

    Raises:
        MigrationError: of the connection.
    """
    connection = connect(system)
    try:
        yield HealthSession(system, connection, **limits)
    finally:
        connection.close()


def encryption(session: HealthSession) -> Outcome:
    """How rows travel."""
    name = session.system.conn_id
    fix = f"Set sslmode to verify-full in connection `{name}`, with sslrootcert naming the authority's certificate."
    if in_the_clear(session.connection):
        return warned("Rows cross the network unencrypted, which a setting allows.", fix)
    if not session.connection.pgconn.ssl_in_use:
        return passed("Both ends are on this machine.")
    protocol = session.single(_ENCRYPTION) or "TLS"
    if session.connection.info.get_parameters().get("sslmode") not in _VERIFIED:
        return warned(
            f"Encrypted ({protocol}), but the server's certificate is not checked: another one could pose as it.",
            fix,
        )
    return passed(f"Encrypted ({protocol}), certificate checked.")


@dataclass(frozen=True)
class Pooling:
    """What stands between us and the server.

    Attributes:
        pooled: the process that answers is not the one that the connection was announced to be.
        transactional: a session may be served by several processes.
    """

    pooled: bool
    transactional: bool

    @classmethod
    def of(cls, announced: int, answering: Sequence[int], port: int) -> Pooling:
        """From process ids.

        Args:
            announced: told when the connection began; a pooler tells one of its own.
            answering: the server's own, in several transactions.
        """
        pooled = any(process != announced for process in answering)
        return cls(pooled, pooled and (len(set(answering)) > 1 or port == _TRANSACTION_MODE_PORT))


def pooling(session: HealthSession) -> Pooling:
    """Look for a pooler."""
    answering = [session.single("SELECT pg_catalog.pg_backend_pid()") for _ in range(3)]
    return Pooling.of(session.connection.pgconn.backend_pid, answering, session.connection.info.port)


def pooler(session: HealthSession, *, transactional_is_fatal: bool) -> Outcome:
    """Whether what stands in between keeps a session together."""
    found, name = pooling(session), session.system.conn_id
    if not found.pooled:
        return passed("None: the server itself answers.")
    fix = f"Let the port of connection `{name}` be 5432: the server's own, or the pooler's session mode."
    if not found.transactional:
        return warned("A pooler stands in between, in session mode as far as it shows.", fix)
    why = "A pooler in transaction mode stands in between: settings of a session do not hold."
    return failed(why, fix) if transactional_is_fatal else warned(why, fix)
