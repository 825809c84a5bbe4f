"""The last step of preparation: what the run will take, said and kept before anything is read."""

from __future__ import annotations

from include.core.messages import started
from include.core.run_estimate import readable_seconds
from plugins.hooks.notifications import run_link, tell
from plugins.hooks.run_estimates import RunEstimates
from plugins.operators.preflight import chosen
from plugins.operators.step import MigrationOperator, Run


class EstimateOperator(MigrationOperator):
    """Estimates the time of every phase from planned rows, and tells those who are to know that the run has begun."""

    def step(self, run: Run) -> float:
        """Returns the expected seconds of the whole run, without embeddings and files."""
        entities = chosen(run.settings)
        with self.target(run) as target:
            made = RunEstimates(target, run.run_id).make(entities, run.way)
            rows = max((phase["rows"] for phase in made["phases"]), default=0)
            seconds = float(made["total_seconds"])
            message = started(
                run.dag_id,
                run.run_id,
                mode=run.mode,
                rows=rows,
                entities=len(entities),
                seconds=seconds,
                link=run_link(run.dag_id, run.run_id),
            )
            tell(target, run.run_id, message)
        parts = ", ".join(
            f"{phase['phase']} {readable_seconds(phase['seconds'])}" for phase in made["phases"]
        )
        self.progress(
            f"{rows:,} rows to take up, about {readable_seconds(seconds)} without embeddings and files: {parts}"
        )
        return seconds
