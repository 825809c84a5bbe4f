"""Opens PostgreSQL connections by Airflow connection id or environment, and translates driver errors.

Driver messages quote values of rows, so nothing of them is passed on but SQLSTATE, table, column and
constraint.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from mdw_supabase.hook import is_loopback

from include.core.errors import MigrationError, raised_by_target

CONNECT_TIMEOUT_SECONDS = 10
# libpq settings that a connection's extra may carry.
_EXTRAS = {
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "connect_timeout",
    "target_session_attrs",
    "channel_binding",
}
_ALLOWED = "allow_plaintext"
# LEGACY_DB_SSL says true or false; libpq's own words are accepted too. A no allows plaintext, as a setting must.
_SSL_WORDS = {"true": "require", "1": "require", "false": "prefer", "0": "prefer"}
_SSL_NOT_NEEDED = ("false", "0", "disable")
_ENCRYPTED_MODES = ("require", "verify-ca", "verify-full")
_NO_TLS_THERE = "server does not support SSL"
# SQLSTATE classes that mean "try again": connection, transaction rollback, resources, operator intervention, and
# a lock that somebody else held for longer than lock_timeout.
_TRANSIENT_CLASSES = ("08", "40", "53", "57P", "55P03")
REGISTERED = "MDW01"
"""SQLSTATE of errors that functions of the target raise: the message is a code of include/core/errors.py."""


@dataclass(frozen=True)
class System:
    """One of the two databases.

    Attributes:
        prefix: of its error codes, SOURCE or TARGET.
        variables: libpq keyword to environment variable, used when the connection is absent.
    """

    prefix: str
    conn_id: str
    variables: Mapping[str, str]


SOURCE = System(
    "SOURCE",
    "legacy_mdw",
    {
        "host": "LEGACY_DB_HOST",
        "port": "LEGACY_DB_PORT",
        "dbname": "LEGACY_DB_NAME",
        "user": "LEGACY_DB_USER",
        "password": "LEGACY_DB_PASSWORD",
        "sslmode": "LEGACY_DB_SSL",
    },
)
TARGET = System("TARGET", "supabase_db", {})


def connect(system: System) -> psycopg.Connection[tuple[Any, ...]]:
    """A new connection, not in autocommit.

    Raises:
        MigrationError: CONNECTION_MISSING, …_PLAINTEXT, …_UNREACHABLE or …_LOGIN_REFUSED.
    """
    arguments = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "application_name": "mdw_migration",
        **_protected(system, _arguments(system)),
    }
    try:
        # Never prepared: statements are few and long, and a pooler may change the session between two.
        connection: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(**arguments, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise _connect_error(system, error, arguments) from None
    return connection


def in_the_clear(connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
    """Whether what is sent crosses a network unencrypted; then a setting allows it, and the report must say so."""
    return not connection.pgconn.ssl_in_use and not _stays_here(connection.info.host)


@contextmanager
def translated(system: System, **facts: object) -> Iterator[None]:
    """Turn driver errors into registered ones."""
    try:
        yield
    except psycopg.Error as error:
        raise query_error(system, error, **facts) from None


def is_configured(system: System) -> bool:
    """Whether the system's connection, or its variables, are there."""
    try:
        _arguments(system)
    except MigrationError:
        return False
    return True


def is_transient(sqlstate: str) -> bool:
    """Whether trying again may help."""
    return sqlstate.startswith(_TRANSIENT_CLASSES)


def query_error(system: System, error: psycopg.Error, **facts: object) -> MigrationError:
    """The registered error for a failed statement, without anything that could quote a row."""
    state = error.sqlstate or ""
    if state == REGISTERED:
        return raised_by_target(error.diag.message_primary or "", error.diag.message_detail or "")
    lost = isinstance(error, psycopg.OperationalError) and not state
    transient = lost or is_transient(state)
    code = f"{system.prefix}_{'INTERRUPTED' if transient else 'QUERY_FAILED'}"
    known = {
        "sqlstate": state or "connection lost",
        "table": error.diag.table_name,
        "constraint": error.diag.constraint_name,
        **facts,
    }
    return MigrationError(code, "", **{name: value for name, value in known.items() if value})


def _arguments(system: System) -> dict[str, Any]:
    try:
        conn = BaseHook.get_connection(system.conn_id)
    except AirflowNotFoundException:
        return _from_environment(system)
    extras = {key: value for key, value in conn.extra_dejson.items() if key in _EXTRAS}
    named = {
        "host": conn.host,
        "port": conn.port,
        "dbname": conn.schema,
        "user": conn.login,
        "password": conn.password,
    }
    allowed = str(conn.extra_dejson.get(_ALLOWED)).lower() in ("true", "1")
    return {**{key: value for key, value in named.items() if value}, **extras, _ALLOWED: allowed}


def _from_environment(system: System) -> dict[str, Any]:
    found = {key: os.environ[name] for key, name in system.variables.items() if os.environ.get(name)}
    if "host" not in found:
        variables = f" or {', '.join(system.variables.values())}" if system.variables else ""
        raise MigrationError(
            "CONNECTION_MISSING",
            f"Set AIRFLOW_CONN_{system.conn_id.upper()}{variables}.",
            connection=system.conn_id,
        )
    given = found.get("sslmode", "").lower()
    if given:
        found["sslmode"] = _SSL_WORDS.get(given, given)
    return {**found, _ALLOWED: given in _SSL_NOT_NEEDED}


def _protected(system: System, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for libpq: across a network encryption is required, unless a setting allows plaintext."""
    known = {key: value for key, value in arguments.items() if key != _ALLOWED}
    hosts = str(known.get("host") or os.environ.get("PGHOST", "")).split(",")
    if arguments[_ALLOWED] or all(map(_stays_here, hosts)):
        return known
    mode = known.setdefault("sslmode", os.environ.get("PGSSLMODE") or "require")
    if mode not in _ENCRYPTED_MODES:
        raise MigrationError(
            f"{system.prefix}_PLAINTEXT", "", connection=system.conn_id, host=known.get("host"), sslmode=mode
        )
    return known


def _stays_here(host: str) -> bool:
    """Whether a host of libpq is this machine, by a socket or the loopback address."""
    return not host or host.startswith(("/", "@")) or is_loopback(host)


def _connect_error(
    system: System, error: psycopg.OperationalError, arguments: Mapping[str, Any]
) -> MigrationError:
    # The server's words here concern the login, never a row; the driver gives no SQLSTATE for them.
    text = str(error)
    refused = any(
        sign in text
        for sign in (
            "authentication failed",
            "no password supplied",
            "does not exist",
            "no pg_hba.conf entry",
        )
    )
    problem = "PLAINTEXT" if _NO_TLS_THERE in text else "LOGIN_REFUSED" if refused else "UNREACHABLE"
    code = f"{system.prefix}_{problem}"
    return MigrationError(
        code,
        "",
        connection=system.conn_id,
        host=arguments.get("host", "local socket"),
        port=arguments.get("port", "default"),
        database=arguments.get("dbname", "default"),
    )
