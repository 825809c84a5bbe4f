"""Rolling a run back by hand."""

from __future__ import annotations

from dataclasses import dataclass

from airflow.sdk import Param

from plugins.hooks.rollback import RolledBack, roll_back
from plugins.hooks.target import open_target
from plugins.operators import by_hand
from plugins.operators.by_hand import REQUEST_RETRIES, ByHandOperator, load_via
from plugins.operators.step import LOG


def form() -> dict[str, Param]:
    """The params; the operator checks them again, for conf of the API or the CLI may hold others too."""
    return {
        "run_id": Param(
            "",
            type="string",
            pattern="^[!-~]([ -~]*[!-~])?$",
            maxLength=250,
            title="Run",
            description="Id of the run to be rolled back, as its report and `migration.runs` show it.",
        ),
        "decided_by": Param(
            "",
            type="string",
            pattern=r"\S",
            maxLength=200,
            title="Decided by",
            description="Who wants it, in 200 characters; kept with the run.",
        ),
        "reason": Param(
            "",
            type="string",
            pattern=r"\S",
            maxLength=1_000,
            title="Reason",
            description="Why, on one line of at most 1,000 characters; kept with the run. No names or clinical facts:"
            " it is shown in Airflow.",
        ),
        "with_later_runs": Param(
            False,
            type="boolean",
            title="Later runs too",
            description="true: also roll back every run that wrote after this one began. false: such runs stop it.",
        ),
        "overwrite_foreign": Param(
            False,
            type="boolean",
            title="Overwrite what others wrote",
            description="true: also put back rows that somebody else has changed since. false: such rows stop it.",
        ),
        "load_via": load_via(),
    }


@dataclass(frozen=True)
class Request(by_hand.Request):
    """The checked params."""

    run_id: str
    decided_by: str
    reason: str
    with_later_runs: bool
    overwrite_foreign: bool
    load_via: str

    form = staticmethod(form)


class RollBackOperator(ByHandOperator):
    """Rolls a run back, wholly or not at all."""

    request = Request

    def do(self, request: Request) -> dict[str, int]:
        """Returns how many runs were rolled back, rows removed and restored, decisions kept and rows overwritten."""
        with open_target(request.load_via, max_retries=REQUEST_RETRIES, run=request.run_id) as target:
            undone = roll_back(
                target,
                request.run_id,
                request.decided_by,
                request.reason,
                with_later=request.with_later_runs,
                overwrite=request.overwrite_foreign,
            )
        self._tell(request.run_id, undone)
        return {
            "runs": len(undone.runs),
            "removed": sum(counts.removed for counts in undone.tables.values()),
            "restored": sum(counts.restored for counts in undone.tables.values()),
            "decisions_kept": undone.decisions_kept,
            "overwritten": undone.overwritten,
        }

    def _tell(self, run_id: str, undone: RolledBack) -> None:
        if not undone.runs:
            LOG.info("[migration] %-16s %s was rolled back before: nothing to do", self.task_id, run_id)
            return
        LOG.info("[migration] %-16s rolled back: %s", self.task_id, ", ".join(undone.runs))
        for table, counts in sorted(undone.tables.items()):
            LOG.info(
                "[migration] %-16s %s: %d rows removed, %d put back as they were",
                *(self.task_id, table, counts.removed, counts.restored),
            )
        LOG.info(
            "[migration] %-16s %d decisions of people kept, %d rows of others overwritten; files in Storage stay",
            *(self.task_id, undone.decisions_kept, undone.overwritten),
        )
