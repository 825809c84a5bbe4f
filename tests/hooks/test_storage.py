"""The Storage hook against a server over a real socket, and what goes wrong on the way."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest

from include.core.errors import MigrationError
from local.storage_server import PIECE_BYTES, Fault, StorageServer
from local.supabase_api import SupabaseApi
from plugins.hooks.storage import (
    CHUNK_BYTES,
    ObjectRefusedError,
    StorageHook,
    StoredObject,
    UploadGoneError,
)

SECRET = "a secret by which the tokens of these tests are signed"
BUCKET, KEY = "projects", "12/0d6e3f0a-6f0b-4c53-8f4e-1f7f3a1b2c3d"
SMALL = b"solid tooth"
LARGE = bytes(range(256)) * (65 * 1024)  # 2 pieces and a rest


def token(role: str = "service_role", secret: str = SECRET) -> str:
    return jwt.encode({"role": role}, secret, algorithm="HS256")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    with StorageServer(tmp_path_factory.mktemp("storage"), SECRET) as started:
        yield started


@pytest.fixture
def server(running: StorageServer) -> StorageServer:
    running.clear()
    return running


class Waits:
    """Stands for sleeping; remembers how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def hook_of(
    server: StorageServer, key: str = "", retries: int = 3, waits: Waits | None = None
) -> StorageHook:
    return StorageHook(server.url, key or token(), max_retries=retries, sleep=waits or Waits())


@pytest.fixture
def hook(server: StorageServer) -> Iterator[StorageHook]:
    opened = hook_of(server)
    opened.ensure_bucket(BUCKET)
    yield opened
    opened.close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def send_all(hook: StorageHook, content: bytes, start: int = 0, upload_id: str | None = None) -> str:
    upload = (
        hook.resume_upload(upload_id, len(content))
        if upload_id
        else hook.begin_upload(BUCKET, KEY, len(content), "model/stl")
    )
    while start < len(content):
        start = upload.send(content[start : start + CHUNK_BYTES], start)
    return upload.upload_id


class TestBuckets:
    def test_a_private_bucket_is_made_once(self, server: StorageServer):
        hook = hook_of(server)
        assert not hook.has_bucket(BUCKET)
        assert hook.ensure_bucket(BUCKET)
        assert not hook.ensure_bucket(BUCKET)
        [bucket] = hook._storage.list_buckets()
        assert (bucket.id, bucket.public) == (BUCKET, False)

    def test_one_made_by_somebody_else_meanwhile_will_do(self, server: StorageServer):
        hook_of(server).ensure_bucket(BUCKET)
        server.faults.append(Fault("GET", "/bucket/", status=404, error="Bucket not found"))
        assert hook_of(server).ensure_bucket(BUCKET)

    def test_an_answer_that_was_lost_is_no_failure(self, server: StorageServer):
        server.faults.append(Fault("POST", "/bucket", swallow=True))
        assert hook_of(server).ensure_bucket(BUCKET)

    def test_a_public_bucket_is_refused(self, server: StorageServer):
        hook = hook_of(server)
        hook._storage.create_bucket(BUCKET, options={"public": True})
        with pytest.raises(MigrationError) as caught:
            hook.ensure_bucket(BUCKET)
        assert caught.value.code == "FILES_BUCKET_PUBLIC"

    @pytest.mark.parametrize(
        "key",
        [
            token("anon"),
            token(secret="another secret, as long as the one of these tests"),
            "sb_secret_unknown",
        ],
    )
    def test_a_key_of_another_kind_is_refused(self, server: StorageServer, key: str):
        with pytest.raises(MigrationError) as caught:
            hook_of(server, key).ensure_bucket(BUCKET)
        assert caught.value.code == "FILES_KEY_REFUSED"
        assert key not in str(caught.value)


class TestWhole:
    @pytest.mark.parametrize("content", [SMALL, b"", bytes(CHUNK_BYTES)], ids=["small", "empty", "piece"])
    def test_what_was_sent_is_there(self, hook: StorageHook, content: bytes):
        assert hook.stat(BUCKET, KEY) is None
        hook.upload(BUCKET, KEY, content, "model/stl")
        stored = hook.stat(BUCKET, KEY)
        assert stored is not None
        assert stored.size == len(content)
        assert stored.has_md5(md5(content))
        assert hook.digest(BUCKET, KEY) == (len(content), sha256(content))
        assert hook._storage.from_(BUCKET).info(KEY)["content_type"] == "model/stl"

    def test_it_takes_the_place_of_what_was_there(self, hook: StorageHook):
        hook.upload(BUCKET, KEY, b"old", "model/stl")
        hook.upload(BUCKET, KEY, SMALL, "model/stl")
        assert hook.digest(BUCKET, KEY) == (len(SMALL), sha256(SMALL))

    @pytest.mark.parametrize(
        "fault",
        [
            Fault("POST", KEY, times=3, drop_after=50),
            Fault("POST", KEY, times=3, status=503),
            Fault("POST", KEY, times=3, status=429),
            Fault("POST", KEY, times=3, status=544),
            Fault("POST", KEY, times=3, swallow=True),
        ],
        ids=["dropped", "503", "429", "database", "no answer"],
    )
    def test_transient_failures_are_overcome(self, hook: StorageHook, server: StorageServer, fault: Fault):
        server.faults.append(fault)
        hook.upload(BUCKET, KEY, SMALL, "model/stl")
        assert fault.times == 0
        assert hook.digest(BUCKET, KEY) == (len(SMALL), sha256(SMALL))

    def test_waits_grow_and_what_was_asked_for_is_kept(self, server: StorageServer):
        waits = Waits()
        hook = hook_of(server, waits=waits)
        hook.ensure_bucket(BUCKET)
        server.faults += [
            Fault("POST", KEY, times=2, status=503),
            Fault("POST", KEY, status=503, retry_after="7"),
        ]
        hook.upload(BUCKET, KEY, SMALL, "model/stl")
        first, second, asked = waits.seconds
        assert 0.25 <= first <= 0.75
        assert 0.5 <= second <= 1.5
        assert asked == 7

    def test_after_the_last_retry_the_task_is_put_off(self, server: StorageServer):
        hook = hook_of(server, retries=2)
        hook.ensure_bucket(BUCKET)
        server.faults.append(Fault("POST", KEY, times=99, status=503, retry_after="120"))
        with pytest.raises(MigrationError) as caught:
            hook.upload(BUCKET, KEY, SMALL, "model/stl")
        assert caught.value.code == "FILES_STORAGE_BUSY"
        assert caught.value.transient
        assert caught.value.facts["retry_after_seconds"] == 120
        assert server.faults[0].times == 98  # too long to wait for within a task

    @pytest.mark.parametrize("status", [400, 405])
    def test_permanent_refusals_are_not_repeated(self, hook: StorageHook, server: StorageServer, status: int):
        server.faults.append(Fault("POST", KEY, times=99, status=status))
        with pytest.raises(MigrationError) as caught:
            hook.upload(BUCKET, KEY, SMALL, "model/stl")
        assert (caught.value.code, caught.value.transient) == ("FILES_STORAGE_REFUSED", False)
        assert server.faults[0].times == 98

    def test_what_is_too_large_or_of_a_wrong_type_concerns_one_object(self, hook: StorageHook):
        limits = {"public": False, "file_size_limit": 5, "allowed_mime_types": ["model/*"]}
        hook._storage.update_bucket(BUCKET, limits)
        with pytest.raises(ObjectRefusedError):
            hook.upload(BUCKET, KEY, SMALL, "model/stl")
        with pytest.raises(ObjectRefusedError):
            hook.upload(BUCKET, KEY, b"abc", "text/plain")
        with pytest.raises(ObjectRefusedError):
            hook.begin_upload(BUCKET, KEY, 6, "model/stl")
        hook.upload(BUCKET, KEY, b"abc", "model/stl")

    def test_a_bucket_that_is_gone_is_named(self, hook: StorageHook):
        with pytest.raises(MigrationError) as caught:
            hook.upload("elsewhere", KEY, SMALL, "model/stl")
        assert caught.value.code == "FILES_BUCKET_MISSING"

    def test_a_server_that_is_not_there(self):
        with pytest.raises(MigrationError) as caught:
            StorageHook("http://127.0.0.1:9", token(), sleep=Waits()).ensure_bucket(BUCKET)
        assert caught.value.code == "FILES_STORAGE_BUSY"

    def test_no_redirect_is_given_the_key(self, hook: StorageHook, server: StorageServer):
        server.faults.append(Fault("POST", KEY, redirect="http://127.0.0.1:9/"))
        with pytest.raises(MigrationError) as caught:
            hook.upload(BUCKET, KEY, SMALL, "model/stl")
        assert caught.value.code == "FILES_STORAGE_REFUSED"

    def test_many_threads_at_once(self, hook: StorageHook):
        def send(number: int) -> None:
            hook.upload(BUCKET, f"{number}/x", str(number).encode(), "model/stl")

        threads = [threading.Thread(target=send, args=[number]) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [hook.digest(BUCKET, f"{n}/x")[1] for n in range(20)] == [
            sha256(str(n).encode()) for n in range(20)
        ]


class TestPieces:
    def test_pieces_become_one_object(self, hook: StorageHook, server: StorageServer):
        hook.upload(BUCKET, KEY, b"old", "model/stl")
        send_all(hook, LARGE)
        assert hook.digest(BUCKET, KEY) == (len(LARGE), sha256(LARGE))
        stored = hook.stat(BUCKET, KEY)
        assert stored is not None
        assert not stored.has_md5(md5(LARGE))
        assert [method for method, path in server.requests if "resumable" in path] == ["POST", *["PATCH"] * 3]

    @pytest.mark.parametrize("kept", [0, 1, 123_456, PIECE_BYTES - 1])
    def test_a_broken_piece_is_gone_on_with_from_what_the_server_has(
        self, hook: StorageHook, server: StorageServer, kept: int
    ):
        server.faults.append(Fault("PATCH", "resumable", skip=1, drop_after=kept))
        send_all(hook, LARGE)
        assert hook.digest(BUCKET, KEY) == (len(LARGE), sha256(LARGE))

    @pytest.mark.parametrize(
        "fault",
        [
            Fault("PATCH", "resumable", times=3, skip=1, status=503),
            Fault("PATCH", "resumable", times=3, skip=1, status=423),
            Fault("PATCH", "resumable", skip=1, swallow=True),
            Fault("PATCH", "resumable", times=3, skip=1, status=409),
        ],
        ids=["503", "locked", "no answer", "offset"],
    )
    def test_transient_failures_are_overcome(self, hook: StorageHook, server: StorageServer, fault: Fault):
        server.faults.append(fault)
        send_all(hook, LARGE)
        assert hook.digest(BUCKET, KEY) == (len(LARGE), sha256(LARGE))

    def test_the_last_answer_may_be_lost(self, hook: StorageHook, server: StorageServer):
        # Complete, the upload is forgotten: whoever asks how far it is learns that it is gone.
        server.faults.append(Fault("PATCH", "resumable", skip=2, swallow=True))
        with pytest.raises(UploadGoneError):
            send_all(hook, LARGE)
        assert hook.digest(BUCKET, KEY) == (len(LARGE), sha256(LARGE))

    def test_another_process_goes_on(self, hook: StorageHook, server: StorageServer):
        upload = hook.begin_upload(BUCKET, KEY, len(LARGE), "model/stl")
        upload.send(LARGE[:CHUNK_BYTES], 0)
        another = hook_of(server)
        offset = another.resume_upload(upload.upload_id, len(LARGE)).offset()
        assert offset == CHUNK_BYTES
        send_all(another, LARGE, offset, upload.upload_id)
        assert hook.digest(BUCKET, KEY) == (len(LARGE), sha256(LARGE))

    @pytest.mark.parametrize("cause", ["expired", "another size", "unknown"])
    def test_one_that_cannot_be_gone_on_with(self, hook: StorageHook, server: StorageServer, cause: str):
        server.upload_seconds = -1 if cause == "expired" else 60
        upload_id = hook.begin_upload(BUCKET, KEY, len(LARGE), "model/stl").upload_id
        if cause == "unknown":
            upload_id = "bm93aGVyZQ"
        size = len(LARGE) + (cause == "another size")
        with pytest.raises(UploadGoneError):
            hook.resume_upload(upload_id, size).offset()


def test_the_server_demands_whole_pieces(hook: StorageHook, server: StorageServer):
    upload = hook.begin_upload(BUCKET, KEY, len(LARGE), "model/stl")
    with pytest.raises(MigrationError) as caught:
        upload.send(LARGE[:1000], 0)
    assert caught.value.code == "FILES_STORAGE_REFUSED"


def test_the_servers_own_client_finds_what_it_expects(hook: StorageHook):
    """Lists, limits and refusals as storage3 reads them."""
    bucket = hook._storage.from_(BUCKET)
    for number in range(3):
        hook.upload(BUCKET, f"12/{number}", SMALL, "model/stl")
    assert [entry["name"] for entry in bucket.list("12", {"limit": 2, "offset": 1})] == ["1", "2"]
    assert [(entry["name"], entry["id"]) for entry in bucket.list()] == [("12", None)]
    assert bucket.exists("12/1")
    assert bucket.download("12/1") == SMALL
    assert [entry["name"] for entry in bucket.remove(["12/1", "12/9"])] == ["12/1"]
    assert not bucket.exists("12/1")
    with pytest.raises(Exception, match="Duplicate"):
        bucket.upload("12/0", SMALL)
    with pytest.raises(Exception, match="limited to 1000"):
        bucket.remove([str(number) for number in range(1_001)])
    with pytest.raises(Exception, match="InvalidKey"):
        bucket.upload("12/ä", SMALL)
    with pytest.raises(Exception, match="not empty"):
        hook._storage.delete_bucket(BUCKET)


def test_of_refusals_nothing_but_status_and_code_is_told(hook: StorageHook):
    with pytest.raises(MigrationError) as caught:
        hook.digest(BUCKET, "a/secret-name")
    assert "secret-name" not in str(caught.value)


@pytest.mark.parametrize(
    ("info", "stored"),
    [
        ({"size": 0, "etag": '"AB"', "metadata": {"size": 7}}, StoredObject(0, "ab")),
        ({"size": None, "etag": None, "metadata": {"size": 7, "eTag": '"ab"'}}, StoredObject(7, "ab")),
        ({"metadata": {"size": "7"}}, StoredObject(7, "")),
        ({"metadata": None}, StoredObject(-1, "")),
    ],
    ids=["newer", "older", "no tag", "nothing"],
)
def test_what_servers_of_different_age_say_of_an_object(info: dict[str, object], stored: StoredObject):
    assert StoredObject.of_info(info) == stored


def test_connection_or_variables(monkeypatch: pytest.MonkeyPatch):
    for name in ("AIRFLOW_CONN_SUPABASE", "SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MigrationError) as caught:
        StorageHook.from_connection(max_retries=1)
    assert caught.value.code == "CONNECTION_MISSING"
    monkeypatch.setenv("SUPABASE_URL", "https://abc.supabase.co")
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", token())
    hook = StorageHook.from_connection(max_retries=1)
    assert isinstance(hook._http, httpx.Client)
    assert hook._base == "https://abc.supabase.co/storage/v1/"
    monkeypatch.setenv("SUPABASE_URL", "http://abc.example.org")
    with pytest.raises(MigrationError) as caught:
        StorageHook.from_connection(max_retries=1)
    assert caught.value.code == "TARGET_PLAINTEXT"


def test_behind_the_gateway_of_a_project(
    running: StorageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its address and its opaque keys; where a resumable upload lies is told as seen from behind the gateway."""
    with SupabaseApi(tmp_path / "supabase", storage=running.url) as api:
        running.clear()
        monkeypatch.setattr(running, "jwt_secret", api.keys.jwt_secret)
        hook = StorageHook(api.url, api.keys.secret, sleep=Waits())
        assert hook.ensure_bucket(BUCKET)
        hook.upload(BUCKET, KEY, SMALL, "model/stl")
        assert hook.digest(BUCKET, KEY) == (len(SMALL), sha256(SMALL))
        running.faults.append(Fault("PATCH", "resumable", skip=1, drop_after=1_000))
        send_all(hook, LARGE)
        assert hook.digest(BUCKET, KEY) == (len(LARGE), sha256(LARGE))
        for key in (api.keys.publishable, api.keys.anon):
            assert StorageHook(api.url, key).stat(BUCKET, KEY) is None
            with pytest.raises(MigrationError) as caught:
                StorageHook(api.url, key).upload(BUCKET, KEY, SMALL, "model/stl")
            assert caught.value.code == "FILES_KEY_REFUSED"
