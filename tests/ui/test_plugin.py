"""What Airflow's plugin loader finds: one plugin, cheap in processes that serve no pages."""

from __future__ import annotations

import subprocess
import sys

import pytest

from include.core.run_progress import PHASES
from local.environment import PROJECT
from plugins import migration_page
from plugins.migration_page import MigrationPage
from tests.ui.site import Site


def test_a_task_imports_neither_the_app_nor_its_clients() -> None:
    code = (
        "import sys; import airflow.plugins_manager; before = set(sys.modules);"
        " import plugins.migration_page; print(*(set(sys.modules) - before))"
    )
    ran = subprocess.run(  # noqa: S603 - a fixed command
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    loaded = ran.stdout.splitlines()[-1].split()
    assert set(loaded) <= {"plugins", "plugins.migration_page"}


def test_airflow_loads_it_alone_and_without_errors(site: Site) -> None:
    with site.client("admin") as client:
        plugins = client.get(f"{site.address}/api/v2/plugins").raise_for_status().json()["plugins"]
        ours = [plugin for plugin in plugins if plugin["source"].startswith("$PLUGINS_FOLDER")]
        errors = client.get(f"{site.address}/api/v2/plugins/importErrors").raise_for_status().json()
    assert [plugin["name"] for plugin in ours] == ["mdw_migration"]
    assert [view["destination"] for view in ours[0]["external_views"]] == ["dag_run", "nav"]
    assert errors["total_entries"] == 0


def test_addresses_are_below_the_path_of_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://example.org/airflow/")
    assert migration_page._served("/state") == "/airflow/migration/state"


def test_the_app_is_made_where_it_is_asked_for() -> None:
    (served,) = MigrationPage().fastapi_apps
    assert served["url_prefix"] == migration_page.PREFIX


def test_progress_knows_the_phases_of_the_dag(site: Site) -> None:
    with site.client("viewer") as client:
        path = f"{site.address}/api/v2/dags/mdw_full_migration/tasks"
        tasks = client.get(path, params={"limit": 1000}).raise_for_status().json()["tasks"]
    assert {task["task_id"].partition(".")[0] for task in tasks} == {*PHASES}
