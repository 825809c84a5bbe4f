"""The audit trail: what is in it, and that nobody can change it, or the ledger, without being found."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from include.core.tracking import Check, Fates
from plugins.audit.__main__ import main
from plugins.hooks.tracking import LedgerRow, TrackingHook
from tests.hooks.loading import Target

BOTH_WAYS = True
RUN = "manual__2026-01-01T00:00:00+00:00"
Verdict = dict[str, Any]


@pytest.fixture
def run(target: Target) -> TrackingHook:
    """A complete run with two batches, one of them repeated."""
    tracking = target.tracking(RUN)
    for batch, attempt in (("p000-b0000", 1), ("p000-b0001", 1), ("p000-b0001", 2)):
        fates = Fates(5, inserted=3, rejected=2)
        tracking.record_batch(LedgerRow("cases", "loading", batch, "1..5", fates, attempt, 0.5))
    tracking.close_run("completed", {"entities": [{"entity": "cases", "inserted": 6}]}, "")
    return tracking


def tamper(target: Target, statement: str) -> None:
    """As the owner of the tables, who alone can: with the triggers switched off."""
    target.connection.execute(
        "ALTER TABLE migration.audit_log DISABLE TRIGGER USER;"
        "ALTER TABLE migration.audit_seals DISABLE TRIGGER USER;"
        "ALTER TABLE migration.batches DISABLE TRIGGER USER;"
        "ALTER TABLE migration.runs DISABLE TRIGGER USER"
    )
    changed = target.connection.execute(statement.encode())
    assert changed.rowcount != 0, "nothing was tampered with"
    target.connection.execute(
        "ALTER TABLE migration.audit_log ENABLE ALWAYS TRIGGER append_only;"
        "ALTER TABLE migration.audit_seals ENABLE ALWAYS TRIGGER append_only;"
        "ALTER TABLE migration.batches ENABLE ALWAYS TRIGGER audit;"
        "ALTER TABLE migration.runs ENABLE ALWAYS TRIGGER audit"
    )


def verified(target: Target, head: str | None = None) -> Verdict:
    found: Verdict = target.api.call("verify_audit", head=head)
    return found


def why(found: Verdict) -> list[str]:
    return sorted({broken["why"] for broken in found["broken"]})


def events(target: Target, like: str) -> list[tuple[Any, ...]]:
    query = "SELECT event, details FROM migration.audit_log WHERE event LIKE %s ORDER BY id"
    return target.all(query, [like])


class TestWhatIsAudited:
    def test_batches_with_all_their_fates(self, target: Target, run: TrackingHook) -> None:
        found = events(target, "loading batch %")
        assert [event for event, _ in found] == ["loading batch done"] * 3
        assert [
            (d["batch"], d["attempt"], d["inserted"], d["rejected"], d["extracted"]) for _, d in found
        ] == [
            ("p000-b0000", 1, 3, 2, 5),
            ("p000-b0001", 1, 3, 2, 5),
            ("p000-b0001", 2, 3, 2, 5),
        ]

    def test_the_end_of_a_run_with_a_digest_of_its_counts(self, target: Target, run: TrackingHook) -> None:
        (opened, closed) = [details for _, details in events(target, "run %")]
        assert (opened["status"], opened["counts"]) == ("running", None)
        assert closed["status"] == "completed"
        assert len(closed["counts"]) == 64

    def test_every_schema_file(self, target: Target) -> None:
        deployed = {details["file"] for _, details in events(target, "schema file deployed")}
        recorded = {details["file"]: details["hash"] for _, details in events(target, "schema file recorded")}
        assert deployed == set(recorded)
        assert recorded == dict(target.all("SELECT name, hash FROM migration.schema_versions"))

    def test_entities_as_registered_once(self, target: Target) -> None:
        before = events(target, "entity %")
        target.connection.execute("UPDATE migration.entities SET columns = columns")
        assert events(target, "entity %") == before
        assert {details["entity"] for _, details in before} == {
            name for (name,) in target.all("SELECT entity FROM migration.entities")
        }

    def test_quarantine_by_statement_and_code(self, target: Target, run: TrackingHook) -> None:
        target.connection.execute(
            'INSERT INTO migration.quarantine (entity, legacy_id, code, "column", reason, how_to_fix, payload, run_id)'
            " SELECT 'cases', n::text, 'parent_missing', 'patient_id', 'r', 'h',"
            " '{\"last_name\": \"Mustermann\"}', 'r1'"
            " FROM generate_series(1, 40) n"
        )
        target.connection.execute(
            "UPDATE migration.quarantine SET status = 're-driven', resolved_run_id = 'r2' WHERE id <= 30"
        )
        target.connection.execute("UPDATE migration.quarantine SET reason = 'other' WHERE id > 30")
        target.connection.execute("DELETE FROM migration.quarantine WHERE status = 'open'")
        query = "SELECT run_id, event, (details ->> 'rows')::int FROM migration.audit_log WHERE event LIKE %s"
        assert target.all(f"{query} ORDER BY id", ["quarantine%"]) == [
            ("r1", "quarantine opened", 40),
            ("r2", "quarantine re-driven", 30),
            ("r1", "quarantine removed", 10),
        ]
        assert "Mustermann" not in str(target.all("SELECT details::text FROM migration.audit_log"))

    def test_merges_made_and_undone(self, target: Target, run: TrackingHook) -> None:
        target.connection.execute(
            "INSERT INTO migration.merges (run_id, entity, survivor_id, merged_id)"
            " SELECT 'r1', 'patients', gen_random_uuid(), gen_random_uuid() FROM generate_series(1, 3)"
        )
        target.connection.execute("UPDATE migration.merges SET undone_at = now() WHERE id = 1")
        target.connection.execute("UPDATE migration.merges SET survivor_before = '{}' WHERE id = 2")
        assert events(target, "merges %") == [
            ("merges made", {"entity": "patients", "rows": 3}),
            ("merges undone", {"entity": "patients", "made_by": "r1", "rows": 1}),
        ]

    def test_checks(self, target: Target, run: TrackingHook) -> None:
        check = Check("orphans", "cases", 4, "0", "1", passed=False)
        run.record_checks([check, Check("rows", "cases", 1, "1", "1", passed=True)])
        assert sorted((d["level"], d["checks"], d["failed"]) for _, d in events(target, "checks made")) == [
            (1, 1, 0),
            (4, 1, 1),
        ]

    def test_a_table_that_is_emptied(self, target: Target, run: TrackingHook) -> None:
        target.connection.execute("TRUNCATE migration.merges")
        assert events(target, "% emptied") == [("merges emptied", {})]

    def test_a_replica_is_audited_too(
        self, target: Target, run: TrackingHook, superuser: psycopg.Connection[Any]
    ) -> None:
        superuser.execute("SET session_replication_role = replica")
        superuser.execute("DELETE FROM migration.batches WHERE batch = 'p000-b0000'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="audit_seals is append-only"):
            superuser.execute("DELETE FROM migration.audit_seals WHERE number = 1")
        assert [event for event, _ in events(target, "% removed")] == ["loading batch removed"]


@pytest.fixture
def superuser(target_dsn: str, server: Any) -> Any:
    """Who may do anything but switch triggers off without being the owner."""
    name = psycopg.conninfo.conninfo_to_dict(target_dsn)["dbname"]
    with psycopg.connect(server.dsn(str(name)), autocommit=True) as connection:
        yield connection


class TestChain:
    def test_is_unbroken_behind_a_run(self, target: Target, run: TrackingHook) -> None:
        found = verified(target)
        assert found["broken"] == []
        assert (found["unsealed"], found["sealed"]) == (0, found["entries"])
        assert verified(target, found["head"])["broken"] == []

    def test_depends_on_no_setting_of_the_session(self, target: Target, run: TrackingHook) -> None:
        target.connection.execute(
            "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET extra_float_digits = 0"
        )
        assert verified(target)["broken"] == []

    def test_grows_behind_the_head_of_an_earlier_report(self, target: Target, run: TrackingHook) -> None:
        head = verified(target)["head"]
        target.tracking("later").close_run("failed", {}, "")
        found = verified(target, head)
        assert found["broken"] == []
        assert found["head"] != head

    def test_seals_what_commits_late_behind_later_entries(
        self, target: Target, run: TrackingHook, target_dsn: str
    ) -> None:
        with psycopg.connect(target_dsn) as late:
            late.execute("SELECT migration.audit(NULL, 'late')")
            target.connection.execute("SELECT migration.audit(NULL, 'soon')")
            target.api.call("seal_audit")
            late.commit()
        sealed = target.api.call("seal_audit")
        order = target.all(
            "SELECT a.event FROM migration.audit_seals s JOIN migration.audit_log a ON a.id = s.audit_id"
            " WHERE a.event IN ('late', 'soon') ORDER BY s.number"
        )
        assert order == [("soon",), ("late",)]
        assert verified(target, sealed["head"])["broken"] == []

    @pytest.mark.parametrize(
        "column",
        [
            "actor = 'nobody'",
            "event = 'x'",
            "details = '{}'",
            "run_id = 'other'",
            "at = at + interval '1 us'",
        ],
    )
    def test_finds_an_edited_entry(self, target: Target, run: TrackingHook, column: str) -> None:
        tamper(
            target,
            f"UPDATE migration.audit_log SET {column}"
            " WHERE id = (SELECT min(id) FROM migration.audit_log WHERE event = 'loading batch done')",
        )
        (broken,) = verified(target)["broken"]
        assert broken["why"] == "the entry or its seal was edited"
        assert target.all(
            "SELECT audit_id FROM migration.audit_seals WHERE number = %s", [broken["seal"]]
        ) == [(broken["entry"],)]

    def test_finds_a_removed_entry(self, target: Target, run: TrackingHook) -> None:
        tamper(target, "DELETE FROM migration.audit_log WHERE event = 'run completed'")
        assert why(verified(target)) == ["the entry was removed"]

    def test_finds_an_edited_seal(self, target: Target, run: TrackingHook) -> None:
        tamper(target, "UPDATE migration.audit_seals SET hash = repeat('0', 64) WHERE number = 3")
        found = verified(target)
        assert [broken["seal"] for broken in found["broken"]] == [3, 4]

    @pytest.mark.parametrize("number", [1, 3])
    def test_finds_a_removed_seal(self, target: Target, run: TrackingHook, number: int) -> None:
        tamper(target, f"DELETE FROM migration.audit_seals WHERE number = {number}")
        assert why(verified(target)) == ["the seals before this one were removed"]
        target.api.call("seal_audit")  # its entry is sealed again, at the end: the gap stays
        assert why(verified(target)) == ["the seals before this one were removed"]

    def test_finds_an_end_that_was_cut_off_by_its_head(self, target: Target, run: TrackingHook) -> None:
        head = verified(target)["head"]
        last = "(SELECT max(number) - 2 FROM migration.audit_seals)"
        tamper(
            target,
            "WITH gone AS (DELETE FROM migration.audit_seals WHERE number > "
            f"{last} RETURNING audit_id) DELETE FROM migration.audit_log WHERE id IN (SELECT audit_id FROM gone)",
        )
        assert verified(target)["broken"] == []  # nothing is left that could tell
        assert why(verified(target, head)) == [
            "the given head is in no seal: what it stood for was removed or rewritten"
        ]

    def test_finds_a_chain_that_was_made_anew_by_its_head(self, target: Target, run: TrackingHook) -> None:
        head = verified(target)["head"]
        tamper(target, "UPDATE migration.audit_log SET event = 'run failed' WHERE event = 'run completed'")
        tamper(target, "DELETE FROM migration.audit_seals WHERE number > 0")
        target.api.call("seal_audit")
        assert verified(target)["broken"] == []
        assert why(verified(target, head)) != []


class TestLedger:
    def failed(self, target: Target, run: str | None = RUN) -> dict[str, list[str]]:
        checks = target.api.call("check_ledger", run=run)
        assert [check["name"] for check in checks] == ["ledger_as_audited", "runs_as_audited"]
        return {
            check["name"]: check["sample_keys"] for check in checks if check["found"] != check["expected"]
        }

    def test_is_as_audited(self, target: Target, run: TrackingHook) -> None:
        run.fail_batch("cases", "loading", "p000-b0002", "TARGET_INTERRUPTED")
        assert self.failed(target) == {}
        assert self.failed(target, None) == {}

    def test_is_as_audited_when_a_dead_run_is_taken_up_again(self, target: Target) -> None:
        dead = target.tracking("dead")
        dead.close_run("failed", {"entities": [1]}, "")
        assert dead.enter("loading", "loading.cases", fail_fast=True)
        target.connection.execute("SELECT migration.evict('heir', migration_api.lock_holder())")
        dead.close_run("failed", {"entities": [2]}, "")
        assert events(target, "lock taken over") != []
        assert self.failed(target, None) == {}

    @pytest.mark.parametrize("edit", ["inserted = 4, rejected = 1", "status = 'failed'", "fingerprint = 'x'"])
    @pytest.mark.parametrize("unseen", [False, True])
    def test_finds_an_edited_batch(self, target: Target, run: TrackingHook, edit: str, unseen: bool) -> None:
        statement = f"UPDATE migration.batches SET {edit} WHERE batch = 'p000-b0001'"
        tamper(target, statement) if unseen else target.connection.execute(statement.encode())
        key = f"{RUN} loading cases p000-b0001"
        assert self.failed(target) == {"ledger_as_audited": [key]}
        assert self.failed(target, None) == {"ledger_as_audited": [key]}

    @pytest.mark.parametrize("unseen", [False, True])
    def test_finds_a_removed_batch(self, target: Target, run: TrackingHook, unseen: bool) -> None:
        statement = "DELETE FROM migration.batches WHERE batch = 'p000-b0000'"
        tamper(target, statement) if unseen else target.connection.execute(statement.encode())
        assert self.failed(target) == {"ledger_as_audited": [f"{RUN} loading cases p000-b0000"]}

    def test_finds_a_batch_that_nobody_wrote(self, target: Target, run: TrackingHook) -> None:
        tamper(
            target,
            "INSERT INTO migration.batches (run_id, entity, phase, batch) SELECT run_id, 'cases', 'loading', 'x'"
            " FROM migration.runs",
        )
        assert self.failed(target) == {"ledger_as_audited": [f"{RUN} loading cases x"]}

    @pytest.mark.parametrize(
        "edit", ["counts = '{}'", "status = 'failed'", "status = 'running'", "code_version = 'other'"]
    )
    @pytest.mark.parametrize("unseen", [False, True])
    def test_finds_an_edited_run(self, target: Target, run: TrackingHook, edit: str, unseen: bool) -> None:
        statement = f"UPDATE migration.runs SET {edit} WHERE run_id = '{RUN}'"
        tamper(target, statement) if unseen else target.connection.execute(statement.encode())
        assert self.failed(target) == {"runs_as_audited": [RUN]}

    def test_of_one_run_says_nothing_of_another(self, target: Target, run: TrackingHook) -> None:
        target.tracking("later")
        target.connection.execute("UPDATE migration.runs SET counts = '{}' WHERE run_id = %s", [RUN])
        assert self.failed(target, "later") == {}


class TestCommand:
    Command = Callable[[str], tuple[int, str, str]]

    @pytest.fixture
    def audit(self, target: Target, capsys: pytest.CaptureFixture[str]) -> Command:
        """Runs the command; its exit code, what it found and what else it said."""

        def call(line: str) -> tuple[int, str, str]:
            code = main([*shlex.split(line), "--load-via", target.api.way])
            return code, *capsys.readouterr()

        return call

    def test_verifies(self, target: Target, run: TrackingHook, audit: Command) -> None:
        found = verified(target)
        code, out, said = audit(f"verify --head {found['head']}")
        assert (code, said) == (0, "")
        assert out == (
            f"unbroken: {found['entries']:,} entries, {found['sealed']:,} sealed, 0 not yet; head {found['head']}\n"
        )

    def test_says_what_is_broken_where(self, target: Target, run: TrackingHook, audit: Command) -> None:
        tamper(target, "UPDATE migration.audit_log SET event = 'x' WHERE event = 'run completed'")
        code, out, said = audit("verify")
        (broken,) = verified(target)["broken"]
        assert code == 1
        assert out.startswith("BROKEN: ")
        assert said == f"seal {broken['seal']}, entry {broken['entry']}: the entry or its seal was edited\n"

    def test_seals(self, target: Target, run: TrackingHook, audit: Command) -> None:
        target.connection.execute("SELECT migration.audit(NULL, 'by hand')")
        assert audit("verify")[1].partition(";")[0].endswith("1 not yet")
        code, out, _ = audit("seal")
        assert code == 0
        assert out.endswith(f"head {verified(target)['head']}\n")
        assert verified(target)["unsealed"] == 0

    def test_an_unknown_head_is_none(self, audit: Command, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            audit("verify --head ../../etc/passwd")
        assert "64 hexadecimal digits" in capsys.readouterr().err

    def test_says_what_to_do_without_a_target(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.delenv("AIRFLOW_CONN_SUPABASE_DB", raising=False)
        assert main(["verify", "--load-via", "postgres"]) == 1
        assert "[CONNECTION_MISSING]" in capsys.readouterr().err
