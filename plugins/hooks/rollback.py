"""Rolling runs back: the target becomes what it was before."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from include.core.errors import MigrationError
from plugins.hooks.run_lock import Holder, grace_seconds
from plugins.hooks.target import Target

_SCHEMA_FILE = "migration/0017_rollback.sql"
_KEPT_RUNS = 10
_MOST_DIGITS = 6


@dataclass(frozen=True)
class Counts:
    """Rows of one table.

    Attributes:
        removed: that the runs had added.
        restored: that the runs had changed or deleted.
    """

    removed: int
    restored: int


@dataclass(frozen=True)
class RolledBack:
    """What was undone.

    Attributes:
        runs: those that were rolled back now, newest first; none where the run had been rolled back before.
        tables: table with its schema → its rows.
        decisions_kept: pairs that people decided since the runs; their decisions stay.
        overwritten: rows that somebody else had written since.
    """

    runs: tuple[str, ...]
    tables: Mapping[str, Counts]
    decisions_kept: int
    overwritten: int


def roll_back(
    target: Target, run_id: str, by: str, reason: str, *, with_later: bool, overwrite: bool
) -> RolledBack:
    """Undo what a run wrote, in one transaction, also where it was killed half-way; a run that is dead loses its lock.

    Files in Storage stay, and what was paid for embeddings stays paid.

    Args:
        by: who decided it.
        reason: why; kept with the run.
        with_later: also runs that wrote behind it; else they stop it.
        overwrite: also rows that somebody else has written since; else they stop it.

    Raises:
        MigrationError: RUN_LOCKED, a run is under way; ROLLBACK_…; PARAM_INVALID, without name or reason; TARGET_….
    """
    # No more of the schema must be that of this version: what is rolled back may be why there is a new one.
    if _SCHEMA_FILE not in (target.call("deployed")["schema_versions"] or {}):
        raise MigrationError("TARGET_SCHEMA_MISSING", f"Not deployed: {_SCHEMA_FILE}.")
    # As a call with rows, though it has none: that is made once, however often the API loses its answer.
    answer = target.call(
        "rollback_run",
        incoming={},
        run=run_id,
        by=by,
        reason=reason,
        with_later=with_later,
        overwrite=overwrite,
        dead=_dead_holder(target),
    )
    return RolledBack(
        runs=tuple(answer["runs"]),
        tables={table: Counts(**counts) for table, counts in answer["tables"].items()},
        decisions_kept=answer["decisions_kept"],
        overwritten=answer["overwritten"],
    )


def _dead_holder(target: Target) -> dict[str, Any] | None:
    """The run that holds the lock but lives no more, as the functions of the lock want it."""
    answer = target.call("lock_holder")
    if answer is None:
        return None
    holder = Holder(**answer)
    death = holder.death(grace_seconds())
    if death is None:
        raise holder.refusal()
    return {"run_id": holder.run_id, "heartbeat_at": holder.heartbeat_at, "why": death}


def drop_journals(target: Target) -> int:
    """Keep what is needed to roll back the last runs, MIGRATION_ROLLBACK_RUNS of them; behind a run that was closed.

    Returns:
        Of how many runs it was dropped: they cannot be rolled back any more.

    Raises:
        MigrationError: PARAM_INVALID, and TARGET_….
    """
    dropped: int = target.call("drop_journals", runs=_kept_runs())
    return dropped


def _kept_runs() -> int:
    text = os.environ.get("MIGRATION_ROLLBACK_RUNS") or str(_KEPT_RUNS)
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise MigrationError("PARAM_INVALID", "MIGRATION_ROLLBACK_RUNS must be a whole number, 0 or more.")
    return int(text)
