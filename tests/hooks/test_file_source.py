"""Where legacy files are read from, and that nothing outside of the root ever is."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.core.errors import MigrationError
from include.files.paths import PathTemplate
from plugins.hooks.file_source import (
    FileSource,
    FileUnreadableError,
    LocalFiles,
    StoreFiles,
    WebFiles,
    is_public,
    legacy_files,
)

CONTENT = bytes(range(256)) * 5_000  # longer than a block


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_bytes(CONTENT)
    (folder / "empty").touch()
    (tmp_path / "outside").write_bytes(b"somebody's secret")
    return folder


def read_all(source: FileSource, path: str, size: int = 7_777) -> bytes:
    with source.open(path) as file:
        parts = list(iter(partial(file.read, size), b""))
    assert {len(part) for part in parts[:-1]} <= {size}
    return b"".join(parts)


def files_of(root: Path) -> LocalFiles:
    return LocalFiles(root)


class TestLocal:
    def test_files_are_read(self, root: Path):
        source = files_of(root)
        source.check()
        about = source.stat("inner/file")
        assert about is not None
        assert about.size == len(CONTENT)
        assert read_all(source, "inner/file") == CONTENT
        assert read_all(source, "empty") == b""

    def test_one_that_is_not_there(self, root: Path):
        source = files_of(root)
        assert source.stat("none") is None
        assert source.stat("none/at/all") is None
        with pytest.raises(FileNotFoundError), source.open("inner/none"):
            pass

    def test_a_changed_file_has_another_fingerprint(self, root: Path):
        source = files_of(root)
        before = source.stat("inner/file")
        (root / "inner" / "file").write_bytes(CONTENT[::-1])
        os.utime(root / "inner" / "file", (1, 1))
        assert source.stat("inner/file") != before

    @pytest.mark.parametrize(
        "kind", ["file", "folder", "inside", "chain", "pipe", "directory", "unreadable parent"]
    )
    def test_what_is_no_plain_file_below_the_root_is_not_read(self, root: Path, kind: str):
        link, path = root / "link", "link"
        if kind == "file":
            link.symlink_to(root.parent / "outside")
        elif kind == "folder":
            link.symlink_to(root.parent)
            path = "link/outside"
        elif kind == "inside":
            link.symlink_to(root / "empty")
        elif kind == "chain":
            (root / "second").symlink_to(root.parent / "outside")
            link.symlink_to(root / "second")
        elif kind == "pipe":
            os.mkfifo(link)
        elif kind == "directory":
            path = "inner"
        else:
            path = "empty/below"
        source = files_of(root)
        with pytest.raises(FileUnreadableError):
            source.stat(path)
        with pytest.raises(FileUnreadableError), source.open(path):
            pass

    def test_a_folder_that_becomes_a_link_in_between_leads_nowhere(self, root: Path):
        """Whoever may write below the root swaps a folder for a link while files are read."""
        source, outside = files_of(root), root.parent / "elsewhere"
        outside.mkdir()
        (outside / "file").write_bytes(b"somebody's secret")
        stopped = threading.Event()

        def swap() -> None:
            while not stopped.is_set():
                (root / "inner").rename(root / "kept")
                (root / "inner").symlink_to(outside)
                (root / "inner").unlink()
                (root / "kept").rename(root / "inner")

        thread = threading.Thread(target=swap)
        thread.start()
        try:
            for _ in range(1_000):
                try:
                    with source.open("inner/file") as file:
                        assert file.read(20) == CONTENT[:20]
                except (FileNotFoundError, FileUnreadableError):
                    continue
        finally:
            stopped.set()
            thread.join()

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
    @given(
        path=st.text()
        | st.lists(st.sampled_from(["..", ".", "inner", "outside", "", "/", "\x00"])).map("/".join)
    )
    def test_no_path_leads_out(self, root: Path, path: str):
        source = files_of(root)
        try:
            with source.open(path) as file:
                assert b"secret" not in file.read(100)
        except (ValueError, FileNotFoundError, FileUnreadableError):
            return

    def test_a_root_that_is_not_there_is_an_error(self, root: Path):
        source = files_of(root / "nowhere")
        for attempt in (source.check, lambda: source.stat("file")):
            with pytest.raises(MigrationError) as caught:
                attempt()
            assert caught.value.code == "FILES_ROOT_UNREADABLE"

    def test_the_root_itself_may_be_a_link(self, root: Path):
        link = root.parent / "mounted"
        link.symlink_to(root)
        assert read_all(files_of(link), "inner/file") == CONTENT


class TestStore:
    @pytest.fixture
    def source(self) -> Iterator[StoreFiles]:
        system = fsspec.filesystem("memory")
        system.pipe("/bucket/files/inner/file", CONTENT)
        system.pipe("/bucket/outside", b"somebody's secret")
        found = legacy_files({"MIGRATION_FILES_URI": "memory://bucket/files"})
        assert found is not None
        assert isinstance(found.source, StoreFiles)
        yield found.source
        system.rm("/bucket", recursive=True)

    def test_files_are_read(self, source: StoreFiles):
        source.check()
        about = source.stat("inner/file")
        assert about is not None
        assert about.size == len(CONTENT)
        assert read_all(source, "inner/file") == CONTENT
        assert source.stat("none") is None
        with pytest.raises(FileUnreadableError):
            source.stat("inner")

    @pytest.mark.parametrize("path", ["../outside", "/bucket/outside", "inner/../../outside", "a\\b", "\x00"])
    def test_no_path_leads_out(self, source: StoreFiles, path: str):
        with pytest.raises(ValueError, match="a path"):
            source._path(path)

    def test_a_root_that_is_not_there_is_an_error(self):
        found = legacy_files({"MIGRATION_FILES_URI": "memory://nowhere/at/all"})
        assert found is not None
        with pytest.raises(MigrationError) as caught:
            found.source.check()
        assert caught.value.code == "FILES_ROOT_UNREADABLE"


class _Web(BaseHTTPRequestHandler):
    """Serves one file, and what else may come."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        status = {"/files/file": 200, "/files/moved": 302, "/files/busy": 503, "/files/closed": 403}.get(
            self.path, 404
        )
        body = CONTENT if status == 200 else b""
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/files/file")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"v1"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def web() -> Iterator[str]:
    _Web.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Web) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class TestWeb:
    def test_private_addresses_are_refused_unless_named(self):
        refused = WebFiles("https://localhost:9/files")
        for attempt in (refused.check, lambda: refused.stat("file")):
            with pytest.raises(MigrationError) as caught:
                attempt()
            assert caught.value.code == "FILES_SETTING_INVALID"
            assert "MIGRATION_FILES_TRUSTED_HOSTS" in str(caught.value)

    def test_so_is_what_is_not_encrypted(self):
        with pytest.raises(MigrationError) as caught:
            legacy_files({"MIGRATION_FILES_URI": "http://files.example.org/"})
        assert caught.value.code == "FILES_SETTING_INVALID"

    def test_files_are_read_from_a_host_that_is_named(self, web: str):
        found = legacy_files(
            {
                "MIGRATION_FILES_URI": f"http://some:word@{web}/files/",
                "MIGRATION_FILES_TRUSTED_HOSTS": "other.example, LOCALHOST",
            }
        )
        assert found is not None
        source = found.source
        source.check()
        about = source.stat("file")
        assert about is not None
        assert (about.size, about.fingerprint) == (len(CONTENT), f'{len(CONTENT)}-"v1"')
        assert read_all(source, "file") == CONTENT
        assert source.stat("none") is None
        with pytest.raises(FileNotFoundError), source.open("none"):
            pass
        assert {login for _, login in _Web.asked} == {"Basic c29tZTp3b3Jk"}

    @pytest.mark.parametrize("path", ["moved", "closed"])
    def test_redirects_and_refusals_concern_one_file(self, web: str, path: str):
        source = WebFiles(f"http://{web}/files", trusted_hosts=frozenset({"localhost"}))
        with pytest.raises(FileUnreadableError):
            source.stat(path)
        assert [asked for asked, _ in _Web.asked] == [f"/files/{path}"]

    def test_a_server_that_is_busy_is_asked_again_later(self, web: str):
        source = WebFiles(f"http://{web}/files", trusted_hosts=frozenset({"localhost"}))
        with pytest.raises(MigrationError) as caught:
            source.stat("busy")
        assert (caught.value.code, caught.value.transient) == ("FILES_SOURCE_INTERRUPTED", True)

    def test_one_that_is_not_there_is_an_error(self):
        source = WebFiles("https://user:password@127.0.0.1:9/", trusted_hosts=frozenset({"127.0.0.1"}))
        with pytest.raises(MigrationError) as caught:
            source.check()
        assert caught.value.code == "FILES_ROOT_UNREADABLE"
        assert "password" not in str(caught.value)

    def test_the_name_is_resolved_once(self, web: str, monkeypatch: pytest.MonkeyPatch):
        source = WebFiles(f"http://{web}/files", trusted_hosts=frozenset({"localhost"}))
        source.check()
        resolve = socket.getaddrinfo

        def only_addresses(host: str, *arguments: Any, **options: Any) -> Any:
            assert host == "127.0.0.1"
            return resolve(host, *arguments, **options)

        monkeypatch.setattr("socket.getaddrinfo", only_addresses)
        assert source.stat("file") is not None


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        "0.0.0.0",  # noqa: S104 - not bound to
        *("::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "ff02::1"),
        *("224.0.0.1", "255.255.255.255", "::"),
    ],
)
def test_addresses_of_private_networks(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address: str):
    assert is_public(address)


class TestSettings:
    def test_nothing_is_configured_by_default(self):
        assert legacy_files({}) is None
        assert legacy_files({"MIGRATION_FILES_URI": " "}) is None

    @pytest.mark.parametrize("uri", ["{root}", "file://{root}", "local://{root}"])
    def test_a_folder(self, root: Path, uri: str):
        found = legacy_files({"MIGRATION_FILES_URI": uri.format(root=root)})
        assert found is not None
        assert isinstance(found.source, LocalFiles)
        assert found.template == PathTemplate.parse("{uid}")
        assert found.source.stat("empty") is not None

    @pytest.mark.parametrize(
        "values",
        [
            {"MIGRATION_FILES_URI": "relative/folder"},
            {"MIGRATION_FILES_URI": "simplecache::http://10.0.0.1/"},
            {"MIGRATION_FILES_URI": "s4://bucket/"},
            {"MIGRATION_FILES_URI": "http:///nohost"},
            {"MIGRATION_FILES_URI": "https://host/path?query=1"},
            {"MIGRATION_FILES_URI": "/files", "MIGRATION_FILES_TEMPLATE": "../{uid}"},
            {"MIGRATION_FILES_URI": "/files", "MIGRATION_FILES_TEMPLATE": "{name}"},
        ],
    )
    def test_what_cannot_be_used_is_named(self, values: dict[str, str]):
        with pytest.raises(MigrationError) as caught:
            legacy_files(values)
        assert caught.value.code == "FILES_SETTING_INVALID"
        assert caught.value.facts["setting"] in values
