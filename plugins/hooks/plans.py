"""What a run is going to do with each entity: made once, found again by every repeated step."""

from __future__ import annotations

from typing import Any

import psycopg
from airflow.sdk import BaseHook
from psycopg.types.json import Jsonb


class PlansHook(BaseHook):
    """Writes and reads the plans of one run, over a connection that the caller owns."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], run_id: str) -> None:
        super().__init__()
        self._connection = connection
        self._run_id = run_id

    def scope(self) -> str:
        """Which source rows the run takes up: ``everything``, ``changes`` or ``quarantine``."""
        row = self._connection.execute(
            "SELECT scope FROM migration.runs WHERE run_id = %s", [self._run_id]
        ).fetchone()
        if row is None:
            raise LookupError(f"run {self._run_id} was never opened")
        return str(row[0])

    def find(self, entity: str) -> list[dict[str, Any]] | None:
        """The partitions of an entity as planned earlier in this run."""
        row = self._connection.execute(
            "SELECT partitions FROM migration.plans WHERE run_id = %s AND entity = %s", [self._run_id, entity]
        ).fetchone()
        return None if row is None else list(row[0])

    def source_rows(self) -> dict[str, int]:
        """Entity to the number of rows that the source has."""
        return dict(
            self._connection.execute(
                "SELECT entity, source_rows FROM migration.plans WHERE run_id = %s", [self._run_id]
            ).fetchall()
        )

    def record(
        self, entity: str, partitions: list[dict[str, Any]], *, source_rows: int, selected: int, gone: int
    ) -> None:
        """Keep a plan.

        Args:
            source_rows: rows to be migrated that the source has.
            selected: those of them that are read in this run.
            gone: rows the target knows and the source no longer has.
        """
        self._connection.execute(
            "INSERT INTO migration.plans (run_id, entity, source_rows, selected_rows, gone_rows, partitions)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            [self._run_id, entity, source_rows, selected, gone, Jsonb(partitions)],
        )
