"""What a run is going to do with each entity: made once, found again by every repeated step."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseHook

from include.core.errors import MigrationError
from plugins.hooks.target import Target


class PlansHook(BaseHook):
    """Writes and reads the plans of one run."""

    def __init__(self, target: Target, run_id: str) -> None:
        super().__init__()
        self._target = target
        self._run_id = run_id

    def scope(self) -> str:
        """Which source rows the run takes up: ``everything``, ``changes`` or ``quarantine``.

        Raises:
            MigrationError: RUN_STATE_MISSING.
        """
        scope = self._target.call("run_scope", run=self._run_id)
        if scope is None:
            raise MigrationError("RUN_STATE_MISSING", "", run=self._run_id)
        return str(scope)

    def find(self, entity: str) -> list[dict[str, Any]] | None:
        """The partitions of an entity as planned earlier in this run."""
        partitions: list[dict[str, Any]] | None = self._target.call(
            "find_plan", run=self._run_id, entity=entity
        )
        return partitions

    def source_rows(self) -> dict[str, int]:
        """Entity to the number of rows that the source has."""
        return dict(self._target.call("source_rows", run=self._run_id))

    def record(
        self, entity: str, partitions: list[dict[str, Any]], *, source_rows: int, selected: int, gone: int
    ) -> list[dict[str, Any]]:
        """Keep a plan; returns the partitions that count: those of the first plan, where there was one.

        Args:
            source_rows: rows to be migrated that the source has.
            selected: those of them that are read in this run.
            gone: rows the target knows and the source no longer has.
        """
        plan = {
            "partitions": partitions,
            "source_rows": source_rows,
            "selected_rows": selected,
            "gone_rows": gone,
        }
        return list(self._target.call("record_plan", run=self._run_id, entity=entity, plan=plan))
