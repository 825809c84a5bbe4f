"""The tracking tables: what runs, what became of every batch, what was checked."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from airflow.sdk import BaseHook

from include.core.errors import MigrationError
from include.core.tracking import Check, Fates
from plugins.hooks.run_lock import RunLock
from plugins.hooks.target import Target

LOG = logging.getLogger("mdw_migration")

StepStates = Callable[[Sequence[str]], Mapping[str, str]]
"""Steps to the states that Airflow gives their tasks."""

# A failure is recorded here moments before Airflow knows it, and a cleared task runs moments before it enters.
_LONGEST_DOUBT_SECONDS = 20.0
_DOUBT_SECONDS = 0.5


@dataclass(frozen=True)
class LedgerRow:
    """One batch in one phase.

    Attributes:
        key_range: legacy keys, for a person.
        memory_mb: peak of the worker process so far; None where it was not measured.
        deleted: rows found gone from the source.
    """

    entity: str
    phase: str
    batch: str
    key_range: str
    fates: Fates
    attempt: int
    seconds: float
    memory_mb: float | None = None
    deleted: int = 0

    def to_json(self) -> dict[str, Any]:
        """Columns of migration.batches."""
        row = asdict(self)
        return {**row, **fates_to_json(row.pop("fates"))}


@dataclass(frozen=True)
class _State:
    """What the tracking tables know of a run."""

    status: str
    failed_steps: list[str]
    mapping_version: str
    code_version: str
    holds_lock: bool

    def refuse_other(self, versions: Mapping[str, Any]) -> None:
        """Raise RUN_CODE_CHANGED where the versions differ from those that the run was opened with."""
        for name, what in (("code_version", "code"), ("mapping_version", "mapping")):
            if versions[name] != (before := getattr(self, name)):
                raise MigrationError(
                    "RUN_CODE_CHANGED",
                    f"The run was opened with {what} {before}, present is {versions[name]}.",
                )


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class TrackingHook(BaseHook):
    """Writes and reads the tracking tables of one run."""

    def __init__(self, target: Target, run_id: str) -> None:
        super().__init__()
        self._target = target
        self.run_id = run_id
        self._lock = RunLock(target, run_id)

    def refuse_if_locked(self) -> None:
        """For what must not be done beside another run although this one is not open yet.

        Raises:
            MigrationError: RUN_LOCKED.
        """
        self._lock.refuse_if_taken()

    def open_run(self, **values: Any) -> None:
        """Start the run and take the lock, or take both up again after a clear; a complete run stays complete.

        Args:
            values: dag_id (lets other runs ask Airflow whether this one is over), type, scope, dry_run, parameters,
                mapping_version, rules_version, code_version, started_by, source_horizon, source_identity.

        Raises:
            MigrationError: RUN_LOCKED, RUN_CODE_CHANGED, RUN_SUPERSEDED or PARAM_INVALID.
        """
        known = self._state()
        if known is not None:
            if known.status == "completed":
                return
            known.refuse_other(values)
        self._lock.acquire("open_run", values=values)

    def close_run(self, status: str, counts: Mapping[str, Any], report_uri: str) -> None:
        """Record the end and give the lock back. A complete run that wrote leaves its horizon for the next run.

        Raises:
            MigrationError: RUN_LOST when a run that lost its lock is to be called completed.
        """
        sealed = self._target.call(
            "close_run", run=self.run_id, status=status, counts=dict(counts), report=report_uri
        )
        # Kept here as well: who rewrites the trail's end in the target does not have this file.
        facts = {"audit": sealed, "status": status}
        LOG.info("Audit trail: %d entries, head %s", sealed["sealed"], sealed["head"], extra={"facts": facts})

    def enter(
        self,
        phase: str,
        step: str,
        *,
        fail_fast: bool,
        versions: Mapping[str, str] | None = None,
        states: StepStates | None = None,
    ) -> bool:
        """Begin a step: forget its own earlier failure, and refuse to start behind another one's.

        A failed run, whose tasks were cleared, takes the lock again and goes on.

        Args:
            versions: code_version and mapping_version of now, to be compared with the run's.
            states: asked for failed steps that were cleared together with this one and must not stop it.

        Returns:
            False where the run is complete: there is nothing to do.

        Raises:
            MigrationError: RUN_STATE_MISSING, RUN_STOPPED while another step is failed, and those of
                :meth:`open_run`.
        """
        known = self._state()
        if known is None:
            raise MigrationError("RUN_STATE_MISSING", "", run=self.run_id)
        if known.status == "completed":
            return False
        if versions is not None:
            known.refuse_other(versions)
        if known.status != "running" or not known.holds_lock:
            self._lock.acquire("resume_run")
        self._lock.begin_step(phase, step)
        if fail_fast and states is not None:
            self._forget_cleared(states)
        self.stop_if_failed(fail_fast=fail_fast)
        return True

    def stop_if_failed(self, *, fail_fast: bool) -> None:
        """Asked before every batch, outside of its transaction; also a sign of life.

        Raises:
            MigrationError: RUN_STATE_MISSING, RUN_LOST or RUN_STOPPED.
        """
        self._lock.beat()
        known = self._state()
        if known is None:
            raise MigrationError("RUN_STATE_MISSING", "", run=self.run_id)
        if not known.holds_lock:
            raise self._lock.lost()
        if known.failed_steps and fail_fast:
            raise MigrationError("RUN_STOPPED", f"Failed: {', '.join(known.failed_steps)}.", run=self.run_id)

    def _state(self) -> _State | None:
        answer = self._target.call("run_state", run=self.run_id)
        return None if answer is None else _State(**answer)

    def _forget_cleared(self, states: StepStates) -> None:
        """Drop failed steps whose tasks were cleared, though they have not entered yet.

        A task that runs is in doubt: it was cleared and will enter in a moment, or fails and Airflow will know.
        """
        deadline = time.monotonic() + _LONGEST_DOUBT_SECONDS
        while (known := self._state()) is not None and known.failed_steps:
            found = states(known.failed_steps)
            failed = {step for step in known.failed_steps if found.get(step) == "failed"}
            running = {step for step in known.failed_steps if found.get(step) == "running"}
            in_doubt = running if time.monotonic() < deadline else set()
            for step in set(known.failed_steps) - failed - in_doubt:
                self._target.call("forget_failure", run=self.run_id, step=step)
            if failed or not in_doubt:
                return
            time.sleep(_DOUBT_SECONDS)

    def fail_step(self, step: str) -> None:
        """Record that a step failed for good; stops the others under fail_fast."""
        self._target.call("fail_step", run=self.run_id, step=step)

    def record_batch(self, row: LedgerRow) -> None:
        """Write the ledger's row of a batch; a repeated batch replaces its own."""
        self._target.call("record_batch", run=self.run_id, row=row.to_json())

    def fail_batch(self, entity: str, phase: str, batch: str, error_code: str) -> None:
        """Record that a batch failed; what it did was rolled back."""
        self._target.call(
            "fail_batch", run=self.run_id, entity=entity, phase=phase, batch=batch, code=error_code
        )

    def done_batches(self, entity: str, phase: str, partition: str) -> set[str]:
        """Names of the batches of a partition that a phase has finished."""
        return set(
            self._target.call("done_batches", run=self.run_id, entity=entity, phase=phase, prefix=partition)
        )

    def fates(self, entity: str) -> Fates:
        """The sum over the loaded batches of an entity."""
        return Fates(**self._target.call("fates", run=self.run_id, entity=entity, phase="loading"))

    def rows(self, entity: str, phase: str) -> int:
        """How many rows of an entity a phase has handled."""
        sums = self._target.call("fates", run=self.run_id, entity=entity, phase=phase)
        return int(sums["extracted"])

    def record_checks(self, checks: Iterable[Check]) -> None:
        """Store results of checks; a repeated check replaces its own."""
        results = {"checks": [asdict(check) for check in checks]}
        self._target.call("record_checks", run=self.run_id, results=results)

    def facts(self) -> RunFacts:
        """All that the tracking tables hold of this run, for the report."""
        found = self._target.call("run_facts", run=self.run_id)
        return RunFacts(
            _with_times(found["run"]), *([*map(_with_times, found[name])] for name in ("batches", "checks"))
        )

    def finding_counts(self) -> list[tuple[str, str, str, int]]:
        """(entity, kind, code, rows): what is in quarantine and what was noticed, now."""
        return [tuple(row) for row in self._target.call("finding_counts")]


@dataclass(frozen=True)
class RunFacts:
    """Rows of migration.runs (None: never opened), batches and checks."""

    run: dict[str, Any] | None
    batches: list[dict[str, Any]]
    checks: list[dict[str, Any]]


def fates_to_json(fates: Mapping[str, int]) -> dict[str, int]:
    """The columns that the ledger has for fates: what is still undecided has none."""
    return {name: count for name, count in fates.items() if name != "undecided"}


def _with_times(row: dict[str, Any] | None) -> Any:
    """JSON has no times: columns called ``…_at`` hold them as ISO 8601."""
    return row and {
        name: datetime.fromisoformat(value) if name.endswith("_at") and value else value
        for name, value in row.items()
    }
