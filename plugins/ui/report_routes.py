"""Routes of the report: what a run left where MIGRATION_REPORT_URI says, for whoever may read the DAG."""

from __future__ import annotations

from airflow.api_fastapi.common.db.common import SessionDep
from airflow.models.dagrun import DagRun
from fastapi import APIRouter, HTTPException, Response, status
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from plugins.hooks.staging import report_root, run_folder
from plugins.ui.access import ReadUser

router = APIRouter()
# The page holds its own style and needs nothing else.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"


@router.get("/dags/{dag_id}/runs/{run_id}/report")
def page(dag_id: str, run_id: str, session: SessionDep, _: ReadUser) -> Response:
    """The report of a run to read and to print."""
    return _answer(session, dag_id, run_id, "report.html", "text/html")


@router.get("/dags/{dag_id}/runs/{run_id}/report.json")
def for_machines(dag_id: str, run_id: str, session: SessionDep, _: ReadUser) -> Response:
    """The same as JSON."""
    return _answer(session, dag_id, run_id, "report.json", "application/json")


def _answer(session: Session, dag_id: str, run_id: str, file: str, kind: str) -> Response:
    """A file of the report; 404 where there is none (yet), or the run is another DAG's."""
    if not session.scalar(select(exists().where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))):
        raise HTTPException(status.HTTP_404_NOT_FOUND, "The DAG has no such run.")
    try:
        with (report_root() / run_folder(run_id) / file).open("rb") as source:  # type: ignore[no-untyped-call]
            content = source.read()
    except FileNotFoundError:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "The run has no report yet.") from None
    except OSError as error:
        told = f"The place of the reports cannot be read: {type(error).__name__}."
        raise HTTPException(status.HTTP_502_BAD_GATEWAY, told) from None
    return Response(content, media_type=kind, headers={"Content-Security-Policy": _POLICY})
