"""Opening connections: where they come from, and what is said when they fail."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from include.core.errors import MigrationError
from local.environment import connection_variable
from local.postgres import EmbeddedPostgres
from plugins.hooks.connect import SOURCE, TARGET, System, connect, in_the_clear, translated
from plugins.hooks.legacy_mdw import LegacyMdwHook

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
    error = refused(SOURCE)
    assert (error.code, error.transient) == ("SOURCE_PLAINTEXT", False)


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


# The loopback address by a name that does not tell: for all that can be known beforehand, another machine.
ELSEWHERE = "127.1"


@SYSTEMS
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"sslmode": "require"},
        {"sslmode": "prefer"},
        {"sslmode": "allow"},
        {"sslmode": "disable"},
        {"sslmode": "prefer", "allow_plaintext": False},
        {"sslmode": "disable", "allow_plaintext": "no"},
        {"allow_plaintext": None},
    ],
)
@pytest.mark.parametrize("host", [ELSEWHERE, f"127.0.0.1,{ELSEWHERE}"])
def test_plaintext_across_a_network_is_refused(
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    system: System,
    name: str,
    extra: dict[str, object],
    host: str,
) -> None:
    monkeypatch.setenv(name, variable(database, host=host, password=PASSWORD, extra=extra))
    error = refused(system)
    assert (error.code, error.transient) == (f"{system.prefix}_PLAINTEXT", False)
    assert error.facts["connection"] == system.conn_id


@SYSTEMS
@pytest.mark.parametrize("extra", [{}, {"sslmode": "prefer"}, {"sslmode": "disable"}])
@pytest.mark.parametrize("allowed", [True, "true", 1])
def test_a_setting_allows_plaintext_and_that_can_be_told(
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    system: System,
    name: str,
    extra: dict[str, str],
    allowed: object,
) -> None:
    monkeypatch.setenv(name, variable(database, host=ELSEWHERE, extra={**extra, "allow_plaintext": allowed}))
    with connect(system) as connection:
        assert in_the_clear(connection)


@SYSTEMS
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_stays_on_the_machine_need_not_be_encrypted(
    database: str, monkeypatch: pytest.MonkeyPatch, system: System, name: str, host: str
) -> None:
    monkeypatch.setenv(name, variable(database, host=host))
    with connect(system) as connection:
        assert not in_the_clear(connection)


def test_the_place_that_libpq_would_take_counts(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", ELSEWHERE)
    monkeypatch.setenv("PGSSLMODE", "prefer")
    monkeypatch.setenv("AIRFLOW_CONN_SUPABASE_DB", variable(database, host=None, password=PASSWORD))
    assert refused(TARGET).code == "TARGET_PLAINTEXT"


@pytest.mark.parametrize("ssl_setting", ["", "true", "prefer", "allow", "require"])
def test_the_source_by_variables_is_encrypted_unless_told_otherwise(
    database: str, monkeypatch: pytest.MonkeyPatch, ssl_setting: str
) -> None:
    set_variables(monkeypatch, database, LEGACY_DB_HOST=ELSEWHERE, LEGACY_DB_SSL=ssl_setting)
    assert refused(SOURCE).code == "SOURCE_PLAINTEXT"


@pytest.mark.parametrize("ssl_setting", ["false", "False", "0", "disable"])
def test_a_no_in_the_variables_allows_plaintext(
    database: str, monkeypatch: pytest.MonkeyPatch, ssl_setting: str
) -> None:
    set_variables(monkeypatch, database, LEGACY_DB_HOST=ELSEWHERE, LEGACY_DB_SSL=ssl_setting)
    with LegacyMdwHook().snapshot() as source:
        assert source.in_the_clear


def certificate(folder: Path) -> Path:
    """A file with a key and its certificate, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "legacy")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "server.pem"
    file.write_bytes(private + signed.public_bytes(encoding))
    return file


def encrypting(client: socket.socket, context: ssl.SSLContext, server: tuple[str, int]) -> None:
    """Answer PostgreSQL's request for TLS, then pass on what is inside."""

    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    client.recv(8)
    client.sendall(b"S")
    with context.wrap_socket(client, server_side=True) as inside, socket.create_connection(server) as plain:
        # The client waits for an answer whenever it has asked, so the two directions never meet in TLS.
        back = threading.Thread(target=pass_on, args=(plain, inside), daemon=True)
        back.start()
        pass_on(inside, plain)
        back.join()


@pytest.fixture
def tls_port(database: str, tmp_path: Path) -> Iterator[int]:
    """A port where the database answers with TLS alone; the server itself is built without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    parts = urlsplit(database)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client, suppress(OSError):
                        encrypting(client, context, (str(parts.hostname), int(parts.port or 0)))

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    server.join(5)
    assert not server.is_alive()


@SYSTEMS
@pytest.mark.parametrize("extra", [{}, {"sslmode": "require"}, {"allow_plaintext": True}])
def test_across_a_network_the_connection_is_encrypted_by_itself(
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    tls_port: int,
    system: System,
    name: str,
    extra: dict[str, object],
) -> None:
    monkeypatch.setenv(name, variable(database, host=ELSEWHERE, port=tls_port, extra=extra))
    with connect(system) as connection:
        assert connection.pgconn.ssl_in_use
        assert not in_the_clear(connection)
        assert connection.execute("SELECT 1").fetchone() == (1,)


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
