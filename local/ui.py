"""`make ui`: Airflow's web interface over the databases of the demo, on the loopback address only.

    python -m local.ui [--port 8080] [--patients N] [--via postgres|rest]

Starts Airflow's four parts, waits until each reports itself healthy, prints the address and the login, and
stops all of them on Ctrl-C. Without `--patients` the databases of the last demo are kept as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from include.core.errors import MigrationError
from local.demo import DAG_ID, POSTGRES, WAYS, Stopwatch, patients_argument, prepared_environment, show
from local.environment import State
from local.postgres import HOST, ServerError
from local.postgrest import PostgrestError
from local.processes import (
    BusyError,
    CommandError,
    airflow,
    exclusive,
    spawn,
    stop_group,
    terminate_like_interrupt,
)

USER = "admin"
PREFERRED_PORT = 8080
START_SECONDS = 180.0
_POLL_SECONDS = 0.5

# Logs are read from the folder: the parts need no log servers, which would listen on every address.
PARTS: Mapping[str, Sequence[str]] = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
_REPORTED = ("metadatabase", "scheduler", "dag_processor", "triggerer")


@dataclass(frozen=True)
class Login:
    """Where the pages are, and who may see them."""

    address: str
    user: str
    password: str = field(repr=False)


def served_login(state: State) -> Login:
    """That of the pages which are served now.

    Raises:
        CommandError: none are.
    """
    try:
        address = _address_file(state).read_text()
        password = json.loads(_passwords_file(state).read_text())[USER]
    except FileNotFoundError:
        raise CommandError("Airflow's pages are not served: make ui, in another terminal.") from None
    return Login(address, USER, password)


def login_settings(state: State, port: int) -> tuple[dict[str, str], str]:
    """Airflow's settings for a page on loopback with one user, and that user's password (kept, 0600)."""
    file = _passwords_file(state)
    if not file.exists():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            json.dump({USER: secrets.token_urlsafe(12)}, handle)
    address = f"http://{HOST}:{port}"
    settings = {
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(file),
    }
    return settings, json.loads(file.read_text())[USER]


def choose_port(preferred: int) -> int:
    """The preferred port if it is free, else one the system offers."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise CommandError(f"No free port on {HOST}.")


@contextmanager
def running_parts(
    state: State, environment: Mapping[str, str]
) -> Iterator[Mapping[str, subprocess.Popen[bytes]]]:
    """Airflow's parts, each logging to its own file; stopped together in the end."""
    with ExitStack() as logs:
        processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for name, arguments in PARTS.items():
                output = logs.enter_context(_log(state, name).open("wb"))
                processes[name] = spawn(airflow(*arguments), environment, output)
            yield processes
        finally:
            stop_group(list(processes.values()))


def unhealthy_parts(address: str) -> list[str]:
    """Parts that do not report themselves healthy (all of them as long as the page does not answer)."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address}/api/v2/monitor/health", timeout=5) as answer:
            health = json.load(answer)
    except OSError:
        return list(_REPORTED)
    return [part for part in _REPORTED if (health.get(part) or {}).get("status") != "healthy"]


def check_alive(state: State, processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Raise CommandError when a part has ended by itself."""
    for name, process in processes.items():
        if process.poll() is not None:
            raise CommandError(
                f"Airflow's {name} ended with code {process.returncode}; see {_log(state, name)}."
            )


def ui(state: State, *, preferred_port: int, patients: int | None, via: str = POSTGRES) -> NoReturn:
    """Serve until interrupted (KeyboardInterrupt)."""
    progress = Stopwatch()
    with exclusive(state), prepared_environment(state, patients, via, progress) as environment:
        port = choose_port(preferred_port)
        settings, password = login_settings(state, port)
        address = f"http://{HOST}:{port}"
        progress("Airflow: starting")
        with running_parts(state, {**environment, **settings}) as processes:
            deadline = time.monotonic() + START_SECONDS
            while waiting_for := unhealthy_parts(address):
                check_alive(state, processes)
                if time.monotonic() > deadline:
                    parts = ", ".join(waiting_for)
                    raise CommandError(f"Not healthy after {START_SECONDS:.0f} s: {parts}; see {state.logs}.")
                time.sleep(_POLL_SECONDS)
            progress("Airflow: ready")
            _address_file(state).write_text(address)
            show(f"\n  {address}/dags/{DAG_ID}\n  user {USER}, password {password}\n\nCtrl-C stops it.")
            try:
                while True:
                    check_alive(state, processes)
                    time.sleep(_POLL_SECONDS)
            finally:
                _address_file(state).unlink()


def _address_file(state: State) -> Path:
    return state.airflow / "address"


def _passwords_file(state: State) -> Path:
    return state.airflow / "passwords.json"


def _log(state: State, part: str) -> Path:
    return state.logs / f"ui-{part}.log"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m local.ui", description="Airflow's pages, run locally.")
    parser.add_argument("--port", type=int, default=PREFERRED_PORT)
    parser.add_argument("--patients", type=patients_argument, default=None)
    parser.add_argument("--via", choices=WAYS, default=POSTGRES, help="what Airflow knows of the target")
    options = parser.parse_args(arguments)
    terminate_like_interrupt()
    try:
        ui(State(), preferred_port=options.port, patients=options.patients, via=options.via)
    except (ServerError, PostgrestError, BusyError, CommandError, MigrationError) as error:
        show(str(error))
        return 1
    except KeyboardInterrupt:
        show("\nStopped. The database server keeps running for the next command; `make stop` ends it.")
        return 0


if __name__ == "__main__":
    sys.exit(main())
