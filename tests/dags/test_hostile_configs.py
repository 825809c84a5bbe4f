"""Whatever a run of any DAG is configured with: refused before any connection is made, and nothing is written."""

from __future__ import annotations

import copy
import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, Param
from airflow.sdk.bases.operator import BaseOperator, ExecutorSafeguard
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.exceptions import ParamValidationError
from hypothesis import given
from hypothesis import strategies as st

from include.core.errors import MigrationError
from plugins.hooks.embeddings import choose_provider
from plugins.hooks.file_copier import CopySettings
from plugins.hooks.file_source import legacy_files
from plugins.hooks.run_lock import grace_seconds
from plugins.hooks.run_log import log_root
from plugins.hooks.staging import report_root, run_folder, staging_root
from plugins.operators.preflight import _partition_rows_wanted
from plugins.operators.undo_merge import Request
from tests.end_to_end.runs import Databases
from tests.hostile import (
    KEYS,
    REFUSALS,
    TEXTS,
    VALUES,
    assert_is_shown_safely,
    assert_says_what_it_may,
    is_plain,
)
from tests.incremental.runner import Outcome, dag_of, run

NOWHERE = Databases(*["postgresql://nobody:nothing@127.0.0.1:9/nothing"] * 3)
DAGS = sorted(path.stem for path in (Path(__file__).parents[2] / "dags").glob("*.py"))
PREFLIGHT = "mdw_preflight"
# What must be there for a run to get past its parameters, where the form has no default for it.
NEEDED: dict[str, dict[str, Any]] = {
    "mdw_undo_merge": {"legacy_ids": ["2"], "decided_by": "me", "reason": "why"},
    "mdw_rollback": {"run_id": "manual__1", "decided_by": "me", "reason": "why"},
}
GOOD = {"entity": "patients", "load_via": "auto", **NEEDED["mdw_undo_merge"]}


class Watch:
    """What a run did to the world outside its process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.connections: list[str] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        def refuse(*_: object, **__: object) -> None:
            self.connections.append("socket")
            raise OSError("no connection is made here")

        def refuse_database(cls: type, *_: object, **__: object) -> None:
            self.connections.append("database")
            raise psycopg.OperationalError("no connection is made here")

        with (
            patch.object(psycopg.Connection, "connect", classmethod(refuse_database)),
            patch.object(socket.socket, "connect", refuse),
            patch.object(socket, "getaddrinfo", refuse),
        ):
            yield

    @property
    def written(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


def attempt(dag_id: str, folder: Path, conf: dict[str, Any], run_id: str = "") -> tuple[Outcome, Watch]:
    """A whole run with its form bypassed, as by the API."""
    watch = Watch(folder)
    with watch.watching():
        configuration = {**NEEDED.get(dag_id, {}), **conf}
        outcome = run(dag_id, NOWHERE, folder, run_id=run_id, configuration=configuration)
    return outcome, watch


def assert_refused(dag_id: str, folder: Path, conf: dict[str, Any]) -> None:
    outcome, watch = attempt(dag_id, folder, conf)
    assert outcome.errors, conf.keys()
    assert watch.connections == []
    if dag_id == PREFLIGHT:
        assert_reported(outcome, watch, conf)
        return
    for error in outcome.errors:
        assert_says_what_it_may(error, *conf, *conf.values())
    assert watch.written == []


def assert_reported(outcome: Outcome, watch: Watch, conf: dict[str, Any]) -> None:
    """A preflight tells of all that it finds: of its parameters as well, and then it looks at nothing else."""
    assert [getattr(error, "code", error) for error in outcome.errors] == ["PREFLIGHT_FAILED"]
    folder = report_folder(watch.folder, outcome.run_id)
    assert {path.parent for path in watch.written} == {folder}
    checks = {check["name"]: check for check in json.loads((folder / "preflight.json").read_text())["checks"]}
    found = checks.pop("settings.parameters")
    assert found["facts"]["code"] in REFUSALS
    assert_is_shown_safely(found["why"], *conf, *conf.values())
    assert {check["status"] for check in checks.values()} == {"skipped"}
    shutil.rmtree(folder)


def report_folder(folder: Path, run_id: str) -> Path:
    return folder / "reports" / run_folder(run_id)


def must_be_refused(param: Param, value: Any) -> bool:
    if not is_plain(value):
        return True
    try:
        copy.copy(param).resolve(value)  # which remembers it
    except ParamValidationError:
        return True
    return False


def test_every_dag_is_here(bag: DagBag) -> None:
    assert sorted(bag.dags) == DAGS


@pytest.mark.parametrize("dag_id", DAGS)
def test_without_a_hostile_value_a_run_goes_as_far_as_its_connections(dag_id: str, tmp_path: Path) -> None:
    """Otherwise the absence of connections would mean nothing."""
    _, watch = attempt(dag_id, tmp_path, {})
    assert watch.connections != []


@pytest.mark.parametrize("dag_id", DAGS)
def test_every_hostile_value_of_every_kind_of_param(bag: DagBag, dag_id: str, tmp_path: Path) -> None:
    """tests/core/test_hostile_settings.py has them for every single one that goes through the same check."""
    params = bag.dags[dag_id].params
    kinds = {_kind(params.get_param(name)): params.get_param(name) for name in params}
    names = [name for name in params if params.get_param(name) in kinds.values()]
    tried = 0
    for name in names:
        for value in VALUES.values():
            if must_be_refused(params.get_param(name), value):
                assert_refused(dag_id, tmp_path, {name: value})
                tried += 1
    assert tried > len(names) * 10


def _kind(param: Param) -> tuple[Any, ...]:
    """By what it is checked, without the values."""
    return param.schema.get("type"), *sorted(param.schema.keys() - {"title", "description"})


@pytest.mark.parametrize("dag_id", DAGS)
def test_every_hostile_key(dag_id: str, tmp_path: Path) -> None:
    known = set(dag_of(dag_id).params)
    for key in KEYS:
        if key not in known:
            assert_refused(dag_id, tmp_path, {key: TEXTS["jinja"]})
    assert_refused(dag_id, tmp_path, {f"key {number}" * 100: 1 for number in range(10_000)})


@pytest.mark.parametrize("dag_id", [dag_id for dag_id in DAGS if dag_id != PREFLIGHT])
def test_every_task_refuses_by_itself(bag: DagBag, dag_id: str, tmp_path: Path) -> None:
    """Should it be cleared, or its first task marked as success."""
    dag: DAG = bag.dags[dag_id]
    watch = Watch(tmp_path)
    for task in dag.tasks:
        instance = {"task_id": task.task_id, "dag_id": dag_id, "map_index": -1, "try_number": 1}
        context: Any = {
            "params": {**dag.params.dump(), **NEEDED.get(dag_id, {})},
            "ti": SimpleNamespace(**instance),
            "dag_run": SimpleNamespace(run_id="r", conf={"__class__": 1}, triggering_user_name="me"),
        }
        with (
            watch.watching(),
            patch.object(ExecutorSafeguard, "test_mode", True),
            pytest.raises(MigrationError) as caught,
        ):
            _operator(task).execute(context)
        assert caught.value.code == "PARAM_UNKNOWN"
    assert watch.connections == []
    assert watch.written == []


def _operator(task: Any) -> BaseOperator:
    if not isinstance(task, MappedOperator):
        return task
    return task.unmap({name: {} for name in task._get_specified_expand_input().value})


class TestUndoMerge:
    """Its texts are free: what may be in them is stored as it is, nothing of it is ever evaluated."""

    @pytest.mark.parametrize("name", ["decided_by", "reason"])
    @pytest.mark.parametrize("label", ["sql", "jinja", "jinja secret", "format", "path", "shell", "markup"])
    def test_one_line_of_text_is_taken_as_it_is(self, name: str, label: str) -> None:
        context: Any = {"params": {**GOOD, name: TEXTS[label]}, "dag_run": SimpleNamespace(conf={})}
        assert getattr(Request.of(context), name) == TEXTS[label]

    @pytest.mark.parametrize("conf", [{"decided_by": "x" * 201}, {"reason": "x" * 1_001}])
    def test_too_long(self, conf: dict[str, Any]) -> None:
        context: Any = {"params": GOOD, "dag_run": SimpleNamespace(conf=conf)}
        with pytest.raises(MigrationError) as caught:
            Request.of(context)
        assert_says_what_it_may(caught.value, *conf.values())

    @pytest.mark.parametrize("bad", ["2\n", "2 3", "2\x00", "ä", "9" * 65, "", "２"])
    def test_legacy_ids(self, bad: str) -> None:
        context: Any = {"params": {**GOOD, "legacy_ids": ["1", bad]}, "dag_run": SimpleNamespace(conf={})}
        with pytest.raises(MigrationError) as caught:
            Request.of(context)
        assert caught.value.facts == {"param": "legacy_ids"}


class TestRunIds:
    """Airflow lets people choose them."""

    @given(st.text(max_size=250))
    def test_any_run_has_a_folder_right_below_the_root(self, run_id: str) -> None:
        folder = run_folder(run_id)
        root = Path("/root")
        assert (root / folder).resolve().parent == root
        assert len(folder) < 100
        assert folder.isascii()
        assert folder.isprintable()

    @given(st.text(max_size=20), st.text(max_size=20))
    def test_no_two_runs_share_one(self, one: str, other: str) -> None:
        assert (run_folder(one) == run_folder(other)) == (one == other)

    @pytest.mark.parametrize("dag_id", DAGS)
    @pytest.mark.parametrize(
        "run_id", ["../../x", "/etc/x", "..", "'; DROP TABLE x; --", "\x1b[2J\nx", "ü" * 250]
    )
    def test_a_hostile_one_stays_in_its_places(self, dag_id: str, run_id: str, tmp_path: Path) -> None:
        inner = tmp_path / "inner"
        attempt(dag_id, inner, {}, run_id)
        assert {path.name for path in tmp_path.iterdir()} <= {"inner"}
        places = {path.relative_to(inner).parts[:2] for path in Watch(inner).written}
        assert {place[1:] for place in places} <= {(run_folder(run_id),)}


# What reads a variable of the installation, and what a value may be.
READERS: dict[str, tuple[Callable[[], object], str]] = {
    "MIGRATION_STAGING_URI": (staging_root, r"(/|file://|http://).*"),
    "MIGRATION_REPORT_URI": (report_root, r"(/|file://|http://).*"),
    "MIGRATION_LOG_DIR": (log_root, r"/.*"),
    "MIGRATION_PARTITION_ROWS": (_partition_rows_wanted, r"\d{1,9}"),
    "MIGRATION_LOCK_GRACE_SECONDS": (grace_seconds, r"\d{2,6}"),
    "MIGRATION_FILES_URI": (legacy_files, r"\s*|(/|file://|http://).*"),
    "MIGRATION_FILES_CONCURRENCY": (CopySettings.from_environment, r"\s*|\d{1,2}"),
    "MIGRATION_FILES_VERIFY": (CopySettings.from_environment, r"\s*|auto|download"),
    "MIGRATION_EMBEDDING_PROVIDER": (choose_provider, r"\s*|hash|local"),
    "MIGRATION_EMBEDDING_DIMENSIONS": (choose_provider, r"\d{1,4}"),
}
WRONG = (
    "-1",
    "0",
    "1.5",
    "1e3",
    "9" * 18,
    "9" * 5_000,
    "²",
    "٣",
    "relative/folder",
    "../up",
    "no-such-kind://x/y",
)


class TestInstallation:
    """Its variables are set by who runs the workers; what is wrong with them is said as clearly."""

    @pytest.mark.parametrize("variable", READERS)
    def test_a_wrong_value_is_refused_by_the_name_of_the_variable(
        self, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MIGRATION_EMBEDDING_PROVIDER", "hash")
        read, allowed = READERS[variable]
        short = [text for label, text in TEXTS.items() if text and label not in ("nul", "surrogate", "10 MB")]
        for text in [*short, *WRONG]:
            monkeypatch.setenv(variable, text)
            if re.fullmatch(allowed, text, re.ASCII):
                continue
            with pytest.raises(MigrationError) as caught:
                read()
            assert caught.value.code in ("PARAM_INVALID", "FILES_SETTING_INVALID"), (text, caught.value)
            said = str(caught.value)
            assert variable in said or variable.rpartition("_")[2].lower() in said
            assert len(said.split("\n")) <= 4
            assert said.replace("\n", "").isprintable()
        assert list(tmp_path.iterdir()) == []
