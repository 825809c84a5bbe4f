"""Errors that nobody foresaw and that tell of the rows at hand: in their text, their causes and local variables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

RULE, LOADED = "rule", "loaded"


@contextmanager
def leaking(places: Sequence[Sequence[str]]) -> Iterator[None]:
    """While it lasts, a step of an entity dies over its rows.

    Args:
        places: pairs of a place and an entity: the kind of table that is staged (`raw`, `clean`), `RULE` or `LOADED`.
    """
    broken = {(place, entity) for place, entity in places}
    with ExitStack() as stack:
        stack.enter_context(_staging(broken))
        stack.enter_context(_loading(broken))
        for place, entity in broken:
            if place == RULE:
                stack.enter_context(_rule(entity))
        yield


def _die_over(rows: Any) -> None:
    """As code does that was not written for what it got."""
    row = str(rows.to_pylist())
    try:
        int(row)
    except ValueError as error:
        raise AttributeError(f"{row} has no attribute 'date'", name="date", obj=row) from error


@contextmanager
def _staging(broken: set[tuple[str, str]]) -> Iterator[None]:
    from plugins.hooks.staging import StagedFolder  # noqa: PLC0415

    write = StagedFolder.write

    def write_or_die(folder: StagedFolder, kind: str, entity: str, batch: str, table: Any) -> None:
        if (kind, entity) in broken:
            _die_over(table)
        write(folder, kind, entity, batch, table)

    with patch.object(StagedFolder, "write", write_or_die):
        yield


@contextmanager
def _loading(broken: set[tuple[str, str]]) -> Iterator[None]:
    from plugins.hooks.batch_loader import BatchLoader  # noqa: PLC0415

    load = BatchLoader.load

    def load_or_die(loader: BatchLoader, batch: Any, attempt: int) -> Any:
        if (LOADED, loader._entity.name) in broken:
            _die_over(batch.clean)
        return load(loader, batch, attempt)

    with patch.object(BatchLoader, "load", load_or_die):
        yield


@contextmanager
def _rule(entity: str) -> Iterator[None]:
    """A rule of a column fails over a value, as `int` and others do that quote it."""
    from include.entities import ENTITIES  # noqa: PLC0415

    def rule(batch: Any) -> Any:
        return int(str(batch.raw.to_pylist()))

    columns = ENTITIES[entity].columns
    broken = replace(ENTITIES[entity], columns=(replace(columns[0], rule=rule), *columns[1:]))
    with patch.dict(ENTITIES, {entity: broken}):
        yield
