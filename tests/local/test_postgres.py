"""The private PostgreSQL server, in both versions it can be."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from local import postgres
from local.postgres import ADMIN, EmbeddedPostgres, Major, ServerError, main, run_script
from tests.conftest import FAST_SETTINGS

AS_ROOT = os.geteuid() == 0


@pytest.fixture(scope="module", params=[18, 16])
def own_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedPostgres]:
    """A server that these tests may stop and start."""
    major: Major = request.param
    folder = tmp_path_factory.mktemp("own") / "a folder with spaces"
    with EmbeddedPostgres(folder, major=major, settings=FAST_SETTINGS) as running:
        yield running


@pytest.fixture
def running(own_server: EmbeddedPostgres) -> EmbeddedPostgres:
    """That server, running again whatever the test before did to it."""
    own_server.start()
    return own_server


def query(dsn: str, statement: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


def test_version_and_vector_extension(running: EmbeddedPostgres) -> None:
    name = f"vectors_{running.major}"
    dsn = running.create_database(name)
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE EXTENSION vector")
        (distance,) = connection.execute("SELECT '[1,2]'::halfvec(2) <-> '[1,5]'::halfvec(2)").fetchone() or (
            0,
        )
    assert distance == pytest.approx(3.0)
    assert str(query(dsn, "SHOW server_version")).startswith(str(running.major))
    assert query(dsn, "SELECT lower('ÄÉ')") == "äé"
    running.drop_database(name)


def test_starting_again_keeps_the_process_and_its_port(running: EmbeddedPostgres) -> None:
    before = (running.pid, running.port)
    running.start()
    EmbeddedPostgres(running.folder, major=running.major).start()
    assert (running.pid, running.port) == before


def test_data_and_port_survive_a_stop(running: EmbeddedPostgres) -> None:
    dsn = running.create_database("kept")
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS value")
    port = running.port
    running.stop()
    assert running.pid is None
    running.stop()
    running.start()
    assert running.port == port
    assert query(dsn, "SELECT value FROM kept") == 7
    running.drop_database("kept")


def test_another_port_is_taken_when_the_last_one_is_in_use(running: EmbeddedPostgres) -> None:
    port = running.port
    running.stop()
    with socket.socket() as occupier:
        occupier.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        occupier.bind((postgres.HOST, port))
        occupier.listen()
        running.start()
        assert running.port != port
        assert query(running.dsn(), "SELECT 1") == 1


def test_lock_file_of_a_dead_server_with_a_recycled_process_id(running: EmbeddedPostgres) -> None:
    pid = running.pid
    assert pid is not None
    lock_file = running.folder / "data" / "postmaster.pid"
    lines = lock_file.read_text().split("\n")
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(running)
    lock_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))
    assert running.pid is None
    running.start()
    assert running.pid not in (None, pid, os.getpid())
    assert query(running.dsn(), "SELECT 1") == 1


def wait_until_gone(server: EmbeddedPostgres) -> None:
    deadline = time.monotonic() + 10
    while server.pid is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_login_needs_the_password(running: EmbeddedPostgres) -> None:
    password = running.password()
    without = running.dsn().replace(f":{password}@", "@")
    for wrong in (without, running.dsn().replace(password, "x" * len(password))):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(wrong, passfile="/dev/null")


def test_only_the_owner_can_read_the_passwords_and_the_data(running: EmbeddedPostgres) -> None:
    assert stat.S_IMODE(running.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((running.folder / "data").stat().st_mode) == 0o700
    for file in (running.folder / "passwords").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_listens_on_loopback_only_and_has_no_socket_file(running: EmbeddedPostgres) -> None:
    assert query(running.dsn(), "SHOW listen_addresses") == "127.0.0.1"
    assert query(running.dsn(), "SHOW unix_socket_directories") == ""


def test_databases_are_created_copied_and_dropped_while_in_use(running: EmbeddedPostgres) -> None:
    with psycopg.connect(running.create_database("first")) as connection:
        connection.execute("CREATE TABLE marker AS SELECT 'from the template' AS text")
    copy = running.create_database("second", template="first")
    assert {"first", "second"} <= running.databases()
    connection = psycopg.connect(copy)
    assert connection.execute("SELECT text FROM marker").fetchone() == ("from the template",)
    running.drop_database("second")
    connection.close()
    with pytest.raises(psycopg.errors.DuplicateDatabase):
        running.create_database("first")
    running.drop_database("first")
    running.drop_database("first")
    assert not {"first", "second"} & running.databases()


def test_another_login_has_its_own_password_and_no_rights(running: EmbeddedPostgres) -> None:
    running.create_login("reader")
    first = running.password("reader")
    running.create_login("reader")
    assert running.password("reader") == first != running.password()
    assert query(running.dsn(role="reader"), "SELECT current_user") == "reader"
    assert (
        query(running.dsn(role="reader"), "SELECT rolsuper FROM pg_roles WHERE rolname = 'reader'") is False
    )
    with pytest.raises(ServerError, match="create_login"):
        running.password("nobody_made_me")


def test_settings_reach_the_server_and_the_demo_stays_durable(running: EmbeddedPostgres) -> None:
    assert query(running.dsn(), "SHOW fsync") == "off"
    assert query(running.dsn(), "SHOW synchronous_commit") == "off"
    assert "fsync" not in EmbeddedPostgres(running.folder)._settings


def test_a_failing_script_leaves_nothing(running: EmbeddedPostgres, tmp_path: Path) -> None:
    dsn = running.create_database("scripts")
    script = tmp_path / "bad.sql"
    script.write_text("CREATE TABLE half (id int); SELECT 1 / 0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        run_script(dsn, script)
    assert query(dsn, "SELECT to_regclass('half')") is None
    running.drop_database("scripts")


def test_another_major_version_is_refused(running: EmbeddedPostgres) -> None:
    other: Major = 16 if running.major == 18 else 18
    with pytest.raises(ServerError, match=f"made by PostgreSQL {running.major}"):
        EmbeddedPostgres(running.folder, major=other).start()


def test_a_setting_the_server_refuses_is_named(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "server", settings={"no_such_setting": "1"})
    with pytest.raises(ServerError, match="no_such_setting"):
        server.start()
    assert server.pid is None


def test_two_starts_at_once_make_one_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "local.postgres", "start", "--folder", str(tmp_path / "server")]
    starts = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]  # noqa: S603
    outputs = [start.communicate(timeout=60)[0] for start in starts]
    server = EmbeddedPostgres(tmp_path / "server")
    try:
        assert [start.returncode for start in starts] == [0, 0]
        assert outputs[0] == outputs[1]
        assert f"process {server.pid}" in outputs[0]
    finally:
        server.stop()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--folder", str(tmp_path / "server")]
    assert main(["status", *where]) == 3
    assert main(["start", *where]) == 0
    assert main(["status", *where]) == 0
    assert "runs on 127.0.0.1:" in capsys.readouterr().out
    assert main(["stop", *where]) == 0
    assert "is not running" in capsys.readouterr().out


@pytest.mark.skipif(not AS_ROOT, reason="only root has to take another identity")
class TestAsRoot:
    def test_in_a_namespace_the_files_stay_roots(self, running: EmbeddedPostgres) -> None:
        if postgres._namespace_launcher() is None or (running.folder / "data").stat().st_uid != 0:
            pytest.skip("user namespaces are not permitted here")
        assert running.pid is not None
        assert Path(f"/proc/{running.pid}").stat().st_uid == 0

    def test_without_namespaces_it_runs_as_an_unprivileged_account(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres, "_namespace_launcher", lambda: None)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o711)
            server = EmbeddedPostgres(Path(folder) / "server")
            if not reachable_by_everyone(server._bin):
                pytest.skip("the Python environment lies in a private folder")
            with server:
                assert query(server.dsn(), "SELECT current_user") == ADMIN
                assert server.pid is not None
                assert Path(f"/proc/{server.pid}").stat().st_uid != 0
            server.start()  # as the cluster's owner
            server.stop()
            assert Path(folder).stat().st_mode & 0o777 == 0o711

    def test_a_folder_that_account_cannot_reach_is_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(postgres, "_namespace_launcher", lambda: None)
        tmp_path.chmod(0o700)
        with pytest.raises(ServerError, match=r"refuses to run as root.*unprivileged user"):
            EmbeddedPostgres(tmp_path / "server").start()


def reachable_by_everyone(folder: Path) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (folder, *folder.parents))


@pytest.mark.skipif(
    not AS_ROOT or shutil.which("setpriv") is None, reason="needs root to become another user"
)
def test_another_users_cluster_is_left_alone(running: EmbeddedPostgres) -> None:
    """An unprivileged user neither reads nor starts a server that somebody else made."""
    command = ["setpriv", "--reuid=65534", "--clear-groups", "cat", str(running.folder / "passwords" / ADMIN)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert result.returncode != 0
    assert "Permission denied" in result.stderr
