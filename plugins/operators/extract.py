"""Hop 1: one partition of an entity from the source into staging, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from include.core.batches import Partition, batch_name
from include.core.progress import Progress
from include.core.spec import Entity
from include.core.tracking import Fates
from include.entities import ENTITIES
from plugins.hooks.legacy_mdw import LegacyMdwHook
from plugins.hooks.staging import StagingHook
from plugins.hooks.tracking import TrackingHook
from plugins.operators.step import Clock, PartitionOperator, Run


class ExtractOperator(PartitionOperator):
    """Extracts a partition; a repeated attempt goes on behind the last batch it finished."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._source = LegacyMdwHook()

    def step(self, run: Run) -> dict[str, Any]:
        """Returns the manifest: the partition and how many batches it was cut into."""
        entity, partition = ENTITIES[str(self.entity)], Partition.from_json(self.partition)
        staging = StagingHook(run.run_id)
        with self.target(run, entity=entity.name, partition=partition.name) as target:
            tracking = TrackingHook(target, run.run_id)
            names = sorted(tracking.done_batches(entity.name, "extraction", partition.name))
            resume = _Resume.behind(staging, entity, names)
            progress, clock = Progress(None if names else self.partition.get("rows")), Clock()
            keys = selected_keys(staging, partition)
            finished = resume.finished or keys == []
            with self._source.snapshot() as source:
                left = source.batches(entity, partition, run.batch_rows, resume.after, keys)
                for raw in () if finished else left:
                    tracking.stop_if_failed(fail_fast=run.settings.fail_fast)
                    name = batch_name(partition, len(names))
                    staging.write("raw", entity.name, name, raw)
                    fates = Fates(raw.num_rows, undecided=raw.num_rows)
                    key_range = _key_range(raw, entity.source.partition_by)
                    tracking.record_batch(
                        clock.ledger_row(
                            run,
                            entity=entity.name,
                            phase=self.phase,
                            batch=name,
                            fates=fates,
                            key_range=key_range,
                        )
                    )
                    self.batch_recorded(name, fates, clock.seconds)
                    self.advance(progress, partition.label, raw.num_rows)
                    names.append(name)
                    clock = Clock()
        done = progress.standing
        self.progress(
            f"{partition.label}: {done.rows:,} rows in {len(names)} batches, {done.rate:,.0f} rows/s",
            entity=entity.name,
            **done.facts,
        )
        return {**self.partition, "batches": len(names)}

    def on_kill(self) -> None:
        """Stop the query in the source too."""
        self._source.cancel()
        super().on_kill()


def selected_keys(staging: StagingHook, partition: Partition) -> list[int | None] | None:
    """The keys that preparation chose for a partition; None for a partition that is read whole."""
    if partition.selected is None:
        return None
    if not partition.selected:
        return []
    texts = staging.read("selected", partition.entity, partition.name).column("key").to_pylist()
    return [None if text is None else int(text) for text in texts]


@dataclass(frozen=True)
class _Resume:
    """Where a repeated attempt goes on."""

    after: int | None = None
    finished: bool = False

    @classmethod
    def behind(cls, staging: StagingHook, entity: Entity, names: list[str]) -> _Resume:
        """Behind the last key of the last staged batch; rows without a key sort last, so they end a partition."""
        if not names:
            return cls()
        key = entity.source.partition_by
        last = staging.read("raw", entity.name, names[-1], [key]).column(0)[-1].as_py()
        return cls(finished=True) if last is None else cls(after=int(last))


def _key_range(raw: pa.Table, key: str) -> str:
    column = raw.column(key)
    return f"{column[0].as_py()}..{column[-1].as_py()}"
