"""The variables that Airflow is started with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from local.environment import (
    PROJECT,
    State,
    airflow_environment,
    airflow_settings,
    connection_variable,
    supabase_variable,
)

DSNS = {
    "legacy_dsn": "postgresql://mdw_reader:one@127.0.0.1:5001/legacy_mdw",
    "target_dsn": "postgresql://postgres:two@127.0.0.1:5001/supabase",
}


def test_nothing_of_a_real_installation_gets_in(tmp_path: Path) -> None:
    real = {
        "AIRFLOW_CONN_SUPABASE_DB": "postgresql://production",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://production",
        "AIRFLOW_HOME": "/production",
        "LEGACY_DB_HOST": "production",
        "SUPABASE_URL": "https://production",
        "SUPABASE_SERVICE_ROLE_KEY": "production",
        "OPENAI_API_KEY": "production",
        "MIGRATION_STAGING_URI": "s3://production",
        "PGHOST": "production",
        "PYTHONPATH": "/production",
    }
    built = airflow_environment(State(tmp_path), **DSNS, base={**real, "HOME": "/home/me", "PATH": "/bin"})
    assert "production" not in " ".join(built.values())
    assert (built["HOME"], built["PATH"]) == ("/home/me", "/bin")


def test_compiled_modules_are_used(tmp_path: Path) -> None:
    built = airflow_environment(State(tmp_path), **DSNS, base={"PYTHONDONTWRITEBYTECODE": "1"})
    assert "PYTHONDONTWRITEBYTECODE" not in built


def test_loopback_bypasses_a_proxy_and_other_exceptions_stay(tmp_path: Path) -> None:
    built = airflow_environment(State(tmp_path), **DSNS, base={"no_proxy": "intranet,localhost"})
    assert built["NO_PROXY"] == built["no_proxy"] == "intranet,localhost,127.0.0.1"


def test_connections_are_the_two_local_databases(tmp_path: Path) -> None:
    built = airflow_environment(State(tmp_path), **DSNS, base={})
    assert json.loads(built["AIRFLOW_CONN_LEGACY_MDW"]) == {
        "conn_type": "postgres",
        "host": "127.0.0.1",
        "port": 5001,
        "login": "mdw_reader",
        "password": "one",
        "schema": "legacy_mdw",
    }
    assert json.loads(built["AIRFLOW_CONN_SUPABASE_DB"])["login"] == "postgres"


def test_either_way_to_the_target_can_be_the_only_one(tmp_path: Path) -> None:
    legacy = {"legacy_dsn": DSNS["legacy_dsn"]}
    key = supabase_variable("http://127.0.0.1:54321", "sb_secret_x")
    built = airflow_environment(State(tmp_path), **legacy, supabase=key, base={})
    assert "AIRFLOW_CONN_SUPABASE_DB" not in built
    assert json.loads(built["AIRFLOW_CONN_SUPABASE"]) == {
        "conn_type": "supabase",
        "host": "http://127.0.0.1:54321",
        "password": "sb_secret_x",
    }
    assert "AIRFLOW_CONN_SUPABASE" not in airflow_environment(State(tmp_path), **DSNS, base={})


def test_airflow_reads_a_connection_back() -> None:
    from airflow.sdk import Connection  # noqa: PLC0415 - only this test needs Airflow

    connection = Connection.from_json(connection_variable(DSNS["legacy_dsn"]), conn_id="legacy_mdw")
    assert (connection.login, connection.password, connection.port) == ("mdw_reader", "one", 5001)
    assert connection.schema == "legacy_mdw"


def test_everything_generated_lies_in_the_state_folder(tmp_path: Path) -> None:
    settings = airflow_settings(State(tmp_path))
    outside = {name for name, value in settings.items() if "/" in value and str(tmp_path) not in value}
    assert outside == {"AIRFLOW__CORE__DAGS_FOLDER", "AIRFLOW__CORE__PLUGINS_FOLDER", "PYTHONPATH"}
    assert all(settings[name].startswith(str(PROJECT)) for name in outside)


def test_folders_with_rows_are_private(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    state.create()
    state.create()
    for folder in (state.airflow, state.logs, state.staging, state.reports):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_building_the_variables_imports_no_airflow() -> None:
    code = "import sys, local.environment; sys.exit('airflow' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False)  # noqa: S603
    assert result.returncode == 0
