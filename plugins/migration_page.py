"""The pages about a migration in Airflow's web interface: the one file here that Airflow's plugin loader executes.

It does so in every process, each task included, so the app and what it needs are imported where they are asked for.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

PREFIX = "/migration"
_FULL = "mdw_full_migration"


def _served(path: str) -> str:
    """A path of the app as the browser knows it, where Airflow is served below a path of its own too."""
    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/") + PREFIX + path


class MigrationPage(AirflowPlugin):
    """A tab of each run, an entry under Browse, and the app behind both."""

    name = "mdw_migration"
    external_views: list[Any] = [  # noqa: RUF012 - as Airflow declares it
        {
            "name": "Migration",
            "href": _served("/dags/{DAG_ID}/runs/{RUN_ID}/page"),
            "destination": "dag_run",
            "url_route": "migration",
        },
        {
            "name": "Migration state",
            "href": _served(f"/dags/{_FULL}/state"),
            "destination": "nav",
            "category": "browse",
            "url_route": "migration-state",
        },
    ]

    @property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]
        """Only the API server asks for it."""
        from plugins.ui.app import app  # noqa: PLC0415 - FastAPI and the target's clients

        return [{"app": app, "url_prefix": PREFIX, "name": "MDW migration"}]
