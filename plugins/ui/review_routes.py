"""Routes of the review: the queue of pairs that may be one patient, decisions on them, and merges that are undone.

Who may read the DAG sees ids, scores and counts. Names, decisions and merges are for those who may edit it; the target
keeps who saw which pairs and who decided, by their name in Airflow. What is asked stands in bodies, never in addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from plugins.hooks.merging import unmerge_rows
from plugins.hooks.review import CONFIRMED, REJECTED, Decision, Review, Wanted
from plugins.ui.access import EditUser, ReadUser, may_edit, name_of
from plugins.ui.pages import page_file
from plugins.ui.target import page_target

ENTITY = "patients"
COMPARED_HERE = "compared side by side"
"""The reason of a confirmation or rejection that came without one: the page shows both rows."""
_MOST_UNMERGED = 100

router = APIRouter(prefix="/dags/{dag_id}/review")

# PostgreSQL has no text with a zero character.
_TEXT = r"^[^\x00]*$"
_Id = Annotated[str, Field(min_length=1, max_length=64, pattern=_TEXT)]
_Score = Annotated[float, Field(ge=0, le=1)]
_Words = Annotated[str, Field(max_length=1_000, pattern=_TEXT)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Place(_Body):
    """Where a page ends, as the page itself said."""

    position: Annotated[float, Field(ge=0, le=1)]
    left: _Id
    right: _Id


class WantedPage(_Body):
    """Which page of the queue; see :class:`plugins.hooks.review.Wanted`."""

    status: Literal["pending", "asked_again", "auto_merged", "confirmed", "rejected", "stale"] = "pending"
    order: Literal["likely", "unlikely", "doubtful"] = "likely"
    lowest: _Score | None = None
    highest: _Score | None = None
    id: _Id | None = None
    after: Place | None = None


class WantedPair(_Body):
    """One pair, by the legacy ids of its rows."""

    left: _Id
    right: _Id


class Decided(WantedPair):
    """A decision on a pair as it was shown: `seen` and `reviewed` came with it."""

    decision: Literal["confirmed", "rejected", "pending"]
    reason: _Words = ""
    seen: _Words | None
    reviewed: _Words


class Unmerging(_Body):
    """Merged rows that are to be rows of their own again."""

    legacy_ids: Annotated[list[_Id], Field(min_length=1, max_length=_MOST_UNMERGED)]
    reason: _Words


@router.get("")
def page(dag_id: str, user: ReadUser) -> FileResponse:  # noqa: ARG001 - the path and the permission
    """The page itself, without data."""
    return page_file("review.html")


@router.get("/rights")
def rights(dag_id: str, request: Request, user: ReadUser) -> dict[str, Any]:  # noqa: ARG001
    """What the page may offer."""
    return {"user": name_of(user), "may_edit": may_edit(request, user)}


@router.post("/pairs")
def pairs(dag_id: str, wanted: WantedPage, user: ReadUser) -> dict[str, Any]:  # noqa: ARG001
    """A page of pairs without names, counts by status, and where the next page begins."""
    return _page(wanted, names_for=None)


@router.post("/named-pairs")
def named_pairs(dag_id: str, wanted: WantedPage, user: EditUser) -> dict[str, Any]:  # noqa: ARG001
    """The same with names and birth dates."""
    return _page(wanted, names_for=name_of(user))


@router.post("/pair")
def pair(dag_id: str, wanted: WantedPair, user: EditUser) -> dict[str, Any]:  # noqa: ARG001
    """One pair: both rows, what speaks for and against it, and what is merged with it."""
    with page_target() as target:
        shown = Review(target, ENTITY).pair(wanted.left, wanted.right, names_for=name_of(user))
    return {**shown, "explanation": evidence(shown["explanation"])}


@router.put("/decision")
def decide(dag_id: str, decided: Decided, user: EditUser) -> dict[str, Any]:  # noqa: ARG001
    """Keep a decision; the next run applies it."""
    default = COMPARED_HERE if decided.decision in (CONFIRMED, REJECTED) else ""
    decision = Decision(
        decided.left,
        decided.right,
        decided.decision,
        name_of(user),
        decided.reason.strip() or default,
        f"pair {decided.left} and {decided.right}",
        decided.seen,
    )
    with page_target() as target:
        return Review(target, ENTITY).decide_shown(decision, decided.reviewed)


@router.put("/undo")
def undo(dag_id: str, undone: WantedPair, user: EditUser) -> dict[str, Any]:  # noqa: ARG001
    """Take the user's last decision on a pair back."""
    with page_target() as target:
        return Review(target, ENTITY).undo(undone.left, undone.right, name_of(user))


@router.put("/unmerge")
def unmerge(dag_id: str, unmerging: Unmerging, user: EditUser) -> dict[str, Any]:  # noqa: ARG001
    """Undo merges at once, all or none; refused while a run is under way."""
    with page_target() as target:
        undone = unmerge_rows(target, ENTITY, unmerging.legacy_ids, name_of(user), unmerging.reason.strip())
        return {"undone": [asdict(each) for each in undone], "counts": Review(target, ENTITY).counts()}


def evidence(explanation: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What speaks for and against a pair, the weightiest first, and why no run merges it by itself.

    Args:
        explanation: as the matcher gave it (include/matching/explaining.py); empty where no run found the pair.

    Returns:
        `in_favour` and `against`: field, words, weight in bits; `vetoes`: words.
    """
    told = [
        {"field": name, **field} for name, field in explanation.get("fields", {}).items() if field["weight"]
    ]
    told.sort(key=lambda field: -abs(field["weight"]))
    shown = [{name: field[name] for name in ("field", "words", "weight")} for field in told]
    return {
        "in_favour": [field for field in shown if field["weight"] > 0],
        "against": [field for field in shown if field["weight"] < 0],
        "vetoes": [{"words": veto.replace("_", " ")} for veto in explanation.get("vetoes", ())],
    }


def _page(wanted: WantedPage, *, names_for: str | None) -> dict[str, Any]:
    with page_target() as target:
        return Review(target, ENTITY).page(Wanted(**wanted.model_dump()), names_for=names_for)
