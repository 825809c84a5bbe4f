"""Undoing merges by hand: rows that are no duplicates after all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, Param

from include.entities import ENTITIES
from plugins.form import checked
from plugins.hooks.merging import unmerge_rows
from plugins.hooks.target import open_target
from plugins.hooks.target_schema import verify_schema
from plugins.operators.step import LOG, given, guide, registered

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

# How often a single request of the API is repeated after a transient error; the call takes effect once.
_REQUEST_RETRIES = 3


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
        "load_via": Param(
            "auto",
            type="string",
            enum=["auto", "postgres", "rest"],
            title="Way into the target",
            description="postgres: connection `supabase_db`. rest: the Supabase client, connection `supabase`. auto:"
            " postgres where that connection exists, else rest.",
        ),
    }


@dataclass(frozen=True)
class Request:
    """The checked params."""

    entity: str
    legacy_ids: list[str]
    decided_by: str
    reason: str
    load_via: str

    @classmethod
    def of(cls, context: Context) -> Request:
        """Read from a task's context.

        Raises:
            MigrationError: PARAM_UNKNOWN or PARAM_INVALID; it names the parameter, never what it holds.
        """
        return cls(**checked(given(context), form()))


class UndoMergeOperator(BaseOperator):
    """Undoes the merges of some rows, all or none."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"on_failure_callback": guide, **kwargs})

    def execute(self, context: Context) -> dict[str, int]:
        """Returns how many rows were parted, how many refer to them again and how many pairs were rejected."""
        with registered(self.task_id, self.task_id):
            return self._undo(Request.of(context))

    def _undo(self, request: Request) -> dict[str, int]:
        with open_target(request.load_via, max_retries=_REQUEST_RETRIES, entity=request.entity) as target:
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
