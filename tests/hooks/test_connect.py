"""Opening connections: where they come from, and what is said when they fail."""

from __future__ import annotations

import json
import socket
import traceback
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from include.core.errors import MigrationError
from local.environment import connection_variable
from local.postgres import EmbeddedPostgres
from plugins.hooks.connect import SOURCE, TARGET, System, connect, is_data_error, translated

PASSWORD = "Zweifelstein-9"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW_CONN_LEGACY_MDW", "AIRFLOW_CONN_SUPABASE_DB", *SOURCE.variables.values()):
        monkeypatch.delenv(name, raising=False)


def variable(dsn: str, **changes: object) -> str:
    return json.dumps({**json.loads(connection_variable(dsn)), **changes})


def refused(system: System) -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        connect(system)
    printed = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in printed
    return caught.value


SYSTEMS = pytest.mark.parametrize(
    ("system", "name"),
    [(SOURCE, "AIRFLOW_CONN_LEGACY_MDW"), (TARGET, "AIRFLOW_CONN_SUPABASE_DB")],
    ids=["source", "target"],
)


@SYSTEMS
def test_the_airflow_connection_is_used(
    database: str, monkeypatch: pytest.MonkeyPatch, system: System, name: str
) -> None:
    monkeypatch.setenv(name, variable(database, extra={"connect_timeout": 3, "options": "-c work_mem=1MB"}))
    with connect(system) as connection:
        told = connection.execute("SELECT current_database(), current_setting('application_name')").fetchone()
        assert told == (urlsplit(database).path[1:], "mdw_migration")
        assert not connection.autocommit


@SYSTEMS
@pytest.mark.parametrize(
    "changes", [{"password": PASSWORD}, {"login": "nobody", "password": PASSWORD}, {"schema": "no_such"}]
)
def test_a_refused_login_is_permanent(
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    system: System,
    name: str,
    changes: dict[str, str],
) -> None:
    monkeypatch.setenv(name, variable(database, **changes))
    error = refused(system)
    assert (error.code, error.transient) == (f"{system.prefix}_LOGIN_REFUSED", False)
    assert error.facts["connection"] == system.conn_id


@SYSTEMS
def test_a_missing_password_is_a_refused_login(
    database: str, monkeypatch: pytest.MonkeyPatch, system: System, name: str
) -> None:
    monkeypatch.setenv(name, variable(database, password=None))
    assert refused(system).code == f"{system.prefix}_LOGIN_REFUSED"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@SYSTEMS
def test_an_unreachable_server_is_transient(
    database: str, monkeypatch: pytest.MonkeyPatch, system: System, name: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv(name, variable(database, port=port, password=PASSWORD))
    error = refused(system)
    assert (error.code, error.transient) == (f"{system.prefix}_UNREACHABLE", True)
    assert (error.facts["host"], error.facts["port"]) == ("127.0.0.1", port)


def test_a_host_without_address_is_unreachable(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SUPABASE_DB", variable(database, host="db.invalid", password=PASSWORD))
    assert refused(TARGET).code == "TARGET_UNREACHABLE"


def test_a_server_that_never_answers_is_given_up(
    database: str, monkeypatch: pytest.MonkeyPatch, silent_port: int
) -> None:
    conn = variable(database, port=silent_port, password=PASSWORD, extra={"connect_timeout": 2})
    monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", conn)
    assert refused(SOURCE).code == "SOURCE_UNREACHABLE"


def test_without_any_connection_the_message_names_what_to_set() -> None:
    source, target = refused(SOURCE), refused(TARGET)
    assert source.code == target.code == "CONNECTION_MISSING"
    assert "AIRFLOW_CONN_LEGACY_MDW" in str(source)
    assert all(name in str(source) for name in SOURCE.variables.values())
    assert "AIRFLOW_CONN_SUPABASE_DB" in str(target)


def set_variables(monkeypatch: pytest.MonkeyPatch, dsn: str, **changes: str) -> None:
    parts = urlsplit(dsn)
    values = {
        "LEGACY_DB_HOST": str(parts.hostname),
        "LEGACY_DB_PORT": str(parts.port),
        "LEGACY_DB_NAME": parts.path[1:],
        "LEGACY_DB_USER": str(parts.username),
        "LEGACY_DB_PASSWORD": str(parts.password),
    }
    for name, value in {**values, **changes}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("ssl", ["", "false", "False", "0", "disable", "prefer"])
def test_environment_variables_stand_in_for_the_connection(
    database: str, monkeypatch: pytest.MonkeyPatch, ssl: str
) -> None:
    set_variables(monkeypatch, database, LEGACY_DB_SSL=ssl)
    with connect(SOURCE) as connection:
        assert connection.info.dbname == urlsplit(database).path[1:]


@pytest.mark.parametrize("ssl", ["true", "TRUE", "1", "require"])
def test_encryption_that_was_asked_for_is_not_given_up(
    database: str, monkeypatch: pytest.MonkeyPatch, ssl: str
) -> None:
    set_variables(monkeypatch, database, LEGACY_DB_SSL=ssl)  # the test server has no certificate
    assert refused(SOURCE).code == "SOURCE_UNREACHABLE"


def test_the_airflow_connection_wins(
    server: EmbeddedPostgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, database)
    monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(server.dsn("postgres")))
    with connect(SOURCE) as connection:
        assert connection.info.dbname == "postgres"


def test_the_variables_of_the_source_never_supply_the_target(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, database)
    assert refused(TARGET).code == "CONNECTION_MISSING"


# The statements quote the value, so that the server's messages do, too.
STATEMENTS = {
    "22P02": f"SELECT '{PASSWORD}'::int",
    "22012": "SELECT 1 / 0",
    "23505": f"CREATE TEMP TABLE t (a text PRIMARY KEY); INSERT INTO t VALUES ('{PASSWORD}'), ('{PASSWORD}')",
    "23502": f"CREATE TEMP TABLE t (a text NOT NULL, b text); INSERT INTO t VALUES (NULL, '{PASSWORD}')",
    "42P01": "SELECT * FROM no_such_table",
    "P0001": f"DO $$ BEGIN RAISE EXCEPTION '{PASSWORD}'; END $$",
    "57014": "SET statement_timeout = 10; SELECT pg_sleep(5)",
}


@pytest.mark.parametrize("state", STATEMENTS)
def test_a_failed_statement_is_told_without_its_values(
    database: str, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SUPABASE_DB", connection_variable(database))
    with (
        connect(TARGET) as connection,
        pytest.raises(MigrationError) as caught,
        translated(TARGET, batch="b1"),
    ):
        connection.execute(STATEMENTS[state].encode())
    error = caught.value
    assert (error.code, error.facts["sqlstate"], error.facts["batch"]) == ("TARGET_QUERY_FAILED", state, "b1")
    assert PASSWORD not in "".join(traceback.format_exception(error))
    if state.startswith("23"):
        assert error.facts["table"] == "t"


@pytest.mark.parametrize("state", ["40001", "40P01", "53200", "55P03", "57P01", "08006"])
def test_what_may_pass_by_itself_is_transient(
    database: str, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(database))
    with connect(SOURCE) as connection, pytest.raises(MigrationError) as caught, translated(SOURCE):
        connection.execute(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{state}'; END $$".encode())
    assert (caught.value.code, caught.value.transient) == ("SOURCE_INTERRUPTED", True)


def test_a_registered_error_passes_through() -> None:
    with pytest.raises(MigrationError, match="RUN_STOPPED"), translated(SOURCE):
        raise MigrationError("RUN_STOPPED", "")


def test_rows_not_systems_cause_data_errors() -> None:
    assert is_data_error(psycopg.errors.UniqueViolation())
    assert is_data_error(psycopg.errors.InvalidTextRepresentation())
    assert not is_data_error(psycopg.errors.UndefinedTable())
    assert not is_data_error(psycopg.OperationalError())
