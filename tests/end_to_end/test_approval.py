"""`airflow dags test` has nobody to ask: it refuses to wait for ever, and has a documented way past."""

from __future__ import annotations

import pytest

from tests.end_to_end.conftest import MakeDatabases
from tests.end_to_end.content import content
from tests.end_to_end.runs import Airflow, Databases

CONF = {"dry_run": False, "enable_ai": False, "entities": ["practices"], "require_approval": True}


@pytest.fixture(scope="module")
def databases(make_databases: MakeDatabases) -> Databases:
    return make_databases()


def test_a_run_that_must_be_approved_is_refused_with_the_way_past(
    airflow: Airflow, databases: Databases
) -> None:
    outcome = airflow.run(databases, **CONF)
    assert outcome.state == "failed"
    assert outcome.tasks["approval.numbers[-1]"] == "success"
    assert outcome.tasks["loading.deleted_rows[-1]"] == "upstream_failed"
    assert "[APPROVAL_UNATTENDED]" in outcome.log
    assert "MIGRATION_APPROVE=yes" in outcome.log
    assert not any(content(databases).rows.values())
    assert databases.read("SELECT run_id FROM migration.run_lock") == []


def test_the_environment_approves_it(airflow: Airflow, databases: Databases) -> None:
    outcome = airflow.run(databases, environment={"MIGRATION_APPROVE": "yes"}, **CONF)
    assert outcome.state == "success", outcome.log[-4000:]
    assert outcome.tasks["approval.gate[-1]"] == "success"
    assert content(databases).rows["practices"]
    assert databases.read("SELECT details ->> 'by' FROM migration.audit_log WHERE event = 'approved'") == [
        ("MIGRATION_APPROVE=yes",)
    ]
