"""The full DAG as Airflow parses it."""

from __future__ import annotations

import os

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG


@pytest.fixture(scope="session")
def bag() -> DagBag:
    with pytest.MonkeyPatch.context() as clean:
        for name in ("MIGRATION_BATCH_SIZE", "MIGRATION_MAX_RETRIES", "MIGRATION_LOG_LEVEL"):
            clean.delenv(name, raising=False)
        return DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])


@pytest.fixture(scope="session")
def dag(bag: DagBag) -> DAG:
    assert bag.import_errors == {}
    found: DAG = bag.dags["mdw_full_migration"]
    return found
