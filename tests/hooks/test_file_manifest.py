"""The manifest of files in the target, by its functions, over either way in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from include.core.errors import MigrationError
from include.core.ids import target_id
from include.files.manifest import Outcome, PlannedFile, Status, outcome_table
from plugins.operators.files import _MANIFEST_COLUMNS, planned_files
from tests.hooks.loading import Target, project

BOTH_WAYS = True

RUN = "run-1"
CHECKSUM = "ab" * 32
LATER = 2**40


def uid(number: int) -> str:
    return f"0d6e3f0a-6f0b-4c53-8f4e-{number:012d}"


def row(number: int, **values: str | None) -> Any:
    known = {"legacy_uid": uid(number), "storage_path": f"{number}/{uid(number)}", "file_size": "1000"}
    return project(number, **{**known, **values})


class Manifest:
    """The functions as the operators call them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.api = target.api

    def load(self, *rows: Any, run: str = RUN) -> None:
        self.target.load("projects", list(rows), run=run, batch=f"b{rows[0]['legacy_id']}")

    def plan(self, run: str = RUN) -> tuple[int, int, int]:
        plan = self.api.call("plan_files", run=run, entity="projects")
        self.buckets = plan["buckets"]
        return plan["added"], plan["changed"], plan["withdrawn"]

    def record(self, *outcomes: Outcome, run: str = RUN) -> int:
        recorded: int = self.api.call(
            "record_files", incoming={"files": outcome_table(outcomes)}, run=run, entity="projects"
        )
        return recorded

    def planned(self, *, recheck: bool = False) -> dict[str, PlannedFile]:
        return {file.legacy_id: file for file in planned_files(self.api, "projects", recheck)}

    def counts(self) -> dict[str, Any]:
        counts: dict[str, Any] = self.api.call("file_counts", entity="projects")
        return counts

    def shown(self) -> dict[int, tuple[str, str | None, str | None]]:
        """What users see: status, checksum, type."""
        rows = self.target.all(
            "SELECT legacy_project_id, storage_status::text, checksum, mime_type FROM public.projects"
        )
        return {key: tuple(rest) for key, *rest in rows}

    def findings(self) -> list[tuple[str, str]]:
        return self.target.all("SELECT legacy_id, code FROM migration.findings ORDER BY 1, 2")


@pytest.fixture
def manifest(target: Target) -> Manifest:
    target.connection.execute(
        "INSERT INTO migration.finding_kinds VALUES ('file_missing', '', ''), ('file_size_differs', '', ''),"
        " ('owner_missing', '', '') ON CONFLICT DO NOTHING"
    )
    return Manifest(target)


def verified(number: int, **values: Any) -> Outcome:
    known = {"source_path": uid(number), "size": 900, "mime_type": "model/stl", "checksum": CHECKSUM}
    return Outcome(
        str(number),
        f"{number}/{uid(number)}",
        Status.VERIFIED,
        source_fingerprint="900-1",
        **{**known, **values},
    )


def missing(number: int) -> Outcome:
    return Outcome(str(number), f"{number}/{uid(number)}", Status.MISSING, finding="file_missing")


def test_every_live_row_has_a_file(manifest: Manifest):
    manifest.load(row(1), row(2), row(3, legacy_uid=None, storage_path=None))
    assert manifest.plan() == (3, 0, 0)
    assert manifest.buckets == ["projects"]
    assert manifest.plan() == (0, 0, 0)
    assert manifest.planned() == {
        "1": PlannedFile("1", uid(1), "projects", f"1/{uid(1)}", Status.PENDING, expected_size=1000),
        "2": PlannedFile("2", uid(2), "projects", f"2/{uid(2)}", Status.PENDING, expected_size=1000),
        "3": PlannedFile("3", None, "projects", "", Status.PENDING, expected_size=1000),
    }
    assert set(manifest.shown().values()) == {("pending", None, None)}


def test_what_became_of_a_file_is_shown_and_outlives_updates_of_its_row(manifest: Manifest):
    manifest.load(row(1), row(2))
    manifest.plan()
    assert manifest.record(verified(1), missing(2)) == 2
    expected = {1: ("verified", CHECKSUM, "model/stl"), 2: ("missing", None, None)}
    assert manifest.shown() == expected
    assert list(manifest.planned()) == ["2"]
    assert list(manifest.planned(recheck=True)) == ["1", "2"]
    assert manifest.planned(recheck=True)["1"].source_fingerprint == "900-1"
    # The row is merged again, as every changed row is.
    manifest.load(row(1, name="Other"), row(2, name="Other"), run="run-2")
    assert manifest.plan("run-2") == (0, 0, 0)
    assert manifest.shown() == expected


def test_another_size_makes_it_pending_again(manifest: Manifest):
    manifest.load(row(1))
    manifest.plan()
    manifest.record(verified(1))
    manifest.load(row(1, file_size="1001"), run="run-2")
    assert manifest.plan("run-2") == (0, 1, 0)
    assert manifest.shown()[1][0] == "pending"
    assert manifest.planned()["1"].expected_size == 1001


def test_another_uid_is_another_file(manifest: Manifest):
    manifest.load(row(1))
    manifest.plan()
    manifest.record(verified(1))
    manifest.load(row(1, legacy_uid=uid(9), storage_path=f"1/{uid(9)}"), run="run-2")
    assert manifest.plan("run-2") == (1, 0, 1)
    assert manifest.shown() == {1: ("pending", None, None)}
    assert manifest.planned()["1"].object_key == f"1/{uid(9)}"
    # The object stays in Storage, and the manifest knows it.
    assert manifest.counts()["withdrawn"] == 1


def test_the_file_of_a_deleted_row_is_withdrawn_and_comes_back_with_it(manifest: Manifest):
    manifest.load(row(1), row(2))
    manifest.plan()
    manifest.record(verified(1), missing(2))
    manifest.target.delete("projects", "1", "2", run="run-2")
    assert manifest.plan("run-2") == (0, 0, 2)
    assert manifest.planned(recheck=True) == {}
    assert manifest.counts() == {"statuses": {}, "findings": {}, "withdrawn": 1}
    assert manifest.findings() == []
    manifest.load(row(1), run="run-3")
    assert manifest.plan("run-3") == (0, 1, 0)
    assert manifest.planned(recheck=True)["1"].status == Status.VERIFIED
    assert manifest.shown()[1][0] == "verified"


def test_findings_follow_the_files(manifest: Manifest):
    manifest.load(row(1), row(2), row(3))
    manifest.target.connection.execute(
        "INSERT INTO migration.findings VALUES ('projects', '1', 'owner_missing', 'case_id', 'run-1')"
    )
    manifest.plan()
    manifest.record(missing(1), missing(2), verified(3, finding="file_size_differs"))
    first = [("1", "file_missing"), ("1", "owner_missing"), ("2", "file_missing"), ("3", "file_size_differs")]
    assert manifest.findings() == first
    assert manifest.counts()["findings"] == {
        "file_missing": {"files": 2, "sample": ["1", "2"]},
        "file_size_differs": {"files": 1, "sample": ["3"]},
    }
    # Merging a row writes its findings anew; planning brings back those of its file.
    manifest.load(row(1, name="Other"), row(2), row(3), run="run-2")
    manifest.plan("run-2")
    assert set(first) - {("1", "owner_missing")} == set(manifest.findings())
    manifest.record(verified(1), run="run-2")
    assert ("1", "file_missing") not in manifest.findings()


def test_counts_are_of_what_is_stored_or_expected(manifest: Manifest):
    manifest.load(row(1), row(2), row(3))
    manifest.plan()
    manifest.record(verified(1))
    assert manifest.counts()["statuses"] == {
        "pending": {"files": 2, "bytes": 2000},
        "verified": {"files": 1, "bytes": 900},
    }


def test_a_resumable_upload_is_remembered_until_it_is_done(manifest: Manifest):
    manifest.load(row(1))
    manifest.plan()
    key = f"1/{uid(1)}"
    manifest.api.call(
        "keep_upload",
        run=RUN,
        entity="projects",
        legacy_id="1",
        object_key=key,
        upload_id="dXBsb2Fk",
        fingerprint="900-1",
    )
    file = manifest.planned()["1"]
    assert (file.upload_id, file.upload_fingerprint) == ("dXBsb2Fk", "900-1")
    manifest.record(verified(1))
    assert manifest.planned(recheck=True)["1"].upload_id is None


def test_shares_are_complete_and_disjoint(manifest: Manifest):
    numbers = [*range(1, 40), 100, 1000, 10_000]
    manifest.load(*(row(number, file_size=str(number * 1_000_000)) for number in numbers))
    manifest.plan()
    for size, most in ((LATER, 8), (1, 8), (50_000_000, 100), (1, 1)):
        shares = manifest.api.call("file_shares", entity="projects", recheck=False, bytes=size, shares=most)
        assert 1 <= len(shares) <= most
        found: list[str] = []
        for share in shares:
            files = planned_files(manifest.api, "projects", False, share["low"], share["high"])
            assert len(files) == share["files"]
            assert sum(file.expected_size or 0 for file in files) == share["bytes"]
            found += [file.legacy_id for file in files]
        assert sorted(found, key=int) == [str(number) for number in numbers]
        assert len(shares) == 1 or size < LATER


def test_nothing_to_copy_gives_no_share(manifest: Manifest):
    arguments = {"entity": "projects", "bytes": LATER, "shares": 8}
    assert manifest.api.call("file_shares", recheck=True, **arguments) == []
    manifest.load(row(1))
    manifest.plan()
    manifest.record(verified(1))
    assert manifest.api.call("file_shares", recheck=False, **arguments) == []
    assert len(manifest.api.call("file_shares", recheck=True, **arguments)) == 1


def test_the_manifest_names_nobody_but_where_that_is_asked_for(manifest: Manifest):
    manifest.load(row(1, name="Anna Beispiel"))
    manifest.plan()
    manifest.record(verified(1))
    [line] = [
        found
        for table in manifest.api.rows("file_manifest", _MANIFEST_COLUMNS, entity="projects")
        for found in table.to_pylist()
    ]
    assert line | {"updated_at": None} == {
        "legacy_id": "1",
        "target_id": target_id("projects", "1"),
        "uid": uid(1),
        "bucket": "projects",
        "object_key": f"1/{uid(1)}",
        "status": "verified",
        "finding": None,
        "expected_size": "1000",
        "size": "900",
        "mime_type": "model/stl",
        "checksum": CHECKSUM,
        "source_path": uid(1),
        "run_id": RUN,
        "updated_at": None,
    }
    columns = (
        "legacy_id",
        "name",
        "uid",
        "bucket",
        "object_key",
        "status",
        "finding",
        "expected_size",
        "size",
    )
    named = manifest.api.rows("project_file_manifest", (*columns, "mime_type", "checksum"))
    assert [name for table in named for name in table.column("name").to_pylist()] == ["Anna Beispiel"]


LATE_CALLS: dict[str, Callable[[Manifest], object]] = {
    "plan_files": lambda manifest: manifest.plan(),
    "record_files": lambda manifest: manifest.record(verified(1)),
    "keep_upload": lambda manifest: manifest.api.call(
        "keep_upload", run=RUN, entity="projects", legacy_id="1", object_key="", upload_id="", fingerprint=""
    ),
}


@pytest.mark.parametrize("call", LATE_CALLS.values(), ids=LATE_CALLS.keys())
def test_a_run_that_lost_its_lock_writes_nothing(manifest: Manifest, call: Callable[[Manifest], object]):
    manifest.load(row(1))
    manifest.target.tracking("run-2")
    with pytest.raises(MigrationError) as caught:
        call(manifest)
    assert caught.value.code == "RUN_LOST"
    assert manifest.target.all("SELECT 1 FROM migration.files") == []


def test_ten_thousand_files(manifest: Manifest):
    manifest.target.tracking(RUN)
    manifest.target.connection.execute(
        "INSERT INTO public.projects (id, legacy_project_id, legacy_uid, name, project_type, status, storage_bucket,"
        " storage_path, file_size) SELECT gen_random_uuid(), n, gen_random_uuid(), '', 'scan', 'draft', 'projects',"
        " n || '/x', n FROM generate_series(1, 10000) n;"
        "INSERT INTO migration.id_map (entity, legacy_id, target_id, state, first_run, last_run)"
        " SELECT 'projects', legacy_project_id::text, id, 'live', 'r', 'r' FROM public.projects"
    )
    assert manifest.plan() == (10_000, 0, 0)
    assert len(manifest.planned()) == 10_000
