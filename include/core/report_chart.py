"""Geometry of a report's charts: phases on a time axis, and fates of an entity's rows as one bar. No drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.core.report_tables import FATES

_MOST_TICKS = 8
# Thinner bars would not be seen.
_LEAST_WIDTH = 0.4
_WHOLE = 100.0
_NICE = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 28_800, 86_400)


@dataclass(frozen=True)
class Bar:
    """A bar of a chart.

    Attributes:
        name: a phase or a fate.
        left: where it begins, in percent of the whole width.
        width: in the same measure.
        text: what it says, for who cannot see it.
    """

    name: str
    left: float
    width: float
    text: str


@dataclass(frozen=True)
class Timeline:
    """Phases on a time axis.

    Attributes:
        ticks: (place in percent, label) of the axis.
    """

    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]

    @property
    def text(self) -> str:
        """All of it in words."""
        return "; ".join(bar.text for bar in self.bars)


def timeline(phases: Sequence[Mapping[str, Any]], seconds: float | None) -> Timeline | None:
    """The phases of a run, each from its first batch to its last.

    Args:
        phases: of a report: ``phase``, ``begins_seconds`` and ``ends_seconds`` since the run was opened.
        seconds: of the whole run.

    Returns:
        None where nothing can be drawn.
    """
    placed = [phase for phase in phases if phase["begins_seconds"] is not None]
    if not placed or not seconds:
        return None
    last = max(seconds, *(phase["ends_seconds"] for phase in placed))
    bars = tuple(
        _bar(
            phase["phase"],
            phase["begins_seconds"] / last,
            (phase["ends_seconds"] - phase["begins_seconds"]) / last,
            f"{phase['phase']} from {phase['begins_seconds']:,.1f} s to {phase['ends_seconds']:,.1f} s",
        )
        for phase in placed
    )
    step = next((nice for nice in _NICE if last / nice <= _MOST_TICKS), last)
    ticks = tuple((_WHOLE * n * step / last, _moment(n * step)) for n in range(math.floor(last / step) + 1))
    return Timeline(bars, ticks)


def fates(entity: Mapping[str, Any]) -> tuple[Bar, ...]:
    """Of an entity's rows, one behind the other; those that no row has are left out."""
    rows = sum(entity[fate] for fate in FATES)
    bars, left = [], 0.0
    for fate in FATES:
        if count := entity[fate]:
            bars.append(Bar(fate, _WHOLE * left, _WHOLE * count / rows, f"{fate} {count:,}"))
            left += count / rows
    return tuple(bars)


def _bar(name: str, left: float, width: float, text: str) -> Bar:
    begins = min(_WHOLE * max(left, 0.0), _WHOLE - _LEAST_WIDTH)
    return Bar(name, begins, min(max(_WHOLE * width, _LEAST_WIDTH), _WHOLE - begins), text)


def _moment(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3_600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}:{minutes:02d} h"
    return f"{minutes}:{left:02d} min" if minutes else f"{left} s"
