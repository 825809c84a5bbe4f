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
from include.entities import EMBEDDED, ENTITIES
from include.files.manifest import FileCounts
from local.storage_server import PIECE_BYTES, Fault, StorageServer
from plugins.hooks.run_notes import RunNotes
from plugins.hooks.staging import StagingHook, report_root, run_folder
from plugins.operators.files import (
    CheckFilesOperator,
    CopyFilesOperator,
    FileManifestOperator,
    PlanFilesOperator,
)
from plugins.operators.step import Run
from tests.hooks.loading import Target, clean_table
from tests.hooks.test_file_manifest import Manifest, row, uid

SECRET = "a secret by which the tokens of these tests are signed"
KEY = jwt.encode({"role": "service_role"}, SECRET, algorithm="HS256")


class Copying:
    """Everything around the tasks, and the tasks in their order."""

    def __init__(self, target: Target, root: Path, server: StorageServer) -> None:
        self.manifest = Manifest(target)
        self.target = target
        self.root = root
        self.server = server

    def put(self, number: int, size: int = 1000) -> None:
        (self.root / uid(number)).write_bytes(bytes([number % 256]) * size)

    def run(self, run_id: str = "run-1", *, kind: str = "full", **values: Any) -> Run:
        self.target.tracking(run_id, dry_run=bool(values.get("dry_run")))
        known = params(ENTITIES, kind=kind, environment={}, embedded=EMBEDDED)
        settings = check({"dry_run": False, "max_retries": 0, **values}, known)
        return Run(run_id, "dag", kind, settings, "step", 1, "test", None)  # type: ignore[arg-type]

    def copy(self, run: Run, partitions: list[dict[str, Any]] | None = None) -> FileCounts:
        """All tasks; what they tell each other goes through JSON, as in XCom."""
        plan = PlanFilesOperator(task_id="plan", entity="projects", partitions=partitions or [])
        shares = json.loads(json.dumps(plan.step(run)))
        results = [
            CopyFilesOperator(task_id="copy", entity="projects", partition=share).step(run)
            for share in shares
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
    monkeypatch.setenv("AIRFLOW_CONN_SUPABASE", json.dumps(connection))
    monkeypatch.setenv("MIGRATION_FILES_URI", str(root))
    monkeypatch.setenv("MIGRATION_STAGING_URI", f"file://{tmp_path / 'staging'}")
    monkeypatch.setenv("MIGRATION_REPORT_URI", f"file://{tmp_path / 'reports'}")
    for kind in FINDINGS.values():
        target.connection.execute(
            "INSERT INTO migration.finding_kinds VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            [kind.code, kind.reason, kind.how_to_fix],
        )
    return Copying(target, root, running)


LARGE = PIECE_BYTES + 1


def test_files_are_copied_and_everybody_is_told(copying: Copying):
    for number, size in ((1, 1000), (2, 0), (4, LARGE), (5, 10)):
        copying.put(number, size)
    run = copying.run()
    copying.manifest.load(row(1), row(2, file_size="0"), row(3), row(4, file_size=str(LARGE)), row(5))
    counts = copying.copy(run)
    assert counts == FileCounts(files=5, found=4, copied=4, verified=4, missing=1, bytes=1000 + LARGE + 10)
    statuses = {number: shown[0] for number, shown in copying.manifest.shown().items()}
    assert statuses == {1: "verified", 2: "verified", 3: "missing", 4: "verified", 5: "verified"}
    assert copying.manifest.findings() == [("3", "file_missing"), ("5", "file_size_differs")]
    assert copying.notes(run) == {
        "files_copied": "Of 5 files 4 are in Storage, proved by size and checksum. In this run 4 were copied (6.3 MB);"
        " 1 are missing at the source, 0 failed, 0 are still to come."
    }
    exported = (report_root() / run_folder("run-1") / "files.csv").read_text()
    lines = list(csv.DictReader(io.StringIO(exported)))
    assert [(line["legacy_id"], line["status"]) for line in lines] == [
        (number, statuses[int(number)]) for number in ("1", "2", "3", "4", "5")
    ]
    assert "name" not in lines[0]


def test_again_nothing_is_sent_but_what_has_come_or_changed(copying: Copying):
    copying.put(1)
    copying.put(2)
    run = copying.run()
    copying.manifest.load(row(1), row(2), row(3))
    copying.copy(run)
    copying.put(2, 500)
    copying.put(3)
    copying.server.requests.clear()
    # A night looks at what is not in Storage yet; a full run looks at everything again.
    counts = copying.copy(copying.run("run-2", kind="incremental"))
    assert counts == FileCounts(files=1, found=1, copied=1, verified=1, bytes=1000)
    assert sum(method == "POST" for method, _ in copying.server.requests) == 1
    counts = copying.copy(copying.run("run-3"))
    assert counts == FileCounts(files=3, found=3, unchanged=2, copied=1, verified=1, bytes=500)


@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_a_dry_run_counts_and_sizes_and_sends_nothing(copying: Copying, kind: str):
    """Its rows are not in the target: they are read where transformation left them."""
    copying.put(1, 1000)
    copying.put(3, LARGE)
    before = copying.run("run-0")
    copying.manifest.load(row(1), row(9), run="run-0")
    copying.copy(before)
    copying.put(9, 50)
    objects, shown = copying.objects(), copying.manifest.shown()
    copying.server.requests.clear()

    staged = [row(2), row(3), row(4, legacy_uid=None, storage_path=None)]
    staged += [row(1, file_size="1001"), row(9)] if kind == "full" else []
    staging = StagingHook("run-1")
    staging.write("clean", "projects", "p000-b0000", clean_table("projects", staged[:2]))
    staging.write("clean", "projects", "p000-b0001", clean_table("projects", staged[2:]))
    partition = {**Partition("projects", 0, None, None).to_json(), "batches": 2}
    run = copying.run("run-1", kind=kind, dry_run=True)
    counts = copying.copy(run, [partition])

    unchanged = int(kind == "full")
    assert counts == FileCounts(
        files=4 + unchanged, found=2 + unchanged, unchanged=unchanged, missing=1, failed=1, bytes=LARGE + 50
    )
    assert copying.server.requests == []
    assert (copying.objects(), copying.manifest.shown()) == (objects, shown)
    assert list(copying.notes(run)) == ["files_to_copy"]
    assert not (report_root() / run_folder("run-1") / "files.csv").exists()


def test_a_dry_run_makes_no_bucket(copying: Copying):
    copying.copy(copying.run(dry_run=True))
    assert copying.server.requests == []
    assert copying.manifest.target.all("SELECT 1 FROM migration.files") == []


@pytest.mark.parametrize("cause", ["not configured", "switched off"])
def test_without_a_place_of_files_the_manifest_alone_is_written(
    copying: Copying, monkeypatch: pytest.MonkeyPatch, cause: str
):
    monkeypatch.delenv("AIRFLOW_CONN_SUPABASE")
    if cause == "not configured":
        monkeypatch.delenv("MIGRATION_FILES_URI")
    run = copying.run(copy_files=cause != "switched off")
    copying.manifest.load(row(1))
    assert copying.copy(run) == FileCounts()
    assert copying.manifest.shown()[1][0] == "pending"
    assert "the manifest lists 1, of which 0 are in Storage" in copying.notes(run)["files_not_copied"]
    assert (report_root() / run_folder("run-1") / "files.csv").exists()


def test_entities_that_were_not_chosen_have_no_files(copying: Copying):
    copying.manifest.load(row(1))
    assert copying.copy(copying.run(entities=["practices"])) == FileCounts()
    assert copying.manifest.target.all("SELECT 1 FROM migration.files") == []


def test_a_root_that_cannot_be_read_fails_before_anything_is_sent(copying: Copying):
    copying.manifest.load(row(1))
    copying.root.rmdir()
    with pytest.raises(MigrationError) as caught:
        copying.copy(copying.run())
    assert caught.value.code == "FILES_ROOT_UNREADABLE"
    assert copying.server.requests == []
    assert copying.manifest.shown()[1][0] == "pending"


def test_without_a_key_it_fails_before_anything_is_sent(copying: Copying, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AIRFLOW_CONN_SUPABASE")
    copying.manifest.load(row(1))
    with pytest.raises(MigrationError) as caught:
        copying.copy(copying.run())
    assert caught.value.code == "CONNECTION_MISSING"


class TestPreparation:
    """What would be wrong with every file is known before a row is read."""

    @staticmethod
    def check(run: Run) -> None:
        CheckFilesOperator(task_id="check_files", entity="projects").step(run)

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_all_is_right(self, copying: Copying, dry_run: bool):
        self.check(copying.run(dry_run=dry_run))
        assert copying.objects() == 0

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_a_root_that_cannot_be_read(self, copying: Copying, dry_run: bool):
        copying.root.rmdir()
        with pytest.raises(MigrationError) as refused:
            self.check(copying.run(dry_run=dry_run))
        assert refused.value.code == "FILES_ROOT_UNREADABLE"

    def test_a_key_that_is_refused(self, copying: Copying, monkeypatch: pytest.MonkeyPatch):
        forged = jwt.encode(
            {"role": "service_role"}, "another secret of these tests, not the server's", "HS256"
        )
        connection = {"conn_type": "supabase", "host": copying.server.url, "password": forged}
        monkeypatch.setenv("AIRFLOW_CONN_SUPABASE", json.dumps(connection))
        with pytest.raises(MigrationError) as refused:
            self.check(copying.run())
        assert refused.value.code == "FILES_KEY_REFUSED"
        assert forged not in str(refused.value)

    def test_no_key(self, copying: Copying, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("AIRFLOW_CONN_SUPABASE")
        with pytest.raises(MigrationError) as refused:
            self.check(copying.run())
        assert refused.value.code == "CONNECTION_MISSING"

    @pytest.mark.parametrize("values", [{"copy_files": False}, {"entities": ["practices"]}])
    def test_nothing_is_asked_where_nothing_is_to_be_copied(
        self, copying: Copying, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
    ):
        copying.root.rmdir()
        monkeypatch.delenv("AIRFLOW_CONN_SUPABASE")
        self.check(copying.run(**values))

    def test_nothing_is_asked_without_a_place_of_files(
        self, copying: Copying, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.delenv("MIGRATION_FILES_URI")
        monkeypatch.delenv("AIRFLOW_CONN_SUPABASE")
        self.check(copying.run())


def test_what_was_copied_before_a_failure_is_recorded(copying: Copying, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MIGRATION_FILES_CONCURRENCY", "1")
    for number in range(1, 6):
        copying.put(number)
    copying.manifest.load(*(row(number) for number in range(1, 6)))
    copying.server.faults.append(Fault("POST", "/object/projects/", skip=3, times=9, status=503))
    with pytest.raises(MigrationError) as caught:
        copying.copy(copying.run())
    assert caught.value.code == "FILES_STORAGE_BUSY"
    assert (
        sorted(shown[0] for shown in copying.manifest.shown().values()) == ["pending"] * 2 + ["verified"] * 3
    )
    copying.server.faults.clear()
    assert copying.copy(copying.run()).copied == 2


def test_an_upload_that_a_failed_task_began_is_gone_on_with(copying: Copying):
    copying.put(1, LARGE)
    copying.manifest.load(row(1, file_size=str(LARGE)))
    copying.server.faults.append(Fault("PATCH", "resumable", skip=1, times=9, status=503))
    with pytest.raises(MigrationError):
        copying.copy(copying.run())
    copying.server.faults.clear()
    copying.server.requests.clear()
    assert copying.copy(copying.run()).verified == 1
    sent = [method for method, path in copying.server.requests if "resumable" in path]
    assert sent == ["HEAD", "PATCH"]


def test_after_another_tasks_failure_no_further_files_are_copied(
    copying: Copying, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("plugins.operators.files._RECORDED_TOGETHER", 2)
    monkeypatch.setenv("MIGRATION_FILES_CONCURRENCY", "1")
    for number in range(1, 10):
        copying.put(number)
    copying.manifest.load(*(row(number) for number in range(1, 10)))
    run = copying.run()
    copying.target.tracking(run.run_id).fail_step("loading.cases[0]")
    with pytest.raises(MigrationError) as caught:
        copying.copy(run)
    assert caught.value.code == "RUN_STOPPED"
    assert copying.manifest.counts()["statuses"]["verified"]["files"] < 9
    # What was sent is recorded all the same.
    assert copying.manifest.counts()["statuses"]["verified"]["files"] == copying.objects()


def test_a_run_that_is_complete_does_nothing(copying: Copying):
    run = copying.run()
    assert PlanFilesOperator(task_id="plan", entity="projects", partitions=[]).nothing_done(run) == []
    copied = CopyFilesOperator(task_id="copy", entity="projects", partition={"files": 5}).nothing_done(run)
    assert FileCounts.total([copied]) == FileCounts()
