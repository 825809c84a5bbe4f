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

from include.core.errors import MigrationError

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
# SQLSTATE classes that mean "try again": connection, transaction rollback, resources, operator intervention, and
# a lock that somebody else held for longer than lock_timeout.
_TRANSIENT_CLASSES = ("08", "40", "53", "57P", "55P03")
# Classes that mean "this row": data exception, integrity violation.
_DATA_CLASSES = ("22", "23")


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
        MigrationError: CONNECTION_MISSING, …_UNREACHABLE or …_LOGIN_REFUSED.
    """
    arguments = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "application_name": "mdw_migration",
        **_arguments(system),
    }
    try:
        # Never prepared: statements are few and long, and a pooler may change the session between two.
        connection: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(**arguments, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise _connect_error(system, error, arguments) from None
    return connection


@contextmanager
def translated(system: System, **facts: object) -> Iterator[None]:
    """Turn driver errors into registered ones."""
    try:
        yield
    except psycopg.Error as error:
        raise query_error(system, error, **facts) from None


def is_data_error(error: psycopg.Error) -> bool:
    """Whether a row, not the system, caused the error."""
    return (error.sqlstate or "").startswith(_DATA_CLASSES)


def query_error(system: System, error: psycopg.Error, **facts: object) -> MigrationError:
    """The registered error for a failed statement, without anything that could quote a row."""
    state = error.sqlstate or ""
    lost = isinstance(error, psycopg.OperationalError) and not state
    transient = lost or state.startswith(_TRANSIENT_CLASSES)
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
    return {**{key: value for key, value in named.items() if value}, **extras}


def _from_environment(system: System) -> dict[str, Any]:
    found = {key: os.environ[name] for key, name in system.variables.items() if os.environ.get(name)}
    if "host" not in found:
        variables = f" or {', '.join(system.variables.values())}" if system.variables else ""
        raise MigrationError(
            "CONNECTION_MISSING",
            f"Set AIRFLOW_CONN_{system.conn_id.upper()}{variables}.",
            connection=system.conn_id,
        )
    if "sslmode" in found:
        found["sslmode"] = _ssl_mode(found["sslmode"])
    return found


def _ssl_mode(value: str) -> str:
    """LEGACY_DB_SSL says true or false; libpq's own words are accepted too."""
    return {"true": "require", "1": "require", "false": "prefer", "0": "prefer"}.get(value.lower(), value)


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
    code = f"{system.prefix}_{'LOGIN_REFUSED' if refused else 'UNREACHABLE'}"
    return MigrationError(
        code,
        "",
        connection=system.conn_id,
        host=arguments.get("host", "local socket"),
        port=arguments.get("port", "default"),
        database=arguments.get("dbname", "default"),
    )
