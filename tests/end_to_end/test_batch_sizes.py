"""How rows are cut into partitions and batches never shows in the target."""

from __future__ import annotations

import pytest

from include.synthetic.sizes import SourceSize
from local.legacy_source import fill
from local.postgres import EmbeddedPostgres
from tests.end_to_end.conftest import SEED, FirstRuns, MakeDatabases
from tests.end_to_end.content import content
from tests.end_to_end.runs import Airflow, Databases

# A batch per row costs three transactions and three files each.
TINY = SourceSize.real().scaled(
    40,
    instructions=30,
    projects=12,
    plans=12,
    states=12,
    jaws=10,
    tasks=40,
    categories=6,
    roles=6,
    templates=12,
    template_edit_roles=12,
    template_view_roles=12,
    template_view_groups=8,
    template_products=8,
    template_predecessors=8,
)
# References, merges and rows that look at the row before them.
SOME = ["practices", "profiles", "patients", "cases", "instruction_states", "state_analytics"]


def most_rows_per_batch(databases: Databases, phase: str) -> int:
    rows = databases.read(
        f"SELECT max(extracted) FROM migration.batches WHERE phase = '{phase}'"
        # Registries are never cut: their rows refer to each other.
        " AND entity NOT IN ('workflow_templates', 'workflow_template_tasks', 'workflow_performance')"
    )
    return int(rows[0][0])


def test_small_batches_in_several_partitions(
    airflow: Airflow, make_databases: MakeDatabases, first_runs: FirstRuns
) -> None:
    databases = make_databases()
    outcome = airflow.run(
        databases, environment={"MIGRATION_PARTITION_ROWS": "119"}, dry_run=False, batch_size=7
    )
    assert outcome.state == "success", outcome.log[-4000:]
    assert content(databases).digests == first_runs.after_real.digests
    assert outcome.fates() == first_runs.real.fates()
    assert most_rows_per_batch(databases, "extraction") == 7
    partitions = [task for task in outcome.tasks if task.startswith("loading.cases[")]
    assert len(partitions) == 3  # 356 orders, 119 rows each


@pytest.fixture(scope="module")
def tiny(server: EmbeddedPostgres) -> str:
    """Name of a source small enough for a batch per row."""
    name = "tiny_source"
    fill(server.create_database(name), TINY, SEED, progress=lambda _: None)
    return name


def test_a_batch_per_row(airflow: Airflow, make_databases: MakeDatabases, tiny: str) -> None:
    digests, fates = [], []
    for batch_size in (1, 25_000):
        databases = make_databases(tiny)
        outcome = airflow.run(databases, dry_run=False, enable_ai=False, entities=SOME, batch_size=batch_size)
        assert outcome.state == "success", outcome.log[-4000:]
        assert most_rows_per_batch(databases, "extraction") == min(batch_size, 50)
        digests.append(content(databases).digests)
        fates.append(outcome.fates())
    assert digests[0] == digests[1]
    assert fates[0] == fates[1]
