"""Runs a measurement in a process of its own and watches its memory."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped]

_EVERY = 0.1
_SHOWN = 2_000
_MB = 1_000_000


class MeasurementError(Exception):
    """A measured process failed."""


@dataclass(frozen=True)
class Measured:
    """What a process reported, and the most memory that it and its children had at one time."""

    report: Mapping[str, Any]
    megabytes: float

    @property
    def seconds(self) -> float:
        """Median of the reported rounds."""
        return float(median(self.report["seconds"]))


def measured(command: Sequence[str], environment: Mapping[str, str]) -> Measured:
    """Runs a command whose last line of output is a JSON object with ``seconds``, a list.

    Memory is looked at ten times a second (the system's own peak of a process begins with its parent's). What is
    shared between processes counts once where the system can tell (Linux).

    Raises:
        MeasurementError: it failed; with the end of what it said.
    """
    with subprocess.Popen(  # noqa: S603 - commands of this package
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        peak = 0
        while True:
            try:
                output, errors = process.communicate(timeout=_EVERY)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, _memory(process.pid))
    if process.returncode:
        raise MeasurementError(f"{' '.join(command[:3])} failed: {errors.strip()[-_SHOWN:]}")
    report = json.loads(output.strip().splitlines()[-1])
    return Measured(report, peak / _MB)


def _memory(pid: int) -> int:
    try:
        root = psutil.Process(pid)
        return sum(_own(process) for process in (root, *root.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def _own(process: psutil.Process) -> int:
    try:
        used = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        # It has just ended, or is only just starting.
        return 0
    return int(getattr(used, "pss", used.uss))
