"""Knowing whether the source is still the same database, and who holds its horizon back, with SELECT alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.core.notes import Note
from local.environment import connection_variable
from local.postgres import EmbeddedPostgres
from plugins.hooks.legacy_mdw import LegacyMdwHook
from plugins.hooks.source_identity import (
    Holder,
    SourceIdentity,
    compare,
    first_break,
    read_holders,
    read_identity,
)
from tests.conftest import FAST_SETTINGS, fresh_database
from tests.hooks.test_legacy_mdw import NOT_IN_9_5, WRITES

READER, WRITER, MONITOR = "identity_reader", "identity_writer", "identity_monitor"
TABLES = ("auth_user", "dispatch_patient", "no_such_table")
PARTS = ("system_identifier", "timeline", "wal_position", "statistics_since")
OLD_NAMES = {
    "pg_current_wal_lsn()": "pg_current_xlog_location",
    "pg_walfile_name(pg_lsn)": "pg_xlogfile_name",
    "pg_last_wal_replay_lsn()": "pg_last_xlog_replay_location",
    "pg_control_system()": "unknown_to_9_5_system",
    "pg_control_checkpoint()": "unknown_to_9_5_checkpoint",
}


def make_source(server: EmbeddedPostgres, name: str) -> None:
    """Two tables, a role that reads them, one that writes and one that reads and sees statistics."""
    for role in (READER, WRITER, MONITOR):
        server.create_login(role)
    with psycopg.connect(server.dsn(name)) as connection:
        connection.execute(f"GRANT pg_read_all_stats TO {MONITOR}".encode())
        for table in TABLES[:2]:
            connection.execute(f"CREATE TABLE {table} (id int)".encode())
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}, {MONITOR}".encode())
        connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {WRITER}".encode())


@pytest.fixture
def source(server: EmbeddedPostgres) -> Iterator[str]:
    """Name of a source of its own."""
    with fresh_database(server) as name:
        make_source(server, name)
        yield name


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server of another release, which may be stopped, broken and copied; it holds the database `mdw`."""
    settings = {**FAST_SETTINGS, "max_prepared_transactions": "4"}
    folder = tmp_path_factory.mktemp("other") / "server"
    with EmbeddedPostgres(folder, major=16, settings=settings) as running:
        running.create_database("mdw")
        make_source(running, "mdw")
        yield running


def identity(dsn: str) -> SourceIdentity:
    """What a run would find."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(dsn))
        with LegacyMdwHook().snapshot() as snapshot:
            return snapshot.identity(TABLES)


def run_in(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


class TestTheSameDatabase:
    def test_later_is_the_same(self, server: EmbeddedPostgres, source: str) -> None:
        dsn = server.dsn(source, role=READER)
        before = identity(dsn)
        run_in(server.dsn(source), "INSERT INTO auth_user SELECT generate_series(1, 1000)")
        after = identity(dsn)
        assert all(getattr(before, part) is not None for part in PARTS)
        assert sorted(before.tables) == ["auth_user", "dispatch_patient"]
        assert after.next_xid > before.next_xid
        assert compare(before, after) is None

    @pytest.mark.parametrize(
        "statement",
        [
            "VACUUM FULL auth_user",
            "VACUUM (FREEZE) auth_user",
            "TRUNCATE auth_user",
            "ALTER TABLE auth_user ADD COLUMN late int DEFAULT 7",
            "ALTER TABLE auth_user ALTER COLUMN id TYPE bigint",
        ],
    )
    def test_a_rewritten_table_is_the_same(
        self, server: EmbeddedPostgres, source: str, statement: str
    ) -> None:
        before = identity(server.dsn(source, role=READER))
        run_in(server.dsn(source), statement)
        assert compare(before, identity(server.dsn(source, role=READER))) is None

    def test_a_table_that_a_later_rule_needs_is_no_break(self, server: EmbeddedPostgres, source: str) -> None:
        found = identity(server.dsn(source, role=READER))
        assert compare(replace(found, tables={}), found) is None
        assert compare(found, replace(found, tables={})) is None

    def test_it_is_remembered_as_json(self, server: EmbeddedPostgres, source: str) -> None:
        found = identity(server.dsn(source, role=READER))
        assert SourceIdentity.from_json(json.loads(json.dumps(found.to_json()))) == found

    def test_the_horizon_is_the_oldest_open_transaction(self, server: EmbeddedPostgres, source: str) -> None:
        with psycopg.connect(server.dsn(source, role=WRITER)) as writer:
            writer.execute("INSERT INTO auth_user VALUES (1)")
            (own,) = writer.execute("SELECT txid_current()").fetchone() or (0,)
            run_in(server.dsn(source), "SELECT txid_current()", "SELECT txid_current()")
            found = identity(server.dsn(source, role=READER))
            assert found.horizon == own < found.next_xid

    def test_a_restart_changes_nothing(self, other: EmbeddedPostgres) -> None:
        before = identity(other.dsn("mdw", role=READER))
        other.stop()
        other.start()
        assert compare(before, identity(other.dsn("mdw", role=READER))) is None


class TestAnotherDatabase:
    def test_a_copy(self, server: EmbeddedPostgres, source: str) -> None:
        original = identity(server.dsn(source, role=READER))
        with fresh_database(server, template=source) as name:
            copy = identity(server.dsn(name, role=READER))
        assert copy.tables == original.tables  # a copy's tables keep their oids
        reason = compare(original, copy)
        assert reason is not None
        assert reason.startswith("another database")
        assert str(copy.database_oid) in reason

    def test_another_server(self, server: EmbeddedPostgres, source: str, other: EmbeddedPostgres) -> None:
        reason = compare(identity(server.dsn(source, role=READER)), identity(other.dsn("mdw", role=READER)))
        assert reason is not None
        assert reason.startswith("another server")

    def test_a_table_created_anew_is_named(self, server: EmbeddedPostgres, source: str) -> None:
        before = identity(server.dsn(source, role=READER))
        run_in(server.dsn(source), "DROP TABLE dispatch_patient", "CREATE TABLE dispatch_patient (id int)")
        assert compare(before, identity(server.dsn(source, role=READER))) == (
            "tables were created anew: dispatch_patient"
        )

    def test_a_crash_may_have_lost_what_was_read(self, other: EmbeddedPostgres) -> None:
        before = identity(other.dsn("mdw", role=READER))
        assert other.pid is not None
        os.kill(other.pid, signal.SIGQUIT)  # what the server calls an immediate shutdown: no checkpoint
        wait_for(lambda: other.pid is None)
        other.start()
        reason = compare(before, identity(other.dsn("mdw", role=READER)))
        assert reason is not None
        assert reason.startswith("crashed, restored or copied")

    def test_a_standby_is_the_same_until_it_is_promoted(self, other: EmbeddedPostgres) -> None:
        dsn = other.dsn("mdw", role=READER)
        primary = identity(dsn)
        with standby_of(other) as standby:
            dsn = standby.dsn("mdw", role=READER)
            following = identity(dsn)
            assert (following.timeline, following.wal_position is None) == (1, False)
            assert compare(primary, following) is None
            run_in(standby.dsn(), "SELECT pg_promote()")
            promoted = identity(dsn)
        assert promoted.timeline == 2
        for before in (primary, following):
            assert compare(before, promoted) == (
                "restored to a point in time, or failed over (its timeline changed from 1 to 2)"
            )


@contextmanager
def standby_of(primary: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """A copy of a server that waits for more of its log, as after the loss of the primary."""
    primary.stop()
    folder = primary.folder.with_name("standby")
    settings = {**FAST_SETTINGS, "max_prepared_transactions": "4"}
    try:
        # With the owner of each file, who may be another account.
        subprocess.run(["/bin/cp", "-a", primary.folder, folder], check=True)  # noqa: S603 - fixed programs
        signal_file = folder / "data" / "standby.signal"
        subprocess.run(["/bin/cp", "-a", folder / "data" / "PG_VERSION", signal_file], check=True)  # noqa: S603
        (folder / "port").unlink()
        with EmbeddedPostgres(folder, major=primary.major, settings=settings) as standby:
            yield standby
    finally:
        primary.start()


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


FOUND = SourceIdentity(
    horizon=990,
    next_xid=1_000,
    database="mdw",
    database_oid=5,
    tables={"auth_user": 7, "dispatch_patient": 8},
    system_identifier="123",
    timeline=1,
    wal_position=5_000,
    statistics_since="2024-01-01 00:00:00",
)


class TestTimeThatWentBack:
    @pytest.mark.parametrize("remembered", [{"horizon": 1_001}, {"horizon": 1_001, "next_xid": 1_002}])
    def test_a_horizon_from_the_future(self, remembered: dict[str, Any]) -> None:
        reason = compare(replace(FOUND, **remembered), FOUND)
        assert reason is not None
        assert re.fullmatch(
            r"its time went back \(transaction 100[12] is remembered, the next one is 1000\)", reason
        )

    def test_a_log_position_from_the_future(self) -> None:
        assert compare(replace(FOUND, wal_position=5_001), FOUND) == (
            "its time went back (log position 5001 is remembered, it is at 5000)"
        )

    def test_standing_still_is_no_break(self) -> None:
        assert compare(FOUND, FOUND) is None

    def test_a_real_server_of_another_time(self, server: EmbeddedPostgres, source: str) -> None:
        found = identity(server.dsn(source, role=READER))
        future = replace(found, horizon=found.horizon + 10**6, next_xid=found.next_xid + 10**6)
        assert "time went back" in str(compare(future, found))


class TestManyRuns:
    """The row versions in the target come from the last complete run and from every failed one behind it."""

    def test_a_state_between_a_complete_and_a_failed_run(self) -> None:
        complete, failed, now = (replace(FOUND, wal_position=position) for position in (100, 200, 160))
        assert compare(complete, now) is None
        assert "time went back" in str(first_break([complete, failed, now]))

    def test_there_and_back_again(self) -> None:
        elsewhere = replace(FOUND, database_oid=6)
        assert str(first_break([FOUND, elsewhere, FOUND])).startswith("another database")

    def test_a_run_that_could_not_read_a_part_hides_nothing(self) -> None:
        blind = replace(FOUND, system_identifier=None)
        moved = replace(FOUND, system_identifier="456")
        assert first_break([FOUND, blind]) is first_break([blind, moved]) is None
        assert str(first_break([FOUND, blind, moved])).startswith("another server")

    def test_nothing_seen_before(self) -> None:
        assert first_break([]) is first_break([FOUND]) is None

    @given(
        st.lists(
            st.tuples(
                st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.sets(st.sampled_from(PARTS))
            ),
            max_size=6,
        )
    )
    def test_one_history_is_never_distrusted_and_a_foreign_run_always_is(
        self, steps: list[tuple[int, int, int, set[str]]]
    ) -> None:
        seen = [FOUND]
        for begun, ended, written, unreadable in steps:
            last = replace(seen[-1], wal_position=max(i.wal_position or 0 for i in seen))
            next_xid = last.next_xid + begun
            moved = replace(
                last,
                next_xid=next_xid,
                horizon=min(next_xid, last.horizon + ended),
                wal_position=(last.wal_position or 0) + written,
            )
            unread: dict[str, Any] = dict.fromkeys(unreadable)
            seen.append(replace(moved, **unread))
        assert first_break(seen) is None
        for place in range(len(seen) + 1):
            foreign = [*seen[:place], replace(FOUND, database_oid=99), *seen[place:]]
            assert first_break(foreign) is not None


class TestOtherReleasesAndFewerRights:
    def test_the_names_of_9_5(self, server: EmbeddedPostgres, source: str) -> None:
        """Functions are catalogue rows of a database: with the old names it answers as 9.5 does."""
        modern = identity(server.dsn(source, role=READER))
        run_in(
            server.dsn(source),
            *(f"ALTER FUNCTION pg_catalog.{new} RENAME TO {old}" for new, old in OLD_NAMES.items()),
        )
        dated = identity(server.dsn(source, role=READER))
        assert dated.system_identifier is None
        assert dated.timeline == modern.timeline == 1
        assert dated.wal_position is not None
        assert modern.wal_position is not None
        assert dated.wal_position >= modern.wal_position
        assert compare(modern, dated) is None
        assert compare(dated, replace(dated, timeline=2)) is not None

    def test_what_may_not_be_called_is_not_compared(self, server: EmbeddedPostgres, source: str) -> None:
        before = identity(server.dsn(source, role=READER))
        functions = ("pg_control_system()", "pg_walfile_name(pg_lsn)", "pg_current_wal_lsn()")
        more = ("pg_stat_get_bgwriter_stat_reset_time()",)
        run_in(
            server.dsn(source), *(f"REVOKE EXECUTE ON FUNCTION {f} FROM PUBLIC" for f in (*functions, *more))
        )
        less = identity(server.dsn(source, role=READER))
        assert [getattr(less, part) for part in PARTS] == [None] * 4
        everything = replace(less, **{part: getattr(before, part) for part in PARTS})
        assert compare(before, less) is compare(less, everything) is None
        assert compare(less, replace(less, database_oid=1)) is not None

    def test_without_knowing_whether_it_follows_another_server(
        self, server: EmbeddedPostgres, source: str
    ) -> None:
        run_in(server.dsn(source), "REVOKE EXECUTE ON FUNCTION pg_is_in_recovery() FROM PUBLIC")
        found = identity(server.dsn(source, role=READER))
        assert (found.timeline, found.wal_position) == (None, None)
        assert found.system_identifier is not None

    def test_statements_only_read_and_are_known_to_9_5(self, server: EmbeddedPostgres, source: str) -> None:
        sent: list[str] = []
        with psycopg.connect(server.dsn(source, role=READER)) as connection:

            def read(query: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
                sent.append(query)
                return connection.execute(query.encode(), parameters).fetchall()

            read_identity(read, TABLES)
            read_holders(read)
        assert len(sent) == 9
        for statement in sent:
            assert statement.startswith(("SELECT ", "WITH open AS (\nSELECT "))
            assert not re.search(WRITES, statement, re.IGNORECASE)
            if "pg_control_system" not in statement:  # sent only where the catalogue has it
                assert not [name for name, pattern in NOT_IN_9_5.items() if re.search(pattern, statement)]


def holders(dsn: str, **limits: Any) -> list[Holder]:
    with psycopg.connect(dsn) as connection:
        return read_holders(
            lambda query, values: connection.execute(query.encode(), values).fetchall(), **limits
        )


@contextmanager
def writing(dsn: str, *statements: str) -> Iterator[psycopg.Connection[Any]]:
    """An open transaction that has written."""
    connection = psycopg.connect(dsn)
    try:
        for statement in ("INSERT INTO auth_user VALUES (1)", *statements):
            connection.execute(statement.encode())
        yield connection
    finally:
        connection.close()


def pass_transactions(dsn: str, number: int) -> None:
    run_in(dsn, *["SELECT txid_current()"] * number)


ANY: Mapping[str, Any] = {"older_than_seconds": 0, "older_than_transactions": 0}


class TestHolders:
    def test_a_role_with_select_alone_sees_who_and_how_many_transactions(
        self, server: EmbeddedPostgres, source: str
    ) -> None:
        with writing(server.dsn(source, role=WRITER)) as writer:
            pass_transactions(server.dsn(source), 20)
            (found,) = holders(server.dsn(source, role=READER), older_than_transactions=15)
            assert (found.pid, found.user, found.database) == (writer.info.backend_pid, WRITER, source)
            assert 20 < found.transactions < 60
            assert found.seconds is None
            assert holders(server.dsn(source, role=READER), older_than_transactions=60) == []
            writer.commit()
            assert holders(server.dsn(source, role=READER), **ANY) == []

    def test_savepoints_are_no_holders_of_their_own(self, server: EmbeddedPostgres, source: str) -> None:
        inner = [step for n in range(3) for step in (f"SAVEPOINT s{n}", "INSERT INTO auth_user VALUES (2)")]
        with writing(server.dsn(source, role=WRITER), *inner) as writer:
            (found,) = holders(server.dsn(source, role=READER), **ANY)
            assert found.pid == writer.info.backend_pid
            assert found.transactions >= 4  # its own id, not the younger one of a savepoint
            writer.execute("ROLLBACK TO s0")
            assert [holder.pid for holder in holders(server.dsn(source, role=READER), **ANY)] == [found.pid]

    def test_who_only_reads_holds_nothing(self, server: EmbeddedPostgres, source: str) -> None:
        with psycopg.connect(server.dsn(source, role=WRITER)) as reader:
            reader.execute("SELECT count(*) FROM auth_user")
            assert holders(server.dsn(source, role=READER), **ANY) == []

    def test_where_its_beginning_is_visible_seconds_decide(
        self, server: EmbeddedPostgres, source: str
    ) -> None:
        with writing(server.dsn(source, role=WRITER)):
            pass_transactions(server.dsn(source), 20)
            dsn = server.dsn(source, role=MONITOR)
            (found,) = holders(dsn, older_than_seconds=0, older_than_transactions=10**6)
            assert found.seconds is not None
            assert 0 < found.seconds < 60
            assert holders(dsn, older_than_transactions=0) == []

    def test_open_since_an_earlier_run_is_old_however_few_transactions_passed(
        self, server: EmbeddedPostgres, source: str
    ) -> None:
        dsn = server.dsn(source, role=READER)
        before = identity(dsn).next_xid
        with writing(server.dsn(source, role=WRITER)):
            later = identity(dsn).next_xid + 1
            pass_transactions(server.dsn(source), 3)
            assert len(holders(dsn, open_since=later)) == 1
            assert len(holders(dsn, open_since=later + 2**32)) == 1  # another epoch, the same id
            assert holders(dsn, open_since=before - 1) == []
            assert holders(dsn, open_since=later + 10**6) == []  # of another server's history

    def test_of_other_databases_only_the_one_that_holds_the_horizon(
        self, server: EmbeddedPostgres, source: str
    ) -> None:
        with fresh_database(server, template=source) as elsewhere:
            dsn = server.dsn(source, role=READER)
            with (
                writing(server.dsn(elsewhere, role=WRITER)) as first,
                writing(server.dsn(source, role=WRITER)) as mine,
            ):
                with writing(server.dsn(elsewhere, role=WRITER)):
                    found = holders(dsn, **ANY)
                assert [(holder.pid, holder.database) for holder in found] == [
                    (first.info.backend_pid, elsewhere),
                    (mine.info.backend_pid, source),
                ]

    def test_the_oldest_are_named_first_and_not_too_many(self, server: EmbeddedPostgres, source: str) -> None:
        dsn = server.dsn(source, role=WRITER)
        with writing(dsn) as first, writing(dsn) as second, writing(dsn):
            found = holders(server.dsn(source, role=READER), **ANY, at_most=2)
            assert [holder.pid for holder in found] == [first.info.backend_pid, second.info.backend_pid]

    def test_a_prepared_transaction_has_no_process(self, other: EmbeddedPostgres) -> None:
        dsn = other.dsn("mdw", role=WRITER)
        run_in(dsn, "BEGIN; INSERT INTO auth_user VALUES (1); PREPARE TRANSACTION 'transfer'")
        dsn = other.dsn("mdw", role=READER)
        (found,) = holders(dsn, older_than_seconds=0, older_than_transactions=10**6)
        assert (found.pid, found.user, found.database) == (None, WRITER, "mdw")
        assert found.seconds is not None  # when it was prepared is shown to everybody
        run_in(other.dsn("mdw", role=WRITER), "ROLLBACK PREPARED 'transfer'")
        assert holders(dsn, **ANY) == []


@pytest.mark.parametrize("seconds", [61.4, None])
@pytest.mark.parametrize("pid", [77, None])
def test_what_a_holder_is_called_in_the_report(pid: int | None, seconds: float | None) -> None:
    holder = Holder(pid, "django", "mdw", 12_345, seconds)
    text = Note(holder.note, holder.facts).text
    for part in ("django", "mdw", "12,345", "unknown" if seconds is None else "in seconds: 61)"):
        assert part in text
    assert ("Process 77 " in text) is (pid is not None)
    assert json.dumps(holder.facts)
