"""What the manifest of files knows of one file, and what became of it in a run. All of it is text in transit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

import pyarrow as pa


class Status(StrEnum):
    """Of a file in Storage; the values of the target's storage_status."""

    PENDING = "pending"
    COPIED = "copied"
    VERIFIED = "verified"
    MISSING = "missing"


@dataclass(frozen=True)
class PlannedFile:
    """A file that a live row should have, as the manifest has it.

    Attributes:
        object_key: empty where the row has no uid.
        expected_size: bytes, as the legacy row says.
        size: bytes in Storage.
        source_fingerprint: of the source file that was copied.
        upload_id: of a resumable upload that was begun, and upload_fingerprint of the source file then.
    """

    legacy_id: str
    uid: str | None
    bucket: str
    object_key: str
    status: Status
    expected_size: int | None = None
    size: int | None = None
    checksum: str | None = None
    source_fingerprint: str | None = None
    upload_id: str | None = None
    upload_fingerprint: str | None = None

    @classmethod
    def of_row(cls, row: Mapping[str, str | None]) -> PlannedFile:
        """From a row of migration_api.files_to_copy."""
        return cls(
            legacy_id=str(row["legacy_id"]),
            uid=row["uid"],
            bucket=str(row["bucket"]),
            object_key=row["object_key"] or "",
            status=Status(row["status"] or ""),
            expected_size=_number(row["expected_size"]),
            size=_number(row["size"]),
            checksum=row["checksum"],
            source_fingerprint=row["source_fingerprint"],
            upload_id=row["upload_id"],
            upload_fingerprint=row["upload_fingerprint"],
        )


PLANNED_COLUMNS = tuple(f.name for f in fields(PlannedFile))


@dataclass(frozen=True)
class Outcome:
    """What became of a file; the columns of what migration_api.record_files takes.

    Attributes:
        size: bytes in Storage.
        checksum: SHA-256 of them, hexadecimal.
        finding: code of include/core/findings.py, where something is worth saying.
    """

    legacy_id: str
    object_key: str
    status: Status
    source_path: str | None = None
    size: int | None = None
    mime_type: str | None = None
    checksum: str | None = None
    source_fingerprint: str | None = None
    finding: str | None = None


def outcome_table(outcomes: Iterable[Outcome]) -> pa.Table:
    """Outcomes as text columns."""
    names = [f.name for f in fields(Outcome)]
    rows = [{name: _text(getattr(outcome, name)) for name in names} for outcome in outcomes]
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in names]))


@dataclass(frozen=True)
class FileShare:
    """The files that one mapped task copies: legacy ids from ``low`` up to, not including, ``high``, as texts."""

    entity: str
    low: str | None
    high: str | None
    files: int
    bytes: int

    @property
    def label(self) -> str:
        """What a person reads on the mapped task."""
        return f"{self.files:,} files from {self.low or 'start'}, {readable_size(self.bytes)}"

    def to_json(self) -> dict[str, str | int | None]:
        """For XCom."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"label": self.label}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> FileShare:
        """From XCom or migration_api.plan_files; further keys are ignored."""
        return cls(**{f.name: data[f.name] for f in fields(cls)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class FileCounts:
    """What a task, or all of them, did with files; bytes are those of ``copied`` in a run, of ``found`` in a dry run.

    Attributes:
        files: looked at.
        found: there in the source.
        unchanged: in Storage already, and not changed in the source since.
        copied: sent.
        present: found in Storage with the right content, so not sent.
        verified: proved equal to the source's file.
        missing: not in the source.
        failed: unreadable, refused or damaged.
    """

    files: int = 0
    found: int = 0
    unchanged: int = 0
    copied: int = 0
    present: int = 0
    verified: int = 0
    missing: int = 0
    failed: int = 0
    bytes: int = 0

    def __add__(self, other: FileCounts) -> FileCounts:
        return FileCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def to_json(self) -> dict[str, int]:
        """For XCom."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def total(cls, results: Sequence[Mapping[str, int]]) -> FileCounts:
        """The sum of what tasks returned; keys that are no counts are ignored."""
        return sum(
            (cls(**{f.name: result.get(f.name, 0) for f in fields(cls)}) for result in results), start=cls()
        )


def readable_size(size: float) -> str:
    """Bytes as a person writes them: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004 - of SI
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
