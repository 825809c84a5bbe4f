"""`make demo`: its databases, its run and what it tells."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from supabase import create_client

from include.synthetic.sizes import SourceSize
from local import databases, demo, postgrest
from local.changes import change
from local.environment import PLATFORM_SQL, State
from local.legacy_source import fill
from local.postgres import EmbeddedPostgres, run_script
from tests.conftest import FAST_SETTINGS

RUN = """
import sys, time
print("2026-01-31T10:00:00.1Z [info     ] Task started        [task] loc=a.py:1 run_id=x", flush=True)
print("2026-01-31T10:00:00.2Z [info     ] [migration] loading.patients: 785 rows [task.x] loc=a.py:1", flush=True)
time.sleep(float(sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("2026 [info     ] [migration] loading: 1 of 2 [airflow.task] loc=a.py:1 n=2\n", "loading: 1 of 2"),
        ("2026 [info     ] [migration] short           [airflow.task]\n", "short"),
        ("[migration] ends with [brackets, too]\n", "ends with [brackets, too]"),
        ("2026 [info     ] Task started                [airflow.task] loc=a.py:1\n", None),
    ],
)
def test_progress_is_told_from_the_rest_of_the_log(line: str, text: str | None) -> None:
    assert demo.progress_text(line) == text


def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, seconds: float, code: int, timeout: float
) -> tuple[int, list[str], str]:
    """Exit code, progress lines and log of a pretended run."""
    seen: list[str] = []
    monkeypatch.setattr(demo, "airflow", lambda *_: [sys.executable, "-c", RUN, str(seconds), str(code)])
    log = tmp_path / "run.log"
    result = demo.run_dag(os.environ, {}, log=log, timeout=timeout, progress=seen.append)
    return result, seen, log.read_text()


@pytest.mark.parametrize("code", [0, 1])
def test_the_runs_exit_code_and_full_log_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    result, seen, log = run(monkeypatch, tmp_path, seconds=0, code=code, timeout=30)
    assert result == code
    assert seen == ["loading.patients: 785 rows"]
    assert len(log.splitlines()) == 2


def test_a_run_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, seen, _ = run(monkeypatch, tmp_path, seconds=60, code=0, timeout=1)
    assert result == demo.TIMED_OUT
    assert seen[-1] == "stopped: the run took longer than 1 s"


def write_summary(state: State, run_id: str, text: str, written: float) -> Path:
    folder = state.reports / run_id
    folder.mkdir(parents=True)
    (folder / "summary.txt").write_text(text)
    os.utime(folder / "summary.txt", (written, written))
    return folder


def test_the_newest_runs_summary_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, log = State(tmp_path), tmp_path / "log"
    log.write_text("a log\n")
    write_summary(state, "b-older", "the older one", 1_000)
    folder = write_summary(state, "a-newer", "the newer one", 2_000)
    assert demo.show_result(state, 0, log, since=500) == 0
    shown = capsys.readouterr().out
    assert "the newer one" in shown
    assert str(folder) in shown
    assert "the older one" not in shown
    assert "a log" not in shown


def test_a_run_without_a_report_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, log = State(tmp_path), tmp_path / "log"
    log.write_text("why it ended\n")
    write_summary(state, "an-earlier-run", "not this one", 1_000)
    assert demo.show_result(state, 0, log, since=1_500) == 1
    shown = capsys.readouterr().out
    assert "left no report" in shown
    assert "why it ended" in shown
    assert "not this one" not in shown


def test_a_failed_runs_code_is_kept_beside_its_summary(tmp_path: Path) -> None:
    state, log = State(tmp_path), tmp_path / "log"
    log.write_text("")
    write_summary(state, "failed-run", "3 batches failed", 2_000)
    assert demo.show_result(state, 1, log, since=1_500) == 1


def test_conf_is_a_json_object_that_is_laid_over_the_demos_own() -> None:
    assert demo.conf_argument("") == {}
    given = demo.conf_argument('{"dry_run": true, "entities": ["patients"]}')
    assert given == {"dry_run": True, "entities": ["patients"]}
    assert {**demo.DEFAULT_CONF[demo.DAG_ID], **given}["dry_run"] is True
    assert demo.DEFAULT_CONF[demo.DAG_ID] == {"dry_run": False}


def test_a_day_changes_the_source(database: str) -> None:
    fill(database, SourceSize.real().scaled(patients=40), 1, progress=lambda _: None)
    with psycopg.connect(database, autocommit=True) as connection:
        count = "SELECT count(*) FROM dispatch_state"
        (before,) = connection.execute(count).fetchone() or (0,)
        done = change(database)
        assert connection.execute(count).fetchone() == (before + 8 - 3,)
        renamed = "SELECT count(*) FROM auth_user WHERE last_name LIKE '%-Novak'"
        assert connection.execute(renamed).fetchone() == (5,)
    assert done[0] == "5 users were renamed"


@pytest.mark.parametrize("conf", ["{", "[1]", '"text"'])
def test_a_conf_that_is_no_object_is_refused(conf: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        demo.main(["--conf", conf])
    assert refused.value.code == 2
    assert "argument --conf" in capsys.readouterr().err


@pytest.fixture(scope="module")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server of its own: the names of these databases are fixed."""
    folder = tmp_path_factory.mktemp("demo") / "server"
    with EmbeddedPostgres(folder, settings=FAST_SETTINGS) as running:
        yield running


@pytest.mark.parametrize("patients", ["0", "39", "many", "-5"])
def test_a_source_that_cannot_be_made_is_refused_before_anything_starts(
    patients: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        demo.main(["--patients", patients])
    assert refused.value.code == 2
    assert "argument --patients" in capsys.readouterr().err


class TestDatabases:
    """With a source of one column: the generator has its own tests."""

    @pytest.fixture(autouse=True)
    def fills(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
        """(patients, seed) of each time the source was filled."""
        calls: list[tuple[int, int]] = []

        def fill(dsn: str, size: SourceSize, seed: int, progress: object) -> None:
            calls.append((size.patients, seed))
            with psycopg.connect(dsn) as connection:
                connection.execute("CREATE TABLE dispatch_patient AS SELECT generate_series(1, 3) AS id")

        monkeypatch.setattr(databases, "fill", fill)
        return calls

    def test_made_once_and_again_only_for_another_recipe(
        self, demo_server: EmbeddedPostgres, fills: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def prepare(patients: int | None, seed: int = 1) -> None:
            databases.prepare(demo_server, patients=patients, seed=seed, progress=lambda _: None)

        prepare(None)
        assert fills == [(databases.DEFAULT_PATIENTS, 1)]
        with psycopg.connect(databases.target_dsn(demo_server)) as connection:
            connection.execute("CREATE TABLE loaded (id int)")
        prepare(databases.DEFAULT_PATIENTS)
        prepare(None)
        assert len(fills) == 1
        with psycopg.connect(databases.target_dsn(demo_server)) as connection:
            assert connection.execute("SELECT to_regclass('loaded')").fetchone() == ("loaded",)

        prepare(100)
        with psycopg.connect(databases.target_dsn(demo_server)) as connection:
            assert connection.execute("SELECT to_regclass('loaded')").fetchone() == (None,)
        prepare(None)
        prepare(100, seed=2)
        monkeypatch.setattr(databases, "_generator_hash", lambda: "another generator")
        prepare(None)
        prepare(100, seed=2)
        assert fills[1:] == [(100, 1), (100, 2), (100, 2)]

    def test_a_fill_that_failed_is_not_taken_for_a_source(
        self, demo_server: EmbeddedPostgres, fills: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, progress: object) -> None:
            raise ValueError("half-way")

        with monkeypatch.context() as broken:
            broken.setattr(databases, "fill", fail)
            with pytest.raises(ValueError, match="half-way"):
                databases.prepare(demo_server, patients=60, progress=lambda _: None)
        databases.prepare(demo_server, patients=60, progress=lambda _: None)
        assert fills == [(60, 1)]

    def test_the_migration_may_only_read_the_source(self, demo_server: EmbeddedPostgres) -> None:
        databases.prepare(demo_server, patients=60, progress=lambda _: None)
        with psycopg.connect(databases.legacy_dsn(demo_server), autocommit=True) as connection:
            assert connection.execute("SELECT count(*) FROM dispatch_patient").fetchone() == (3,)
            for change in ("DELETE FROM dispatch_patient", "CREATE TABLE mine (id int)"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(change.encode())

    def test_the_target_is_like_a_new_supabase_project(self, demo_server: EmbeddedPostgres) -> None:
        databases.prepare(demo_server, patients=60, progress=lambda _: None)
        with psycopg.connect(databases.target_dsn(demo_server)) as connection:
            connection.execute("CREATE TABLE public.t (v extensions.vector(3))")
            assert connection.execute("SELECT auth.uid()").fetchone() == (None,)


class TestWays:
    """What Airflow gets to know of the target."""

    @pytest.fixture
    def prepared(self, demo_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty target, and neither a source nor Airflow's metadata."""
        demo_server.drop_database(databases.TARGET)
        demo_server.create_login(databases.OWNER)
        demo_server.create_login(databases.READER)
        run_script(demo_server.create_database(databases.TARGET, owner=databases.OWNER), PLATFORM_SQL)
        monkeypatch.setattr(demo, "EmbeddedPostgres", lambda _: demo_server)
        for step in ("prepare", "fill", "migrate_metadata"):
            monkeypatch.setattr(demo, step, lambda *_, **__: None)

    @pytest.mark.usefixtures("prepared")
    def test_the_database_for_rows_and_the_api_for_files(self, tmp_path: Path) -> None:
        with demo.prepared_environment(State(tmp_path), None, "postgres", lambda _: None) as environment:
            assert "AIRFLOW_CONN_SUPABASE_DB" in environment
            connection = json.loads(environment["AIRFLOW_CONN_SUPABASE"])
            client = create_client(connection["host"], connection["password"])
            assert client.storage.list_buckets() == []
            assert environment["MIGRATION_FILES_URI"] == f"file://{tmp_path / 'files'}"

    @pytest.mark.usefixtures("prepared", "supabase_api")
    def test_the_api_alone_over_a_deployed_schema(self, tmp_path: Path) -> None:
        told: list[str] = []
        for deployed in ("deployed", "schema as deployed"):
            with demo.prepared_environment(State(tmp_path), None, "rest", told.append) as environment:
                assert "AIRFLOW_CONN_SUPABASE_DB" not in environment
                connection = json.loads(environment["AIRFLOW_CONN_SUPABASE"])
                client = create_client(connection["host"], connection["password"])
                assert client.table("patients").select("id").execute().data == []
                assert client.storage.list_buckets() == []
            assert f"supabase: {deployed}" in told[1]
            told.clear()

    @pytest.mark.usefixtures("prepared")
    def test_without_postgrest_it_says_what_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(postgrest, "PROGRAM", tmp_path / "nothing")
        monkeypatch.setattr(demo, "State", lambda: State(tmp_path))
        monkeypatch.setattr(demo, "terminate_like_interrupt", lambda: None)
        assert demo.main(["--via", "rest"]) == 1
        assert "PostgREST is not installed" in capsys.readouterr().out
