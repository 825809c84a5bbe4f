"""Hop 3: which rows of an entity are the same thing."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from airflow.sdk.exceptions import AirflowSkipException

from include.core.batches import Partition, batch_names
from include.core.tracking import Fates
from include.entities import ENTITIES
from include.matching.deduplicate import deduplicate
from plugins.hooks.decisions import COMPARED, Decisions
from plugins.hooks.source_memory import last_complete_run
from plugins.hooks.staging import StagingHook
from plugins.hooks.target import Target
from plugins.hooks.tracking import peak_memory_mb
from plugins.operators.preflight import chosen
from plugins.operators.step import Clock, MigrationOperator, Run, code_version


class DeduplicateOperator(MigrationOperator):
    """Compares all rows of an entity, changed or not; reads only the columns it compares."""

    template_fields = ("partitions",)

    def __init__(self, *, partitions: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.partitions = partitions

    def step(self, run: Run) -> dict[str, int]:
        """Records the survivors, and the pairs (not in a dry run); returns counts of what was decided.

        Where the entity was not chosen, earlier decisions stand: an empty answer would undo them.
        """
        if ENTITIES[str(self.entity)] not in chosen(run.settings):
            raise AirflowSkipException("not chosen")
        name, clock, staging = ENTITIES[str(self.entity)].name, Clock(), StagingHook(run.run_id)
        with self.target(run, entity=name) as target:
            clean, read = self._staged(staging)
            decisions = Decisions(target, run.run_id, name)
            gone = staging.read("gone", name, "all").column("legacy_id").combine_chunks()
            partly = self._reads_a_part()
            if partly and not len(gone) and _decided(target) and decisions.as_stored(clean, read):
                self.progress(f"{name}: nothing that is compared changed, so all decisions stand")
                return {"merged": 0, "pending": 0}
            if partly:
                clean = pa.concat_tables([clean, _others(decisions, pa.concat_arrays([read, gone]))])
            result = deduplicate(clean)
            fates = Fates(clean.num_rows, undecided=clean.num_rows)
            row = clock.ledger_row(run, entity=name, phase=self.phase, batch="all", fates=fates)
            decisions.record(result.survivors, result.pairs, row, dry_run=run.settings.dry_run)
        merged = result.survivors.num_rows
        waiting = result.pairs.column("decision").to_pylist().count("pending")
        self.progress(
            f"{name}: {merged:,} merged into survivors, {waiting:,} pairs to review,"
            f" {clock.seconds:.1f} s, {peak_memory_mb():.0f} MB"
        )
        return {"merged": merged, "pending": waiting}

    def _staged(self, staging: StagingHook) -> tuple[pa.Table, pa.Array]:
        """The rows of this run that can be compared, and the legacy ids of all that were read."""
        name = str(self.entity)
        batches = [batch for partition in self.partitions or () for batch in batch_names(partition)]
        tables = [staging.read("clean", name, batch, COMPARED) for batch in batches]
        keys = [*staging.keys(name, batches), pa.array([], pa.string())]
        return pa.concat_tables(tables) if tables else _nobody(), pa.concat_arrays(keys)

    def _reads_a_part(self) -> bool:
        """Whether the run reads a part of the rows only."""
        parts = [Partition.from_json(partition) for partition in self.partitions or ()]
        return any(partition.selected is not None for partition in parts)


def _decided(target: Target) -> bool:
    """Whether the last complete run, by the same code, is also the last that may have loaded rows."""
    complete = last_complete_run(target)
    return complete is not None and complete.undisturbed and complete.code_version == code_version()


def _others(decisions: Decisions, away: pa.Array) -> pa.Table:
    """The rows of the target but those with some legacy ids: what the run has read, and what is gone."""
    stored = decisions.stored()
    return stored.filter(pc.invert(pc.is_in(stored.column("legacy_id"), away)))


def _nobody() -> pa.Table:
    return pa.schema({column: pa.string() for column in COMPARED}).empty_table()
