"""The steps of a migration without Airflow: the operators themselves, in worker processes that stay.

Phases are barriers, and the partitions of a phase are shared among the workers, as in a run. What Airflow adds
(starting tasks, its own database) is not in these times; `benchmarks.incremental` measures whole runs.
"""

from __future__ import annotations

import multiprocessing
import re
import resource
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plugins.operators.step import MigrationOperator

PLAN = "preparation"
PHASES = ("extraction", "transformation", "loading")
_KB_PER_MB = 1024
_OPENED = {
    **dict.fromkeys(("mapping_version", "rules_version", "code_version", "started_by"), "benchmark"),
    **{"dag_id": "benchmark", "dry_run": False, "parameters": {"entities": []}},
    **{"source_horizon": 1, "source_identity": {}},
}


@dataclass(frozen=True)
class Step:
    """One task of a run.

    Attributes:
        phase: :data:`PLAN` or one of :data:`PHASES`.
        partition: as JSON; of a plan None.
        settings: parameters that differ from the defaults.
        kind: full or incremental.
    """

    run_id: str
    phase: str
    entity: str
    partition: Mapping[str, Any] | None
    settings: Mapping[str, Any]
    kind: str


@dataclass(frozen=True)
class Done:
    """What came of a step.

    Attributes:
        result: what the task would hand on.
        cpu_seconds: of the worker, user and system.
        peak_mb: of the worker's resident memory until now.
    """

    result: Any
    cpu_seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Loaded:
    """One entity on its whole way.

    Attributes:
        rows: in the source, as planned.
        seconds: by phase, wall clock; :data:`PLAN` is the comparison of row versions.
        cpu_seconds: of all workers in :data:`PHASES`.
        peak_mb: of the largest worker.
        batches: that were loaded.
    """

    rows: int
    seconds: Mapping[str, float]
    cpu_seconds: float
    peak_mb: float
    batches: int

    @property
    def work_seconds(self) -> float:
        """Of extraction, transformation and loading."""
        return sum(self.seconds[phase] for phase in PHASES)


class Workers:
    """Processes that do steps, each with its imports done before anything is measured."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def migrate(self, run_id: str, entity: str, settings: Mapping[str, Any], *, kind: str = "full") -> Loaded:
        """Plan, extract, transform and load one entity in an open run."""
        seconds: dict[str, float] = {}
        handed_on: list[Any] = [None]
        work: list[Done] = []
        for phase in (PLAN, *PHASES):
            steps = [Step(run_id, phase, entity, each, settings, kind) for each in handed_on]
            begun = time.monotonic()
            done = list(self._pool.map(do, steps))
            seconds[phase] = time.monotonic() - begun
            handed_on = done[0].result if phase == PLAN else [step.result for step in done]
            work += [] if phase == PLAN else done
        return Loaded(
            rows=sum(int(manifest["rows"] or 0) for manifest in handed_on),
            seconds=seconds,
            cpu_seconds=sum(step.cpu_seconds for step in work),
            peak_mb=max(step.peak_mb for step in work),
            batches=sum(int(manifest["batches"]) for manifest in handed_on),
        )


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """New processes: they find the databases by the environment that this one has now."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_import) as pool:
        # Each must be up, or the first step would pay for it.
        list(pool.map(time.sleep, [0.2] * count))
        yield Workers(pool)


@contextmanager
def opened(run_id: str, *, kind: str = "full") -> Iterator[None]:
    """A run of the target, completed behind the block: it may load whatever entity."""
    from plugins.hooks.target import open_target  # noqa: PLC0415 - Airflow reads the environment at import
    from plugins.hooks.tracking import TrackingHook  # noqa: PLC0415

    scope = "everything" if kind == "full" else "changes"
    with open_target("postgres") as target:
        tracking = TrackingHook(target, run_id)
        tracking.open_run(**_OPENED, type=kind, scope=scope)
        yield
        tracking.close_run("completed", {}, "")


def do(step: Step) -> Done:
    """One step in this process."""
    from include.core.settings import check, params  # noqa: PLC0415 - see opened
    from include.entities import EMBEDDED, ENTITIES  # noqa: PLC0415
    from plugins.operators.step import Run  # noqa: PLC0415

    known = params(ENTITIES, kind=step.kind, environment={}, embedded=EMBEDDED)
    run = Run(
        run_id=step.run_id,
        dag_id="benchmark",
        type=step.kind,
        settings=check({"dry_run": False, **step.settings}, known),
        step=f"{step.phase}.{step.entity}",
        attempt=1,
        started_by="benchmark",
        task_instance=None,  # type: ignore[arg-type]  # only asked for the states of other tasks
    )
    operator = _operator(step)
    before = resource.getrusage(resource.RUSAGE_SELF)
    result = operator.step(run)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Done(result, cpu, peak_mb())


def _operator(step: Step) -> MigrationOperator:
    from plugins.operators.extract import ExtractOperator  # noqa: PLC0415 - see opened
    from plugins.operators.load import LoadOperator  # noqa: PLC0415
    from plugins.operators.preflight import PlanOperator  # noqa: PLC0415
    from plugins.operators.transform import TransformOperator  # noqa: PLC0415

    task_id = f"{step.phase}.{step.entity}"
    if step.phase == PLAN:
        return PlanOperator(task_id=task_id, entity=step.entity)
    classes: dict[str, type[MigrationOperator]] = {
        "extraction": ExtractOperator,
        "transformation": TransformOperator,
        "loading": LoadOperator,
    }
    return classes[step.phase](task_id=task_id, entity=step.entity, partition=step.partition)


def peak_mb() -> float:
    """Peak resident memory of this process; the system's own figure begins with that of its parent."""
    text = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise OSError("/proc/self/status does not tell VmHWM")
    return int(found[1]) / _KB_PER_MB


def _import() -> None:
    _operator(Step("", PLAN, "patients", None, {}, "full"))
    for phase in PHASES:
        _operator(Step("", phase, "patients", {}, {}, "full"))
