"""Partitions (what a mapped task takes) and batches (what is committed, retried and recorded)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# Rows of a partition: large enough that a mapped task works for seconds, small enough to share among workers.
PARTITION_ROWS = 250_000
# Partitions of one entity, and of all together: each is read, transformed and loaded by mapped instances of its own,
# and more than 200 in a run would drown the graph without helping any scheduler.
MOST_PARTITIONS = 24
MOST_PARTITIONS_OF_RUN = 36


@dataclass(frozen=True)
class Partition:
    """A key range ``low <= key < high``; None is open, so that the ranges of an entity cover every key.

    Attributes:
        selected: so many rows of it are read, by keys that preparation staged; None for all of them.
    """

    entity: str
    number: int
    low: int | None
    high: int | None
    selected: int | None = None

    @property
    def name(self) -> str:
        """Short and sortable: ``p003``."""
        return f"p{self.number:03d}"

    @property
    def label(self) -> str:
        """What a person reads on the mapped task: entity and key range."""
        if self.selected is not None:
            return f"{self.entity} {self.selected} changed"
        low = "start" if self.low is None else str(self.low)
        high = "end" if self.high is None else str(self.high)
        return f"{self.entity} {low} to {high}"

    def to_json(self) -> dict[str, str | int | None]:
        """For XCom."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Partition:
        """From XCom; further keys are ignored."""
        return cls(**{f.name: data[f.name] for f in fields(cls) if f.name in data})


def most_partitions(sizes: Mapping[str, int]) -> dict[str, int]:
    """How many partitions each entity may have, so that the largest ones of a run are as small as they can be.

    Args:
        sizes: of the entities' tables, in any one unit; 0 where that is unknown.
    """
    most = dict.fromkeys(sizes, 1)
    for _ in range(MOST_PARTITIONS_OF_RUN - len(sizes)):
        divisible = [name for name in sizes if most[name] < MOST_PARTITIONS]
        if divisible:
            most[max(divisible, key=lambda name: (sizes[name] + 1) / most[name])] += 1
    return most


def partition_rows(
    rows: int, batch_size: int, at_least: int = PARTITION_ROWS, most: int = MOST_PARTITIONS
) -> int:
    """How many rows a partition of a table of ``rows`` rows should hold: whole batches, few partitions.

    Args:
        most: partitions that the table may have.
    """
    wanted = max(at_least, -(-rows // most))
    return -(-wanted // batch_size) * batch_size


def plan_partitions(entity: str, cuts: Sequence[int]) -> list[Partition]:
    """Partitions from the keys at which to cut; complete and disjoint by construction.

    No cut gives one partition that is open on both sides, so that an empty table still has a task to run.
    """
    edges = [None, *sorted(set(cuts)), None]
    return [Partition(entity, i, edges[i], edges[i + 1]) for i in range(len(edges) - 1)]


def batch_name(partition: Partition, number: int) -> str:
    """The name of the nth batch of a partition, in every phase."""
    return f"{partition.name}-b{number:04d}"


def batch_names(manifest: Mapping[str, Any]) -> list[str]:
    """The batches of a manifest: a partition as JSON, and under ``batches`` how many it was cut into."""
    partition = Partition.from_json(manifest)
    return [batch_name(partition, number) for number in range(manifest["batches"])]


def cut_groups(chunks: Iterator[pa.Table], group: str) -> Iterator[pa.Table]:
    """Move the rows of an unfinished group to the next chunk, so that no group is split.

    ``chunks`` are ordered by column ``group``; a group larger than a chunk makes that chunk larger.
    """
    carried: pa.Table | None = None
    for chunk in chunks:
        if not chunk.num_rows:
            continue
        table = chunk if carried is None else pa.concat_tables([carried, chunk])
        last = _start_of_last(table.column(group))
        carried = table.slice(last)
        if last:
            yield table.slice(0, last)
    if carried is not None:
        yield carried


def _start_of_last(keys: pa.ChunkedArray) -> int:
    """Where the last group begins; rows without a key sort last and are one group."""
    if keys.null_count:
        return len(keys) - int(keys.null_count)
    return int(pc.index(keys, keys[-1]).as_py())
