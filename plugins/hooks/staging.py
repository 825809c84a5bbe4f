"""Staging: Parquet files between the hops, local or in an object store. They hold health data."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from airflow.sdk import BaseHook, ObjectStoragePath

from include.core.errors import MigrationError

_PRIVATE = 0o700
_SUFFIX = ".parquet"
# The disk, the account's share of it, or the longest file allowed.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def default_root(name: str) -> str:
    """A private folder below AIRFLOW_HOME, used unless an environment variable says otherwise."""
    home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
    # Not as_uri(): fsspec takes a file's URI as it stands and would make folders with %20 in their names.
    return f"file://{home.absolute() / 'migration' / name}"


def staging_root() -> ObjectStoragePath:
    """Where runs stage their rows; raises PARAM_INVALID."""
    return _root("MIGRATION_STAGING_URI", "staging")


def report_root() -> ObjectStoragePath:
    """Where runs leave their reports; raises PARAM_INVALID."""
    return _root("MIGRATION_REPORT_URI", "reports")


def _root(variable: str, name: str) -> ObjectStoragePath:
    uri = os.environ.get(variable) or default_root(name)
    # A relative path would be another one in every worker, and open to others in most.
    if uri.isprintable() and re.match(r"/|[a-zA-Z][a-zA-Z0-9+.-]*://", uri):
        try:
            return ObjectStoragePath(uri)
        except ValueError:  # no such kind of storage
            pass
    raise MigrationError(
        "PARAM_INVALID",
        f"{variable} must be an absolute path, or the address of a storage that fsspec knows.",
    )


def check_writable(root: ObjectStoragePath) -> None:
    """Write and remove a file.

    Raises:
        MigrationError: STORAGE_UNWRITABLE.
    """
    probe = root / f"probe-{uuid4().hex}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as sink:
            sink.write(b"probe")
        probe.unlink()
    except Exception as error:
        # Every kind of storage has errors of its own.
        raise MigrationError("STORAGE_UNWRITABLE", f"{root}: {type(error).__name__}.") from error


def run_folder(run_id: str) -> str:
    """A run id as a folder name: readable, safe, and still unique."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", run_id)[:80]
    return f"{readable}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


class StagedFolder:
    """Tables as files below a root: ``<kind>/<entity>/<name>.parquet``.

    Args:
        private: the folder that is closed to other users, where the root is not the migration's alone; else the root.
    """

    def __init__(self, root: ObjectStoragePath, private: ObjectStoragePath | None = None) -> None:
        self._root = root
        self._private = private or root

    def write(self, kind: str, entity: str, batch: str, table: pa.Table) -> None:
        """Store a table, replacing an earlier attempt's.

        Raises:
            MigrationError: STORAGE_FULL or STORAGE_UNWRITABLE; nothing half-written stays.
        """
        folder = self._root / kind / entity
        local = self._root.protocol in ("file", "")
        # What is found here is whole: an object appears when it is complete, a file when it is renamed.
        path = folder / f"{batch}{_SUFFIX}"
        written = folder / f"{batch}.part" if local else path
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if local:
                Path(self._private.path).chmod(_PRIVATE)
            with written.open("wb") as sink:
                pq.write_table(table, sink, compression="zstd")
            if local:
                Path(written.path).replace(path.path)
        except OSError as error:
            with suppress(OSError):
                written.unlink(missing_ok=True)
            code = "STORAGE_FULL" if error.errno in _FULL else "STORAGE_UNWRITABLE"
            raise MigrationError(
                code, f"{type(error).__name__}.", kind=kind, entity=entity, batch=batch
            ) from None

    def read(self, kind: str, entity: str, batch: str, columns: list[str] | None = None) -> pa.Table:
        """A staged table.

        Raises:
            MigrationError: STAGING_MISSING.
        """
        try:
            with (self._root / kind / entity / f"{batch}{_SUFFIX}").open("rb") as source:
                return pq.read_table(source, columns=columns)
        except FileNotFoundError:
            raise MigrationError("STAGING_MISSING", "", kind=kind, entity=entity, batch=batch) from None

    def names(self, kind: str, entity: str) -> list[str]:
        """Of the tables that are staged, in order."""
        folder = self._root / kind / entity
        files = [file.name for file in folder.iterdir()] if folder.exists() else []
        return sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX))

    def drop(self, kind: str, entity: str, batch: str) -> None:
        """Remove a table, if it is there."""
        (self._root / kind / entity / f"{batch}{_SUFFIX}").unlink(missing_ok=True)


class StagingHook(StagedFolder, BaseHook):
    """Reads and writes the staged tables of one run."""

    def __init__(self, run_id: str) -> None:
        BaseHook.__init__(self)
        StagedFolder.__init__(self, staging_root() / run_folder(run_id))

    def keys(self, entity: str, batches: Iterable[str]) -> Iterator[pa.Array]:
        """Legacy ids of all rows that were transformed, clean or rejected."""
        for batch in batches:
            for kind in ("clean", "rejects"):
                yield self.read(kind, entity, batch, ["legacy_id"]).column(0).combine_chunks()

    def planned_keys(self, entity: str) -> Iterator[pa.Array]:
        """Legacy ids of all rows that the source had when the run was planned.

        Raises:
            MigrationError: STAGING_MISSING.
        """
        names = self.names("keys", entity)
        if not names:
            raise MigrationError("STAGING_MISSING", "", kind="keys", entity=entity)
        for name in names:
            yield self.read("keys", entity, name).column("legacy_id").combine_chunks()

    def remove(self) -> None:
        """Delete everything this run staged."""
        if self._root.exists():
            self._root.rmdir(recursive=True)
