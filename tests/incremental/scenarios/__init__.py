"""What can happen to the source between two nights: one generator per scenario, written with Django's ORM.

A scenario changes the source and yields what the target must hold after the next night; then it may go on.
Scenarios that share their nights (see test_scenarios.py) keep to rows of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.incremental.world import World


@dataclass(frozen=True)
class Expected:
    """What a query in the target gives after the next night.

    Attributes:
        already: it gives the same before the night: nothing is to arrive yet.
        compared: the target is compared with a fresh migration behind this night, too.
    """

    query: str
    rows: list[tuple[Any, ...]]
    already: bool = False
    compared: bool = True


Steps = Iterator[Expected]
Scenario = Callable[[World], Steps]

SCENARIOS: dict[str, Scenario] = {}


def scenario(steps: Scenario) -> Scenario:
    """Registers a scenario under its own name."""
    name = steps.__name__
    assert name not in SCENARIOS, name
    SCENARIOS[name] = steps
    return steps


def arrives(query: str, *rows: tuple[Any, ...], compared: bool = True) -> Expected:
    """The night brings these rows."""
    return Expected(query, list(rows), compared=compared)


def stays(query: str, *rows: tuple[Any, ...], compared: bool = True) -> Expected:
    """The night changes nothing of these rows."""
    return Expected(query, list(rows), already=True, compared=compared)


def state_of(entity: str, *legacy_ids: object) -> str:
    """Query for what became of rows, by legacy id."""
    keys = ", ".join(f"'{key}'" for key in legacy_ids)
    return (
        f"SELECT legacy_id, state FROM migration.id_map WHERE entity = '{entity}' AND legacy_id IN ({keys})"
        " ORDER BY length(legacy_id), legacy_id"
    )
