"""Files in validation: what Storage holds is read again, over a real socket, and compared with the manifest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from include.core.errors import MigrationError
from include.core.tracking import Check
from local.storage_server import PIECE_BYTES, Fault, StorageServer
from plugins.hooks.file_check import FileCheck, Which
from plugins.hooks.storage import StorageHook
from tests.hooks.test_file_manifest import row
from tests.hooks.test_file_operators import KEY, Copying, copying, running

__all__ = ["copying", "running"]  # fixtures

RUN = "run-1"
BUCKET = "projects"


@pytest.fixture
def copied(copying: Copying) -> Copying:
    """Files 1 to 4, one of them large; file 5 is missing at the source."""
    sizes = {1: 1000, 2: 1000, 3: PIECE_BYTES + 1, 4: 10}
    for number, size in sizes.items():
        copying.put(number, size)
    run = copying.run(RUN)
    copying.manifest.load(*(row(number, file_size=str(size)) for number, size in sizes.items()), row(5))
    copying.copy(run)
    copying.server.requests.clear()
    return copying


def checks(
    copying: Copying, which: Which = "all", run: str = RUN, told: list[tuple[int, int, int]] | None = None
) -> dict[str, Check]:
    check = FileCheck(copying.target.api, run, "projects", concurrency=2)
    storage = StorageHook(copying.server.url, KEY, max_retries=0)
    progress = [] if told is None else told
    found = [*check.listed()]
    if which != "none":
        found += check.bytes(storage, check.stored(which), lambda *counts: progress.append(counts))
    storage.close()
    return {each.name: each for each in found}


def not_passed(found: dict[str, Check]) -> dict[str, tuple[str, ...]]:
    return {name: check.sample_keys for name, check in found.items() if not check.passed}


def key_of(copying: Copying, number: int) -> str:
    query = "SELECT object_key FROM migration.files WHERE legacy_id = %s"
    return str(copying.target.all(query, [str(number)])[0][0])


def content_of(copying: Copying, number: int) -> Path:
    return copying.server._disk.content(BUCKET, key_of(copying, number))


def downloads(server: StorageServer) -> int:
    return sum(
        method == "GET" and bool(re.search("/object/projects/", path)) for method, path in server.requests
    )


def test_what_was_copied_passes(copied: Copying) -> None:
    told: list[tuple[int, int, int]] = []
    found = checks(copied, told=told)
    assert not_passed(found) == {}
    assert set(found) == {"files_listed", "files_shown", "files_there", "file_bytes"}
    assert [counts[:2] for counts in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert told[-1][2] == 2010 + PIECE_BYTES + 1
    assert downloads(copied.server) == 4


@pytest.mark.parametrize("number", [1, 3])
def test_other_bytes_of_the_same_size_are_noticed(copied: Copying, number: int) -> None:
    content = content_of(copied, number)
    content.write_bytes(content.read_bytes()[:-1] + b"x")
    assert not_passed(checks(copied)) == {"file_bytes": (str(number),)}


def test_another_size_is_noticed(copied: Copying) -> None:
    with content_of(copied, 2).open("ab") as file:
        file.write(b"x")
    assert not_passed(checks(copied)) == {"file_bytes": ("2",)}


def test_an_object_that_is_gone_is_told_apart(copied: Copying) -> None:
    disk = copied.server._disk
    disk.remove_object(disk.object(BUCKET, key_of(copied, 4)))
    assert not_passed(checks(copied)) == {"files_there": ("4",)}


def test_none_reads_nothing_and_copied_only_what_the_run_copied(copied: Copying) -> None:
    assert set(checks(copied, "none")) == {"files_listed", "files_shown"}
    assert downloads(copied.server) == 0
    copied.put(6, 70)
    copied.manifest.load(row(6, file_size="70"), run="run-2")
    copied.copy(copied.run("run-2"))
    copied.server.requests.clear()
    assert not_passed(checks(copied, "copied", "run-2")) == {}
    assert downloads(copied.server) == 1


def test_a_storage_that_cannot_be_asked_is_an_error_and_no_finding(copied: Copying) -> None:
    copied.server.faults.append(Fault("GET", "/object/projects/", status=503))
    with pytest.raises(MigrationError) as caught:
        checks(copied)
    assert caught.value.code == "FILES_STORAGE_BUSY"


CORRUPTIONS = {
    "entry removed": ("DELETE FROM migration.files WHERE legacy_id = '1'", {"files_listed": ("1",)}),
    "entry of nobody": (
        "UPDATE migration.files SET legacy_id = '99' WHERE legacy_id = '1'",
        {"files_listed": ("1", "99")},
    ),
    "another place": (
        "UPDATE public.projects SET storage_path = 'elsewhere' WHERE legacy_project_id = 2",
        {"files_listed": ("2",)},
    ),
    "another status shown": (
        "UPDATE public.projects SET storage_status = 'verified' WHERE legacy_project_id = 5",
        {"files_shown": ("5",)},
    ),
    "another checksum shown": (
        "UPDATE public.projects SET checksum = repeat('0', 64) WHERE legacy_project_id = 3",
        {"files_shown": ("3",)},
    ),
    "another checksum everywhere": (
        "UPDATE public.projects SET checksum = repeat('0', 64) WHERE legacy_project_id = 3;"
        " UPDATE migration.files SET checksum = repeat('0', 64) WHERE legacy_id = '3'",
        {"file_bytes": ("3",)},
    ),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_manifest_is_compared_with_the_rows(copied: Copying, kind: str) -> None:
    statement, expected = CORRUPTIONS[kind]
    copied.target.connection.execute(statement.encode())
    assert not_passed(checks(copied)) == expected


def test_a_target_without_manifest_has_nothing_to_compare(copying: Copying) -> None:
    assert set(checks(copying)) == {"files_there", "file_bytes"}
