"""The target's one lock: at most one run migrates at a time, however and wherever it was started.

A run takes it in ``preparation.open_run`` and gives it back at its end. Meanwhile it shows signs of life. The
lock of a dead run is taken over, and :meth:`RunLock.hold` keeps a run that lost it from writing.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil  # type: ignore[import-untyped]

from include.core.errors import MigrationError
from include.core.settings import whole_number
from plugins.hooks.target import Target

LOG = logging.getLogger("mdw_migration.lock")

BEAT_SECONDS = 15.0
# Longer than the longest pause between two attempts of a task, in which a run is silent.
_GRACE_SECONDS = 900
_LEAST_GRACE_SECONDS, _MOST_GRACE_SECONDS = 60, 7 * 24 * 3_600
# The system's clock may be set while a process runs, which moves the start it computes.
_SAME_START_SECONDS = 5.0


def grace_seconds() -> int:
    """After so many seconds of silence a run counts as dead.

    Raises:
        MigrationError: PARAM_INVALID.
    """
    text = os.environ.get("MIGRATION_LOCK_GRACE_SECONDS") or str(_GRACE_SECONDS)
    seconds = whole_number(text, _LEAST_GRACE_SECONDS, _MOST_GRACE_SECONDS)
    if seconds is None:
        limits = f"from {_LEAST_GRACE_SECONDS} to {_MOST_GRACE_SECONDS}"
        raise MigrationError(
            "PARAM_INVALID", f"MIGRATION_LOCK_GRACE_SECONDS must be a whole number {limits}."
        )
    return seconds


@dataclass(frozen=True)
class Process:
    """A process, told apart from all others.

    Attributes:
        space: the boot and the container; hosts may share a name, and containers of a host their pids.
        started: seconds since 1970; a pid is used again some day.
    """

    host: str
    space: str
    pid: int
    started: float

    @classmethod
    def current(cls) -> Process:
        """This very process."""
        return cls(socket.gethostname(), _space(), os.getpid(), psutil.Process().create_time())

    @property
    def gone(self) -> bool:
        """Whether it has ended for certain; what lives elsewhere cannot be seen."""
        if (self.host, self.space) != (socket.gethostname(), _space()):
            return False
        try:
            started: float = psutil.Process(self.pid).create_time()
        except psutil.NoSuchProcess:
            return True
        return abs(started - self.started) > _SAME_START_SECONDS


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return f"{psutil.boot_time():.0f}"


def whole_run_process() -> Process | None:
    """This process if the whole run lives in it, as under ``airflow dags test``: its tasks' supervisor is itself."""
    supervisor = getattr(_airflow(), "supervisor", None)
    return Process.current() if getattr(supervisor, "pid", None) == os.getpid() else None


def finished_in_airflow(dag_id: str, run_id: str) -> bool:
    """Whether the Airflow that runs this task knows the run and calls it finished."""
    if _airflow() is None:
        return False
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # noqa: PLC0415 - dear outside of tasks

    finished = RuntimeTaskInstance.get_dr_count(dag_id, run_ids=[run_id], states=["success", "failed"])
    return finished > 0


def _airflow() -> Any:
    """What a task speaks to Airflow through; None outside of tasks."""
    from airflow.sdk.execution_time import task_runner  # noqa: PLC0415 - dear outside of tasks

    return getattr(task_runner, "SUPERVISOR_COMMS", None)


@dataclass(frozen=True)
class Holder:
    """Who holds the lock.

    Attributes:
        since: ISO 8601, as heartbeat_at and awaits_until.
        silent: seconds since its last sign of life, by the target's clock; below 0 while it may wait for an answer.
        awaits_until: it waits, without any process, for a person's approval, at most until then.
        busy: it was to be followed, but its last batch still runs in the target.
    """

    run_id: str
    dag_id: str | None
    type: str
    dry_run: bool
    started_by: str | None
    since: str
    heartbeat_at: str
    silent: float
    host: str
    process_space: str | None
    pid: int | None
    process_started: float | None
    awaits_until: str | None = None
    busy: bool = False

    def death(self, grace: int) -> str | None:
        """Why it counts as dead; None while it may live."""
        if self.pid is not None and self._process(self.pid).gone:
            return f"its process {self.pid} has ended"
        if self.dag_id is not None and finished_in_airflow(self.dag_id, self.run_id):
            return "Airflow calls it finished"
        if self.silent > grace:
            return f"it gave no sign of life for {self.silent:.0f} s"
        return None

    def _process(self, pid: int) -> Process:
        return Process(self.host, self.process_space or "", pid, self.process_started or 0.0)

    def refusal(self, note: str = "") -> MigrationError:
        """For whoever has to wait."""
        kind = f"{self.type} {'dry run' if self.dry_run else 'run'}"
        if self.awaits_until is not None:
            life = f"it waits for approval, until {_time(self.awaits_until)}"
        else:
            life = f"last sign of life {_time(self.heartbeat_at)}, {self.silent:.0f} s ago"
        return MigrationError(
            "RUN_LOCKED",
            f"The {kind} {self.run_id}, started by {self.started_by or 'unknown'} on {self.host}, holds the lock"
            f" since {_time(self.since)}; {life}.{note}",
            holder=self.run_id,
        )


def _time(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone(UTC).isoformat(timespec="seconds")


class RunLock:
    """The lock as one run sees it."""

    def __init__(self, target: Target, run_id: str) -> None:
        self._target = target
        self._run_id = run_id

    def acquire(self, function: str, **arguments: Any) -> None:
        """Take the lock by a function that does more in the same transaction; from a dead run if need be.

        Args:
            function: ``open_run`` or ``resume_run``: returns who else holds the lock, having done nothing then.

        Raises:
            MigrationError: RUN_LOCKED while another run lives, PARAM_INVALID, and what the function raises.
        """
        grace, dead = grace_seconds(), None
        while True:
            answer = self._target.call(
                function, run=self._run_id, process=_own_process(), dead=dead, **arguments
            )
            if answer is None:
                break
            holder = Holder(**answer)
            if holder.busy:
                raise holder.refusal(" It is dead, but its last batch still runs in the target.")
            death = holder.death(grace)
            if death is None:
                raise holder.refusal()
            dead = {"run_id": holder.run_id, "heartbeat_at": holder.heartbeat_at, "why": death}
        if dead is not None:
            LOG.warning("The lock of run %s was taken over: %s.", dead["run_id"], dead["why"])

    def refuse_if_taken(self) -> None:
        """Raise RUN_LOCKED while another run that lives holds the lock."""
        holder = self._holder()
        if holder is not None and holder.run_id != self._run_id and holder.death(grace_seconds()) is None:
            raise holder.refusal()

    def begin_step(self, phase: str, step: str) -> None:
        """A sign of life at the start of a step, which may run in another process than the one before."""
        self._target.call("begin_step", run=self._run_id, phase=phase, step=step, process=_own_process())

    def beat(self) -> None:
        """A sign of life, unless there was one a moment ago. Outside of long transactions: others beat too."""
        self._target.call("beat", run=self._run_id)

    def lost(self) -> MigrationError:
        """The error of a run that does not hold the lock any more."""
        holder = self._holder()
        by = f"Run {holder.run_id} holds it now." if holder else "Nobody holds it now."
        return MigrationError("RUN_LOST", by, run=self._run_id)

    def _holder(self) -> Holder | None:
        answer = self._target.call("lock_holder")
        return None if answer is None else Holder(**answer)


def _own_process() -> dict[str, Any]:
    process = whole_run_process()
    if process is None:
        return {"host": socket.gethostname(), "space": None, "pid": None, "started": None}
    return {
        "host": process.host,
        "space": process.space,
        "pid": process.pid,
        "started": process.started,
    }


class Heartbeat:
    """Signs of life while a step works, from a thread that reaches the target by itself."""

    def __init__(self, target: Target, run_id: str, every_seconds: float = BEAT_SECONDS) -> None:
        self._target = target
        self._run_id = run_id
        self._every_seconds = every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # Not longer: a target that does not answer must not keep the step.
        self._thread.join(timeout=1)

    def _beat(self) -> None:
        while not self._ended.wait(self._every_seconds):
            try:
                with self._target.another() as target:
                    RunLock(target, self._run_id).beat()
            except MigrationError as error:
                LOG.debug("No sign of life could be given: %s", error.code)
