"""What identifies people appears in no log, report, XCom or tracking table, and nothing of it leaves this system."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from include.entities import EMBEDDED
from tests.embedding_server import KEY, EmbeddingServer
from tests.end_to_end.conftest import MakeDatabases
from tests.end_to_end.runs import Airflow, Databases, Outcome

# Unmistakable, and the date is nobody's.
CANARIES = (
    "Zyxqwcanary",
    "Vutsrcanary",
    "zyxqw.canary@mail.example",
    "canarylogin",
    "canary no address",
    "Plokjcanary",
    "Mnbvhcanary",
    "mnbvh.canary@clinic.example",
    "1897-03-29",
    "canarynote",
    "canaryscanner",
    "canaryscheme",
    "canaryproject",
    "canaryplan",
)
# Parts of names, of addresses and of the date in any notation.
IDENTIFIERS = (
    *CANARIES,
    *("zyxqw", "vutsr", "plokj", "mnbvh", ".example"),
    *(
        "1897",
        "29.3",
        "29.03",
        "29/3",
        "29/03",
        "3/29",
        "03/29",
        "29 march",
        "march 29",
        "29. märz",
        "290397",
    ),
)
# Both hold rows for those who repair them, closed to all but the owner.
RESTRICTED = {"quarantine": ("payload",), "merges": ("before_image", "survivor_before")}

PLANT = """
CREATE TEMPORARY TABLE marked AS
  SELECT i.patient_id, p.user_id, p.doctor_id, i.id AS instruction_id, pl.id AS plan_id, pl.project_id
  FROM dispatch_instruction i JOIN dispatch_patient p ON p.id = i.patient_id
  JOIN auth_user d ON d.id = p.doctor_id
  JOIN dispatch_plan pl ON pl.instruction_id = i.id ORDER BY i.id LIMIT 1;
UPDATE auth_user SET first_name = 'Zyxqwcanary', last_name = 'Vutsrcanary', email = 'zyxqw.canary@mail.example',
  username = 'canarylogin' FROM marked WHERE id = user_id;
UPDATE auth_user SET first_name = 'Plokjcanary', last_name = 'Mnbvhcanary', email = 'mnbvh.canary@clinic.example'
  FROM marked WHERE id = doctor_id;
UPDATE auth_user SET email = 'canary no address' WHERE id = (
  SELECT min(p.user_id) FROM dispatch_patient p, marked m WHERE p.user_id <> m.user_id);
UPDATE dispatch_patient SET birthdate = '1897-03-29', schemes = '{"canaryscheme": ' FROM marked WHERE id = patient_id;
-- Notes of all others tell of the same people.
UPDATE dispatch_instruction SET
  notes = notes || ' Sister of Zyxqwcanary Vutsrcanary, zyxqw.canary@mail.example.',
  conditions = conditions || '. As Mr Vutsrcanary, born 29.03.1897.',
  complaint = complaint || ', says Mnbvhcanary (mnbvh.canary@clinic.example)',
  objective = objective || '. Plokjcanary Mnbvhcanary agreed.';
UPDATE dispatch_instruction SET exports = '[canarynote', scanner_notes = 'canaryscanner of Zyxqwcanary',
  notes = 'canarynote: Zyxqwcanary Vutsrcanary, 1897-03-29, wrote from zyxqw.canary@mail.example as canarylogin.',
  conditions = 'VUTSRCANARY, zyxqwcanary; born 29.03.1897 or 3/29/1897, 29 March 1897, March 29th 1897, 29.3., 290397.',
  complaint = 'Dr. Plokjcanary Mnbvhcanary of mnbvh.canary@clinic.example saw Vutsrcanary''s overjet on 29. März 1897.',
  objective = 'Zyxqwcanary_Vutsrcanary.stl, zyxqwvutsr, Z. Vutsrcanary, ZyxqwcanaryVutsrcanary: align both arches.'
  FROM marked WHERE id = instruction_id;
UPDATE dispatch_project SET name = 'canaryproject' FROM marked WHERE id = project_id;
UPDATE dispatch_plan SET notes = 'canaryplan', name = 'canaryplan' FROM marked WHERE id = plan_id;
"""
FREE_TEXTS = """
SELECT DISTINCT v.value FROM dispatch_instruction i
CROSS JOIN LATERAL (VALUES (i.notes), (i.conditions), (i.complaint), (i.objective), (i.scanner_notes)) v (value)
WHERE length(v.value) >= 8
"""
PEOPLE = """
SELECT email FROM auth_user WHERE email LIKE '%@%' UNION
SELECT first_name || ' ' || last_name FROM auth_user WHERE length(first_name) > 2 AND length(last_name) > 2
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
UPDATE dispatch_instruction SET conditions = 'canarynote' WHERE notes LIKE 'canarynote%';
"""


@dataclass(frozen=True)
class Traces:
    """What three runs left.

    Attributes:
        good: embeds clinical text, and everything that can be.
        plain: embeds the same cases again, without clinical text.
        bad: of a person who changed, which the target refuses.
        sent, sent_plain: what the provider received from good and plain.
        bodies: of all requests.
    """

    databases: Databases
    home: Path
    good: Outcome
    plain: Outcome
    bad: Outcome
    sent: list[str]
    sent_plain: list[str]
    bodies: str
    metadata: bytes


@pytest.fixture(scope="module")
def traces(own_airflow: Airflow, make_databases: MakeDatabases) -> Iterator[Traces]:
    databases = make_databases()
    _execute(databases.source_admin, PLANT)
    with EmbeddingServer(dimensions=64) as server:
        environment = {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": server.url,
            "NO_PROXY": "127.0.0.1",
            "MIGRATION_EMBEDDING_PROVIDER": "openai",
            "MIGRATION_EMBEDDING_DIMENSIONS": "64",
        }
        sent: list[list[str]] = []

        def run(**conf: Any) -> Outcome:
            before = len(server.embedding_requests)
            outcome = own_airflow.run(databases, environment=environment, dry_run=False, **conf)
            sent.append([text for received in server.embedding_requests[before:] for text in received.texts])
            return outcome

        good = run(embed_clinical_text=True, ai_entities=list(EMBEDDED))
        plain = run(entities=["cases"])
        _execute(databases.target, BREAK)
        _execute(databases.source_admin, CHANGE)
        bad = run(fail_fast=False)
        bodies = b"".join(received.body for received in server.requests).decode()
        metadata = b"".join(path.read_bytes() for path in own_airflow.state.airflow.glob("airflow.db*"))
        yield Traces(
            databases, own_airflow.state.folder, good, plain, bad, sent[0], sent[1], bodies, metadata
        )


def _execute(dsn: str, script: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(script.encode())


def found(text: str, canaries: tuple[str, ...] = CANARIES) -> list[str]:
    return [canary for canary in canaries if canary.lower() in text.lower()]


def test_the_rows_with_the_canaries_were_migrated(traces: Traces) -> None:
    """Otherwise their absence elsewhere would mean nothing."""
    assert traces.good.state == "success", traces.good.log[-4000:]
    stored = traces.databases.read(
        "SELECT (SELECT string_agg(p::text, ' ') FROM public.patients p)"
        " || (SELECT string_agg(c::text, ' ') FROM public.cases c)"
        " || (SELECT string_agg(p::text, ' ') FROM public.projects p)"
        " || (SELECT string_agg(p::text, ' ') FROM public.profiles p)"
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
    assert found(traces.plain.log) == []
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


class TestWhatLeavesThisSystem:
    def test_no_request_identifies_anybody(self, traces: Traces) -> None:
        assert found(traces.bodies, IDENTIFIERS) == []
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
        assert KEY not in traces.good.log + traces.plain.log + traces.bad.log
        assert KEY.encode() not in traces.metadata
        kept = [path for path in traces.home.rglob("*") if path.is_file()]
        assert [path.name for path in kept if KEY.encode() in path.read_bytes()] == []


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
