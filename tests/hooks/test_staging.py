"""Staging on a local folder: private, exact, and never outside its root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from airflow.sdk import ObjectStoragePath

from include.core.errors import MigrationError
from plugins.hooks.answer_spool import AnswerSpool
from plugins.hooks.staging import StagingHook, check_writable, default_root, run_folder

RAW = pa.table({"legacy_id": ["1", "2", None], "t.text": ["", None, 'a "quoted"\nline']})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "staging"
    monkeypatch.setenv("MIGRATION_STAGING_URI", folder.as_uri())
    return folder


def is_staged(staging: StagingHook, kind: str) -> bool:
    try:
        staging.read(kind, "notes", "p000-b0000")
    except MigrationError as error:
        return error.code != "STAGING_MISSING"
    return True


def test_a_table_comes_back_as_it_was(root: Path) -> None:
    staging = StagingHook("run")
    staging.write("raw", "notes", "p000-b0000", RAW)
    assert StagingHook("run").read("raw", "notes", "p000-b0000").equals(RAW)
    assert staging.read("raw", "notes", "p000-b0000", ["t.text"]).column_names == ["t.text"]
    assert is_staged(staging, "raw")
    assert not is_staged(staging, "clean")


def test_an_empty_table_keeps_its_columns(root: Path) -> None:
    staging = StagingHook("run")
    staging.write("raw", "notes", "p000-b0000", RAW.schema.empty_table())
    assert staging.read("raw", "notes", "p000-b0000").schema == RAW.schema


def test_a_repeated_attempt_replaces_the_table(root: Path) -> None:
    staging = StagingHook("run")
    staging.write("raw", "notes", "p000-b0000", RAW)
    staging.write("raw", "notes", "p000-b0000", RAW.slice(0, 1))
    assert staging.read("raw", "notes", "p000-b0000").num_rows == 1


def test_only_the_owner_can_enter(root: Path) -> None:
    before = os.umask(0o000)
    try:
        StagingHook("run").write("raw", "notes", "p000-b0000", RAW)
    finally:
        os.umask(before)
    (folder,) = root.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("rows", [1, 100_000])
def test_a_full_disk_is_named_and_nothing_half_written_stays(root: Path, rows: int) -> None:
    folder = root / run_folder("run") / "raw" / "notes"
    folder.mkdir(parents=True)
    (folder / "p000-b0000.part").symlink_to("/dev/full")
    table = pa.table({"legacy_id": [f"{number * number}" for number in range(rows)]})
    with pytest.raises(MigrationError) as refused:
        StagingHook("run").write("raw", "notes", "p000-b0000", table)
    assert refused.value.code == "STORAGE_FULL"
    assert refused.value.facts == {"kind": "raw", "entity": "notes", "batch": "p000-b0000"}
    assert not is_staged(StagingHook("run"), "raw")


def test_a_place_that_cannot_be_written_any_more_is_named(root: Path) -> None:
    root.write_text("not a folder")
    with pytest.raises(MigrationError) as refused:
        StagingHook("run").write("raw", "notes", "p000-b0000", RAW)
    assert refused.value.code == "STORAGE_UNWRITABLE"


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(MigrationError) as caught:
        StagingHook("run").read("raw", "notes", "p000-b0009")
    assert caught.value.code == "STAGING_MISSING"
    assert caught.value.facts == {"kind": "raw", "entity": "notes", "batch": "p000-b0009"}


def test_removing_takes_this_run_only(root: Path) -> None:
    mine, other = StagingHook("mine"), StagingHook("other")
    for staging in (mine, other):
        staging.write("raw", "notes", "p000-b0000", RAW)
    mine.remove()
    assert not is_staged(mine, "raw")
    assert is_staged(other, "raw")
    mine.remove()  # nothing left is fine
    assert len(list(root.iterdir())) == 1


HOSTILE = [
    "../../x",
    "..",
    ".",
    "",
    "/etc/passwd",
    "a/../../b",
    "x" * 5000,
    "manual__2026-01-01T00:00:00+00:00",
    "läuft 漢字 🦷",
    "nul\x00line\nbreak",
    "%2e%2e%2fx",
    "file://elsewhere/x?y#z",
    "*",
    "~root",
    "-rf",
]


@pytest.mark.parametrize("run_id", HOSTILE)
def test_a_run_id_stays_inside_the_root(root: Path, run_id: str) -> None:
    outside = set(root.parent.iterdir())
    staging = StagingHook(run_id)
    staging.write("raw", "notes", "p000-b0000", RAW)
    assert staging.read("raw", "notes", "p000-b0000").equals(RAW)
    (folder,) = root.iterdir()
    assert (folder / "raw" / "notes" / "p000-b0000.parquet").is_file()
    assert set(root.parent.iterdir()) - outside <= {root}
    staging.remove()
    assert list(root.iterdir()) == []


def test_run_ids_have_folders_of_their_own() -> None:
    alike = [*HOSTILE, "a b", "a_b", "a  b", "A_B", "x" * 5001, "x" * 79, "läuft", "l_uft"]
    folders = {run_folder(run_id) for run_id in alike}
    assert len(folders) == len(alike)
    assert all(len(folder) < 100 and folder.isascii() for folder in folders)
    assert not any(set(folder) & set("/\\:*?%# \n\x00") for folder in folders)


@pytest.mark.parametrize("name", ["home", "home with space", "näme"])
def test_the_default_is_below_airflow_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("MIGRATION_STAGING_URI", raising=False)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / name))
    assert default_root("staging").startswith("file:///")
    StagingHook("run").write("raw", "notes", "p000-b0000", RAW)
    (folder,) = (tmp_path / name / "migration" / "staging").iterdir()
    assert folder.name == run_folder("run")


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    check_writable(ObjectStoragePath(f"file://{tmp_path / 'new'}"))
    assert list((tmp_path / "new").iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MigrationError, match="STORAGE_UNWRITABLE") as refused:
        check_writable(ObjectStoragePath(f"file://{tmp_path / 'file' / 'below'}"))
    assert "MIGRATION_REPORT_URI" in str(refused.value)


def test_answers_are_closed_to_others_and_the_root_they_share_is_left_as_it_was(root: Path) -> None:
    root.mkdir()
    root.chmod(0o755)
    AnswerSpool("notes").keep(["hash"], np.ones((1, 2), np.float32))
    assert stat.S_IMODE((root / "answers").stat().st_mode) == 0o700
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
