"""Routes of the page about a run, and of the one about the state of the target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, HTTPException, Request, status
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from plugins.hooks.run_page import PAGE_ROWS, RunPage
from plugins.ui.access import READS, EditUser, ReadUser, may_edit, name_of
from plugins.ui.pages import page_file
from plugins.ui.target import page_target

_LONGEST = 200

router = APIRouter()


class Place(BaseModel):
    """The last row of the page before."""

    model_config = ConfigDict(extra="forbid")

    code: str = Field(max_length=_LONGEST)
    entity: str = Field(max_length=_LONGEST)
    legacy_id: str = Field(max_length=_LONGEST)


class Chosen(BaseModel):
    """Which rows in quarantine are shown; ids stay out of addresses, which are logged."""

    model_config = ConfigDict(extra="forbid")

    entity: str | None = Field(None, max_length=_LONGEST)
    code: str | None = Field(None, max_length=_LONGEST)
    after: Place | None = None


class Look(BaseModel):
    """Which row's values are asked for."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern=r"^[0-9]{1,18}$")


@router.get("/dags/{dag_id}/runs/{run_id}/page", dependencies=READS)
def run_page() -> FileResponse:
    """The page about a run."""
    return page_file("run.html")


@router.get("/dags/{dag_id}/state", dependencies=READS)
def state_page() -> FileResponse:
    """The page about the target as it is now."""
    return page_file("state.html")


@router.get("/dags/{dag_id}/runs/{run_id}/progress")
def run_progress(dag_id: str, run_id: str, request: Request, user: ReadUser) -> dict[str, Any]:
    """How the run stands, and what the user may do."""
    with _page() as page:
        found = page.run(dag_id, run_id)
    if found is None:
        raise HTTPException(
            status.HTTP_404_NOT_FOUND,
            "The target knows nothing of this run: preparation has not opened it yet, or it was refused.",
        )
    return {**found, "may_edit": may_edit(request, user)}


@router.get("/dags/{dag_id}/runs/{run_id}/checks", dependencies=READS)
def run_checks(dag_id: str, run_id: str) -> list[dict[str, Any]]:
    """Every check of the run."""
    with _page() as page:
        return page.checks(dag_id, run_id)


@router.get("/dags/{dag_id}/now")
def state(request: Request, user: ReadUser) -> dict[str, Any]:
    """The target as it is now, and the last runs into it."""
    with _page() as page:
        return {**page.state(), "may_edit": may_edit(request, user)}


@router.post("/dags/{dag_id}/quarantine", dependencies=READS)
def quarantine(chosen: Chosen) -> dict[str, Any]:
    """A page of rows in quarantine: legacy ids, codes and columns, no values."""
    after = chosen.after.model_dump() if chosen.after else None
    with _page() as page:
        rows = page.quarantine(chosen.entity, chosen.code, after)
    return {"rows": rows, "more": len(rows) == PAGE_ROWS}


@router.post("/dags/{dag_id}/quarantine/values")
def quarantined_values(look: Look, user: EditUser) -> dict[str, Any]:
    """The values of one row in quarantine: health data, so for editors, and the audit trail keeps who looked."""
    with _page() as page:
        values = page.quarantined_values(look.id, name_of(user))
    if values is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "The row is no longer in quarantine.")
    return {"values": values}


@contextmanager
def _page() -> Iterator[RunPage]:
    with page_target() as target:
        yield RunPage(target)
