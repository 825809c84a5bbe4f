"""Copies files from where legacy files lie into Storage: one file at a time, or many side by side.

Nothing is sent twice: what Storage has already, with the same size and content, is left alone, and a resumable upload
that was broken off is gone on with. Memory is bounded by the number of files side by side times two pieces of 6 MB.

    MIGRATION_FILES_CONCURRENCY  files side by side in a task; default 4
    MIGRATION_FILES_VERIFY       auto: compare the checksum that Storage gives where it is one, else read back;
                                 download: read everything back
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from include.core.errors import MigrationError
from include.core.settings import whole_number
from include.files.manifest import FileCounts, Outcome, PlannedFile, Status
from include.files.mime import HEAD_BYTES, mime_type
from include.files.paths import is_object_key
from plugins.hooks.file_source import FileUnreadableError, LegacyFiles, OpenFile, SourceFile
from plugins.hooks.storage import (
    CHUNK_BYTES,
    ObjectRefusedError,
    ResumableUpload,
    StorageHook,
    UploadGoneError,
)

CONCURRENCY, VERIFY = "MIGRATION_FILES_CONCURRENCY", "MIGRATION_FILES_VERIFY"
_DEFAULT_CONCURRENCY, _MOST_CONCURRENCY = 4, 32
# For a file that changes while it is read, an upload that is lost, an object that is damaged.
_CHANCES = 3

T = TypeVar("T")
KeepUpload = Callable[[PlannedFile, str, str], None]
"""Told of a resumable upload before its first byte: the file, the upload's id, the source's fingerprint."""


@dataclass(frozen=True)
class CopySettings:
    """How files are copied."""

    concurrency: int = _DEFAULT_CONCURRENCY
    read_back: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> CopySettings:
        """As configured.

        Raises:
            MigrationError: FILES_SETTING_INVALID.
        """
        settings = os.environ if environment is None else environment
        text = settings.get(CONCURRENCY, "").strip() or str(_DEFAULT_CONCURRENCY)
        number = whole_number(text, 1, _MOST_CONCURRENCY)
        if number is None:
            raise MigrationError(
                "FILES_SETTING_INVALID",
                f"{CONCURRENCY} is a whole number from 1 to {_MOST_CONCURRENCY}.",
                setting=CONCURRENCY,
            )
        verify = settings.get(VERIFY, "").strip().lower() or "auto"
        if verify not in ("auto", "download"):
            raise MigrationError("FILES_SETTING_INVALID", f"{VERIFY} is auto or download.", setting=VERIFY)
        return cls(number, verify == "download")


@dataclass(frozen=True)
class Result:
    """What was done with one file.

    Attributes:
        outcome: for the manifest; None where nothing of it changed.
        error: why all copying must stop; the outcome is to be recorded even then.
    """

    counts: FileCounts
    outcome: Outcome | None = None
    error: MigrationError | None = None


class _Content:
    """What was read of a source file: as much as is needed to prove a copy of it.

    MD5 is what Storage may know of an object, SHA-256 what the manifest keeps.
    """

    def __init__(self, about: SourceFile, path: str) -> None:
        self.about = about
        self.size = 0
        self.mime_type = ""
        self._path = path
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()

    def read(self, file: OpenFile, size: int) -> bytes:
        """The next bytes of the file."""
        piece = file.read(size)
        self.mime_type = self.mime_type or mime_type(piece[:HEAD_BYTES], self.about.size, self._path)
        self._md5.update(piece)
        self._sha256.update(piece)
        self.size += len(piece)
        return piece

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


class _SourceChangedError(Exception):
    """The file was written while it was read."""


_FINDINGS: dict[type[Exception], str] = {
    FileUnreadableError: "file_unreadable",
    ObjectRefusedError: "file_refused",
    _SourceChangedError: "file_unstable",
}


class FileCopier:
    """Copies single files.

    Args:
        keep_upload: called by several threads at once.
    """

    def __init__(
        self, files: LegacyFiles, storage: StorageHook, *, read_back: bool, keep_upload: KeepUpload
    ) -> None:
        self._files = files
        self._source = files.source
        self._storage = storage
        self._read_back = read_back
        self._keep_upload = keep_upload

    def copy(self, planned: PlannedFile) -> Result:
        """Bring a file into Storage and prove it, unless both is done.

        Raises:
            MigrationError: of the source or of Storage; other files would fare no better.
        """
        path = path_of(self._files, planned)
        if path is None:
            return _failed(planned, None, "file_unreadable")
        try:
            about = self._source.stat(path)
            if about is None:
                return _missing(planned, path)
            if is_unchanged(planned, about):
                return Result(FileCounts(files=1, found=1, unchanged=1))
            return self._present(planned, path, about) or self._copied(planned, path)
        except FileNotFoundError:
            return _missing(planned, path)
        except tuple(_FINDINGS) as error:
            return _failed(planned, path, _FINDINGS[type(error)])

    def _present(self, planned: PlannedFile, path: str, about: SourceFile) -> Result | None:
        """For what Storage holds already; read through only where the size fits."""
        stored = self._storage.stat(planned.bucket, planned.object_key)
        if stored is None or stored.size != about.size:
            return None
        with self._source.open(path) as file:
            content = _Content(file.about, path)
            while content.read(file, CHUNK_BYTES):
                pass
        self._check_unchanged(path, content)
        if not self._proved(planned, content):
            return None
        return _done(planned, path, content, FileCounts(files=1, found=1, present=1, verified=1))

    def _copied(self, planned: PlannedFile, path: str) -> Result:
        for _ in range(_CHANCES):
            content = self._sent(planned, path)
            try:
                proved = self._proved(planned, content)
            except MigrationError as error:
                counts = FileCounts(files=1, found=1, copied=1, bytes=content.size)
                return replace(_done(planned, path, content, counts, Status.COPIED), error=error)
            if proved:
                counts = FileCounts(files=1, found=1, copied=1, verified=1, bytes=content.size)
                return _done(planned, path, content, counts)
            planned = replace(planned, upload_id=None)
        return _failed(planned, path, "file_damaged")

    def _sent(self, planned: PlannedFile, path: str) -> _Content:
        """What was read and sent, from the start where the file changed or a resumable upload was lost meanwhile."""
        for _ in range(_CHANCES):
            try:
                with self._source.open(path) as file:
                    content = _Content(file.about, path)
                    send = self._send_whole if file.about.size <= CHUNK_BYTES else self._send_pieces
                    send(planned, file, content)
                self._check_unchanged(path, content)
            except (UploadGoneError, _SourceChangedError):
                planned = replace(planned, upload_id=None)
            else:
                return content
        raise _SourceChangedError

    def _send_whole(self, planned: PlannedFile, file: OpenFile, content: _Content) -> None:
        # One byte more would show that the file has grown.
        body = content.read(file, CHUNK_BYTES + 1)
        self._check_size(content)
        self._storage.upload(planned.bucket, planned.object_key, body, content.mime_type)

    def _send_pieces(self, planned: PlannedFile, file: OpenFile, content: _Content) -> None:
        """Of an upload that is gone on with, what the server has is read for its checksum alone."""
        start, piece = 0, content.read(file, CHUNK_BYTES)
        upload, reached = self._upload(planned, content)
        while piece:
            if start >= reached:
                reached = upload.send(piece, start)
            taken = min(reached - start, len(piece))
            start += taken
            # Refilled, for every piece but the last has the size that Storage wants.
            piece = piece[taken:] + content.read(file, taken)
        self._check_size(content)

    def _upload(self, planned: PlannedFile, content: _Content) -> tuple[ResumableUpload, int]:
        """The upload of a file, and how many bytes of it the server has."""
        about = content.about
        if planned.upload_id and planned.upload_fingerprint == about.fingerprint:
            upload = self._storage.resume_upload(planned.upload_id, about.size)
            return upload, upload.offset()
        upload = self._storage.begin_upload(planned.bucket, planned.object_key, about.size, content.mime_type)
        self._keep_upload(planned, upload.upload_id, about.fingerprint)
        return upload, 0

    def _check_size(self, content: _Content) -> None:
        if content.size != content.about.size:
            raise _SourceChangedError

    def _check_unchanged(self, path: str, content: _Content) -> None:
        self._check_size(content)
        if self._source.stat(path) != content.about:
            raise _SourceChangedError

    def _proved(self, planned: PlannedFile, content: _Content) -> bool:
        """Whether Storage holds what was read, by its own word where that is a checksum, else read back."""
        stored = self._storage.stat(planned.bucket, planned.object_key)
        if stored is None or stored.size != content.size:
            return False
        if stored.has_md5(content.md5) and not self._read_back:
            return True
        return self._storage.digest(planned.bucket, planned.object_key) == (content.size, content.sha256)


def path_of(files: LegacyFiles, planned: PlannedFile) -> str | None:
    """Where the file lies; None where it has no uid, or a key that Storage does not take."""
    if planned.uid is None or not is_object_key(planned.object_key):
        return None
    try:
        return files.template.render(planned.legacy_id, planned.uid)
    except ValueError:
        return None


def is_unchanged(planned: PlannedFile, about: SourceFile) -> bool:
    """Whether the file was copied and proved, and has not been written since."""
    return planned.status == Status.VERIFIED and planned.source_fingerprint == about.fingerprint


def _done(
    planned: PlannedFile, path: str, content: _Content, counts: FileCounts, status: Status = Status.VERIFIED
) -> Result:
    differs = planned.expected_size is not None and planned.expected_size != content.size
    outcome = Outcome(
        planned.legacy_id,
        planned.object_key,
        status,
        source_path=path,
        size=content.size,
        mime_type=content.mime_type,
        checksum=content.sha256,
        source_fingerprint=content.about.fingerprint,
        finding="file_size_differs" if differs else None,
    )
    return Result(counts, outcome)


def _missing(planned: PlannedFile, path: str) -> Result:
    counts = FileCounts(files=1, missing=1)
    return _without_file(
        planned,
        counts,
        Outcome(
            planned.legacy_id, planned.object_key, Status.MISSING, source_path=path, finding="file_missing"
        ),
    )


def _failed(planned: PlannedFile, path: str | None, code: str) -> Result:
    outcome = Outcome(planned.legacy_id, planned.object_key, Status.PENDING, source_path=path, finding=code)
    if code == "file_unreadable":
        return _without_file(planned, FileCounts(files=1, failed=1), outcome)
    return Result(FileCounts(files=1, found=1, failed=1), outcome)


def _without_file(planned: PlannedFile, counts: FileCounts, outcome: Outcome) -> Result:
    """What was copied and proved stays so, though its source cannot be read any more."""
    return Result(counts, None if planned.status == Status.VERIFIED else outcome)


def look(files: LegacyFiles, planned: PlannedFile) -> FileCounts:
    """What :meth:`FileCopier.copy` would find, without reading the file or asking Storage."""
    path = path_of(files, planned)
    try:
        about = files.source.stat(path) if path is not None else None
    except FileUnreadableError:
        return FileCounts(files=1, failed=1)
    if path is None:
        return FileCounts(files=1, failed=1)
    if about is None:
        return FileCounts(files=1, missing=1)
    if is_unchanged(planned, about):
        return FileCounts(files=1, found=1, unchanged=1)
    return FileCounts(files=1, found=1, bytes=about.size)


def side_by_side(
    work: Callable[[PlannedFile], T], files: Iterable[PlannedFile], concurrency: int
) -> Generator[T]:
    """Results in the order in which they come, at most ``concurrency`` files at a time.

    After the first exception no further file is begun; those under way are finished, their results given out, and
    then it is raised. The same when the caller stops early, without the results.
    """
    waiting = iter(files)
    failure: BaseException | None = None
    with ThreadPoolExecutor(concurrency, thread_name_prefix="files") as pool:
        running = {pool.submit(work, file) for file in islice(waiting, concurrency)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                error = future.exception()
                failure = failure or error
                if error is None:
                    yield future.result()
                if failure is None:
                    running |= {pool.submit(work, file) for file in islice(waiting, 1)}
    if failure is not None:
        raise failure
