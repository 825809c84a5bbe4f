"""What is wrong beforehand is refused: a registered code, the next step, a failed run, nothing written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from include.core.errors import REGISTRY
from local.environment import connection_variable
from local.postgres import EmbeddedPostgres
from tests.conftest import fresh_database
from tests.end_to_end.conftest import MakeDatabases
from tests.end_to_end.runs import Airflow, Databases, Outcome

WRONG = "wr0ng-secret-word"
SOURCE, TARGET = "AIRFLOW_CONN_LEGACY_MDW", "AIRFLOW_CONN_SUPABASE_DB"


@pytest.fixture(scope="module")
def databases(make_databases: MakeDatabases) -> Databases:
    """Shared by all: nothing is ever written to them."""
    return make_databases()


@contextmanager
def changed_source(databases: Databases, change: str, back: str) -> Iterator[None]:
    with psycopg.connect(databases.source_admin, autocommit=True) as connection:
        connection.execute(change.encode())
        try:
            yield
        finally:
            connection.execute(back.encode())


def business_rows(databases: Databases) -> int:
    """Rows in every table of the public schema; its tables may not even exist."""
    tables = databases.read("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return sum(databases.read(f"SELECT count(*) FROM public.{name}")[0][0] for (name,) in tables)


def assert_refused(outcome: Outcome, databases: Databases, code: str, *words: str) -> None:
    """The log names the code, its next step and the words, and no password; the verdict is a failure."""
    assert outcome.state == "failed", outcome.log[-4000:]
    assert f"[{code}]" in outcome.log
    assert f"next:  {REGISTRY[code].next_step}" in outcome.log
    for word in words:
        assert word in outcome.log
    for secret in (WRONG, urlsplit(databases.source).password, urlsplit(databases.target).password):
        assert str(secret) not in outcome.log


def changed(dsn: str, **parts: str) -> str:
    """A connection to another server, database or with another password."""
    was = urlsplit(dsn)
    at = f"{was.username}:{parts.get('password', was.password)}@{was.hostname}:{parts.get('port', was.port)}"
    return connection_variable(f"postgresql://{at}{parts.get('path', was.path)}")


class TestParams:
    def test_unknown(self, airflow: Airflow, databases: Databases) -> None:
        outcome = airflow.run(databases, dry_run=False, batchsize=5)
        assert_refused(outcome, databases, "PARAM_UNKNOWN", "batchsize", "batch_size")
        assert business_rows(databases) == 0

    @pytest.mark.parametrize(
        ("conf", "words"),
        [
            ({"batch_size": 0}, ("batch_size", "minimum of 1")),
            ({"batch_size": "many"}, ("batch_size", "integer")),
            ({"entities": ["teeth"]}, ("entities", "'teeth'", "patients")),
            ({"dry_run": "no"}, ("dry_run", "boolean")),
            ({"log_level": "LOUD"}, ("log_level", "DEBUG")),
            ({"max_rejected": 1.5}, ("max_rejected", "maximum of 1")),
        ],
    )
    def test_what_the_form_refuses_never_becomes_a_run(
        self, airflow: Airflow, databases: Databases, conf: dict[str, Any], words: tuple[str, ...]
    ) -> None:
        outcome = airflow.run(databases, **{"dry_run": False, **conf})
        assert outcome.state == "refused"
        for word in words:
            assert word in outcome.log
        assert business_rows(databases) == 0

    @pytest.mark.parametrize("value", ["0", "many"])
    def test_a_wrong_default_from_the_environment_is_named(
        self, airflow: Airflow, databases: Databases, value: str
    ) -> None:
        outcome = airflow.run(databases, environment={"MIGRATION_BATCH_SIZE": value}, dry_run=False)
        assert outcome.state == "refused"
        assert "batch_size" in outcome.log


class TestSource:
    def test_a_renamed_column_is_named_with_its_likely_new_name(
        self, airflow: Airflow, databases: Databases
    ) -> None:
        """As a command: its exit code is what a scheduler sees."""
        with changed_source(
            databases,
            "ALTER TABLE dispatch_patient RENAME birthdate TO birth_day",
            "ALTER TABLE dispatch_patient RENAME birth_day TO birthdate",
        ):
            outcome = airflow.run_command(databases, dry_run=False)
        assert outcome.exit_code not in (0, None)
        assert_refused(outcome, databases, "SOURCE_DRIFT", "dispatch_patient.birthdate", "birth_day")
        assert business_rows(databases) == 0
        assert outcome.report is not None
        assert outcome.report["status"] == "failed"
        assert outcome.report["failed_tasks"] == ["preparation.check_source"]

    def test_a_missing_table(self, airflow: Airflow, databases: Databases) -> None:
        with changed_source(
            databases,
            "ALTER TABLE dispatch_state RENAME TO dispatch_condition",
            "ALTER TABLE dispatch_condition RENAME TO dispatch_state",
        ):
            outcome = airflow.run(databases, dry_run=False)
        assert_refused(outcome, databases, "SOURCE_DRIFT", "table dispatch_state")

    def test_a_table_that_may_not_be_read(self, airflow: Airflow, databases: Databases) -> None:
        with changed_source(
            databases,
            "REVOKE SELECT ON dispatch_plan FROM mdw_reader",
            "GRANT SELECT ON dispatch_plan TO mdw_reader",
        ):
            outcome = airflow.run(databases, dry_run=False)
        assert_refused(outcome, databases, "SOURCE_FORBIDDEN", "dispatch_plan")

    def test_a_wrong_password(self, airflow: Airflow, databases: Databases) -> None:
        outcome = airflow.run(
            databases, environment={SOURCE: changed(databases.source, password=WRONG)}, dry_run=False
        )
        assert_refused(outcome, databases, "SOURCE_LOGIN_REFUSED", "connection=legacy_mdw")

    def test_an_unreachable_server(self, airflow: Airflow, databases: Databases) -> None:
        outcome = airflow.run(
            databases, environment={SOURCE: changed(databases.source, port="9")}, dry_run=False, max_retries=0
        )
        assert_refused(outcome, databases, "SOURCE_UNREACHABLE", "port=9")

    def test_no_connection_at_all(self, airflow: Airflow, databases: Databases) -> None:
        outcome = airflow.run(databases, environment={SOURCE: None}, dry_run=False)
        assert_refused(outcome, databases, "CONNECTION_MISSING", SOURCE, "LEGACY_DB_HOST")


class TestTarget:
    def test_a_wrong_password(self, airflow: Airflow, databases: Databases) -> None:
        outcome = airflow.run(
            databases, environment={TARGET: changed(databases.target, password=WRONG)}, dry_run=False
        )
        assert_refused(outcome, databases, "TARGET_LOGIN_REFUSED", "connection=supabase_db")
        assert outcome.report is not None
        assert outcome.report["status"] == "failed"

    def test_a_plain_postgresql(
        self, airflow: Airflow, databases: Databases, server: EmbeddedPostgres
    ) -> None:
        with fresh_database(server, owner="postgres") as plain:
            other = Databases(databases.source, server.dsn(plain, role="postgres"), databases.source_admin)
            outcome = airflow.run(other, dry_run=False)
            created = other.read(
                "SELECT nspname FROM pg_namespace WHERE nspname IN ('migration', 'private')"
                " UNION ALL SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            )
        assert_refused(
            outcome, databases, "TARGET_PLATFORM_MISSING", "auth", "vector", "supabase_platform.sql"
        )
        assert created == []

    def test_entities_without_their_parents(self, airflow: Airflow, databases: Databases) -> None:
        outcome = airflow.run(databases, dry_run=False, entities=["cases"])
        assert_refused(outcome, databases, "ENTITY_PARENT_MISSING", "patients", "practices", "profiles")
        assert business_rows(databases) == 0
