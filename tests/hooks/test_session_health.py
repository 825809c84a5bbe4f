"""What stands between us and a server: encryption, and poolers of either kind."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest

from include.core.preflight import Status
from local.environment import connection_variable
from plugins.hooks.connect import SOURCE, TARGET
from plugins.hooks.session_health import Pooling, encryption, opened, pooler


@contextmanager
def pretended_pooler(dsn: str) -> Iterator[int]:
    """A relay to the server of a DSN that announces a process id of its own, as poolers do; yields its port."""
    upstream = urlsplit(dsn)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # nobody came
            with client, socket.create_connection((str(upstream.hostname), upstream.port or 5432)) as server:
                asking = threading.Thread(target=relay, args=(client, server))
                asking.start()
                greet(server, client)
                relay(server, client)
                asking.join()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.close()
            thread.join(10)


def greet(server: socket.socket, client: socket.socket) -> None:
    """Pass messages on up to the first ReadyForQuery; of BackendKeyData with another process id."""
    stream = server.makefile("rb", buffering=0)
    kind = b""
    while kind != b"Z":
        kind, length = struct.unpack("!ci", read(stream, 5))
        body = read(stream, length - 4)
        if kind == b"K":
            body = struct.pack("!i", 1) + body[4:]
        client.sendall(kind + struct.pack("!i", length) + body)


def read(stream: socket.SocketIO, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        parts += stream.read(size - len(parts)) or b""
    return parts


def relay(reading: socket.socket, writing: socket.socket) -> None:
    try:
        while data := reading.recv(65_536):
            writing.sendall(data)
        writing.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one side has gone


def through(dsn: str, port: int) -> str:
    connection = {**json.loads(connection_variable(dsn)), "port": port}
    return json.dumps({**connection, "extra": json.dumps({"sslmode": "disable"})})


def test_the_server_itself_and_both_ends_on_one_machine(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(database))
    with opened(SOURCE) as session:
        assert pooler(session, transactional_is_fatal=True).status is Status.PASS
        assert encryption(session).why == "Both ends are on this machine."


def test_a_pooler_shows_by_the_process_it_announces(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_pooler(database) as port:
        monkeypatch.setenv("AIRFLOW_CONN_SUPABASE_DB", through(database, port))
        with opened(TARGET) as session:
            found = pooler(session, transactional_is_fatal=True)
    assert (found.status, "session mode" in found.why, "`supabase_db`" in found.fix) == (
        Status.WARN,
        True,
        True,
    )


@pytest.mark.parametrize(
    ("announced", "answering", "port", "found"),
    [
        (7, [7, 7, 7], 6543, Pooling(pooled=False, transactional=False)),
        (1, [7, 7, 7], 5432, Pooling(pooled=True, transactional=False)),
        (1, [7, 7, 7], 6543, Pooling(pooled=True, transactional=True)),
        (1, [7, 8, 7], 5432, Pooling(pooled=True, transactional=True)),
        (7, [7, 8, 9], 5432, Pooling(pooled=True, transactional=True)),
    ],
)
def test_modes_of_poolers(announced: int, answering: list[int], port: int, found: Pooling) -> None:
    assert Pooling.of(announced, answering, port) == found


@pytest.mark.parametrize("fatal", [True, False])
def test_transaction_mode_loses_what_a_session_sets(
    database: str, monkeypatch: pytest.MonkeyPatch, fatal: bool
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(database))
    monkeypatch.setattr(
        "plugins.hooks.session_health.pooling", lambda session: Pooling(pooled=True, transactional=True)
    )
    with opened(SOURCE) as session:
        found = pooler(session, transactional_is_fatal=fatal)
    assert found.status is (Status.FAIL if fatal else Status.WARN)


def test_what_a_question_sets_ends_with_it(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(database))
    with opened(SOURCE, statement_seconds=3) as session:
        assert session.single("SELECT current_setting('statement_timeout')") == "3s"
        assert session.connection.execute("SHOW statement_timeout").fetchone() == ("0",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), session.connection.transaction():
            session.connection.execute("CREATE TABLE made (id int)")
