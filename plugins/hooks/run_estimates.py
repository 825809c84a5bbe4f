"""The estimate of a run, in the target: made before anything is read, held against reality by its report."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from include.core.run_estimate import expect
from include.core.spec import Entity
from plugins.hooks.target import Target


class RunEstimates:
    """Makes and keeps the estimate of one run, once everything is planned."""

    def __init__(self, target: Target, run_id: str) -> None:
        self._target = target
        self.run_id = run_id

    def make(self, entities: Collection[Entity], way: str) -> dict[str, Any]:
        """Estimate and keep it; made again, the first one stays and is returned.

        Args:
            entities: the run's.
            way: postgres or rest.

        Raises:
            MigrationError: RUN_LOST.
        """
        facts = self._target.call("estimate_facts", run=self.run_id)
        made = expect(entities, facts["planned"], facts["last"], way)
        self._target.call("record_estimate", run=self.run_id, estimate=made)
        return self.recorded() or made

    def recorded(self) -> dict[str, Any] | None:
        """As it was kept, with the time of that."""
        estimate: dict[str, Any] | None = self.facts()["estimate"]
        return estimate

    def facts(self) -> dict[str, Any]:
        """``estimate`` (None: never made), ``server``: the version of the target's server."""
        return dict(self._target.call("report_facts", run=self.run_id))
