"""Every check of the target, provoked in a real one, before and behind its deployment, by either way in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from include.core.preflight import CATALOGUE, Result, Status, run_check
from local.environment import connection_variable, supabase_variable
from local.postgres import EmbeddedPostgres
from plugins.hooks.schema_files import schema_files
from plugins.hooks.target_health import TargetChecks, declared_enums, opened_target
from tests.conftest import Serving
from tests.hooks.loading import DIMENSIONS, Target, clean_table, project

NAMES = {name for name, kind in CATALOGUE.items() if kind.area == "target"} - {"target.reachable"}


@contextmanager
def asked(way: str = "postgres", dimensions: int | None = DIMENSIONS) -> Iterator[TargetChecks]:
    with opened_target(way, dimensions) as checks:
        yield checks


def results(way: str = "postgres", dimensions: int | None = DIMENSIONS) -> dict[str, Result]:
    with asked(way, dimensions) as target:
        return {name: run_check(name, check) for name, check in target.checks().items()}


def result(name: str, dimensions: int | None = DIMENSIONS) -> Result:
    with asked(dimensions=dimensions) as target:
        return run_check(name, target.checks()[name])


def statuses(found: dict[str, Result]) -> dict[str, Status]:
    return {name: result.status for name, result in found.items() if result.status is not Status.PASS}


@pytest.fixture
def empty(target_database: str, monkeypatch: pytest.MonkeyPatch) -> psycopg.Connection[Any]:
    """The owner in a target like a new Supabase project, which is also connection `supabase_db`."""
    monkeypatch.setenv("AIRFLOW_CONN_SUPABASE_DB", connection_variable(target_database))
    return psycopg.connect(target_database, autocommit=True)


class TestBeforeDeployment:
    def test_a_new_project_is_ready(self, empty: psycopg.Connection[Any]) -> None:
        found = results()
        assert set(found) == NAMES
        assert statuses(found) == {}
        assert found["target.schema"].facts["new"] == len(schema_files())

    def test_nothing_is_deployed_by_asking(self, empty: psycopg.Connection[Any]) -> None:
        query = "SELECT count(*), txid_snapshot_xmax(txid_current_snapshot()) > 0 FROM pg_class"
        before = empty.execute(query).fetchone()
        results()
        assert empty.execute(query).fetchone() == before

    def test_tables_of_our_names(self, empty: psycopg.Connection[Any]) -> None:
        empty.execute("CREATE TABLE public.cases (id int)")
        found = result("target.tables")
        assert (found.status, "public.cases" in found.why) == (Status.FAIL, True)
        for statement in found.fix.splitlines()[1:]:
            empty.execute(statement.encode())
        assert result("target.tables").status is Status.PASS

    def test_a_role_that_may_not_create(
        self, server: EmbeddedPostgres, target_database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.create_login("visitor")
        name = psycopg.conninfo.conninfo_to_dict(target_database)["dbname"]
        dsn = server.dsn(str(name), role="visitor")
        monkeypatch.setenv("AIRFLOW_CONN_SUPABASE_DB", connection_variable(dsn))
        found = result("target.role")
        assert found.status is Status.FAIL
        with psycopg.connect(server.dsn(str(name)), autocommit=True) as admin:
            for statement in found.fix.splitlines():
                assert statement.startswith("GRANT CREATE ON ")
                admin.execute(statement.encode())
        assert result("target.role").status is Status.PASS

    def test_a_plain_postgresql(self, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_SUPABASE_DB", connection_variable(database))
        found = result("target.platform")
        assert (found.status, found.facts["code"]) == (Status.FAIL, "TARGET_PLATFORM_MISSING")

    def test_vectors_are_made_to_fit(self, empty: psycopg.Connection[Any]) -> None:
        assert "created with 7 dimensions" in result("target.vectors", 7).why
        assert result("target.vectors", None).status is Status.SKIPPED


class TestDeployed:
    def test_it_is_ready_again(self, session: psycopg.Connection[Any]) -> None:
        assert statuses(results()) == {}

    def test_a_file_that_was_edited_behind_its_deployment(self, session: psycopg.Connection[Any]) -> None:
        name = schema_files()[-1].name
        session.execute("UPDATE migration.schema_versions SET hash = 'other' WHERE name = %s", [name])
        found = result("target.schema")
        assert found.status is Status.FAIL
        assert found.fix.startswith(f"git checkout -- include/sql/{name}\n")

    def test_files_that_are_new_and_files_that_are_unknown(self, session: psycopg.Connection[Any]) -> None:
        name = schema_files()[-1].name
        session.execute("DELETE FROM migration.schema_versions WHERE name = %s", [name])
        assert f"a run deploys {name}" in result("target.schema").why
        session.execute("INSERT INTO migration.schema_versions (name) VALUES ('target/9999_later.sql')")
        found = result("target.schema")
        assert (found.status, "target/9999_later.sql" in found.why) == (Status.FAIL, True)

    def test_a_trigger_of_somebody_else(self, session: psycopg.Connection[Any]) -> None:
        session.execute(
            "CREATE FUNCTION public.noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
        )
        session.execute(
            "CREATE TRIGGER notes AFTER INSERT ON public.cases FOR EACH ROW EXECUTE FUNCTION public.noted()"
        )
        found = result("target.triggers")
        assert (found.status, "notes on cases" in found.why) == (Status.WARN, True)
        session.execute(found.fix.encode())
        assert result("target.triggers").status is Status.PASS

    def test_values_of_enums(self, session: psycopg.Connection[Any]) -> None:
        session.execute("ALTER TYPE public.gender_type ADD VALUE 'unheard of'")
        found = result("target.enums")
        assert (found.status, "gender_type: unheard of" in found.why) == (Status.WARN, True)
        session.execute("ALTER TYPE public.gender_type RENAME VALUE 'female' TO 'f'")
        found = result("target.enums")
        assert (found.status, found.fix) == (
            Status.FAIL,
            "ALTER TYPE public.gender_type ADD VALUE 'female';",
        )
        session.execute(found.fix.encode())
        assert result("target.enums").status is Status.WARN

    def test_all_enums_of_the_files_are_read(self, session: psycopg.Connection[Any]) -> None:
        rows = session.execute(
            "SELECT typname, array_agg(enumlabel::text ORDER BY enumsortorder) FROM pg_type t"
            " JOIN pg_enum e ON e.enumtypid = t.oid GROUP BY 1"
        ).fetchall()
        assert declared_enums() == dict(rows)

    def test_dimensions_of_vectors_that_are_there(self, target: Target) -> None:
        assert "fits them to 7" in result("target.vectors", 7).why
        target.load("projects", [project(1)])
        (row,) = clean_table("projects", [project(1)]).select(["id"]).to_pylist()
        vector = json.dumps([0.5] * DIMENSIONS)
        target.connection.execute(
            "INSERT INTO public.project_embeddings (id, project_id, content_type, content_hash, embedding, model,"
            " dimensions) VALUES (gen_random_uuid(), %s, 'treatment_plan', 'hash', %s::extensions.vector, 'test', %s)",
            [row["id"], vector, DIMENSIONS],
        )
        found = result("target.vectors", 7)
        assert (found.status, "project_embeddings" in found.why) == (Status.FAIL, True)
        assert result("target.vectors").status is Status.PASS

    def test_a_read_only_database(self, server: EmbeddedPostgres, session: psycopg.Connection[Any]) -> None:
        name = session.info.dbname
        with psycopg.connect(server.dsn(name), autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
        found = result("target.writable")
        assert (found.status, "disk is full" in found.why) == (Status.FAIL, True)

    def test_a_lock_that_is_held(self, target: Target) -> None:
        assert result("target.lock").why == "Nobody."
        target.tracking("run-7")
        found = result("target.lock")
        assert (found.status, found.facts["code"], "run-7" in found.why) == (Status.FAIL, "RUN_LOCKED", True)
        target.connection.execute(
            "UPDATE migration.run_lock SET heartbeat_at = now() - interval '2 hours' WHERE true"
        )
        assert result("target.lock").status is Status.WARN
        (held,) = target.all("SELECT run_id FROM migration.run_lock")
        assert held == ("run-7",)

    def test_a_short_time_limit_of_the_api(
        self, server: EmbeddedPostgres, session: psycopg.Connection[Any]
    ) -> None:
        with psycopg.connect(server.dsn(session.info.dbname), autocommit=True) as admin:
            admin.execute("ALTER ROLE service_role SET statement_timeout = '3s'")
            try:
                found = result("target.limits")
                assert (found.status, "after 3s" in found.why) == (Status.WARN, True)
                admin.execute("ALTER ROLE service_role SET statement_timeout = '2min'")
                assert result("target.limits").status is Status.PASS
            finally:
                admin.execute("ALTER ROLE service_role RESET statement_timeout")

    def test_rates_of_the_last_complete_run(self, target: Target) -> None:
        with asked() as checks:
            assert checks.rates() == {}
        tracking = target.tracking("run-1")
        target.connection.execute(
            "INSERT INTO migration.batches (run_id, entity, phase, batch, extracted, seconds)"
            " SELECT 'run-1', 'patients', 'extraction', n::text, 5000, 2 FROM generate_series(1, 4) AS n"
        )
        tracking.close_run("completed", {}, "")
        with asked() as checks:
            assert checks.rates()["extraction"] == pytest.approx(10_000, rel=0.2)


class TestThroughTheApi:
    @pytest.fixture
    def served(self, target_dsn: str, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        monkeypatch.delenv("AIRFLOW_CONN_SUPABASE_DB")
        with serving(target_dsn) as api:
            monkeypatch.setenv("AIRFLOW_CONN_SUPABASE", supabase_variable(api.url, api.keys.secret))
            yield api

    def test_what_the_api_tells_is_checked_and_the_rest_is_skipped(
        self, served: Any, target_dsn: str
    ) -> None:
        found = results("rest")
        assert set(found) == NAMES
        assert {name for name, result in found.items() if result.status is Status.PASS} == {
            *("target.encryption", "target.role", "target.schema", "target.vectors", "target.lock")
        }
        assert {result.status for result in found.values()} == {Status.PASS, Status.SKIPPED}
        with psycopg.connect(target_dsn) as owner:
            owner.execute("DELETE FROM migration.schema_versions WHERE name = 'target/0001_types.sql'")
        assert results("rest")["target.schema"].facts["code"] == "TARGET_SCHEMA_MISSING"
        assert results("rest", 7)["target.vectors"].status is Status.FAIL

    def test_an_empty_project_can_be_reached_but_must_be_deployed(
        self, target_database: str, serving: Serving, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with serving(target_database) as api:
            monkeypatch.setenv("AIRFLOW_CONN_SUPABASE", supabase_variable(api.url, api.keys.secret))
            found = results("rest")
        assert (found["target.schema"].status, found["target.schema"].facts["code"]) == (
            Status.FAIL,
            "TARGET_SCHEMA_MISSING",
        )

    def test_a_key_that_is_none_of_the_service(self, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        with asked("rest") as target:
            monkeypatch.setenv("AIRFLOW_CONN_SUPABASE", supabase_variable(served.url, "sb_publishable_x"))
            found = run_check("target.role", target.checks()["target.role"])
        assert (found.status, "anon" in found.why) == (Status.FAIL, True)
