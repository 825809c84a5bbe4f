"""The JSON log of a run: what its lines hold and do not hold, and several processes writing it."""

from __future__ import annotations

import errno
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from include.core.errors import MigrationError
from local.environment import PROJECT
from plugins.hooks import run_log as module
from plugins.hooks.run_log import ERRORS, EVERYTHING, error_facts, log_folder, recorded_errors, run_log
from plugins.operators.preflight import CheckStorageOperator

RUN = "manual__2026-01-01T00:00:00+00:00/../../etc"
LOG = logging.getLogger("mdw_migration")
NAME = "Mustermann"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MIGRATION_LOG_DIR", str(tmp_path / "logs"))
    level = LOG.level
    LOG.setLevel("INFO")
    yield tmp_path / "logs"
    LOG.setLevel(level)


def lines(name: str = EVERYTHING, run: str = RUN) -> list[dict[str, Any]]:
    path = log_folder(run) / name
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


def test_a_line_has_the_facts_of_the_task_and_its_own() -> None:
    with run_log(RUN, dag="d", task="loading.cases", map_index=2, attempt=1, phase="loading"):
        LOG.info(
            "%d rows",
            7,
            extra={"facts": {"entity": "cases", "batch": "p000-b0001", "counts": {"inserted": 7}}},
        )
    (line,) = lines()
    time = line.pop("time")
    assert time.endswith("+00:00")
    assert line == {
        "level": "INFO",
        "run": RUN,
        "dag": "d",
        "task": "loading.cases",
        "map_index": 2,
        "attempt": 1,
        "phase": "loading",
        "message": "7 rows",
        "entity": "cases",
        "batch": "p000-b0001",
        "counts": {"inserted": 7},
    }


def test_a_run_has_a_folder_of_its_own(place: Path) -> None:
    with run_log(RUN):
        LOG.info("here")
    assert log_folder(RUN).parent == place
    assert {path.name for path in log_folder(RUN).iterdir()} == {EVERYTHING}


def test_errors_are_in_both_files() -> None:
    with run_log(RUN):
        LOG.info("well")
        LOG.warning("so so")
        LOG.error("ill")
    assert [line["message"] for line in lines()] == ["well", "so so", "ill"]
    assert [line["message"] for line in lines(ERRORS)] == ["ill"]


def test_errors_can_be_read_back_for_a_report() -> None:
    assert recorded_errors(RUN) == []
    with run_log(RUN, task="loading.cases"):
        LOG.error("ill", extra={"facts": {"code": "TARGET_INTERRUPTED", "where": {"batch": "p000-b0001"}}})
    (line,) = recorded_errors(RUN)
    assert (line["task"], line["code"], line["where"]) == (
        "loading.cases",
        "TARGET_INTERRUPTED",
        {"batch": "p000-b0001"},
    )


def test_nothing_is_written_below_the_level_nor_behind_the_block() -> None:
    with run_log(RUN):
        LOG.debug("too fine")
        logging.getLogger("mdw_migration.lock").warning("of a hook")
        logging.getLogger("psycopg").error("of somebody else")
    LOG.error("too late")
    assert [line["message"] for line in lines()] == ["of a hook"]


def test_a_line_stays_one_whatever_is_in_it() -> None:
    with run_log(RUN):
        LOG.info("one\ntwo\u2028three", extra={"facts": {"what": pa.table({"a": [NAME]})}})
    (line,) = lines()
    assert line["message"] == "one\ntwo\u2028three"
    assert line["what"] == "Table"
    assert NAME not in (log_folder(RUN) / EVERYTHING).read_text()


def refused(connection: psycopg.Connection[Any]) -> psycopg.Error:
    with pytest.raises(psycopg.Error, match=NAME) as caught:
        connection.execute("SELECT %s::date", [NAME])
    return caught.value


class TestExceptions:
    def test_of_a_driver_are_known_by_type_place_and_sqlstate_alone(
        self, session: psycopg.Connection[Any]
    ) -> None:
        error = refused(session)
        with run_log(RUN):
            LOG.error("It failed: %s", error, exc_info=error)
            LOG.warning("Twice: %s", error, exc_info=error)
        assert NAME not in "".join(path.read_text() for path in log_folder(RUN).iterdir())
        (line,) = lines(ERRORS)
        assert line["message"] == f"It failed: {type(error).__name__}"
        assert line["error"] == f"psycopg.errors.{type(error).__name__}"
        assert line["sqlstate"] == "22007"

    def test_of_the_migration_say_everything(self) -> None:
        error = MigrationError("TARGET_QUERY_FAILED", "So it is.", entity="cases", batch="p000-b0001")
        assert error_facts(error) == {
            "code": "TARGET_QUERY_FAILED",
            "category": "connection",
            "transient": False,
            "retry_safe": True,
            "next_step": error.kind.next_step,
            "detail": "So it is.",
            "where": {"entity": "cases", "batch": "p000-b0001"},
        }

    def test_name_the_place_they_came_from(self) -> None:
        with pytest.raises(ValueError, match=NAME) as caught:
            int(json.loads(f'"{NAME}"'))
        facts = error_facts(caught.value)
        assert facts["error"] == "builtins.ValueError"
        assert str(facts["place"]).startswith("tests/hooks/test_run_log.py:")
        with pytest.raises(json.JSONDecodeError) as other:
            json.loads(NAME)
        assert str(error_facts(other.value)["raised_in"]).startswith("json/decoder.py:")


def test_several_processes_write_whole_lines() -> None:
    code = (
        "import logging, sys\n"
        "from plugins.hooks.run_log import run_log\n"
        "logging.getLogger('mdw_migration').setLevel('INFO')\n"
        f"with run_log({RUN!r}, task=sys.argv[1]):\n"
        "    for number in range(400):\n"
        "        text, facts = 'x' * (1 + number * 37 % 9000), {'n': number}\n"
        "        logging.getLogger('mdw_migration').error(text, extra={'facts': facts})\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(task)], cwd=PROJECT) for task in range(4)]  # noqa: S603
    assert [process.wait(120) for process in running] == [0] * 4
    for name in (EVERYTHING, ERRORS):
        found = lines(name)
        assert len(found) == 1_600
        for task in range(4):
            mine = [line for line in found if line["task"] == str(task)]
            assert [line["n"] for line in mine] == list(range(400))
            assert all(set(line["message"]) == {"x"} for line in mine)


class TestWithoutAPlace:
    def test_the_run_does_not_begin(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("MIGRATION_STAGING_URI", f"file://{tmp_path / 'staging'}")
        monkeypatch.setenv("MIGRATION_REPORT_URI", f"file://{tmp_path / 'reports'}")
        check = CheckStorageOperator(task_id="preparation.storage")
        check.step(None)  # type: ignore[arg-type]
        place.rmdir()
        place.write_text("a file where the folder should be")
        with pytest.raises(MigrationError) as refused:
            check.step(None)  # type: ignore[arg-type]
        assert refused.value.code == "STORAGE_UNWRITABLE"
        assert str(place) in str(refused.value)

    @pytest.mark.parametrize("cut", [False, True])
    def test_a_run_on_its_way_goes_on_with_one_warning(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cut: bool
    ) -> None:
        def full(_: int, line: bytes) -> int:
            if cut:
                return len(line) - 1
            raise OSError(errno.ENOSPC, f"no room for {NAME}")

        with run_log(RUN), monkeypatch.context() as broken:
            broken.setattr(module.os, "write", full)
            for number in range(3):
                LOG.info("line %d", number)
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert warned == [
            f"The run's JSON log cannot be written any more: OSError (errno {None if cut else errno.ENOSPC})"
        ]

    def test_it_is_beside_the_reports_by_default(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("MIGRATION_LOG_DIR")
        monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
        assert log_folder(RUN).parent == tmp_path / "migration" / "logs"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_files_are_closed(place: Path) -> None:
    before = descriptors()
    for _ in range(5):
        with run_log(RUN):
            LOG.error("x")
    assert descriptors() == before
