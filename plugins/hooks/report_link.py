"""Where a run's report is read in the browser: a page of the migration's app, behind Airflow's own login."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from airflow.sdk.configuration import conf


def report_link(dag_id: str, run_id: str) -> str:
    """Path of a run's report on the server that shows Airflow's pages, also where those are not at its root."""
    path = urlsplit(str(conf.get("api", "base_url", fallback="") or "")).path.rstrip("/")
    return f"{path}/migration/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}/report"
