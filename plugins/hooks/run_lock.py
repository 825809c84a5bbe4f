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
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from include.core.errors import MigrationError

LOG = logging.getLogger("mdw_migration.lock")

BEAT_SECONDS = 15.0
# Longer than the longest pause between two attempts of a task, in which a run is silent.
_GRACE_SECONDS = 900
_LEAST_GRACE_SECONDS = 60
# The system's clock may be set while a process runs, which moves the start it computes.
_SAME_START_SECONDS = 5.0
# What one refreshed a moment ago needs no refreshing by the tasks beside it.
_BEAT = (
    "UPDATE migration.run_lock SET heartbeat_at = clock_timestamp()"
    " WHERE run_id = %(run)s AND heartbeat_at < clock_timestamp() - interval '5 s'"
)


def grace_seconds() -> int:
    """After so many seconds of silence a run counts as dead.

    Raises:
        MigrationError: PARAM_INVALID.
    """
    text = os.environ.get("MIGRATION_LOCK_GRACE_SECONDS") or str(_GRACE_SECONDS)
    if not (text.isascii() and text.isdigit() and int(text) >= _LEAST_GRACE_SECONDS):
        raise MigrationError(
            "PARAM_INVALID",
            f"MIGRATION_LOCK_GRACE_SECONDS must be a whole number of at least {_LEAST_GRACE_SECONDS}.",
        )
    return int(text)


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
        silent: seconds since its last sign of life, by the target's clock.
    """

    run_id: str
    dag_id: str | None
    type: str
    dry_run: bool
    started_by: str | None
    since: datetime
    heartbeat_at: datetime
    silent: float
    host: str
    process_space: str | None
    pid: int | None
    process_started: float | None

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
        return MigrationError(
            "RUN_LOCKED",
            f"The {kind} {self.run_id}, started by {self.started_by or 'unknown'} on {self.host}, holds the lock"
            f" since {_time(self.since)}; last sign of life {_time(self.heartbeat_at)},"
            f" {self.silent:.0f} s ago.{note}",
            holder=self.run_id,
        )


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


class RunLock:
    """The lock as one run sees it, over a connection that the caller owns."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], run_id: str) -> None:
        self._connection = connection
        self._run_id = run_id

    def acquire(self) -> None:
        """Take the lock, from a dead run if need be; harmless for its holder. Call it inside a transaction.

        Raises:
            MigrationError: RUN_LOCKED while another run lives, PARAM_INVALID.
        """
        grace = grace_seconds()
        while not self._insert():
            holder = self._holder()
            if holder is None:  # given back in between
                continue
            if holder.run_id == self._run_id:
                self.confirm()
                return
            death = holder.death(grace)
            if death is None:
                raise holder.refusal()
            self._evict(holder, death)

    def refuse_if_taken(self) -> None:
        """Raise RUN_LOCKED while another run that lives holds the lock; the tables may not even exist yet."""
        deployed = self._connection.execute("SELECT to_regclass('migration.run_lock')").fetchone()
        holder = self._holder() if deployed and deployed[0] else None
        if holder is not None and holder.run_id != self._run_id and holder.death(grace_seconds()) is None:
            raise holder.refusal()

    def confirm(self) -> None:
        """A sign of life at the start of a step, which may run in another process than the one before."""
        own = whole_run_process()
        self._connection.execute(
            "UPDATE migration.run_lock SET heartbeat_at = clock_timestamp(), host = %(host)s,"
            " process_space = %(space)s, pid = %(pid)s, process_started = %(started)s WHERE run_id = %(run)s"
            " AND (heartbeat_at < clock_timestamp() - interval '5 s'"
            " OR (pid, process_started) IS DISTINCT FROM (%(pid)s::integer, %(started)s::double precision))",
            {"run": self._run_id, **_columns(own)},
        )

    def beat(self) -> None:
        """A sign of life, unless there was one a moment ago. Outside of long transactions: others beat too."""
        self._connection.execute(_BEAT, {"run": self._run_id})

    def hold(self) -> None:
        """Keep the lock to the end of the caller's transaction: whoever takes it over waits until then.

        KEY SHARE goes with itself and with signs of life, so batches written side by side do not wait for each
        other; deleting the row, as giving back and taking over do, waits for all of them.

        Raises:
            MigrationError: RUN_LOST.
        """
        held = self._connection.execute(
            "SELECT FROM migration.run_lock WHERE run_id = %s FOR KEY SHARE", [self._run_id]
        ).fetchone()
        if held is None:
            raise self.lost()

    def release(self) -> bool:
        """Give the lock back; False when it was lost before."""
        return (
            self._connection.execute(
                "DELETE FROM migration.run_lock WHERE run_id = %s", [self._run_id]
            ).rowcount
            > 0
        )

    def lost(self) -> MigrationError:
        """The error of a run that does not hold the lock any more."""
        holder = self._holder()
        by = f"Run {holder.run_id} holds it now." if holder else "Nobody holds it now."
        return MigrationError("RUN_LOST", by, run=self._run_id)

    def _insert(self) -> bool:
        inserted = self._connection.execute(
            "INSERT INTO migration.run_lock (run_id, host, process_space, pid, process_started)"
            " VALUES (%(run)s, %(host)s, %(space)s, %(pid)s, %(started)s) ON CONFLICT DO NOTHING",
            {"run": self._run_id, **_columns(whole_run_process())},
        )
        return inserted.rowcount > 0

    def _holder(self) -> Holder | None:
        with self._connection.cursor(row_factory=class_row(Holder)) as cursor:
            return cursor.execute(
                "SELECT l.run_id, r.dag_id, r.type, r.dry_run, r.started_by, l.since, l.heartbeat_at,"
                " extract(epoch FROM clock_timestamp() - l.heartbeat_at)::float8 AS silent,"
                " l.host, l.process_space, l.pid, l.process_started"
                " FROM migration.run_lock l JOIN migration.runs r USING (run_id)"
            ).fetchone()

    def _evict(self, holder: Holder, death: str) -> None:
        """Take the lock from a dead run, unless it gave a sign of life or another one was quicker."""
        try:
            evicted = self._connection.execute(
                "DELETE FROM migration.run_lock WHERE run_id = %s AND heartbeat_at = %s",
                [holder.run_id, holder.heartbeat_at],
            )
        except psycopg.errors.LockNotAvailable:
            raise holder.refusal(" It is dead, but its last batch still runs in the target.") from None
        if not evicted.rowcount:
            return
        self._connection.execute(
            "UPDATE migration.runs SET status = 'failed', ended_at = clock_timestamp()"
            " WHERE run_id = %s AND status = 'running'",
            [holder.run_id],
        )
        self._connection.execute(
            "INSERT INTO migration.audit_log (run_id, event, details) VALUES (%s, 'lock taken over', %s)",
            [
                self._run_id,
                Jsonb({"from": holder.run_id, "why": death, "last_sign_of_life": _time(holder.heartbeat_at)}),
            ],
        )
        LOG.warning("The lock of run %s was taken over: %s.", holder.run_id, death)


def _columns(process: Process | None) -> dict[str, Any]:
    if process is None:
        return {"host": socket.gethostname(), "space": None, "pid": None, "started": None}
    return {
        "host": process.host,
        "space": process.space,
        "pid": process.pid,
        "started": process.started,
    }


class Heartbeat:
    """Signs of life while a step works, from a thread with connections of its own.

    It never asks Airflow, whose way to a task is not made for two threads: the connection's parameters are copied
    from one that is open.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], run_id: str, every_seconds: float = BEAT_SECONDS
    ) -> None:
        info = connection.info
        self._conninfo = make_conninfo(**{**info.get_parameters(), "password": info.password})
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
                with psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None) as connection:
                    connection.execute("SET statement_timeout = '10s'")
                    connection.execute(_BEAT, {"run": self._run_id})
            except psycopg.Error as error:
                LOG.debug("No sign of life could be given: %s", type(error).__name__)
