"""Child processes end with everything they started, and two commands keep out of each other's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local.environment import PROJECT, State
from local.processes import (
    BusyError,
    CommandError,
    exclusive,
    interrupt_running,
    run_to_log,
    spawn,
    stop_group,
)

STUBBORN_FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""
HOLDER = """
import pathlib, sys, time
from local.environment import State
from local.processes import exclusive, terminate_like_interrupt
terminate_like_interrupt()
try:
    with exclusive(State(pathlib.Path(sys.argv[1]))):
        print("held", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(7)
"""


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_that_ignores_termination_ends_with_its_children() -> None:
    process = spawn([sys.executable, "-c", STUBBORN_FAMILY], os.environ, subprocess.PIPE)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    begin = time.monotonic()
    stop_group([process], grace=0.2)
    assert time.monotonic() - begin < 5
    assert process.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_failing_command_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "command.log"
    command = [sys.executable, "-c", "import sys; print('the reason'); sys.exit(3)"]
    with pytest.raises(CommandError, match=r"exit code 3; see .*command\.log"):
        run_to_log(command, os.environ, log)
    assert log.read_text() == "the reason\n"


def test_only_one_command_works_in_a_state_folder(tmp_path: Path) -> None:
    state = State(tmp_path)
    with exclusive(state), pytest.raises(BusyError, match="stop it first"), exclusive(state):
        pass
    with exclusive(state):
        pass


def test_stop_ends_the_command_that_holds_the_folder(tmp_path: Path) -> None:
    holder = spawn(
        [sys.executable, "-c", HOLDER, str(tmp_path)], os.environ | {"PYTHONPATH": str(PROJECT)}, -1
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    interrupt_running(State(tmp_path))
    assert holder.wait(5) == 7
    interrupt_running(State(tmp_path))
    interrupt_running(State(tmp_path / "never made"))
