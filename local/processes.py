"""Child processes that are stopped whole: each leads a process group, and its output goes to a file."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from local.environment import PROJECT, State

GRACE_SECONDS = 15.0
_POLL_SECONDS = 0.1


class BusyError(RuntimeError):
    """Another command of the local environment is at work in the same state folder."""


class CommandError(RuntimeError):
    """A preparing command failed; the message names its log."""


@contextmanager
def exclusive(state: State) -> Iterator[None]:
    """Keep demo and UI apart: they share databases that one would make anew under the other.

    Raises:
        BusyError: the other one runs.
    """
    state.create()
    with _lock_file(state).open("a+") as handle:
        if not _lock(handle):
            raise BusyError(f"A demo or a UI is running in {state.folder}: stop it first (make stop).")
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def interrupt_running(state: State) -> None:
    """End the demo or UI that holds the state folder, if there is one, and wait for its clean-up.

    Raises:
        BusyError: it has not ended in time.
    """
    if not _lock_file(state).exists():
        return
    with _lock_file(state).open("a+") as handle:
        if _lock(handle):
            return
        handle.seek(0)
        pid = int(handle.read())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 4 * GRACE_SECONDS
        while not _lock(handle):
            if time.monotonic() > deadline:
                raise BusyError(f"Process {pid} has not ended.")
            time.sleep(_POLL_SECONDS)


def airflow(*arguments: str) -> list[str]:
    """The command line of an Airflow command in this Python environment."""
    return [sys.executable, "-m", "airflow", *arguments]


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    output: IO[bytes] | int,
    *,
    folder: Path = PROJECT,
    descriptors: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a command as the leader of its own process group; it inherits `descriptors` and works in `folder`."""
    return subprocess.Popen(  # noqa: S603 - commands of this project
        command,
        env=dict(environment),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=descriptors,
    )


@contextmanager
def stopped_with_parent(pid: int, number: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """Signal a process also when this one is killed: its end of a pipe to a watchdog then closes."""
    watchdog = subprocess.Popen(  # noqa: S603 - a fixed command
        ["/bin/sh", "-c", 'read -r _; kill "-$1" "$2"', "watchdog", str(int(number)), str(pid)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watchdog.kill()
        watchdog.communicate()


@contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stop a server in the end, also when this process is killed."""
    try:
        with stopped_with_parent(process.pid):
            yield
    finally:
        stop_group([process])


def stop_group(processes: Sequence[subprocess.Popen[bytes]], grace: float = GRACE_SECONDS) -> None:
    """End processes with everything they started: politely, and after `grace` seconds by force.

    Airflow's `dags test` ignores the polite request.
    """
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    try:
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(grace)
    finally:  # also when Ctrl-C is pressed again
        for process in processes:
            _signal_group(process, signal.SIGKILL)  # also children that outlived their leader
            process.wait()


def run_to_log(command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """Run a short command to its end.

    Raises:
        CommandError: it failed.
    """
    with log.open("wb") as output:
        process = spawn(command, environment, output)
        try:
            code = process.wait()
        finally:
            stop_group([process])
    if code != 0:
        raise CommandError(f"'{' '.join(command[1:])}' failed with exit code {code}; see {log}.")


def terminate_like_interrupt() -> None:
    """Let a request to terminate run the same clean-up as Ctrl-C: children have their own groups."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _lock_file(state: State) -> Path:
    return state.folder / "busy.lock"


def _lock(handle: IO[str]) -> bool:
    """Take the lock that lasts as long as the open file, False when another process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
