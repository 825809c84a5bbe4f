"""Undoing merges by hand: rows that are no duplicates after all."""

from __future__ import annotations

from dataclasses import dataclass

from airflow.sdk import Param

from include.entities import ENTITIES
from plugins.hooks.merging import unmerge_rows
from plugins.hooks.target import open_target
from plugins.hooks.target_schema import verify_schema
from plugins.operators import by_hand
from plugins.operators.by_hand import REQUEST_RETRIES, ByHandOperator, load_via
from plugins.operators.step import LOG


def form() -> dict[str, Param]:
    """The params; the operator checks them again, for conf of the API or the CLI may hold others too."""
    entities = [name for name, entity in ENTITIES.items() if entity.deduplicate]
    return {
        "entity": Param(
            entities[0], type="string", enum=entities, title="Entity", description="What was merged."
        ),
        "legacy_ids": Param(
            [],
            type="array",
            items={"type": "string", "pattern": "^[!-~]{1,64}$"},
            minItems=1,
            maxItems=1_000,
            uniqueItems=True,
            title="Merged rows",
            description="Legacy ids of the rows to be parted from their survivor, one a line; not the survivor's own.",
        ),
        "decided_by": Param(
            "",
            type="string",
            pattern=r"\S",
            maxLength=200,
            title="Decided by",
            description="Who says that they are different, in 200 characters; kept beside the rejected pairs.",
        ),
        "reason": Param(
            "",
            type="string",
            pattern=r"\S",
            maxLength=1_000,
            title="Reason",
            description="Why they are different, on one line of at most 1,000 characters; kept there too. No names or"
            " clinical facts: it is shown in Airflow.",
        ),
        "load_via": load_via(),
    }


@dataclass(frozen=True)
class Request(by_hand.Request):
    """The checked params."""

    entity: str
    legacy_ids: list[str]
    decided_by: str
    reason: str
    load_via: str

    form = staticmethod(form)


class UndoMergeOperator(ByHandOperator):
    """Undoes the merges of some rows, all or none."""

    request = Request

    def do(self, request: Request) -> dict[str, int]:
        """Returns how many rows were parted, how many refer to them again and how many pairs were rejected."""
        with open_target(request.load_via, max_retries=REQUEST_RETRIES, entity=request.entity) as target:
            verify_schema(target, None)
            undone = unmerge_rows(
                target, request.entity, request.legacy_ids, request.decided_by, request.reason
            )
        counts = {
            "rows": len(undone),
            "children": sum(each.children for each in undone),
            "rejected": sum(each.rejected for each in undone),
        }
        LOG.info(
            "[migration] %-16s %s: %d merges undone, %d rows refer to them again, %d pairs rejected",
            *(self.task_id, request.entity, *counts.values()),
        )
        return counts
