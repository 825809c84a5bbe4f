"""Files in validation: the manifest against rows, and against the bytes that Storage holds, read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Literal

import httpx

from include.core.errors import MigrationError
from include.core.tracking import Check
from include.files.manifest import PlannedFile, Status
from plugins.hooks.comparison import check_of
from plugins.hooks.file_copier import side_by_side
from plugins.hooks.storage import StorageHook
from plugins.hooks.target import Target

Which = Literal["none", "copied", "all"]
"""Files whose bytes are read again: none, those that this run copied, all."""

Progress = Callable[[int, int, int], None]
"""Told after each file: how many were read, of how many, and bytes so far."""

_LEVEL = 4
_NAMED = 10
_STORED = ("legacy_id", "bucket", "object_key", "size", "checksum")


class FileCheck:
    """Checks the files of one entity.

    Args:
        concurrency: files read side by side.
    """

    def __init__(self, target: Target, run_id: str, entity: str, *, concurrency: int = 4) -> None:
        self._target = target
        self._run_id = run_id
        self._entity = entity
        self._concurrency = concurrency

    def listed(self) -> Iterator[Check]:
        """The manifest has each live row's file, and rows show what it says."""
        for result in self._target.call("check_files", entity=self._entity):
            yield check_of(self._entity, _LEVEL, result)

    def stored(self, which: Which) -> list[PlannedFile]:
        """Files that Storage is said to hold; where there is none to be read, Storage need not be known."""
        return [] if which == "none" else self._stored(None if which == "all" else self._run_id)

    def bytes(
        self, storage: StorageHook, files: Sequence[PlannedFile], progress: Progress = lambda *_: None
    ) -> Iterator[Check]:
        """What Storage holds has the size and the SHA-256 that the manifest says; all of it is read.

        Raises:
            MigrationError: Storage cannot be asked; an object that is not there is a failed check.
        """
        missing, wrong, size = [], [], 0
        results = side_by_side(lambda file: (file, _digest(storage, file)), files, self._concurrency)
        with closing(results):
            for done, (file, found) in enumerate(results, 1):
                if found is None:
                    missing.append(file.legacy_id)
                elif found != (file.size, file.checksum):
                    wrong.append(file.legacy_id)
                size += found[0] if found else 0
                progress(done, len(files), size)
        yield self._none("files_there", missing)
        yield self._none("file_bytes", wrong)

    def _stored(self, run_id: str | None) -> list[PlannedFile]:
        tables = self._target.rows("stored_files", _STORED, entity=self._entity, run=run_id)
        return [
            PlannedFile(
                row["legacy_id"],
                None,
                row["bucket"],
                row["object_key"],
                Status.VERIFIED,
                size=None if row["size"] is None else int(row["size"]),
                checksum=row["checksum"],
            )
            for table in tables
            for row in table.to_pylist()
        ]

    def _none(self, name: str, keys: Sequence[str]) -> Check:
        return Check(
            name,
            self._entity,
            _LEVEL,
            "0",
            str(len(keys)),
            not keys,
            sample_keys=tuple(sorted(keys)[:_NAMED]),
        )


def _digest(storage: StorageHook, file: PlannedFile) -> tuple[int, str] | None:
    """Size and SHA-256 of the object; None where there is none."""
    try:
        return storage.digest(file.bucket, file.object_key)
    except MigrationError as error:
        if error.facts.get("status") == httpx.codes.NOT_FOUND and error.code != "FILES_BUCKET_MISSING":
            return None
        raise
