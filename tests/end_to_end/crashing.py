"""Ways to die: a run killed without warning at a named point. Only the tests know of them.

`Crash.install` patches functions of the code under test in the process that runs the DAG; when the chosen
batch gets to the chosen point, the process kills itself with SIGKILL, as the out-of-memory killer would. Nothing
is flushed, no `finally` runs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg

LOADING = ("before_commit", "after_commit", "during_merge")
READING = ("after_read", "after_stage")
EMBEDDING = ("between_embedding_and_store",)
REPORTING = ("while_reporting",)
POINTS = (*READING, *LOADING, *EMBEDDING, *REPORTING)
REPORT_FILES = ("report.json", "report.html", "summary.txt")

TEXTS_PER_REQUEST = 4
_POLL_SECONDS = 0.01
_LONGEST_SECONDS = 60


@dataclass(frozen=True)
class Crash:
    """Where a run dies.

    Attributes:
        point: one of `POINTS`.
        place: the batch; of an embedding the request's number, of a report its file.
        watch: DSN of the target's superuser, to see the merge in flight.
        block: name of the prepared transaction that keeps it there.
    """

    point: str
    entity: str
    place: str
    watch: str = ""
    block: str = ""

    def install(self) -> None:
        """Patch the functions of this process, for good."""
        getattr(self, f"_{self.point}")()

    def _after_read(self) -> None:
        """Rows of the batch are read from the source, nothing is staged."""
        from include.core.batches import batch_name  # noqa: PLC0415
        from plugins.hooks.legacy_mdw import Snapshot  # noqa: PLC0415

        read = Snapshot.batches

        def batches(
            snapshot: Snapshot, entity: Any, partition: Any, *arguments: Any, **options: Any
        ) -> Iterator[Any]:
            for number, rows in enumerate(read(snapshot, entity, partition, *arguments, **options)):
                if (entity.name, batch_name(partition, number)) == (self.entity, self.place):
                    die()
                yield rows

        Snapshot.batches = batches  # type: ignore[method-assign]

    def _after_stage(self) -> None:
        """The batch's file is written, the ledger does not know of it."""
        from plugins.hooks.staging import StagingHook  # noqa: PLC0415

        write = StagingHook.write

        def write_and_die(staging: StagingHook, kind: str, entity: str, batch: str, table: Any) -> None:
            write(staging, kind, entity, batch, table)
            if (kind, entity, batch) == ("raw", self.entity, self.place):
                die()

        StagingHook.write = write_and_die  # type: ignore[method-assign]

    def _before_commit(self) -> None:
        """The batch is merged and in the ledger, the transaction is open."""
        from plugins.hooks.target_postgres import PostgresTarget  # noqa: PLC0415

        call = PostgresTarget.call

        def call_and_die(target: PostgresTarget, function: str, /, **arguments: Any) -> Any:
            batch = arguments.get("batch", {})
            place = (batch.get("phase"), arguments.get("entity"), batch.get("batch"))
            chosen = (function, *place) == ("load_batch", "loading", self.entity, self.place)
            with target._connection.transaction() if chosen else nullcontext():
                answer = call(target, function, **arguments)
                if chosen:
                    die()
            return answer

        PostgresTarget.call = call_and_die  # type: ignore[method-assign]

    def _after_commit(self) -> None:
        """The batch is committed, its task has not got to know."""
        self._around_load(after=die)

    def _during_merge(self) -> None:
        """The server works on the batch: it waits for a lock that a prepared transaction holds."""

        def block() -> None:
            with psycopg.Connection.connect(self.watch) as connection:
                connection.execute("LOCK TABLE migration.id_map IN SHARE ROW EXCLUSIVE MODE")
                connection.execute(f"PREPARE TRANSACTION '{self.block}'".encode())
            threading.Thread(target=self._die_when_merging, daemon=True).start()

        self._around_load(before=block)

    def _die_when_merging(self) -> None:
        with psycopg.Connection.connect(self.watch, autocommit=True) as connection:
            deadline = time.monotonic() + _LONGEST_SECONDS
            while time.monotonic() < deadline:
                if merging(connection):
                    die()
                time.sleep(_POLL_SECONDS)

    def _around_load(
        self, before: Callable[[], object] = lambda: None, after: Callable[[], object] = lambda: None
    ) -> None:
        from plugins.hooks.batch_loader import BatchLoader, LoadBatch  # noqa: PLC0415

        load = BatchLoader.load

        def load_between(loader: BatchLoader, batch: LoadBatch, attempt: int) -> Any:
            chosen = (loader._entity.name, batch.name) == (self.entity, self.place)
            if chosen:
                before()
            result = load(loader, batch, attempt)
            if chosen:
                after()
            return result

        BatchLoader.load = load_between  # type: ignore[method-assign]

    def _between_embedding_and_store(self) -> None:
        """The provider has answered and is to be paid, its vectors are not stored."""
        from plugins.hooks.embeddings import HashProvider  # noqa: PLC0415
        from plugins.hooks.vectors import VectorStore  # noqa: PLC0415

        HashProvider.max_inputs = TEXTS_PER_REQUEST
        store, answered = VectorStore.store, 0

        def die_or_store(vectors: VectorStore, documents: Any, fresh: Any, *arguments: Any) -> int:
            nonlocal answered
            if fresh[0] and vectors._entity.name == self.entity:
                if answered == int(self.place):
                    die()
                answered += 1
            return store(vectors, documents, fresh, *arguments)

        VectorStore.store = die_or_store  # type: ignore[method-assign]

    def _while_reporting(self) -> None:
        """Half of a file of the report is written."""
        from airflow.sdk import ObjectStoragePath  # noqa: PLC0415

        open_file, name = ObjectStoragePath.open, self.place

        class HalfWritten:
            def __init__(self, sink: Any) -> None:
                self._sink = sink

            def __enter__(self) -> HalfWritten:
                return self

            def __exit__(self, *_: object) -> None:
                self._sink.close()

            def write(self, content: bytes) -> None:
                self._sink.write(content[: len(content) // 2])
                self._sink.flush()
                die()

        def open_or_die(path: ObjectStoragePath, *arguments: Any, **options: Any) -> Any:
            sink = open_file(path, *arguments, **options)
            return HalfWritten(sink) if path.name == name else sink

        ObjectStoragePath.open = open_or_die  # type: ignore[method-assign]


def die() -> None:
    """At once, as by the out-of-memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)


def merging(connection: psycopg.Connection[Any]) -> list[int]:
    """Process ids of the server's backends that wait for a lock amid a merge."""
    rows = connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND application_name = 'mdw_migration' AND query LIKE '%load_batch%'"
    )
    return [pid for (pid,) in rows]


@contextmanager
def recorded_texts(file: str) -> Iterator[None]:
    """Every text sent to the provider is a line of the file, kept whatever happens afterwards."""
    from include.embedding.content_hash import content_hashes  # noqa: PLC0415
    from plugins.hooks.embeddings import HashProvider  # noqa: PLC0415

    embed = HashProvider.embed

    def embed_and_record(provider: HashProvider, texts: Sequence[str]) -> Any:
        import pyarrow as pa  # noqa: PLC0415

        vectors = embed(provider, texts)
        hashes = content_hashes(pa.array(texts, pa.string()), provider.model, provider.dimensions)
        with Path(file).open("a") as lines:
            lines.writelines(f"{content_hash}\n" for content_hash in hashes.to_pylist())
        return vectors

    with patch.object(HashProvider, "embed", embed_and_record):
        yield


CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000


def small_disk(folder: Path, size: int) -> None:
    """Mount a disk of so many bytes over a folder, which only this process and its children see.

    Raises:
        OSError: the system does not let everybody do that.
    """
    user, group = os.geteuid(), os.getegid()
    _checked("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _checked("mount", b"none", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode())


def _checked(function: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {errno.errorcode.get(number)}")
