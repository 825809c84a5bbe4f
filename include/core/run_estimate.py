"""How long a migration will take, how much it will stage and by how much the target will grow.

From the rows that it takes up and from rates: those of the last complete run where it had rows enough to tell,
else those measured for the documentation. Estimates are for planning a night, not promises; each run's report holds
its own against what was measured.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from include.core.spec import Entity
from include.embedding.prices import Price, cost

DEFAULT_RATES: Mapping[str, float] = {
    "extraction": 140_000,
    "transformation": 100_000,
    "deduplication": 14_000,
    "loading": 19_000,
    "validation": 41_000,
}
"""Rows per second of whole phases on two cores, both databases on the same machine (docs/benchmarks.md, the real
size: rows that were taken up by the seconds of the phase; deduplication by the incremental benchmark)."""
DEFAULTS_FROM = "docs/benchmarks.md, two cores"
_REST_SHARE = {"loading": 0.21}
"""What a phase keeps of its rate where rows travel through the Supabase client (benchmarks/README.md)."""
FIXED_SECONDS = 15.0
"""Of preparation, reports and Airflow's own work."""
_MATCHING_TASKS = 3
# Phases whose rows are those that the run takes up, whatever the ledger counts there.
_OF_ALL = frozenset(DEFAULT_RATES) - {"deduplication"}
# Of a task, before and behind its rows; most entities have one in a phase. Measured with `airflow dags test`; where
# another executor takes longer, the rates of the last run tell.
_TASK_SECONDS = 0.25
# Fewer rows tell of the overhead of tasks, not of a rate.
LEAST_ROWS = 5_000

# Staged bytes per byte of the tables that are read; bytes of the target, with tracking and indexes, per byte of the
# tables that rows come from; bytes per dimension of a vector and its index. Measured with the synthetic source.
_STAGED_SHARE = 1.0
_TARGET_SHARE = 10.0
_INDEXED_TWICE = 2
_BYTES_PER_DIMENSION = 4 + 2 * _INDEXED_TWICE
_TOKENS_PER_DOCUMENT = 60


@dataclass(frozen=True)
class PhaseTime:
    """Expected length of one phase.

    Attributes:
        rate: rows per second.
        measured: by the last complete run, else by the documentation.
    """

    phase: str
    rows: int
    rate: float
    measured: bool

    @property
    def seconds(self) -> float:
        """Of the whole phase."""
        return self.rows / self.rate


def measured_rates(batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Phase to rows per second, of phases with rows enough.

    Rows are those that the run took up, for that is what is known before a run: a phase that handles each several
    times, as validation does, has so much a lower rate.

    Args:
        batches: of one run, as the ledger has them: phase, status, extracted, seconds, recorded_at (a datetime).
    """
    rows: dict[str, int] = {}
    begins: dict[str, float] = {}
    ends: dict[str, float] = {}
    for batch in batches:
        if batch["status"] != "done":
            continue
        phase, end = batch["phase"], batch["recorded_at"].timestamp()
        rows[phase] = rows.get(phase, 0) + batch["extracted"]
        ends[phase] = max(ends.get(phase, end), end)
        begin = end - (batch["seconds"] or 0)
        begins[phase] = min(begins.get(phase, begin), begin)
    taken = rows | {phase: rows["loading"] for phase in _OF_ALL & rows.keys() if "loading" in rows}
    return {
        phase: count / (ends[phase] - begins[phase])
        for phase, count in taken.items()
        if count >= LEAST_ROWS and ends[phase] > begins[phase]
    }


def expect(
    entities: Collection[Entity], planned: Mapping[str, int], last: Mapping[str, Any] | None, way: str
) -> dict[str, Any]:
    """How long a run will take whose rows are planned, without embeddings and files.

    Args:
        entities: the run's.
        planned: entity to the rows that are taken up.
        last: the complete run most like it: ``run_id``, ``seconds``, ``taken`` rows, ``phases`` with the rows and the
            wall seconds of each; None: there is none.
        way: postgres or rest.

    Returns:
        ``based_on``: the run whose rates were taken, or None; ``phases``: phase, rows and seconds; ``other_seconds``
        of what handles no rows; ``total_seconds``.
    """
    taken = sum(planned.get(entity.name, 0) for entity in entities)
    compared = sum(planned.get(entity.name, 0) for entity in entities if entity.deduplicate)
    rows = {phase: compared if phase == "deduplication" else taken for phase in DEFAULT_RATES}
    tasks = {phase: _MATCHING_TASKS if phase == "deduplication" else len(entities) for phase in DEFAULT_RATES}
    seconds = {
        phase: round(_seconds(phase, count, tasks[phase], last, way), 3) for phase, count in rows.items()
    }
    other = round(_other_seconds(last), 3)
    return {
        "based_on": last["run_id"] if last else None,
        "phases": [{"phase": phase, "rows": rows[phase], "seconds": seconds[phase]} for phase in rows],
        "other_seconds": other,
        "total_seconds": round(other + sum(seconds.values()), 3),
    }


def _seconds(phase: str, rows: int, tasks: int, last: Mapping[str, Any] | None, way: str) -> float:
    """Of a phase. Where it had few rows before, its time was no matter of rows: that much it will take again."""
    past = last["phases"].get(phase) if last else None
    if last is None or past is None:
        return tasks * _TASK_SECONDS + rows / _documented_rate(phase, way)
    before, took = int(last["taken"] if phase in _OF_ALL else past["rows"]), float(past["seconds"])
    if before < LEAST_ROWS:
        return took + max(0, rows - before) / _documented_rate(phase, way)
    return took * rows / before


def _other_seconds(last: Mapping[str, Any] | None) -> float:
    """Of preparation, reports and Airflow's own work: what the phases of the last run leave of its whole time."""
    if last is None:
        return FIXED_SECONDS
    return max(
        0.0, float(last["seconds"]) - sum(float(phase["seconds"]) for phase in last["phases"].values())
    )


def _documented_rate(phase: str, way: str) -> float:
    return DEFAULT_RATES[phase] * (_REST_SHARE.get(phase, 1.0) if way == "rest" else 1.0)


def phase_times(
    entities: Collection[Entity], rows: Mapping[str, int], measured: Mapping[str, float], way: str
) -> list[PhaseTime]:
    """The phases of a full migration.

    Args:
        rows: of each legacy table.
        measured: phase to rows per second, as :func:`measured_rates` gives them.
        way: postgres or rest.
    """
    every = sum(rows_of(entity, rows) for entity in entities)
    compared = sum(rows_of(entity, rows) for entity in entities if entity.deduplicate)
    times = []
    for phase in DEFAULT_RATES:
        rate = measured.get(phase, _documented_rate(phase, way))
        times.append(
            PhaseTime(phase, compared if phase == "deduplication" else every, rate, phase in measured)
        )
    return times


def rows_of(entity: Entity, rows: Mapping[str, int]) -> int:
    """Rows that an entity is made of."""
    return rows.get(entity.source.tables[0].name, 0)


def staged_bytes(entities: Collection[Entity], sizes: Mapping[str, int]) -> int:
    """Bytes of staging at the end of a run, which keeps every hop until then.

    Args:
        sizes: bytes of each legacy table without its indexes.
    """
    tables = (name for entity in entities for name in {table.name for table in entity.source.all_tables()})
    return round(_STAGED_SHARE * sum(sizes.get(name, 0) for name in tables))


def target_bytes(
    entities: Collection[Entity], sizes: Mapping[str, int], documents: int, dimensions: int
) -> int:
    """Bytes of rows, indexes, tracking and vectors in a target that had none of them.

    Args:
        documents: that get a vector.
    """
    first = (entity.source.tables[0].name for entity in entities)
    rows = _TARGET_SHARE * sum(sizes.get(name, 0) for name in first)
    return round(rows) + documents * dimensions * _BYTES_PER_DIMENSION


def documents_of(entities: Collection[Entity], embedded: Collection[str], rows: Mapping[str, int]) -> int:
    """Documents to embed at most: many have the same text, and each text is sent once.

    Args:
        embedded: names of the entities that a run embeds.
    """
    chosen = (entity for entity in entities if entity.embeddings is not None and entity.name in embedded)
    return sum(rows_of(entity, rows) for entity in chosen)


def embedding_cost(documents: int, price: Price, *, batch: bool) -> Decimal:
    """US dollars at most for so many documents; a dry run counts the true tokens."""
    return cost(documents * _TOKENS_PER_DOCUMENT, price, batch=batch)


def readable_seconds(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.5 h``."""
    minute, hour = 60, 3600
    if seconds < 2 * minute:
        return f"{seconds:.0f} s"
    return f"{seconds / minute:.0f} min" if seconds < 2 * hour else f"{seconds / hour:.1f} h"
