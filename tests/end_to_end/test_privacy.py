"""Names, addresses, birth dates and notes of patients appear in no log, report, XCom or tracking table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.end_to_end.conftest import MakeDatabases
from tests.end_to_end.runs import Airflow, Databases, Outcome

# Unmistakable, and the date is nobody's.
CANARIES = (
    "Zyxqwcanary",
    "Vutsrcanary",
    "zyxqw.canary@mail.example",
    "canary no address",
    "1897-03-29",
    "canarynote",
    "canaryscheme",
    "canaryproject",
    "canaryplan",
)
# Both hold rows for those who repair them, closed to all but the owner.
RESTRICTED = {"quarantine": ("payload",), "merges": ("before_image", "survivor_before")}

PLANT = """
CREATE TEMPORARY TABLE marked AS
  SELECT i.patient_id, p.user_id, i.id AS instruction_id, pl.id AS plan_id, pl.project_id
  FROM dispatch_instruction i JOIN dispatch_patient p ON p.id = i.patient_id
  JOIN dispatch_plan pl ON pl.instruction_id = i.id ORDER BY i.id LIMIT 1;
UPDATE auth_user SET first_name = 'Zyxqwcanary', last_name = 'Vutsrcanary', email = 'zyxqw.canary@mail.example',
  username = 'zyxqw.canary@mail.example' FROM marked WHERE id = user_id;
UPDATE auth_user SET email = 'canary no address' WHERE id = (
  SELECT min(p.user_id) FROM dispatch_patient p, marked m WHERE p.user_id <> m.user_id);
UPDATE dispatch_patient SET birthdate = '1897-03-29', schemes = '{"canaryscheme": ' FROM marked WHERE id = patient_id;
UPDATE dispatch_instruction SET notes = 'canarynote', complaint = 'canarynote', exports = '[canarynote' FROM marked
  WHERE id = instruction_id;
UPDATE dispatch_project SET name = 'canaryproject' FROM marked WHERE id = project_id;
UPDATE dispatch_plan SET notes = 'canaryplan', name = 'canaryplan' FROM marked WHERE id = plan_id;
"""
# Refuses the person twice: a constraint, which costs the profile, and an error that costs the task of cases.
BREAK = """
ALTER TABLE public.profiles ADD CONSTRAINT no_canary CHECK (last_name <> 'Vutsrcanary the Second');
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN RAISE EXCEPTION 'not this: %', NEW USING DETAIL = NEW.clinical, HINT = NEW.clinical; END$$;
CREATE TRIGGER refuse BEFORE UPDATE ON public.cases FOR EACH ROW EXECUTE FUNCTION public.refuse();
"""
CHANGE = """
UPDATE auth_user SET last_name = 'Vutsrcanary the Second' WHERE first_name = 'Zyxqwcanary';
UPDATE dispatch_instruction SET conditions = 'canarynote' WHERE notes = 'canarynote';
"""


@dataclass(frozen=True)
class Traces:
    databases: Databases
    home: Path
    good: Outcome
    bad: Outcome
    metadata: bytes


@pytest.fixture(scope="module")
def traces(airflow: Airflow, make_databases: MakeDatabases) -> Traces:
    """A good run; then the person changes, and the target refuses the change."""
    databases = make_databases()
    _execute(databases.source_admin, PLANT)
    good = airflow.run(databases, dry_run=False)
    _execute(databases.target, BREAK)
    _execute(databases.source_admin, CHANGE)
    bad = airflow.run(databases, dry_run=False, fail_fast=False)
    metadata = b"".join(path.read_bytes() for path in airflow.state.airflow.glob("airflow.db*"))
    return Traces(databases, airflow.state.folder, good, bad, metadata)


def _execute(dsn: str, script: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(script.encode())


def found(text: str) -> list[str]:
    return [canary for canary in CANARIES if canary.lower() in text.lower()]


def test_the_rows_with_the_canaries_were_migrated(traces: Traces) -> None:
    """Otherwise their absence elsewhere would mean nothing."""
    assert traces.good.state == "success", traces.good.log[-4000:]
    stored = traces.databases.read(
        "SELECT (SELECT string_agg(p::text, ' ') FROM public.patients p)"
        " || (SELECT string_agg(c::text, ' ') FROM public.cases c)"
        " || (SELECT string_agg(p::text, ' ') FROM public.projects p)"
    )
    assert found(stored[0][0]) == list(CANARIES)


def test_the_second_run_was_refused_both_ways(traces: Traces) -> None:
    assert traces.bad.state == "failed"
    assert "[TARGET_QUERY_FAILED]" in traces.bad.log
    refused = traces.databases.read(
        "SELECT code, \"column\" FROM migration.quarantine WHERE entity = 'profiles' AND status = 'open'"
    )
    assert refused == [("value_refused", "no_canary")]


def test_logs(traces: Traces) -> None:
    assert found(traces.good.log) == []
    assert found(traces.bad.log) == []


def test_reports_and_everything_else_airflow_keeps_in_files(traces: Traces) -> None:
    assert traces.good.report_folder is not None
    kept = [
        path
        for path in traces.home.rglob("*")
        if path.is_file() and traces.home / "staging" not in path.parents
    ]
    assert traces.good.report_folder / "report.html" in kept
    assert {path.name: found(path.read_bytes().decode("latin-1")) for path in kept} == {
        path.name: [] for path in kept
    }


def test_the_metadata_database_with_xcoms(traces: Traces) -> None:
    assert b"extraction.patients" in traces.metadata
    assert found(traces.metadata.decode("latin-1")) == []


def test_tracking_tables_but_for_the_restricted_columns(traces: Traces) -> None:
    tables = [
        name
        for (name,) in traces.databases.read("SELECT tablename FROM pg_tables WHERE schemaname = 'migration'")
    ]
    assert "audit_log" in tables
    for table in tables:
        without = "".join(f" - '{column}'" for column in RESTRICTED.get(table, ()))
        rows = traces.databases.read(
            f"SELECT coalesce(string_agg((to_jsonb(t){without})::text, ' '), '') FROM migration.{table} t"
        )
        assert found(rows[0][0]) == [], table


def test_texts_sent_to_the_embedding_provider(traces: Traces) -> None:
    texts = traces.databases.read(
        "SELECT content_text FROM public.project_embeddings UNION ALL SELECT content_text FROM public.case_embeddings"
    )
    assert texts
    assert found(" ".join(text or "" for (text,) in texts)) == []


def test_staged_rows_are_closed_to_other_users(traces: Traces) -> None:
    staged = list((traces.home / "staging").iterdir())
    assert staged
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in staged)


def test_passwords_stay_out_of_logs_files_and_metadata(traces: Traces) -> None:
    for dsn in (traces.databases.source, traces.databases.target):
        password = str(urlsplit(dsn).password)
        assert password not in traces.good.log
        assert password not in traces.bad.log
        assert password.encode() not in traces.metadata
