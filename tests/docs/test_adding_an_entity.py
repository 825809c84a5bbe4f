"""The worked example of docs/adding-an-entity.md, done in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local.environment import PROJECT

TEXT = (PROJECT / "docs" / "adding-an-entity.md").read_text()
_FILE = re.compile(
    r"^## \d\. [^\n]*`(?P<path>[\w/.]+)`\n.*?^```\w+\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
_MODULES = "include/entities/__init__.py"

# Two comments, one of them without a plan, and one case; the author is unknown to the target.
LOAD = """
import sys
import psycopg
import pyarrow as pa
from include.core.ids import target_id
from include.core.transform import transform
from include.entities import ENTITIES
from plugins.hooks.batch_loader import BatchLoader, LoadBatch
from plugins.hooks.target_postgres import PostgresTarget
from plugins.hooks.target_schema import deploy_schema, register
from plugins.hooks.tracking import TrackingHook

entity = ENTITIES["case_messages"]
rows = [
    {"legacy_id": "1", "t.id": "1", "t.text": "a", "t.author_id": "3", "t.plan_id": "4", "pl.instruction_id": "5"},
    {"legacy_id": "2", "t.id": "2", "t.text": "b", "t.author_id": "3", "t.plan_id": "9"},
]
raw = pa.Table.from_pylist(rows, pa.schema({name: pa.string() for name in entity.source.raw_columns}))
made = transform(entity, raw)
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    deploy_schema(connection, 8)
    register(connection, ENTITIES.values())
    patient, case = target_id("patients", "6"), target_id("cases", "5")
    connection.execute(
        "INSERT INTO public.patients (id, legacy_patient_id, patient_number) VALUES (%s, 6, 'P6')", [patient]
    )
    connection.execute(
        "INSERT INTO public.cases (id, legacy_instruction_id, patient_id, case_number) VALUES (%s, 5, %s, 'C5')",
        [case, patient],
    )
    target = PostgresTarget(connection)
    tracking = TrackingHook(target, "example")
    tracking.open_run(type="full", scope="everything", dry_run=False, parameters={}, mapping_version="1",
                      rules_version="1", code_version="1", started_by="test", source_horizon=None, source_identity={})
    batch = LoadBatch("p000-b0000", "all", made.clean, made.rejects, made.findings)
    fates, _ = BatchLoader(target, "example", entity, dry_run=False).load(batch, 1)
    stored = connection.execute(
        "SELECT content, case_id, sender_id, metadata ->> 'author_id' FROM public.case_messages"
    ).fetchall()
    assert [(text, str(id), sender, author) for text, id, sender, author in stored] == [("a", case, None, "3")]
    print("inserted", fates.inserted, "rejected", fates.rejected)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the example's files in it."""
    copy = tmp_path_factory.mktemp("project")
    for folder in ("include", "plugins"):
        shutil.copytree(PROJECT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for found in _FILE.finditer(TEXT):
        path = copy / found["path"]
        if found["path"] == _MODULES:
            _declare(path, found["body"])
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(found["body"])
    return copy


def _declare(path: Path, line: str) -> None:
    text = path.read_text()
    for place in ("import (\n", "in (\n"):
        assert text.count(place) == 1
        text = text.replace(place, place + line)
    path.write_text(text)


def run(project: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - a fixed command
        [sys.executable, *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_names_four_files():
    assert [found["path"] for found in _FILE.finditer(TEXT)] == [
        "include/entities/case_messages.py",
        _MODULES,
        "include/sql/target/0006_case_messages.sql",
        "tests/entities/test_case_messages.py",
    ]


def test_its_number_is_the_next_one():
    deployed = sorted(path.name for path in (PROJECT / "include" / "sql" / "target").glob("*.sql"))

    assert deployed[-1] < "0006_case_messages.sql"


def test_the_example_passes_its_own_test(project):
    assert "3 passed" in run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")


def test_the_example_loads_into_a_real_target(project, target_database):
    assert run(project, "-c", LOAD, target_database).strip() == "inserted 1 rejected 1"
