"""The tasks that copy files, step by step, between a folder, a server over a real socket and a deployed target."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from include.core.batches import Partition
from include.core.errors import MigrationError
from include.core.findings import FINDINGS
from include.core.settings import check, params
from include.entities import ENTITIES
from include.files.manifest import FileCounts
from local.storage_server import PIECE_BYTES, Fault, StorageServer
from plugins.hooks.run_notes import RunNotes
from plugins.hooks.staging import StagingHook, report_root, run_folder
from plugins.operators.files import CopyFilesOperator, FileManifestOperator, PlanFilesOperator
from plugins.operators.step import Run
from tests.hooks.loading import Target, clean_table, project
from tests.hooks.test_file_manifest import Manifest, row, uid

BOTH_WAYS = True

SECRET = "a secret by which the tokens of these tests are signed"
KEY = jwt.encode({"role": "service_role"}, SECRET, algorithm="HS256")


class Copying:
    """Everything around the tasks, and the tasks in their order."""

    def __init__(self, target: Target, root: Path, server: StorageServer, way: str) -> None:
        self.manifest = Manifest(target)
        self.target = target
        self.root = root
        self.server = server
        self.way = way

    def put(self, number: int, size: int = 1000) -> None:
        (self.root / uid(number)).write_bytes(bytes([number % 256]) * size)

    def run(self, run_id: str = "run-1", *, kind: str = "full", **values: Any) -> Run:
        self.target.tracking(run_id, dry_run=bool(values.get("dry_run")))
        known = params(ENTITIES, kind=kind, environment={})
        settings = check({"dry_run": False, "load_via": self.way, "max_retries": 0, **values}, known)
        return Run(run_id, "dag", kind, settings, "step", 1, "test", None)  # type: ignore[arg-type]

    def copy(self, run: Run, partitions: list[dict[str, Any]] | None = None) -> FileCounts:
        """All tasks; what they tell each other goes through JSON, as in XCom."""
        plan = PlanFilesOperator(task_id="plan", entity="projects", partitions=partitions or [])
        shares = json.loads(json.dumps(plan.step(run)))
        results = [
            CopyFilesOperator(task_id="copy", entity="projects", partition=share).step(run) for share in shares
        ]
        manifest = FileManifestOperator(task_id="manifest", entity="projects", results=results)
        return FileCounts.total([manifest.step(run)])

    def notes(self, run: Run) -> dict[str, str]:
        return {note.code: note.text for note in RunNotes(self.target.api, run.run_id).all()}

    def objects(self) -> int:
        return sum(len(self.server._disk.objects(bucket.id)) for bucket in self.server._disk.buckets())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    with StorageServer(tmp_path_factory.mktemp("storage"), SECRET) as started:
        yield started


@pytest.fixture
def copying(
    target: Target,
    running: StorageServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Copying:
    running.clear()
    root = tmp_path / "files"
    root.mkdir()
    connection = {"conn_type": "supabase", "host": running.url, "password": KEY}
    way = target.api.way
    if way == "postgres":
        monkeypatch.setenv("AIRFLOW_CONN_SUPABASE", json.dumps(connection))
    monkeypatch.setenv("MIGRATION_FILES_URI", str(root))
    monkeypatch.setenv("MIGRATION_STAGING_URI", f"file://{tmp_path / 'staging'}")
    monkeypatch.setenv("MIGRATION_REPORT_URI", f"file://{tmp_path / 'reports'}")
    for kind in FINDINGS.values():
        target.connection.execute(
            "INSERT INTO migration.finding_kinds VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            [kind.code, kind.reason, kind.how_to_fix],
        )
    return Copying(target, root, running, way)
