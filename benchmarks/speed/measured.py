"""What a measurement is, and the table of several rounds."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped]

_EVERY_SECONDS = 0.1
_SHOWN = 2_000
_MB = 1 << 20


class MeasurementError(Exception):
    """What was to be measured failed; its time says nothing."""


@dataclass(frozen=True)
class Sample:
    """One measurement.

    Attributes:
        cpu_seconds: of the client, user and system, helpers included.
        peak_mb: resident memory of the largest client process; None where it was not watched.
    """

    rows: int
    seconds: float
    cpu_seconds: float
    peak_mb: float | None

    @property
    def rate(self) -> float:
        """Rows per second."""
        return self.rows / self.seconds


def of_process(command: Sequence[str], environment: Mapping[str, str], rows: int) -> Sample:
    """Run a client; seconds are those that its last line tells as JSON (``seconds``), else those of the process.

    Raises:
        MeasurementError: it failed; with the end of what it said.
    """
    begun = time.monotonic()
    peak, cpu = 0, 0.0
    with subprocess.Popen(  # noqa: S603 - commands of this package
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while True:
            try:
                output, _ = process.communicate(timeout=_EVERY_SECONDS)
                break
            except subprocess.TimeoutExpired:
                memory, used = _looked_at(process.pid)
                peak, cpu = max(peak, memory), max(cpu, used)
    seconds = time.monotonic() - begun
    if process.returncode:
        raise MeasurementError(f"{command[0]}: {output.strip()[-_SHOWN:]}")
    report = _report(output)
    return Sample(
        rows,
        float(report.get("seconds", seconds)),
        float(report.get("cpu_seconds", cpu)),
        float(report.get("peak_mb", peak / _MB)),
    )


def _report(output: str) -> dict[str, Any]:
    last = output.strip().rpartition("\n")[2]
    if not last.startswith("{"):
        return {}
    report: dict[str, Any] = json.loads(last)
    return report


def _looked_at(pid: int) -> tuple[int, float]:
    """Memory and processor time of a process, now."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return int(process.memory_info().rss), float(times.user + times.system)
    except psutil.NoSuchProcess:  # it has just ended
        return 0, 0.0


def middle(samples: Sequence[Sample]) -> Sample:
    """Medians of several rounds; of the memory the most."""
    peaks = [sample.peak_mb for sample in samples if sample.peak_mb is not None]
    return Sample(
        samples[0].rows,
        median(sample.seconds for sample in samples),
        median(sample.cpu_seconds for sample in samples),
        max(peaks, default=None),
    )


def ratios(samples: Sequence[Sample], others: Sequence[Sample]) -> float:
    """Median of the ratios of rates, round by round: rounds differ by more than ways do."""
    return median(sample.rate / other.rate for sample, other in zip(samples, others, strict=True))


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Rows of a table: words left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )
