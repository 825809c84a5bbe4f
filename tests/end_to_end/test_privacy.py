"""What identifies people appears in no log, report, XCom or tracking table, and nothing of it leaves this system.

Whether runs succeed or fail: drivers, servers and exceptions quote values.
"""

from __future__ import annotations

import base64
import html
import http.client
import json
import pickle
import sqlite3
import subprocess
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

import psycopg
import pytest

from include.entities import EMBEDDED
from local import legacy_files
from local.postgres import EmbeddedPostgres
from local.supabase_api import SupabaseApi
from tests.embedding_server import KEY, EmbeddingServer, Fault
from tests.end_to_end.canary import CANARIES, EVERYTHING, IDENTIFIERS, MARKERS, SHAPES, Search, plant
from tests.end_to_end.conftest import MakeDatabases
from tests.end_to_end.leaking import LOADED, RULE
from tests.end_to_end.runs import Airflow, Databases, Outcome
from tests.end_to_end.test_client_only import connection, project

# Hold rows for those who repair them, closed to all but the owner.
RESTRICTED = {
    "quarantine": ("payload",),
    "merges": ("before_image", "survivor_before"),
    "journal": ("rows",),
    # Of calls that failed, until a later run removes them.
    "incoming": ("rows",),
}
SEARCH = Search(EVERYTHING)

FREE_TEXTS = """
SELECT DISTINCT v.value FROM dispatch_instruction i
CROSS JOIN LATERAL (VALUES (i.notes), (i.conditions), (i.complaint), (i.objective), (i.scanner_notes)) v (value)
WHERE length(v.value) >= 8
"""
PEOPLE = """
SELECT email FROM auth_user WHERE email LIKE '%@%' UNION
SELECT first_name || ' ' || last_name FROM auth_user WHERE length(first_name) > 2 AND length(last_name) > 2
"""
# Of the source: a column whose values cannot be computed, and says so with the value.
BROKEN_SOURCE = """
ALTER TABLE dispatch_plan RENAME TO plans;
CREATE VIEW dispatch_plan AS SELECT id, instruction_id, project_id,
  CASE WHEN notes = 'canaryplan' THEN (notes::numeric)::text ELSE notes END AS notes, number, name, original FROM plans;
GRANT SELECT ON dispatch_plan TO mdw_reader;
"""
MENDED_SOURCE = "DROP VIEW dispatch_plan; ALTER TABLE plans RENAME TO dispatch_plan;"
# Refuses the person twice: a constraint, which costs the profile, and an error that costs the task of cases.
BREAK = """
ALTER TABLE public.profiles ADD CONSTRAINT no_canary CHECK (last_name <> 'Vutsrcanary the Second');
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN RAISE EXCEPTION 'not this: %', NEW USING DETAIL = NEW.clinical, HINT = NEW.clinical; END$$;
CREATE TRIGGER refuse BEFORE UPDATE ON public.cases FOR EACH ROW EXECUTE FUNCTION public.refuse();
"""
CHANGE = """
UPDATE auth_user SET last_name = 'Vutsrcanary the Second' WHERE first_name = 'Zyxqwcanary';
UPDATE dispatch_instruction SET conditions = 'canarynote' WHERE notes LIKE 'canarynote%';
"""
# Errors that PostgreSQL itself words with the values: in a trigger, for what the migration writes is checked before.
BREAK_PARENTS = """
CREATE TABLE public.seen (name text UNIQUE);
GRANT ALL ON public.seen TO service_role;
CREATE FUNCTION public.unique_violation() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN INSERT INTO public.seen VALUES (NEW.name), (NEW.name); RETURN NEW; END$$;
CREATE TRIGGER broken BEFORE UPDATE ON public.practices FOR EACH ROW EXECUTE FUNCTION public.unique_violation();
CREATE FUNCTION public.invalid_input() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN PERFORM NEW.first_name::date; RETURN NEW; END$$;
CREATE TRIGGER broken BEFORE UPDATE ON public.profiles FOR EACH ROW EXECUTE FUNCTION public.invalid_input();
CREATE FUNCTION public.deadlock() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN RAISE deadlock_detected USING MESSAGE = NEW::text, DETAIL = NEW::text; END$$;
CREATE TRIGGER broken BEFORE UPDATE ON public.workflow_templates FOR EACH ROW EXECUTE FUNCTION public.deadlock();
"""
CHANGE_PARENTS = """
UPDATE dispatch_office SET valid = NOT valid WHERE name LIKE '%anaryx%';
UPDATE auth_user SET is_active = NOT is_active WHERE first_name LIKE '%anaryx%';
UPDATE dispatch_category SET name = name || ' 2';
"""
# Undoes both.
MENDED = """
ALTER TABLE public.profiles DROP CONSTRAINT no_canary;
DROP FUNCTION public.refuse, public.unique_violation, public.invalid_input, public.deadlock CASCADE;
"""
UNDISTURBED = {"fail_fast": False, "max_retries": 0}
FAILING = ("provider", "source", "rules", "killed", "loading")


@dataclass
class Runs:
    """Runs of one source into one target, and what they sent to the provider."""

    airflow: Airflow
    databases: Databases
    server: EmbeddingServer
    sent: list[list[str]] = field(default_factory=list)

    def __call__(self, environment: dict[str, str | None] | None = None, **options: Any) -> Outcome:
        before = len(self.server.embedding_requests)
        outcome = self.airflow.run(
            self.databases,
            environment={**self.variables, **(environment or {})},
            **{"dry_run": False, **options},
        )
        requests = self.server.embedding_requests[before:]
        self.sent.append([text for received in requests for text in received.texts])
        return outcome

    @property
    def variables(self) -> dict[str, str | None]:
        return {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": self.server.url,
            "NO_PROXY": "127.0.0.1",
            "MIGRATION_EMBEDDING_PROVIDER": "openai",
            "MIGRATION_EMBEDDING_DIMENSIONS": "64",
        }

    def refused_by_the_provider(self) -> Outcome:
        """Its answers quote the texts, and the key."""
        _execute(
            self.databases.source_admin,
            "UPDATE dispatch_instruction SET complaint = complaint || ' and more'",
        )
        self.server.faults.append(Fault(500))
        self.server.always = Fault(401, error={"code": "invalid_api_key"})
        try:
            return self(entities=["cases"], fail_fast=False, embed_clinical_text=True, max_retries=1)
        finally:
            self.server.always = None

    def broken(self) -> Iterator[tuple[str, Outcome]]:
        """One run after the other that fails, each in another way."""
        admin, bare = self.databases.source_admin, {**UNDISTURBED, "enable_ai": False}
        _execute(admin, BROKEN_SOURCE)
        yield "source", self(entities=["projects"], **bare)
        _execute(admin, MENDED_SOURCE)
        leaks = {"leaks": [[RULE, "patients"], ["clean", "profiles"]]}
        yield "rules", self(order=leaks, entities=["profiles", "patients"], **bare)
        crash = {"crash": {"point": "after_read", "entity": "patients", "place": "p000-b0000"}}
        yield "killed", self(order=crash, entities=["patients"], **bare)

        _execute(self.databases.target, BREAK_PARENTS)
        _execute(admin, CHANGE_PARENTS)
        leaks = {"leaks": [[LOADED, "practices"]]}
        yield "loading", self(order=leaks, entities=["practices", "profiles", "workflow_templates"], **bare)


@dataclass(frozen=True)
class Traces:
    """What the runs left.

    Attributes:
        good: embeds clinical text, and everything that can be.
        plain: embeds the same cases again, without clinical text.
        bad: of a person who changed, which the target refuses; as a command.
        failed: more runs that failed, by what broke.
        sent, sent_plain: what the provider received from good and plain.
        requests: all that it received, with their headers.
        metadata: Airflow's database.
        worker: the process that ran them, still there.
        runs: makes more of them.
    """

    databases: Databases
    home: Path
    good: Outcome
    plain: Outcome
    bad: Outcome
    failed: dict[str, Outcome]
    sent: list[str]
    sent_plain: list[str]
    requests: str
    metadata: Path
    worker: int
    runs: Runs


@pytest.fixture(scope="module")
def traces(own_airflow: Airflow, make_databases: MakeDatabases) -> Iterator[Traces]:
    databases = make_databases()
    plant(databases.source_admin)
    with EmbeddingServer(dimensions=64) as provider:
        run = Runs(own_airflow, databases, provider)
        good = run(embed_clinical_text=True, ai_entities=list(EMBEDDED))
        plain = run(entities=["cases"])
        refused = run.refused_by_the_provider()
        _execute(databases.target, BREAK)
        _execute(databases.source_admin, CHANGE)
        bad = own_airflow.run_command(databases, environment=run.variables, dry_run=False, fail_fast=False)
        failed = {"provider": refused, **dict(run.broken())}
        requests = "\n".join(f"{r.method} {r.path} {r.headers} {r.body.decode()}" for r in provider.requests)
        worker = own_airflow._worker
        assert worker is not None
        home = own_airflow.state
        yield Traces(
            databases=databases,
            home=home.folder,
            good=good,
            plain=plain,
            bad=bad,
            failed=failed,
            sent=run.sent[0],
            sent_plain=run.sent[1],
            requests=requests,
            metadata=home.airflow / "airflow.db",
            worker=worker.pid,
            runs=run,
        )


def _execute(dsn: str, script: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(script.encode())


def found(text: str, words: tuple[str, ...] = EVERYTHING) -> list[str]:
    return (SEARCH if words == EVERYTHING else Search(words)).found(text)


def test_the_rows_with_the_canaries_were_migrated(traces: Traces) -> None:
    """Otherwise their absence elsewhere would mean nothing."""
    assert traces.good.state == "success", traces.good.log[-4000:]
    stored = traces.databases.read(
        "SELECT (SELECT string_agg(p::text, ' ') FROM public.patients p)"
        " || (SELECT string_agg(c::text, ' ') FROM public.cases c)"
        " || (SELECT string_agg(p::text, ' ') FROM public.projects p)"
        " || (SELECT string_agg(p::text, ' ') FROM public.profiles p)"
    )
    assert missing(stored[0][0], CANARIES) == []


def test_the_second_run_was_refused_both_ways(traces: Traces) -> None:
    assert traces.bad.state == "failed"
    assert "[TARGET_QUERY_FAILED]" in traces.bad.log
    refused = traces.databases.read(
        "SELECT code, \"column\" FROM migration.quarantine WHERE entity = 'profiles' AND status = 'open'"
    )
    assert refused == [("value_refused", "no_canary")]


@pytest.mark.parametrize(
    ("run", "codes"),
    [
        ("provider", ["EMBEDDING_KEY_REFUSED"]),
        ("source", ["SOURCE_QUERY_FAILED"]),
        ("rules", ["TRANSFORM_FAILED", "UNEXPECTED"]),
        ("loading", ["TARGET_QUERY_FAILED", "TARGET_INTERRUPTED", "UNEXPECTED"]),
    ],
)
def test_the_other_runs_failed_as_they_were_to(traces: Traces, run: str, codes: list[str]) -> None:
    assert traces.failed[run].state == "failed"
    assert [code for code in codes if f"[{code}" not in traces.failed[run].log] == []


def test_a_killed_run_was_killed(traces: Traces) -> None:
    assert traces.failed["killed"].state == "killed"


@pytest.mark.parametrize("run", ["good", "plain", "bad"])
def test_logs(traces: Traces, run: str) -> None:
    assert found(getattr(traces, run).log) == []


@pytest.mark.parametrize("run", FAILING)
def test_logs_of_runs_that_failed(traces: Traces, run: str) -> None:
    assert found(traces.failed[run].log) == []


def test_reports_and_everything_else_that_is_kept_in_files(traces: Traces) -> None:
    """Logs, reports and notes of all runs; Airflow's database is looked at row by row."""
    report = traces.good.report_folder
    assert report is not None
    assert (report / "report.html").exists()
    assert SEARCH.in_files(traces.home, but=[traces.home / "staging"]) == {}


def test_the_metadata_database(traces: Traces) -> None:
    """XComs, rendered templates, confs, states."""
    assert b"extraction.patients" in traces.metadata.read_bytes()
    assert SEARCH.in_sqlite(traces.metadata) == {}


def test_tracking_tables_but_for_the_restricted_columns(traces: Traces) -> None:
    assert SEARCH.in_tables(traces.databases.target, "migration", RESTRICTED) == {}


def test_what_the_machine_shows_of_a_process(traces: Traces) -> None:
    assert SEARCH.in_process(traces.worker) == []


class TestThroughTheAPI:
    """Its errors quote rows as the database does; and files are copied."""

    @pytest.fixture(scope="class")
    def ways(
        self,
        traces: Traces,
        server: EmbeddedPostgres,
        supabase_api: SupabaseApi,  # skips where there is none
        tmp_path_factory: pytest.TempPathFactory,
    ) -> tuple[Outcome, Outcome, str]:
        """A run that fails, one that succeeds, and the names of the objects that it stored."""
        folder, files = tmp_path_factory.mktemp("supabase"), tmp_path_factory.mktemp("files")
        legacy_files.fill(traces.databases.source_admin, files, lambda _: None)
        with project(folder, server, traces.databases.target) as api:
            way: dict[str, str | None] = {
                **connection(api),
                "AIRFLOW_CONN_SUPABASE_DB": None,
                "MIGRATION_FILES_URI": f"file://{files}",
            }
            failed = traces.runs(way, **UNDISTURBED, enable_ai=False, entities=["practices", "profiles"])
            _execute(traces.databases.target, MENDED)
            succeeded = traces.runs(way, enable_ai=False)
        stored = (folder / "objects").rglob("*")
        return failed, succeeded, "\n".join(str(path.relative_to(folder)) for path in stored)

    def test_one_failed_and_one_succeeded(self, traces: Traces, ways: tuple[Outcome, Outcome, str]) -> None:
        assert [run.state for run in ways[:2]] == ["failed", "success"], ways[1].log[-4000:]
        assert "[TARGET_QUERY_FAILED]" in ways[0].log
        assert len(ways[2].splitlines()) > 10

    def test_nothing_of_it_tells_of_anybody(self, traces: Traces, ways: tuple[Outcome, Outcome, str]) -> None:
        for text in (ways[0].log, ways[1].log, ways[2]):
            assert found(text) == []
        assert SEARCH.in_files(traces.home, but=[traces.home / "staging"]) == {}
        assert SEARCH.in_sqlite(traces.metadata) == {}
        assert SEARCH.in_tables(traces.databases.target, "migration", RESTRICTED) == {}

    def test_nor_does_a_place_in_storage(self, traces: Traces, ways: tuple[Outcome, Outcome, str]) -> None:
        places = traces.databases.read(
            "SELECT string_agg(concat_ws(' ', storage_path, checksum, mime_type), ' ') FROM public.projects"
        )
        assert found(places[0][0]) == []


class TestOtherDags:
    """They look at the same rows, or put them back."""

    @pytest.fixture(scope="class")
    def outcomes(self, traces: Traces) -> dict[str, Outcome]:
        def run(dag_id: str, **conf: Any) -> Outcome:
            runs = traces.runs
            return runs.airflow.run(traces.databases, environment=runs.variables, dag_id=dag_id, **conf)

        decided = {"decided_by": "{{ 6 * 7 * 191 }}", "reason": "{{ conn.supabase_db.password }}"}
        return {
            "preflight": run("mdw_preflight"),
            "validation": run("mdw_validation", samples=100),
            "undo": run("mdw_undo_merge", legacy_ids=["1"], **decided),
            "rollback": run(
                "mdw_rollback",
                run_id=traces.plain.run_id,
                with_later_runs=True,
                overwrite_foreign=True,
                **decided,
            ),
        }

    def test_they_ran(self, outcomes: dict[str, Outcome]) -> None:
        """Rows of the source changed that could not be loaded, so the validation fails; that row was never merged."""
        assert outcomes["preflight"].log.count("source.reachable") > 0
        assert "[NOT_MERGED]" in outcomes["undo"].log
        assert outcomes["validation"].report is not None, outcomes["validation"].log[-4000:]
        assert outcomes["rollback"].state == "success", outcomes["rollback"].log[-4000:]

    def test_nothing_of_them_tells_of_anybody(self, traces: Traces, outcomes: dict[str, Outcome]) -> None:
        assert {name: hits for name, run in outcomes.items() if (hits := found(run.log))} == {}
        assert SEARCH.in_files(traces.home, but=[traces.home / "staging"]) == {}
        assert SEARCH.in_sqlite(traces.metadata) == {}
        assert SEARCH.in_tables(traces.databases.target, "migration", RESTRICTED) == {}

    def test_templates_in_a_configuration_are_text(
        self, traces: Traces, outcomes: dict[str, Outcome]
    ) -> None:
        rendered = Search(["8022", str(urlsplit(traces.databases.target).password)])
        reasons = traces.databases.read("SELECT details::text FROM migration.audit_log")
        for text in (outcomes["undo"].log, outcomes["rollback"].log, str(reasons)):
            assert rendered.found(text) == []


class TestWhatLeavesThisSystem:
    def test_no_request_identifies_anybody(self, traces: Traces) -> None:
        assert found(traces.requests, IDENTIFIERS) == []
        assert found(" ".join(traces.sent), IDENTIFIERS) == []

    def test_nor_any_other_person_of_the_database(self, traces: Traces) -> None:
        people = [value for (value,) in traces.databases.read(PEOPLE, source=True)]
        assert len(people) > 100
        together = " ".join(traces.sent).lower()
        assert [value for value in people if value.lower() in together] == []

    def test_the_setting_lets_clinical_text_out(self, traces: Traces) -> None:
        """Otherwise nothing was removed from it."""
        assert sum("Crowding of the lower front teeth" in text for text in traces.sent) > 1
        [marked] = [text for text in traces.sent if "align both arches" in text]
        assert "Complaint: Dr. [name] of [e-mail] saw [name] overjet on [date]." in marked

    def test_every_kind_of_document_was_sent(self, traces: Traces) -> None:
        rows = traces.good.report
        assert rows is not None
        lines = {line["entity"]: line for line in rows["embeddings"]["entities"]}
        assert set(lines) == set(EMBEDDED)
        assert all(line["texts"] > 0 for line in lines.values())

    def test_without_the_setting_no_clinical_text_leaves(self, traces: Traces) -> None:
        assert traces.plain.state == "success", traces.plain.log[-4000:]
        assert len(traces.sent_plain) > 20
        texts = [text for (text,) in traces.databases.read(FREE_TEXTS, source=True)]
        assert len(texts) > 100
        together = "\n".join(traces.sent_plain)
        assert [text for text in texts if text in together] == []
        assert found(together) == []
        for label in ("Notes:", "Conditions:", "Complaint:", "Objective:"):
            assert label not in together

    def test_texts_kept_beside_their_vectors(self, traces: Traces) -> None:
        """Of clinical text none is."""
        tables = (
            "project_embeddings",
            "case_embeddings",
            "patient_embeddings",
            "workflow_template_embeddings",
        )
        for table in tables:
            rows = traces.databases.read(f"SELECT string_agg(v::text, ' ') FROM public.{table} v")
            assert rows[0][0]
            assert found(rows[0][0]) == [], table

    def test_the_report_names_provider_texts_and_columns(self, traces: Traces) -> None:
        clinical = ["cases.clinical.notes", "cases.clinical.conditions", "cases.clinical.complaint"]
        for outcome, sent, expected in (
            (traces.good, traces.sent, clinical),
            (traces.plain, traces.sent_plain, []),
        ):
            assert outcome.report is not None
            assert outcome.report_folder is not None
            left = outcome.report["embeddings"]["left"]
            assert all("texts of" in line and "to openai 127.0.0.1" in line for line in left)
            assert sum(int(line.split()[0].replace(",", "")) for line in left) == len(sent)
            [cases] = [line for line in left if "texts of cases" in line]
            assert "cases.title" in cases
            assert [column for column in clinical if column in cases] == expected
            said = f"What left this system: {'; '.join(left)}."
            assert said in (outcome.report_folder / "summary.txt").read_text()

    def test_the_key_is_nowhere(self, traces: Traces) -> None:
        keys = Search([KEY])
        logs = [traces.good, traces.plain, traces.bad, *traces.failed.values()]
        assert [run for run in logs if keys.found(run.log)] == []
        assert keys.in_files(traces.home) == {}
        assert keys.in_sqlite(traces.metadata) == {}


def test_staged_rows_are_closed_to_other_users(traces: Traces) -> None:
    staged = list((traces.home / "staging").iterdir())
    assert staged
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in staged)


def test_passwords_stay_out_of_logs_files_and_metadata(traces: Traces) -> None:
    secrets = Search(
        str(urlsplit(dsn).password) for dsn in (traces.databases.source, traces.databases.target)
    )
    assert secrets.in_files(traces.home) == {}
    assert secrets.in_sqlite(traces.metadata) == {}
    assert secrets.in_tables(traces.databases.target, "migration", {}) == {}


class TestTheSearch:
    """It finds what it is to find, wherever it is and however it is written."""

    WORD, LINE = "Qänäryx", 'name "Qänäryx Größe"\n'

    @pytest.mark.parametrize(
        "write",
        [
            str,
            str.upper,
            repr,
            ascii,
            json.dumps,
            lambda text: json.dumps(text, ensure_ascii=False),
            lambda text: json.dumps(json.dumps(text)),
            quote,
            quote_plus,
            html.escape,
            lambda text: text.encode("ascii", "xmlcharrefreplace").decode(),
            lambda text: unicodedata.normalize("NFD", text),
            lambda text: text.encode().hex(),
            lambda text: repr(text.encode()),
            lambda text: text.encode("utf-16-le"),
            lambda text: text.encode("latin-1"),
            lambda text: pickle.dumps({"row": text}),
            *(lambda text, at=at: base64.b64encode(b"x" * at + text.encode()) for at in range(3)),
            *(lambda text, at=at: base64.urlsafe_b64encode(b"x" * at + text.encode()) for at in range(3)),
        ],
    )
    def test_every_notation(self, write: Callable[[str], str | bytes]) -> None:
        assert found_words(SEARCH.found(write(self.LINE))) == [self.WORD]
        assert SEARCH.found(write(self.LINE.replace("Q", "X"))) == []

    @pytest.mark.parametrize("word", [*CANARIES, *MARKERS])
    def test_every_word(self, word: str) -> None:
        assert word in found_words(SEARCH.found(f"it is said of{word}."))

    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_shape(self, shape: str) -> None:
        assert SEARCH.found(json.dumps([SHAPES[shape].format(" name")])) != []

    def test_files_by_content_and_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "logs").mkdir()
        (tmp_path / "staging").mkdir()
        (tmp_path / "logs" / "task.log").write_text(json.dumps({"event": self.LINE}))
        (tmp_path / "logs" / "Qanaryx.csv").write_text("")
        (tmp_path / "staging" / "rows").write_text(self.LINE)
        left_out = [tmp_path / "staging"]
        assert set(SEARCH.in_files(tmp_path, but=left_out)) == {"logs/task.log", "logs/Qanaryx.csv"}

    def test_tables_of_airflow(self, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "airflow.db")) as metadata, metadata:
            for table, value in {
                "xcom": json.dumps([self.LINE] * 9),
                "dag_run": pickle.dumps(self.LINE),
            }.items():
                metadata.execute(f"CREATE TABLE {table} (key text, value blob)")
                metadata.execute(f"INSERT INTO {table} VALUES ('key', ?)", ["x" * 10_000])
                metadata.execute(f"INSERT INTO {table} VALUES ('key', ?)", [value])
        assert set(SEARCH.in_sqlite(tmp_path / "airflow.db")) == {"xcom", "dag_run"}

    def test_tables_of_the_target(self, database: str) -> None:
        _execute(
            database,
            "CREATE SCHEMA migration; CREATE TABLE migration.checks (sample jsonb, payload text);"
            " CREATE TABLE migration.notes (facts text[]); CREATE TABLE migration.images (row_image bytea);"
            " INSERT INTO migration.checks VALUES (NULL, 'Qanaryx');"
            " INSERT INTO migration.notes VALUES (ARRAY['Qänäryx']);"
            " INSERT INTO migration.images VALUES (convert_to('a Qänäryx', 'UTF8'))",
        )
        assert set(SEARCH.in_tables(database, "migration", {"checks": ["payload"]})) == {"notes", "images"}
        assert "checks" in SEARCH.in_tables(database, "migration", {})

    def test_requests_and_their_headers(self) -> None:
        with EmbeddingServer() as provider:
            client = http.client.HTTPConnection(*provider.server_address)
            client.request("GET", "/v1/batches", headers={"x-note": quote(self.LINE)})
            client.getresponse()
            client.close()
            [received] = provider.requests
        assert found(f"{received.method} {received.path} {received.headers} {received.body.decode()}") != []

    def test_a_process(self) -> None:
        with subprocess.Popen(["sleep", "30"], env={"NOTE": "Qänäryx"}) as process:  # noqa: S607
            try:
                # A new program's environment can be read a moment after it has been started.
                deadline = time.monotonic() + 10
                while not (seen := SEARCH.in_process(process.pid)) and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert seen != []
            finally:
                process.kill()


def found_words(hits: list[str]) -> list[str]:
    return [hit.partition(": ")[0] for hit in hits]


def missing(text: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if not Search([word]).found(text)]
