"""Where the local environment keeps what it generates, and the variables its Airflow runs with.

Imports no Airflow: its settings must be in the environment before its first import.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PROJECT = Path(__file__).resolve().parent.parent
PLATFORM_SQL = PROJECT / "include" / "sql" / "platform" / "supabase_platform.sql"

# What the caller's shell may hold about real systems must never reach the demo: it writes to its target.
_DROPPED_PREFIXES = ("AIRFLOW", "LEGACY_DB_", "SUPABASE_", "MIGRATION_", "OPENAI_", "PG")
_DROPPED = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}
_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class State:
    """The folders of generated things, all below one folder that git ignores."""

    folder: Path = PROJECT / ".state"

    @property
    def postgres(self) -> Path:
        """The database server."""
        return self.folder / "postgres"

    @property
    def supabase(self) -> Path:
        """Keys, socket and logs of the Supabase API."""
        return self.folder / "supabase"

    @property
    def airflow(self) -> Path:
        """AIRFLOW_HOME: configuration, metadata database, task logs."""
        return self.folder / "airflow"

    @property
    def logs(self) -> Path:
        """Complete output of each command."""
        return self.folder / "logs"

    @property
    def staging(self) -> Path:
        """MIGRATION_STAGING_URI: rows on their way."""
        return self.folder / "staging"

    @property
    def reports(self) -> Path:
        """MIGRATION_REPORT_URI: one folder per run."""
        return self.folder / "reports"

    @property
    def files(self) -> Path:
        """MIGRATION_FILES_URI of the demo: files of the source's projects."""
        return self.folder / "files"

    def create(self) -> None:
        """Make the folders that hold rows, reports and logs, closed to other users."""
        for folder in (self.airflow, self.logs, self.staging, self.reports):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def airflow_settings(state: State) -> dict[str, str]:
    """Airflow's own settings: everything in the state folder, nothing but the project's DAGs.

    Airflow 3 sends no usage data and looks for no updates, so there is nothing to switch off.
    """
    return {
        "AIRFLOW_HOME": str(state.airflow),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": str(2 * (os.cpu_count() or 2)),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{state.airflow / 'airflow.db'}",
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__LOGGING__UVICORN_LOGGING_LEVEL": "WARNING",
        "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS": "0o700",
        "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS": "0o600",
        "MIGRATION_STAGING_URI": f"file://{state.staging}",
        "MIGRATION_REPORT_URI": f"file://{state.reports}",
        "MIGRATION_LOG_DIR": str(state.logs / "runs"),
        # Nights are made by hand here: one that starts by itself would lock the target.
        "MIGRATION_SCHEDULE": "none",
        "PYTHONPATH": str(PROJECT),
    }


def connection_variable(dsn: str) -> str:
    """An Airflow connection as the JSON that an AIRFLOW_CONN_* variable holds, from a PostgreSQL URI."""
    parts = urlsplit(dsn)
    return json.dumps(
        {
            "conn_type": "postgres",
            "host": parts.hostname,
            "port": parts.port,
            "login": parts.username,
            "password": parts.password,
            "schema": parts.path.removeprefix("/"),
        }
    )


def supabase_variable(url: str, key: str) -> str:
    """An Airflow connection of type `supabase` as the JSON that an AIRFLOW_CONN_* variable holds."""
    return json.dumps({"conn_type": "supabase", "host": url, "password": key})


def airflow_environment(
    state: State,
    *,
    legacy_dsn: str,
    target_dsn: str | None = None,
    supabase: str | None = None,
    base: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """All variables for an Airflow process that knows the local source and target and nothing else.

    Args:
        target_dsn: the target's database, for the direct way in.
        supabase: the target's API as `supabase_variable` makes it, for the client's way in.
        base: (default: this process's environment) contributes everything that cannot point to a real system.
    """
    connections = {
        "AIRFLOW_CONN_LEGACY_MDW": connection_variable(legacy_dsn),
        "AIRFLOW_CONN_SUPABASE_DB": connection_variable(target_dsn) if target_dsn else None,
        "AIRFLOW_CONN_SUPABASE": supabase,
    }
    kept = {
        name: value
        for name, value in (os.environ if base is None else base).items()
        if name not in _DROPPED and not name.startswith(_DROPPED_PREFIXES)
    }
    return {
        **kept,
        **airflow_settings(state),
        **_proxy_exception(kept),
        **{name: value for name, value in connections.items() if value is not None},
    }


def _proxy_exception(environment: Mapping[str, str]) -> dict[str, str]:
    """Airflow's parts talk to each other over loopback, which a proxy cannot reach."""
    known = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    hosts = [host for host in known.split(",") if host]
    hosts += [host for host in _LOOPBACK if host not in hosts]
    return {"NO_PROXY": ",".join(hosts), "no_proxy": ",".join(hosts)}
