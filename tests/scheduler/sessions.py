"""Ends whole sessions of processes. A process group is not enough: each Airflow task leads one of its own.

``python -m tests.scheduler.sessions PID…`` does so when standard input ends, thus also when its parent is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from local.environment import PROJECT


def kill_sessions(leaders: Collection[int]) -> None:
    """Kill every process of the sessions that these processes lead or led."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(ProcessLookupError, PermissionError):
                if os.getsid(int(entry.name)) in leaders:
                    os.kill(int(entry.name), signal.SIGKILL)


@contextmanager
def killed_with_parent(leaders: Collection[int]) -> Iterator[None]:
    """Kill the sessions also when this process is killed: its end of the pipe then closes."""
    watchdog = subprocess.Popen(  # noqa: S603 - a fixed command
        [sys.executable, "-m", "tests.scheduler.sessions", *map(str, leaders)],
        stdin=subprocess.PIPE,
        start_new_session=True,
        cwd=PROJECT,
    )
    try:
        yield
    finally:
        watchdog.kill()
        watchdog.communicate()


if __name__ == "__main__":
    sys.stdin.read()
    kill_sessions({int(pid) for pid in sys.argv[1:]})
