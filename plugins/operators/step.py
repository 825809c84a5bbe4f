"""What every step of a migration has in common: settings, the run's state, retries, guidance in the log."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, AirflowSkipException

from include.core.errors import MigrationError
from include.core.mapping import mapping_version, rules_version
from include.core.progress import Progress
from include.core.settings import Settings, check, params
from include.core.tracking import Fates
from include.entities import EMBEDDED, ENTITIES
from plugins.hooks.metrics import count_batch, count_step
from plugins.hooks.run_lock import Heartbeat
from plugins.hooks.run_log import error_facts, place_of, run_log
from plugins.hooks.target import Target, batch_rows, choose_way, open_target
from plugins.hooks.tracking import LedgerRow, TrackingHook, peak_memory_mb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk.definitions.context import Context
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

LOG = logging.getLogger("mdw_migration")
"""The one logger of all steps; its level is the run's log_level."""

# The ceiling Airflow knows; how many of them are used is decided at run time by the param max_retries.
_MOST_RETRIES = 10
_FIRST_DELAY_SECONDS = 2
_LONGEST_DELAY_SECONDS = 300
_PROJECT = Path(__file__).parent.parent.parent
# How a task tells Airflow what to do with it; that it waits is no Exception at all.
_CONTROL = (AirflowSkipException, AirflowFailException, AirflowRescheduleException)


@dataclass(frozen=True)
class Run:
    """The run a step belongs to."""

    run_id: str
    dag_id: str
    type: str
    settings: Settings
    step: str
    attempt: int
    started_by: str
    task_instance: RuntimeTaskInstance

    @classmethod
    def of(cls, context: Context) -> Run:
        """Read from a task's context; parameters are checked again each time, for that costs nothing.

        Raises:
            MigrationError: PARAM_UNKNOWN, PARAM_INVALID or ENTITY_UNKNOWN.
        """
        ti = context["ti"]
        index = ti.map_index if ti.map_index is not None else -1
        dag_run = context["dag_run"]
        kind = next((kind for kind in ("incremental", "validation") if kind in ti.dag_id), "full")
        known = params(ENTITIES, kind=kind, environment={}, embedded=EMBEDDED)
        values = given(context)
        return cls(
            run_id=dag_run.run_id,
            dag_id=ti.dag_id,
            type=kind,
            settings=check(values, known),
            step=ti.task_id if index < 0 else f"{ti.task_id}[{index}]",
            attempt=ti.try_number,
            started_by=getattr(dag_run, "triggering_user_name", None) or "command line",
            task_instance=ti,
        )

    @cached_property
    def way(self) -> str:
        """How the target is reached; asked once, for Airflow is asked for connections."""
        return choose_way(self.settings.load_via)

    def target(self, **facts: object) -> AbstractContextManager[Target]:
        """The target, by the way that the run takes; its errors carry the facts."""
        return open_target(
            self.way, max_retries=self.settings.max_retries, batch_size=self.batch_rows, **facts
        )

    @property
    def batch_rows(self) -> int:
        """Rows of a batch: what was asked for, and what the way into the target can carry."""
        return batch_rows(self.way, self.settings.batch_size)

    @property
    def mode(self) -> str:
        """What kind of run it is, for people."""
        if self.type == "validation":
            return "validation"
        return "dry run" if self.settings.dry_run else "real run"

    @property
    def opening(self) -> dict[str, Any]:
        """What tracking is told of any run when it is opened."""
        return {
            "type": self.type,
            "dry_run": self.settings.dry_run,
            "parameters": self.settings.to_json(),
            "mapping_version": mapping_version(),
            "rules_version": rules_version(),
            "code_version": code_version(),
            "dag_id": self.dag_id,
            "started_by": self.started_by,
        }

    def states(self, steps: Sequence[str] = ()) -> dict[str, str]:
        """Airflow's states of the tasks of some steps, or of all there are."""
        tasks = sorted({step.split("[")[0] for step in steps}) or None
        found: dict[str, Any] = self.task_instance.get_task_states(
            dag_id=self.dag_id, run_ids=[self.run_id], task_ids=tasks
        )
        # A mapped task is called loading.patients_0 there.
        of_run = {
            re.sub(r"_(\d+)$", r"[\1]", task): str(state)
            for task, state in found.get(self.run_id, {}).items()
        }
        return {step: of_run[step] for step in steps if step in of_run} if steps else of_run


def given(context: Context) -> dict[str, Any]:
    """What a run was triggered with; unknown keys of the trigger's conf never reach ``context["params"]``."""
    return {**context["params"], **(context["dag_run"].conf or {})}


def log_guidance(phase: str, task_id: str, error: MigrationError, outcome: str = "failed") -> None:
    """What to do, line by line: the last words of a task that failed."""
    for line in (f"{task_id} {outcome}", *str(error).splitlines()):
        LOG.error("[migration] %-16s %s", phase, line)


def unexpected(error: BaseException) -> MigrationError:
    """The registered error for an exception that nobody expected: its type and its place, not its text."""
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    return MigrationError("UNEXPECTED", "", error=kind, **place_of(error))


@contextmanager
def registered(phase: str, task_id: str) -> Iterator[None]:
    """Within the block every failure is a registered error, told to the log; what a task tells Airflow passes.

    Its end and its time are counted.

    Raises:
        MigrationError: UNEXPECTED for what is none; without its cause, whose text may quote a row.
    """
    clock = Clock()
    try:
        yield
    except _CONTROL:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, people are told what to do
        known = error if isinstance(error, MigrationError) else unexpected(error)
        first_line = str(known).partition("\n")[0]
        facts = {"message": f"{task_id} failed", "phase": phase, **error_facts(known)}
        # Airflow writes the traceback.
        LOG.error("[migration] %-16s %s failed: %s", phase, task_id, first_line, extra={"facts": facts})  # noqa: TRY400
        count_step(phase, clock.seconds, known.code)
        raise known from None
    count_step(phase, clock.seconds, None)


def guide(context: Context) -> None:
    """Callback: the guidance as the last lines of the log of a failed task, behind Airflow's own.

    Airflow has written the traceback by then; behind this it writes no more than the end of its group of lines.
    """
    _guide(context, "is not repeated any more")


def guide_retry(context: Context) -> None:
    """Callback: as :func:`guide`, for a task that Airflow repeats by itself."""
    _guide(context, "is repeated by itself")


def _guide(context: Context, what_follows: str) -> None:
    error, task_id = context.get("exception"), context["ti"].task_id
    if not isinstance(error, BaseException) or isinstance(error, _CONTROL):
        return
    # What Airflow raised around the step itself: rendering its arguments, storing its result.
    known = error if isinstance(error, MigrationError) else unexpected(error)
    outcome = f"failed in attempt {context['ti'].try_number} and {what_follows}"
    log_guidance(task_id.split(".")[0], task_id, known, outcome)


class TransientOnly(RetryPolicy):
    """Retry transient errors, with growing delay, as often as the run's max_retries says; others never."""

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,  # noqa: ARG002 - the interface's signature
        context: Context | None = None,
    ) -> RetryDecision:
        """See :class:`RetryPolicy`."""
        allowed = context["params"].get("max_retries", 0) if context else 0
        transient = isinstance(exception, MigrationError) and exception.transient
        if not transient or try_number > allowed:
            return RetryDecision.fail(reason="permanent" if not transient else f"tried {try_number} times")
        growing = min(_FIRST_DELAY_SECONDS * 2 ** (try_number - 1), _LONGEST_DELAY_SECONDS)
        asked = exception.facts.get("retry_after_seconds", 0)  # what the other side asked for
        delay = max(growing, asked) if isinstance(asked, int | float) else growing
        return RetryDecision.retry(delay=timedelta(seconds=delay), reason="transient")

    def serialize(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> TransientOnly:  # noqa: ARG003 - the interface's signature
        """The one policy there is."""
        return cls()


def record_failure(context: Context) -> None:
    """Tell the tracking tables that a step failed for good, so that fail_fast stops the others."""
    error = context.get("exception")
    if isinstance(error, MigrationError) and error.code in ("RUN_STOPPED", "RUN_STATE_MISSING"):
        return  # a consequence, not a cause
    try:
        run = Run.of(context)
        with run.target() as target:
            tracking = TrackingHook(target, run.run_id)
            tracking.fail_step(run.step)
            if isinstance(error, MigrationError) and {"entity", "batch"} <= error.facts.keys():
                phase = context["ti"].task_id.split(".")[0]
                tracking.fail_batch(str(error.facts["entity"]), phase, str(error.facts["batch"]), error.code)
    except MigrationError as unreachable:
        LOG.warning("The failure could not be recorded: %s", unreachable)


class MigrationOperator(BaseOperator):
    """Base of all steps.

    Subclasses implement :meth:`step`. ``tracked`` steps refuse to start behind another step's failure, unless they
    only look (``stops_with_others``).
    """

    tracked: ClassVar[bool] = True
    stops_with_others: ClassVar[bool] = True
    ui_color = "#e8f0fe"

    def __init__(self, *, entity: str | None = None, **kwargs: Any) -> None:
        super().__init__(**{**self.common_arguments(), **kwargs})
        self.entity = entity
        self._targets: list[Target] = []

    @contextmanager
    def target(self, run: Run, **facts: object) -> Iterator[Target]:
        """The target, cancelled when the task is killed."""
        with run.target(**facts) as target:
            self._targets.append(target)
            try:
                yield target
            finally:
                self._targets.remove(target)

    def on_kill(self) -> None:
        """Stop what runs in the target; a transaction rolls back whole."""
        for target in self._targets:
            target.cancel()

    @classmethod
    def common_arguments(cls) -> dict[str, Any]:
        """What all steps share. ``partial`` must be given it: it fills in Airflow's defaults before ``__init__``."""
        common: dict[str, Any] = {
            "retries": _MOST_RETRIES,
            "retry_policy": TransientOnly(),
            "retry_delay": timedelta(seconds=_FIRST_DELAY_SECONDS),
            "trigger_rule": "none_failed",
        }
        # In this order: the guidance comes last.
        on_failure = [record_failure, guide] if cls.tracked else [guide]
        return {**common, "on_failure_callback": on_failure, "on_retry_callback": guide_retry}

    def execute(self, context: Context) -> Any:
        """Check the parameters, enter the run's state, do the step; nothing where the run is complete."""
        with run_log(**self._identity(context)), registered(self.phase, self.task_id):
            run = Run.of(context)
            LOG.setLevel(run.settings.log_level)
            return self._tracked_step(run) if self.tracked else self.step(run)

    def _identity(self, context: Context) -> dict[str, Any]:
        """What every line of the run's JSON log says of the task."""
        ti = context["ti"]
        return {
            "run_id": context["dag_run"].run_id,
            "dag": ti.dag_id,
            "task": self.task_id,
            "map_index": ti.map_index,
            "attempt": ti.try_number,
            "phase": self.phase,
        }

    def _tracked_step(self, run: Run) -> Any:
        with run.target() as target:
            unfinished = TrackingHook(target, run.run_id).enter(
                self.phase,
                run.step,
                fail_fast=run.settings.fail_fast and self.stops_with_others,
                versions={"code_version": code_version(), "mapping_version": mapping_version()},
                states=run.states,
            )
            heartbeat = Heartbeat(target, run.run_id)
        if not unfinished:
            self.progress("the run is complete, so there is nothing to do; trigger a new run")
            return self.nothing_done(run)
        with heartbeat:
            return self.step(run)

    def step(self, run: Run) -> Any:
        """What this step does."""
        raise NotImplementedError

    def nothing_done(self, run: Run) -> Any:  # noqa: ARG002 - for those who need it
        """What the task returns when it is cleared in a complete run; nothing that follows it does anything either."""
        return None

    @property
    def phase(self) -> str:
        """The outermost task group."""
        return self.task_id.split(".")[0]

    def progress(self, text: str, **facts: object) -> None:
        """A line for people who watch the run.

        Args:
            facts: for the JSON log: entity, batch, counts, rows, seconds … never a value of a row.
        """
        LOG.info(
            "[migration] %-16s %s",
            self.phase,
            text,
            extra={"facts": {"message": text, "phase": self.phase, **facts}},
        )

    def advance(self, progress: Progress, about: str, work: int, rows: int | None = None) -> None:
        """Count work that is done, and say where it stands if it is time.

        Args:
            about: what is worked on: the label of a partition, an entity.
            work: in the measure of the progress.
            rows: of it, where that is not the same.
        """
        standing = progress.advance(work, rows)
        if standing is not None:
            self.progress(f"{about}: {standing.text}", **standing.facts, entity=self.entity)

    def batch_recorded(
        self,
        batch: str,
        fates: Fates,
        seconds: float,
        *,
        entity: str | None = None,
        phase: str | None = None,
        deleted: int | None = None,
    ) -> None:
        """The line of a batch that the ledger has now, and its metrics.

        Args:
            phase: under which the ledger has it, where that is not the task's.
            deleted: rows that are gone, where it is about those.
        """
        name = entity or str(self.entity)
        facts: dict[str, object] = {"phase": phase, "deleted": deleted}
        counts = {fate: count for fate, count in asdict(fates).items() if count}
        self.progress(
            f"{name} {batch}: {fates.extracted:,} rows, {seconds:.2f} s",
            entity=name,
            batch=batch,
            counts=counts,
            rows=fates.extracted,
            seconds=round(seconds, 3),
            **{name: value for name, value in facts.items() if value is not None},
        )
        count_batch(phase or self.phase, name, fates, seconds, deleted or 0)


class PartitionOperator(MigrationOperator):
    """Base of the steps that are mapped over partitions.

    Args:
        partition: a partition as JSON, or the manifest that the step before returned.
    """

    template_fields = ("partition",)

    def __init__(self, *, partition: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.partition = partition

    def nothing_done(self, run: Run) -> dict[str, Any]:  # noqa: ARG002 - see the base
        """The partition, without batches."""
        return {**self.partition, "batches": 0}


class Clock:
    """Time of one batch."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the clock was made."""
        return time.monotonic() - self._started

    def ledger_row(
        self,
        run: Run,
        *,
        entity: str,
        phase: str,
        batch: str,
        fates: Fates,
        key_range: str = "",
        deleted: int = 0,
    ) -> LedgerRow:
        """The ledger's row of the batch that this clock timed."""
        return LedgerRow(
            entity,
            phase,
            batch,
            key_range,
            fates,
            run.attempt,
            self.seconds,
            peak_memory_mb(),
            deleted=deleted,
        )


@cache
def code_version() -> str:
    """A digest of the code that decides what is written."""
    digest = hashlib.sha256()
    for folder in ("include", "plugins", "dags"):
        for path in sorted((_PROJECT / folder).rglob("*")):
            if path.suffix in (".py", ".sql", ".toml"):
                digest.update(str(path.relative_to(_PROJECT)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]
