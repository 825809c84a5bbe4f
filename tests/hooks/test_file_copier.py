"""Files from a folder into Storage over a real socket: proved, resumed, never sent twice."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jwt
import pytest

from include.core.errors import MigrationError
from include.files.manifest import FileCounts, Outcome, PlannedFile, Status
from include.files.paths import PathTemplate
from local.storage_server import PIECE_BYTES, Fault, StorageServer
from plugins.hooks import file_copier
from plugins.hooks.file_copier import CopySettings, FileCopier, Result, look, side_by_side
from plugins.hooks.file_source import LegacyFiles, LocalFiles
from plugins.hooks.storage import StorageHook

SECRET = "a secret by which the tokens of these tests are signed"
KEY = jwt.encode({"role": "service_role"}, SECRET, algorithm="HS256")
BUCKET, UID = "projects", "0d6e3f0a-6f0b-4c53-8f4e-1f7f3a1b2c3d"
LARGE_BYTES = 2 * PIECE_BYTES + 12_345


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    with StorageServer(tmp_path_factory.mktemp("storage"), SECRET) as started:
        yield started


@pytest.fixture
def server(running: StorageServer) -> StorageServer:
    running.clear()
    return running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


def planned(number: int = 1, **values: object) -> PlannedFile:
    uid = UID[:-4] + f"{number:04d}"
    return replace(PlannedFile(str(number), uid, BUCKET, f"{number}/{uid}", Status.PENDING), **values)  # type: ignore[arg-type]


def put(root: Path, content: bytes, number: int = 1) -> str:
    """Place a file; returns its SHA-256."""
    file = root / str(planned(number).uid)
    file.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes of which no two pieces are equal."""
    return hashlib.shake_128(bytes([seed])).digest(size)


class World:
    """A copier between a folder and the server."""

    def __init__(
        self, root: Path, server: StorageServer, *, read_back: bool = False, retries: int = 3
    ) -> None:
        self.root = root
        self.server = server
        self.storage = StorageHook(server.url, KEY, max_retries=retries, sleep=lambda _: None)
        self.storage.ensure_bucket(BUCKET)
        self.uploads: dict[str, tuple[str, str]] = {}
        self.files = LegacyFiles(LocalFiles(root), PathTemplate.parse("{uid}"))
        self.copier = FileCopier(self.files, self.storage, read_back=read_back, keep_upload=self._keep_upload)
        server.requests.clear()

    def _keep_upload(self, file: PlannedFile, upload_id: str, fingerprint: str) -> None:
        self.uploads[file.legacy_id] = (upload_id, fingerprint)

    def copy(self, file: PlannedFile | None = None) -> Result:
        return self.copier.copy(file or planned())

    def stored(self, number: int = 1) -> str:
        return self.storage.digest(BUCKET, planned(number).object_key)[1]

    def sent(self) -> int:
        """Requests that carried content."""
        return sum(
            method in ("PATCH", "PUT") or (method == "POST" and "/object/projects/" in path)
            for method, path in self.server.requests
        )

    def read_back(self) -> int:
        return sum(method == "GET" and "/object/projects/" in path for method, path in self.server.requests)


@pytest.fixture
def world(root: Path, server: StorageServer) -> World:
    return World(root, server)


def outcome_of(result: Result) -> Outcome:
    assert result.outcome is not None
    return result.outcome


def again(outcome: Outcome, number: int = 1) -> PlannedFile:
    """The file as the manifest knows it afterwards."""
    return planned(
        number,
        status=outcome.status,
        size=outcome.size,
        checksum=outcome.checksum,
        source_fingerprint=outcome.source_fingerprint,
    )


@pytest.mark.parametrize("size", [0, 1, 1_000, PIECE_BYTES, PIECE_BYTES + 1, LARGE_BYTES])
def test_a_file_is_copied_and_proved(world: World, root: Path, size: int):
    digest = put(root, noise(size))
    result = world.copy()
    assert result.counts == FileCounts(files=1, found=1, copied=1, verified=1, bytes=size)
    outcome = outcome_of(result)
    assert (outcome.status, outcome.size, outcome.checksum) == (Status.VERIFIED, size, digest)
    assert (outcome.finding, outcome.source_path) == (None, planned().uid)
    assert world.stored() == digest
    # What Storage vouches for itself is not read back; a resumable upload it cannot vouch for.
    assert world.read_back() == 1 + (size > PIECE_BYTES)


@pytest.mark.parametrize("size", [1_000, LARGE_BYTES])
def test_nothing_is_sent_twice(world: World, root: Path, size: int):
    put(root, noise(size))
    first = world.copy()
    world.server.requests.clear()
    assert world.copy(again(outcome_of(first))).counts == FileCounts(files=1, found=1, unchanged=1)
    assert not world.server.requests
    # Nor where nobody remembers, as behind a task that was killed before it recorded anything.
    forgotten = world.copy()
    assert forgotten.counts == FileCounts(files=1, found=1, present=1, verified=1)
    assert outcome_of(forgotten) == outcome_of(first)
    assert world.sent() == 0


@pytest.mark.parametrize("size", [1_000, LARGE_BYTES])
def test_a_file_that_was_written_since_is_copied_anew(world: World, root: Path, size: int):
    put(root, noise(size))
    first = world.copy()
    digest = put(root, noise(size, seed=2))
    os.utime(root / str(planned().uid), (1, 1))
    result = world.copy(again(outcome_of(first)))
    assert result.counts.copied == 1
    assert world.stored() == digest == outcome_of(result).checksum


def test_a_missing_file_is_an_outcome(world: World):
    result = world.copy()
    assert result.counts == FileCounts(files=1, missing=1)
    assert (outcome_of(result).status, outcome_of(result).finding) == (Status.MISSING, "file_missing")
    assert world.sent() == 0


def test_what_was_proved_stays_so_though_its_source_is_gone(world: World, root: Path):
    put(root, noise(10))
    first = world.copy()
    (root / str(planned().uid)).unlink()
    assert world.copy(again(outcome_of(first))) == Result(FileCounts(files=1, missing=1))


def test_nor_does_it_change_when_the_source_becomes_unreadable(world: World, root: Path):
    put(root, noise(10))
    first = world.copy()
    file = root / str(planned().uid)
    file.unlink()
    file.symlink_to(root)
    assert world.copy(again(outcome_of(first))) == Result(FileCounts(files=1, failed=1))


def test_a_size_that_differs_is_told(world: World, root: Path):
    put(root, noise(10))
    result = world.copy(planned(expected_size=11))
    assert (outcome_of(result).status, outcome_of(result).finding) == (Status.VERIFIED, "file_size_differs")


@pytest.mark.parametrize(
    "file", [planned(uid=None, object_key=""), planned(uid="../../etc/passwd"), planned(object_key="../x")]
)
def test_without_a_usable_uid_or_key_nothing_is_looked_for(world: World, file: PlannedFile):
    result = world.copy(file)
    assert (outcome_of(result).finding, result.counts.failed) == ("file_unreadable", 1)
    assert look(world.files, file) == FileCounts(files=1, failed=1)


def test_links_are_not_followed(world: World, root: Path):
    (root.parent / "outside").write_bytes(b"secret")
    (root / str(planned().uid)).symlink_to(root.parent / "outside")
    assert outcome_of(world.copy()).finding == "file_unreadable"
    assert look(world.files, planned()) == FileCounts(files=1, failed=1)


@pytest.mark.parametrize("size", [1_000, LARGE_BYTES])
class TestDamage:
    def test_bytes_changed_on_the_way_are_noticed_and_sent_again(self, world: World, root: Path, size: int):
        digest = put(root, noise(size))
        world.server.faults.append(
            Fault("PATCH" if size > PIECE_BYTES else "POST", "", skip=0, damage="received")
        )
        if size > PIECE_BYTES:
            world.server.faults[0].skip = 2  # the last piece makes the object
        result = world.copy()
        assert outcome_of(result).status == Status.VERIFIED
        assert world.stored() == digest

    def test_bytes_changed_on_disk_are_noticed_when_read_back(
        self, root: Path, server: StorageServer, size: int
    ):
        world = World(root, server, read_back=True)
        digest = put(root, noise(size))
        server.faults.append(Fault("PATCH" if size > PIECE_BYTES else "POST", "", damage="stored"))
        if size > PIECE_BYTES:
            server.faults[0].skip = 2
        assert outcome_of(world.copy()).status == Status.VERIFIED
        assert world.stored() == digest

    def test_what_is_damaged_every_time_is_given_up(self, world: World, root: Path, size: int):
        put(root, noise(size))
        fault = Fault("PATCH" if size > PIECE_BYTES else "POST", "", times=99, damage="received")
        world.server.faults.append(fault)
        result = world.copy()
        assert (outcome_of(result).status, outcome_of(result).finding) == (Status.PENDING, "file_damaged")
        assert result.counts == FileCounts(files=1, found=1, failed=1)


def test_what_storage_refuses_is_an_outcome(world: World, root: Path):
    put(root, noise(LARGE_BYTES))
    world.storage._storage.update_bucket(BUCKET, {"public": False, "file_size_limit": 1_000_000})
    assert outcome_of(world.copy()).finding == "file_refused"


def test_a_file_that_grows_is_read_again(world: World, root: Path, monkeypatch: pytest.MonkeyPatch):
    put(root, noise(10))
    changes = iter([noise(20), noise(30)])
    send = world.storage.upload

    def send_while_it_grows(*arguments: object) -> None:
        send(*arguments)  # type: ignore[arg-type]
        if (content := next(changes, None)) is not None:
            put(root, content)

    monkeypatch.setattr(world.storage, "upload", send_while_it_grows)
    result = world.copy()
    assert (outcome_of(result).size, outcome_of(result).status) == (30, Status.VERIFIED)
    assert world.stored() == hashlib.sha256(noise(30)).hexdigest()


def test_a_file_that_never_rests_is_given_up(world: World, root: Path, monkeypatch: pytest.MonkeyPatch):
    put(root, noise(10))
    file = root / str(planned().uid)
    monkeypatch.setattr(world.storage, "upload", lambda *_: put(root, noise(file.stat().st_size + 1)))
    assert outcome_of(world.copy()).finding == "file_unstable"


def test_an_upload_that_is_lost_is_begun_anew(world: World, root: Path):
    digest = put(root, noise(LARGE_BYTES))
    world.server.faults.append(Fault("PATCH", "", skip=1, status=410))
    assert outcome_of(world.copy()).status == Status.VERIFIED
    assert world.stored() == digest


def test_the_last_answer_of_an_upload_may_be_lost(world: World, root: Path):
    digest = put(root, noise(LARGE_BYTES))
    world.server.faults.append(Fault("PATCH", "", skip=2, swallow=True))
    assert outcome_of(world.copy()).checksum == digest == world.stored()


def test_what_was_sent_but_could_not_be_proved_is_remembered(root: Path, server: StorageServer):
    world = World(root, server, retries=0)
    put(root, noise(10))
    server.faults.append(Fault("GET", "/object/info/", skip=1, times=99, status=503))
    result = world.copy()
    assert outcome_of(result).status == Status.COPIED
    assert result.error is not None
    assert result.error.code == "FILES_STORAGE_BUSY"
    server.faults.clear()
    server.requests.clear()
    assert world.copy(again(outcome_of(result))).counts.present == 1
    assert world.sent() == 0


class TestResume:
    def _begun(self, world: World, pieces: int = 1) -> PlannedFile:
        """The file as the manifest knows it after a task was killed behind so many pieces."""
        world.server.faults.append(Fault("PATCH", "", skip=pieces, times=99, status=503))
        with pytest.raises(MigrationError) as caught:
            world.copy()
        assert caught.value.code == "FILES_STORAGE_BUSY"
        world.server.faults.clear()
        world.server.requests.clear()
        upload_id, fingerprint = world.uploads["1"]
        return planned(upload_id=upload_id, upload_fingerprint=fingerprint)

    def test_only_the_rest_is_sent(self, world: World, root: Path):
        digest = put(root, noise(LARGE_BYTES))
        assert outcome_of(world.copy(self._begun(world))).checksum == digest == world.stored()
        assert [method for method, _ in world.server.requests if method in ("POST", "PATCH")] == ["PATCH"] * 2

    def test_from_any_byte(self, world: World, root: Path):
        digest = put(root, noise(LARGE_BYTES))
        world.server.faults.append(Fault("PATCH", "", skip=1, drop_after=1_234_567))
        file = self._begun(world, pieces=0)
        assert outcome_of(world.copy(file)).checksum == digest == world.stored()

    def test_not_where_the_file_was_written_since(self, world: World, root: Path):
        put(root, noise(LARGE_BYTES))
        file = self._begun(world)
        digest = put(root, noise(LARGE_BYTES, seed=2))
        os.utime(root / str(planned().uid), (1, 1))
        assert outcome_of(world.copy(file)).checksum == digest == world.stored()
        assert sum(method == "PATCH" for method, _ in world.server.requests) == 3

    def test_not_where_it_expired(self, world: World, root: Path):
        world.server.upload_seconds = 0.2
        digest = put(root, noise(LARGE_BYTES))
        file = self._begun(world)
        time.sleep(0.3)
        world.server.upload_seconds = 60
        assert outcome_of(world.copy(file)).checksum == digest == world.stored()


def _copy_in_a_process(root: Path, url: str, size: int, begun: str) -> None:
    """What a task does; the upload's id is written where another process finds it."""
    storage = StorageHook(url, KEY, max_retries=0)
    files = LegacyFiles(LocalFiles(root), PathTemplate.parse("{uid}"))

    def keep_upload(_: PlannedFile, upload_id: str, fingerprint: str) -> None:
        Path(begun).write_text(f"{upload_id} {fingerprint}")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = FileCopier(files, storage, read_back=False, keep_upload=keep_upload).copy(planned())
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert outcome_of(result).status == Status.VERIFIED
    Path(f"{begun}.memory").write_text(str(grown))


def _process(target: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    return process


def test_a_killed_task_is_gone_on_with_by_the_next(world: World, root: Path, tmp_path: Path):
    digest = put(root, noise(LARGE_BYTES))
    begun = tmp_path / "begun"
    world.server.faults.append(Fault("PATCH", "", skip=1, slow=30))
    process = _process(_copy_in_a_process, root, world.server.url, LARGE_BYTES, str(begun))
    deadline = time.monotonic() + 60
    while sum(method == "PATCH" for method, _ in world.server.requests) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    world.server.faults.clear()
    world.server.requests.clear()
    upload_id, fingerprint = begun.read_text().split()
    result = world.copy(planned(upload_id=upload_id, upload_fingerprint=fingerprint))
    assert outcome_of(result).checksum == digest == world.stored()
    assert [method for method, _ in world.server.requests if method in ("POST", "PATCH")] == ["PATCH"] * 2


def test_memory_does_not_grow_with_the_file(world: World, root: Path, tmp_path: Path):
    size = 150_000_000
    with (root / str(planned().uid)).open("wb") as file:
        for number in range(15):
            file.write(noise(10_000_000, seed=number))
    process = _process(_copy_in_a_process, root, world.server.url, size, str(tmp_path / "begun"))
    process.join(timeout=120)
    assert process.exitcode == 0
    # Some pieces of 6 MB.
    assert float((tmp_path / "begun.memory").read_text()) < 40


class TestSideBySide:
    def test_no_more_than_allowed_at_once(self):
        running: list[int] = []
        most = 0

        def work(file: PlannedFile) -> str:
            nonlocal most
            running.append(1)
            most = max(most, len(running))
            time.sleep(0.002)
            running.pop()
            return file.legacy_id

        files = [planned(number) for number in range(50)]
        assert sorted(side_by_side(work, files, 4), key=int) == [file.legacy_id for file in files]
        assert 1 < most <= 4

    def test_a_failure_stops_the_rest_but_not_those_under_way(self):
        begun: list[str] = []

        def work(file: PlannedFile) -> str:
            begun.append(file.legacy_id)
            if file.legacy_id == "3":
                raise MigrationError("FILES_STORAGE_BUSY", "")
            time.sleep(0.01)
            return file.legacy_id

        with pytest.raises(MigrationError):
            list(side_by_side(work, (planned(number) for number in range(100)), 4))
        assert len(begun) < 20

    def test_results_of_those_under_way_are_given_out_before_the_failure(self):
        def work(file: PlannedFile) -> str:
            if file.legacy_id == "0":
                raise MigrationError("FILES_STORAGE_BUSY", "")
            time.sleep(0.05)
            return file.legacy_id

        seen: list[str] = []
        with pytest.raises(MigrationError):
            seen.extend(side_by_side(work, [planned(0), planned(1), planned(2)], 3))
        assert sorted(seen) == ["1", "2"]

    def test_whoever_stops_early_waits_for_those_under_way(self):
        done: list[str] = []

        def work(file: PlannedFile) -> str:
            time.sleep(0.02)
            done.append(file.legacy_id)
            return file.legacy_id

        results = side_by_side(work, [planned(number) for number in range(50)], 4)
        next(results)
        results.close()
        finished = len(done)
        time.sleep(0.05)
        assert finished == len(done) < 20


def test_settings_are_checked():
    assert CopySettings.from_environment({}) == CopySettings(4, False)
    given = {"MIGRATION_FILES_CONCURRENCY": "8", "MIGRATION_FILES_VERIFY": "Download"}
    assert CopySettings.from_environment(given) == CopySettings(8, True)
    for name, value in (("MIGRATION_FILES_CONCURRENCY", "0"), ("MIGRATION_FILES_VERIFY", "no")):
        with pytest.raises(MigrationError) as caught:
            CopySettings.from_environment({name: value})
        assert caught.value.facts["setting"] == name


def test_pieces_have_the_size_that_storage_wants():
    assert file_copier.CHUNK_BYTES == PIECE_BYTES
