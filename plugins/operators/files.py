"""Hop 6: the files that go with rows, from where legacy files lie into Supabase Storage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv

from include.core.batches import batch_names
from include.core.errors import MigrationError
from include.core.progress import Progress
from include.entities import ENTITIES
from include.files.manifest import (
    PLANNED_COLUMNS,
    FileCounts,
    FileShare,
    Outcome,
    PlannedFile,
    Status,
    outcome_table,
    readable_size,
)
from plugins.hooks.file_copier import CopySettings, FileCopier, look, side_by_side
from plugins.hooks.file_source import URI, LegacyFiles, legacy_files
from plugins.hooks.run_notes import RunNotes
from plugins.hooks.staging import StagingHook, report_root, run_folder
from plugins.hooks.storage import CHUNK_BYTES, StorageHook
from plugins.hooks.tracking import TrackingHook
from plugins.operators.preflight import chosen
from plugins.operators.step import MigrationOperator, PartitionOperator, Run

if TYPE_CHECKING:
    from plugins.hooks.target import Target

# A share is worth a task of its own from this size on; more tasks than this only wait for each other's bandwidth.
_SHARE_BYTES = 2 << 30
MOST_SHARES = 8
# Outcomes are recorded together, but none is kept for long: a killed task would have to ask Storage again.
_RECORDED_TOGETHER = 100
_RECORDED_AFTER_SECONDS = 10.0
_NO_FAILURES = ("file_missing", "file_size_differs")
_STAGED_COLUMNS = {
    "legacy_id": "legacy_id",
    "legacy_uid": "uid",
    "storage_bucket": "bucket",
    "storage_path": "object_key",
    "file_size": "expected_size",
}
_MANIFEST_COLUMNS = (
    *("legacy_id", "target_id", "uid", "bucket", "object_key", "status", "finding", "expected_size", "size"),
    *("mime_type", "checksum", "source_path", "run_id", "updated_at"),
)


def _reason_not_to_copy(run: Run, files: LegacyFiles | None) -> str | None:
    if not run.settings.copy_files:
        return "copy_files is off"
    return f"{URI} is not set" if files is None else None


class CheckFilesOperator(MigrationOperator):
    """Makes sure that files can be copied where that is wanted: a run must not find out behind its rows."""

    tracked = False

    def step(self, run: Run) -> None:
        """Asks the place of the files, and Storage, for nothing but an answer.

        Raises:
            MigrationError: FILES_SETTING_INVALID, FILES_ROOT_UNREADABLE, FILES_KEY_REFUSED, CONNECTION_MISSING.
        """
        files = legacy_files()
        CopySettings.from_environment()
        if (
            files is None
            or _reason_not_to_copy(run, files)
            or ENTITIES[str(self.entity)] not in chosen(run.settings)
        ):
            return
        files.source.check()
        with closing(StorageHook.from_connection(max_retries=run.settings.max_retries)) as storage:
            storage.check()
        self.progress("files: their place can be read, Supabase Storage answers")


class PlanFilesOperator(MigrationOperator):
    """Brings the manifest up to date with the rows that were loaded, and cuts it into shares for mapped tasks.

    Args:
        partitions: what transformation returned; a dry run, which has loaded nothing, looks there.
    """

    template_fields = ("partitions",)

    def __init__(self, *, partitions: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.partitions = partitions

    def step(self, run: Run) -> list[dict[str, Any]]:
        """Returns shares; none where nothing is to be copied.

        Raises:
            MigrationError: FILES_SETTING_INVALID, FILES_ROOT_UNREADABLE, FILES_BUCKET_PUBLIC or CONNECTION_MISSING,
                before anything is copied.
        """
        entity = ENTITIES[str(self.entity)]
        if entity not in chosen(run.settings):
            return []
        files = legacy_files()
        CopySettings.from_environment()
        if run.settings.dry_run:
            plan: dict[str, Any] = {}
        else:
            with self.target(run, entity=entity.name) as target:
                plan = target.call("plan_files", run=run.run_id, entity=entity.name)
                if plan["added"] or plan["changed"] or plan["withdrawn"]:
                    self.progress(
                        f"{entity.name}: {plan['added']:,} new files in the manifest,"
                        f" {plan['changed']:,} changed, {plan['withdrawn']:,} withdrawn"
                    )
        reason = _reason_not_to_copy(run, files)
        if reason is not None or files is None:
            self.progress(f"{entity.name}: no file is looked at, because {reason}")
            return []
        files.source.check()
        if run.settings.dry_run:
            return [{"entity": entity.name, "label": "dry run", "partitions": list(self.partitions or [])}]
        self._make_buckets(run, plan["buckets"])
        with self.target(run, entity=entity.name) as target:
            shares = target.call(
                "file_shares",
                entity=entity.name,
                recheck=_rechecks(run),
                bytes=_SHARE_BYTES,
                shares=MOST_SHARES,
            )
        return [FileShare.from_json(share).to_json() for share in shares]

    def _make_buckets(self, run: Run, buckets: Iterable[str]) -> None:
        with closing(StorageHook.from_connection(max_retries=run.settings.max_retries)) as storage:
            for bucket in buckets:
                if storage.ensure_bucket(bucket):
                    self.progress(f"private bucket {bucket} was made")

    def nothing_done(self, run: Run) -> list[dict[str, Any]]:  # noqa: ARG002 - see the base
        """No shares."""
        return []


def _rechecks(run: Run) -> bool:
    """A full run looks at every file again; one that is in Storage is copied anew if it was written since."""
    return run.type == "full"


class CopyFilesOperator(PartitionOperator):
    """Copies the files of one share, several at a time; in a dry run it looks at them only."""

    def step(self, run: Run) -> dict[str, int]:
        """Returns counts; see :class:`FileCounts`."""
        files, settings = legacy_files(), CopySettings.from_environment()
        if files is None:
            raise MigrationError(
                "FILES_SETTING_INVALID", "It was set when this run was planned.", setting=URI
            )
        started = time.monotonic()
        with self.target(run, entity=str(self.entity)) as target:
            if run.settings.dry_run:
                counts = self._look(run, target, files, settings)
            else:
                counts = self._copy(run, target, files, settings)
        self._say(counts, time.monotonic() - started, dry_run=run.settings.dry_run)
        return counts.to_json()

    def nothing_done(self, run: Run) -> dict[str, int]:  # noqa: ARG002 - see the base
        """Counts of nothing."""
        return FileCounts().to_json()

    def _copy(self, run: Run, target: Target, files: LegacyFiles, settings: CopySettings) -> FileCounts:
        share = FileShare.from_json(self.partition)
        planned = planned_files(target, share.entity, _rechecks(run), share.low, share.high)
        with closing(StorageHook.from_connection(max_retries=run.settings.max_retries)) as storage:
            record = _Recorder(run, target, share.entity)
            copier = FileCopier(files, storage, read_back=settings.read_back, keep_upload=record.keep_upload)
            progress = Progress(len(planned), unit="files")
            results = side_by_side(copier.copy, planned, settings.concurrency)
            try:
                for result in results:
                    record.take(result.outcome, large=result.counts.bytes > CHUNK_BYTES)
                    record.counts += result.counts
                    self.advance(progress, self.partition["label"], 1)
                    if result.error is not None:
                        raise result.error
            finally:
                # Whoever is still copying ends first.
                results.close()
                record.flush()
        return record.counts

    def _look(self, run: Run, target: Target, files: LegacyFiles, settings: CopySettings) -> FileCounts:
        entity = str(self.partition["entity"])
        known = {file.legacy_id: file for file in planned_files(target, entity, recheck=True)}
        planned = _planned_in_dry_run(known, self._staged(run, entity), everything=_rechecks(run))
        counts, progress = FileCounts(), Progress(None, unit="files")
        for looked in side_by_side(lambda file: look(files, file), planned, settings.concurrency):
            counts += looked
            self.advance(progress, self.partition["label"], 1)
        return counts

    def _staged(self, run: Run, entity: str) -> Iterator[dict[str, Any]]:
        staging = StagingHook(run.run_id)
        for partition in self.partition["partitions"]:
            for name in batch_names(partition):
                table = staging.read("clean", entity, name, list(_STAGED_COLUMNS))
                yield from table.rename_columns([_STAGED_COLUMNS[c] for c in table.column_names]).to_pylist()

    def _say(self, counts: FileCounts, seconds: float, *, dry_run: bool) -> None:
        size = readable_size(counts.bytes)
        done = f"{size} would be copied" if dry_run else f"{counts.copied:,} copied ({size})"
        rate = f", {readable_size(counts.bytes / seconds)}/s" if counts.copied and seconds else ""
        self.progress(
            f"{self.partition['label']}: {counts.found:,} of {counts.files:,} files found, {done},"
            f" {counts.present + counts.unchanged:,} already there, {counts.missing:,} missing,"
            f" {counts.failed:,} failed{rate}",
            entity=self.entity,
            counts=counts.to_json(),
            seconds=round(seconds, 3),
        )


class _Recorder:
    """Records outcomes in the target, some at a time. Used by the task's own thread and by those that copy."""

    def __init__(self, run: Run, target: Target, entity: str) -> None:
        self.counts = FileCounts()
        self._run = run
        self._target = target
        self._tracking = TrackingHook(target, run.run_id)
        self._entity = entity
        self._outcomes: list[Outcome] = []
        self._flushed = time.monotonic()
        self._calls = threading.Lock()

    def keep_upload(self, planned: PlannedFile, upload_id: str, fingerprint: str) -> None:
        """Remember a resumable upload before its first byte is sent."""
        with self._calls:
            self._target.call(
                "keep_upload",
                run=self._run.run_id,
                entity=self._entity,
                legacy_id=planned.legacy_id,
                object_key=planned.object_key,
                upload_id=upload_id,
                fingerprint=fingerprint,
            )

    def take(self, outcome: Outcome | None, *, large: bool) -> None:
        """Record an outcome soon, that of a large file at once; then ask whether the run goes on.

        Raises:
            MigrationError: RUN_STOPPED, RUN_LOST.
        """
        if outcome is not None:
            self._outcomes.append(outcome)
        waited = time.monotonic() - self._flushed
        if large or len(self._outcomes) >= _RECORDED_TOGETHER or waited > _RECORDED_AFTER_SECONDS:
            self.flush()
            with self._calls:
                self._tracking.stop_if_failed(fail_fast=self._run.settings.fail_fast)

    def flush(self) -> None:
        """Record what was taken."""
        self._flushed = time.monotonic()
        if self._outcomes:
            with self._calls:
                self._target.call(
                    "record_files",
                    incoming={"files": outcome_table(self._outcomes)},
                    run=self._run.run_id,
                    entity=self._entity,
                )
            self._outcomes = []


def planned_files(
    target: Target, entity: str, recheck: bool, low: str | None = None, high: str | None = None
) -> list[PlannedFile]:
    """What the manifest has to be copied, or with ``recheck`` everything, of a range of legacy ids.

    All at once: nothing else can be asked over a connection from which rows are still read.
    """
    tables = target.rows("files_to_copy", PLANNED_COLUMNS, entity=entity, low=low, high=high, recheck=recheck)
    return [PlannedFile.of_row(row) for table in tables for row in table.to_pylist()]


def _planned_in_dry_run(
    known: Mapping[str, PlannedFile], staged: Iterable[Mapping[str, Any]], *, everything: bool
) -> Iterator[PlannedFile]:
    """Files of the rows that would be loaded, then what the manifest still has to be copied.

    Args:
        everything: the staged rows are all there are.
    """
    seen = set()
    for row in staged:
        planned = PlannedFile(
            row["legacy_id"],
            row["uid"],
            row["bucket"],
            row["object_key"] or "",
            Status.PENDING,
            None if row["expected_size"] is None else int(row["expected_size"]),
        )
        seen.add(planned.legacy_id)
        before = known.get(planned.legacy_id)
        if before is not None and before.object_key == planned.object_key:
            # Another size of the row alone does not make another file.
            planned = replace(before, expected_size=planned.expected_size)
        yield planned
    if not everything:
        yield from (
            file for file in known.values() if file.legacy_id not in seen and file.status != Status.VERIFIED
        )


class FileManifestOperator(MigrationOperator):
    """Says what became of the files, and puts the manifest, without names, beside the run's report.

    Args:
        results: what the copying tasks returned.
    """

    template_fields = ("results",)

    def __init__(self, *, results: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.results = results

    def step(self, run: Run) -> dict[str, int]:
        """Returns the counts of all copying tasks."""
        entity = ENTITIES[str(self.entity)]
        if entity not in chosen(run.settings):
            return FileCounts().to_json()
        counts = FileCounts.total([result for result in self.results or [] if result])
        reason = _reason_not_to_copy(run, legacy_files())
        with self.target(run, entity=entity.name) as target:
            manifest = target.call("file_counts", entity=entity.name)
            if not run.settings.dry_run:
                _export(target, entity.name, run.run_id)
            notes = RunNotes(target, run.run_id)
            if reason is not None:
                facts = _facts(counts, manifest)
                notes.record(
                    "files_not_copied", reason=reason, files=facts["files"], verified=facts["verified"]
                )
            elif run.settings.dry_run:
                notes.record("files_to_copy", **_facts_of_dry_run(counts))
            else:
                notes.record("files_copied", **_facts(counts, manifest))
            if manifest["withdrawn"]:
                notes.record("files_withdrawn", objects=manifest["withdrawn"])
        # A dry run records nothing: these would be of the run before.
        findings = {} if run.settings.dry_run else manifest["findings"]
        for code, found in sorted(findings.items()):
            self.progress(f"{found['files']:,} {code}, such as {entity.name} {', '.join(found['sample'])}")
        return counts.to_json()


def _facts_of_dry_run(counts: FileCounts) -> dict[str, Any]:
    names = ("files", "found", "unchanged", "missing", "failed")
    return {**{name: getattr(counts, name) for name in names}, "size": readable_size(counts.bytes)}


def _facts(counts: FileCounts, manifest: Mapping[str, Any]) -> dict[str, Any]:
    statuses = {name: about["files"] for name, about in manifest["statuses"].items()}
    findings = {code: about["files"] for code, about in manifest["findings"].items()}
    files, missing, verified = sum(statuses.values()), statuses.get("missing", 0), statuses.get("verified", 0)
    failed = sum(number for code, number in findings.items() if code not in _NO_FAILURES)
    return {
        "files": files,
        "verified": verified,
        "copied": counts.copied,
        "size": readable_size(counts.bytes),
        "missing": missing,
        "failed": failed,
        "pending": files - verified - missing - failed,
    }


def _export(target: Target, entity: str, run_id: str) -> None:
    folder = report_root() / run_folder(run_id)
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, pa.string()) for name in _MANIFEST_COLUMNS])
    file: Any = folder / "files.csv"
    with file.open("wb") as sink, pyarrow.csv.CSVWriter(sink, schema) as writer:
        for table in target.rows("file_manifest", _MANIFEST_COLUMNS, entity=entity):
            writer.write_table(table)
