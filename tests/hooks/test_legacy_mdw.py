"""Reading a legacy source: what is sent, under which rules, and that every row arrives as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from psycopg import sql

from include.core.batches import Partition, plan_partitions
from include.core.errors import MigrationError
from include.core.spec import Entity, Kind, Source, Table
from include.entities import ENTITIES
from include.synthetic.sizes import SourceSize
from local.environment import PROJECT, connection_variable
from local.legacy_source import fill
from local.postgres import EmbeddedPostgres
from plugins.hooks.legacy_mdw import LegacyMdwHook, Snapshot
from tests.conftest import fresh_database

REVIEWED = Path(__file__).parent / "source_statements.txt"
READER = "reader_only"
SEED = 1
LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ UTC \[(\d+)\] (\w+):  (.*)$")
SENT = re.compile(r"^(?:statement|execute [^:]+): (.*)$", re.DOTALL)
# Whole numbers are the only values in a statement: key bounds, sizes, horizons. All else is an entity's text.
_BOUND = r"(?:t\.\w+ >= -?\d+|\(t\.\w+ [<>] -?\d+(?: OR t\.\w+ IS NULL)?\))"
KEY_RANGE = re.compile(rf"{_BOUND}(?: AND {_BOUND})*")
NUMBER = re.compile(r"(\(place - 1\) % |age\(')-?\d+")

# What a server of 9.5 does not know, by the release that brought it.
NOT_IN_9_5 = {
    "pg_current_snapshot, pg_snapshot_xmin (13)": r"\bpg_(current_)?snapshot|\bpg_current_xact_id",
    "gen_random_uuid (13)": r"\bgen_random_uuid\b",
    "SQL/JSON paths (12)": r"\bjsonb?_path_|\bjsonpath\b|@\?|@@",
    "SQL/JSON functions (16, 17)": (
        r"\bjson_(object|array|arrayagg|objectagg|table|query|value|exists)\s*\(|\bIS\s+JSON\b"
    ),
    "jsonb subscripts (14)": r"\w\['",
    "jsonb_insert (9.6)": r"\bjsonb_insert\b",
    "jsonb minus keys (10)": r"\bto_tsvector_json\b|#-",
    "generated and identity columns (10, 12)": r"\bGENERATED\b|\bIDENTITY\b",
    "declarative partitions (10)": r"\bPARTITION\s+OF\b|\bpg_partition_",
    "FETCH FIRST … WITH TIES (13)": r"\bWITH\s+TIES\b",
    "MATERIALIZED (12)": r"\bMATERIALIZED\b",
    "pg_control_… (9.6)": r"\bpg_control_",
    "starts_with, ^@ (11)": r"\bstarts_with\b|\^@",
    "num_nulls, num_nonnulls (9.6)": r"\bnum_(non)?nulls\b",
    "idle_in_transaction_session_timeout (9.6)": r"\bidle_in_transaction|\btransaction_timeout\b|\bidle_session",
    "string_to_table, date_bin, trim_array, bit_count (14)": r"\b(string_to_table|date_bin|trim_array|bit_count)\b",
    "any_value (16), array_shuffle (16)": r"\b(any_value|array_shuffle|array_sample)\b",
    "regexp_match (10), regexp_count, _like, _substr, _instr (15)": r"\bregexp_(match|count|like|substr|instr)\s*\(",
    "parallel, procedures (9.6, 11)": r"\bPARALLEL\b|\bCALL\b|\bPROCEDURE\b",
    "frames by groups, exclusion (11)": r"\bGROUPS\s+BETWEEN\b|\bEXCLUDE\s+(CURRENT|GROUP|TIES|NO)\b",
    "merge (15), multirange (14)": r"\bMERGE\b|multirange",
    "hashes (11)": r"\bsha(224|256|384|512)\s*\(|\bhash\w*extended\b",
    "xid8 (13)": r"\bxid8\b|\bpg_xact_status\b|\btxid_status\b",
    "ICU collations (10)": r"\bPROVIDER\b|-x-icu",
    "min_scale, trim_scale, gcd, lcm (13)": r"\b(min_scale|trim_scale)\s*\(|\bgcd\s*\(|\blcm\s*\(",
    "COPY options (12 and later)": r"\bCOPY\b.*\bWHERE\b(?=[^()]*$)|\bHEADER\s+MATCH\b|\bON_ERROR\b|\bDEFAULT\s+'",
}
WRITES = (
    r"\b(INSERT|UPDATE|DELETE|TRUNCATE|CREATE|ALTER|DROP|GRANT|LOCK|VACUUM|ANALYZE|REFRESH|NEXTVAL|SETVAL)\b"
    r"|\bFROM STDIN\b|\bFOR\s+(UPDATE|SHARE|KEY|NO)\b"
)
TRANSACTION = [
    "BEGIN",
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
    "SET LOCAL statement_timeout = '60min'",
    "SET LOCAL lock_timeout = '10s'",
]


@pytest.fixture(scope="module")
def filled(server: EmbeddedPostgres) -> Iterator[str]:
    """Name of a filled source whose reader may select, and neither create nor make temporary tables."""
    server.create_login(READER)
    with fresh_database(server) as name:
        fill(server.dsn(name), SourceSize.real().scaled(60), SEED, lambda _: None)
        allow_reading(server.dsn(name), name)
        yield name


def allow_reading(dsn: str, database: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            sql.SQL(
                "REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO {role}"
            ).format(name=sql.Identifier(database), role=sql.Identifier(READER))
        )
        connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        connection.execute(
            sql.SQL(
                "GRANT USAGE ON SCHEMA public TO {0}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {0}"
            ).format(sql.Identifier(READER))
        )


@pytest.fixture
def source(server: EmbeddedPostgres, filled: str, monkeypatch: pytest.MonkeyPatch) -> LegacyMdwHook:
    return hook_for(server.dsn(filled, role=READER), monkeypatch)


def hook_for(dsn: str, monkeypatch: pytest.MonkeyPatch) -> LegacyMdwHook:
    monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(dsn))
    return LegacyMdwHook()


def read_everything(source: Snapshot) -> dict[str, int]:
    """What a run asks of the source, for every entity; returns rows per entity.

    But for its identity: what that asks depends on the server (test_source_identity.py).
    """
    source.horizon()
    source.holders(open_since=1)
    tables = {table.name for entity in ENTITIES.values() for table in entity.source.all_tables()}
    source.columns(tables)
    source.role(tables)
    source.without_transactions(tables)
    rows = {}
    for entity in ENTITIES.values():
        third = max(source.count(entity) // 3, 1)
        cuts = [] if entity.source.whole else source.cuts(entity, third)
        partitions = plan_partitions(entity.name, cuts)
        rows[entity.name] = sum(raw.num_rows for p in partitions for raw in source.batches(entity, p, 25))
        if not entity.source.whole:
            for partition in (*partitions[:1], *partitions[1:2], *partitions[-1:]):  # resumed behind a key
                list(source.batches(entity, partition, 25, after=1))
        list(source.batches(entity, partitions[0], 25, keys=[1, 2, None]))
        list(source.versions(entity))
        list(source.keys(entity))
        list(source.keys_since(entity, 1))
    return rows


def sessions_in_log(log: Path, begin: int) -> dict[str, list[str]]:
    """Statements per server process that the log tells of behind a position."""
    sessions: dict[str, list[str]] = {}
    entries: list[tuple[str, str, str]] = []
    for line in log.read_text(encoding="utf-8")[begin:].splitlines():
        if found := LOG_LINE.match(line):
            entries.append((found[1], found[2], found[3]))
        elif entries:
            process, level, text = entries[-1]
            entries[-1] = (process, level, f"{text} {line.strip()}")
    for process, level, text in entries:
        if level == "LOG" and (sent := SENT.match(text)):
            sessions.setdefault(process, []).append(
                NUMBER.sub(r"\1N", KEY_RANGE.sub("<key range>", sent[1].strip()))
            )
    return sessions


@pytest.fixture
def recorded(
    server: EmbeddedPostgres, filled: str, source: LegacyMdwHook
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Every statement of one complete read as the server saw it, per session, and the rows read."""
    log = server.folder / "server.log"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} SET log_statement = 'all'").format(sql.Identifier(filled)))
        begin = len(log.read_text(encoding="utf-8"))
        with source.snapshot() as snapshot:
            rows = read_everything(snapshot)
        admin.execute(sql.SQL("ALTER DATABASE {} RESET log_statement").format(sql.Identifier(filled)))
    return sessions_in_log(log, begin), rows


def test_the_source_sees_only_reviewed_read_only_statements(
    recorded: tuple[dict[str, list[str]], dict[str, int]],
) -> None:
    """With UPDATE_SOURCE_STATEMENTS=1 the list is written anew, to be reviewed with the change that asked for it."""
    sessions, _ = recorded
    (statements,) = sessions.values()
    assert statements[:4] == TRANSACTION
    assert statements[-1] == "ROLLBACK"
    distinct = sorted(set(statements))
    text = "".join(f"{statement}\n" for statement in distinct)
    if os.environ.get("UPDATE_SOURCE_STATEMENTS"):
        REVIEWED.write_text(text, encoding="utf-8")
    assert REVIEWED.read_text(encoding="utf-8") == text
    for statement in distinct:
        assert re.match(
            r"(COPY \(SELECT|SELECT|WITH open AS \( SELECT|SET (LOCAL|TRANSACTION)|BEGIN$|ROLLBACK$)",
            statement,
        ), statement
        assert not re.search(WRITES, statement, re.IGNORECASE), statement


@pytest.mark.parametrize("construct", NOT_IN_9_5)
def test_reviewed_statements_are_understood_by_9_5(construct: str) -> None:
    for statement in REVIEWED.read_text(encoding="utf-8").splitlines():
        assert not re.search(NOT_IN_9_5[construct], statement, re.IGNORECASE), statement


def test_everything_is_read(
    recorded: tuple[dict[str, list[str]], dict[str, int]], server: EmbeddedPostgres, filled: str
) -> None:
    _, rows = recorded
    with psycopg.connect(server.dsn(filled)) as connection:
        for entity in ENTITIES.values():
            name = sql.Identifier(entity.source.tables[0].name)
            (stored,) = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone() or (0,)
            without_category = entity.name == "workflow_templates"
            assert rows[entity.name] == stored + without_category, entity.name


def test_the_reader_can_do_nothing_but_read(server: EmbeddedPostgres, filled: str) -> None:
    with psycopg.connect(server.dsn(filled, role=READER), autocommit=True) as connection:
        for refused in (
            "CREATE TABLE t (a int)",
            "CREATE TEMPORARY TABLE t (a int)",
            "DELETE FROM auth_user",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused)


@pytest.mark.parametrize("entity", ENTITIES.values(), ids=lambda entity: entity.name)
def test_partitions_and_batches_change_nothing(source: LegacyMdwHook, entity: Entity) -> None:
    with source.snapshot() as snapshot:
        whole = pa.concat_tables(snapshot.batches(entity, Partition(entity.name, 0, None, None), 10**9))
        if entity.source.whole:
            return
        partitions = plan_partitions(entity.name, snapshot.cuts(entity, max(snapshot.count(entity) // 4, 2)))
        parts = [raw for p in partitions for raw in snapshot.batches(entity, p, 7)]
        keys = pa.concat_arrays(list(snapshot.keys(entity)))
    assert len(partitions) > 1
    assert pa.concat_tables(parts).equals(whole)
    assert sorted(keys.to_pylist()) == sorted(set(whole["legacy_id"].to_pylist()))
    if entity.source.group_by is None:
        assert {raw.num_rows for raw in parts} <= set(range(1, 8))


def test_a_resumed_partition_goes_on_behind_a_key(source: LegacyMdwHook) -> None:
    entity, whole = ENTITIES["patients"], Partition("patients", 0, None, None)
    with source.snapshot() as snapshot:
        first, *rest = snapshot.batches(entity, whole, 10)
        after = int(first["t.id"][-1].as_py())
        resumed = pa.concat_tables(snapshot.batches(entity, whole, 10, after=after))
    assert resumed.equals(pa.concat_tables(rest))


def test_a_snapshot_does_not_see_what_comes_later(
    server: EmbeddedPostgres, filled: str, source: LegacyMdwHook
) -> None:
    entity = ENTITIES["workflow_templates"]
    insert = b"INSERT INTO dispatch_category (name) VALUES ('later') RETURNING id"
    with source.snapshot() as snapshot:
        horizon, before = snapshot.horizon(), snapshot.count(entity)
        with psycopg.connect(server.dsn(filled)) as writer:
            writer.execute(insert)
        assert snapshot.count(entity) == before
    with source.snapshot() as snapshot:
        assert snapshot.count(entity) == before + 1
        assert snapshot.horizon() > horizon


def test_keys_since_a_horizon_are_those_written_behind_it(
    server: EmbeddedPostgres, filled: str, source: LegacyMdwHook
) -> None:
    entity = ENTITIES["practices"]
    with source.snapshot() as snapshot:
        horizon = snapshot.horizon()
        assert [chunk.to_pylist() for chunk in snapshot.keys_since(entity, horizon)] == []
    with psycopg.connect(server.dsn(filled)) as writer:
        (touched,) = writer.execute(
            "UPDATE dispatch_office SET apt = apt WHERE id < 3 RETURNING id"
        ).fetchone() or (0,)
    with source.snapshot() as snapshot:
        keys = [key for chunk in snapshot.keys_since(entity, horizon) for key in chunk.to_pylist()]
    assert str(touched) in keys
    assert set(keys) <= {"1", "2"}


def test_source_text_arrives_exactly(
    server: EmbeddedPostgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [
        "two\nlines",
        'a "quote"',
        "comma, and\r\nreturn",
        "",
        None,
        "NULL",
        "\\N",
        "\\.",
        " x ",
        "漢字 🦷",
        '"',
    ]
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE notes (id int, text text, gone timestamptz)")
        for number, text in enumerate(texts):
            connection.execute(
                "INSERT INTO notes VALUES (%s, %s, '2020-02-03 04:05:06.789+02')", (number, text)
            )
    with hook_for(database, monkeypatch).snapshot() as snapshot:
        batches = list(snapshot.batches(NOTES, Partition("notes", 0, None, None), 3))
    raw = pa.concat_tables(batches)
    assert [batch.num_rows for batch in batches] == [3, 3, 3, 2]
    assert raw["t.text"].to_pylist() == texts
    assert raw["legacy_id"].to_pylist() == [str(number) for number in range(len(texts))]
    assert set(raw["t.gone"].to_pylist()) == {"2020-02-03 02:05:06.789+00"}


NOTES = Entity(
    "notes",
    Source((Table("notes", "t", {"id": Kind.INTEGER, "text": Kind.TEXT}, {"gone": Kind.TIMESTAMP}),)),
    (),
)
GROUPED = Entity(
    "grouped",
    Source(
        (Table("grouped", "t", {"id": Kind.INTEGER, "owner": Kind.INTEGER}),),
        partition_by="t.owner",
        group_by="t.owner",
    ),
    (),
)


def test_an_empty_table_and_an_absent_optional_column(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Partition("notes", 0, None, None)
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE notes (id int, text text)")
    with hook_for(database, monkeypatch).snapshot() as snapshot:
        assert (snapshot.count(NOTES), snapshot.cuts(NOTES, 10)) == (0, [])
        assert list(snapshot.batches(NOTES, whole, 10)) == []
        assert list(snapshot.keys(NOTES)) == []
    with psycopg.connect(database) as connection:
        connection.execute("INSERT INTO notes VALUES (1, 'a'), (2, NULL)")
    with hook_for(database, monkeypatch).snapshot() as snapshot:
        (raw,) = snapshot.batches(NOTES, whole, 10)
    assert raw["t.gone"].to_pylist() == [None, None]


def test_optional_columns_of_the_real_entities_may_be_absent(
    server: EmbeddedPostgres, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = (
        ("dispatch_plan", ("number", "original", "name", "notes")),
        ("dispatch_template", ("course_id", "extensions")),
    )
    with fresh_database(server, template=filled) as name:
        with psycopg.connect(server.dsn(name)) as connection:
            for table, columns in absent:
                for column in columns:
                    connection.execute(
                        sql.SQL("ALTER TABLE {} DROP COLUMN {} CASCADE").format(
                            sql.Identifier(table), sql.Identifier(column)
                        )
                    )
        with hook_for(server.dsn(name), monkeypatch).snapshot() as snapshot:
            rows = read_everything(snapshot)
            (tasks,) = snapshot.batches(
                ENTITIES["workflow_template_tasks"], Partition("workflow_template_tasks", 0, None, None), 10
            )
    assert min(rows.values()) > 0
    assert tasks["t.extensions"].null_count == tasks.num_rows > 0


@pytest.fixture
def keyless(database: str, monkeypatch: pytest.MonkeyPatch) -> LegacyMdwHook:
    """40 rows, every fourth without owner."""
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE grouped (id int, owner int)")
        connection.execute(
            "INSERT INTO grouped SELECT n, CASE WHEN n % 4 > 0 THEN n / 8 END FROM generate_series(1, 40) n"
        )
    return hook_for(database, monkeypatch)


@pytest.mark.parametrize("rows_per_partition", [2, 3, 5, 10, 40])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_rows_without_partition_key_are_read_once(
    keyless: LegacyMdwHook, rows_per_partition: int, batch_size: int
) -> None:
    with keyless.snapshot() as snapshot:
        partitions = plan_partitions("grouped", snapshot.cuts(GROUPED, rows_per_partition))
        batches = [raw for p in partitions for raw in snapshot.batches(GROUPED, p, batch_size)]
    ids = sorted(int(key) for raw in batches for key in raw["legacy_id"].to_pylist())
    assert ids == list(range(1, 41))
    owners = [owner for raw in batches for owner in pc.unique(raw["t.owner"].combine_chunks()).to_pylist()]
    assert len(owners) == len(set(owners))  # no group is split


def test_columns_tell_type_and_right(server: EmbeddedPostgres, filled: str, source: LegacyMdwHook) -> None:
    with psycopg.connect(server.dsn(filled)) as connection:
        connection.execute("CREATE TABLE closed (id int8)")
    with source.snapshot() as snapshot:
        found = snapshot.columns(["closed", "dispatch_course", "no_such_table"])
    assert found == {
        "closed": {"id": ("int8", False)},
        "dispatch_course": {"id": ("int4", True), "name": ("varchar", True)},
    }


SECRET = "Zweifelstein"


def test_errors_of_the_source_name_no_value(
    server: EmbeddedPostgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE notes (id int, text text)")
        connection.execute("INSERT INTO notes VALUES (1, %s)", (SECRET,))
    broken = Entity("notes", Source(NOTES.source.tables, key="t.text::int::text"), ())
    with hook_for(database, monkeypatch).snapshot() as snapshot, pytest.raises(MigrationError) as caught:
        list(snapshot.keys(broken))
    assert (caught.value.code, caught.value.facts) == ("SOURCE_QUERY_FAILED", {"sqlstate": "22P02"})
    assert SECRET not in str(caught.value)


def test_a_lost_connection_is_transient(server: EmbeddedPostgres, filled: str, source: LegacyMdwHook) -> None:
    with source.snapshot() as snapshot:
        with psycopg.connect(server.dsn(filled)) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with pytest.raises(MigrationError) as caught:
            snapshot.horizon()
    assert (caught.value.code, caught.value.transient) == ("SOURCE_INTERRUPTED", True)


def test_an_error_of_the_caller_amid_a_copy_is_raised(source: LegacyMdwHook) -> None:
    """The cursor keeps the connection's lock while a COPY is under way: whoever waits for it waits for ever."""
    raised: list[BaseException] = []

    def fail_amid_a_copy() -> None:
        try:
            with source.snapshot() as snapshot:
                batches = snapshot.batches(ENTITIES["profiles"], Partition("profiles", 0, None, None), 5)
                raised.append(next(batches)["no such column"])
        except KeyError as error:
            raised.append(error)

    reading = threading.Thread(target=fail_amid_a_copy, daemon=True)
    reading.start()
    reading.join(20)
    assert [type(error) for error in raised] == [KeyError]


def test_an_error_of_the_caller_is_not_blamed_on_the_source(
    server: EmbeddedPostgres, target_template: str, source: LegacyMdwHook
) -> None:
    def fail_in_the_target() -> None:
        with source.snapshot() as snapshot, psycopg.connect(server.dsn()) as other:
            for _ in snapshot.keys(ENTITIES["practices"]):
                other.execute("SELECT 1 / 0")

    with pytest.raises(psycopg.errors.DivisionByZero):
        fail_in_the_target()


def test_a_long_read_keeps_one_batch_in_memory(server: EmbeddedPostgres, database: str) -> None:
    rows, width, batch = 300_000, 200, 10_000
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE notes (id int, text text)")
        connection.execute(
            "INSERT INTO notes SELECT n, repeat('x', %s) FROM generate_series(1, %s) n", (width, rows)
        )
    code = """
import resource
from include.core.batches import Partition
from plugins.hooks.legacy_mdw import LegacyMdwHook
from tests.hooks.test_legacy_mdw import NOTES
read, peaks = 0, []
with LegacyMdwHook().snapshot() as snapshot:
    for raw in snapshot.batches(NOTES, Partition("notes", 0, None, None), %d):
        read += raw.num_rows
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(read, peaks[2], peaks[-1])
"""
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "AIRFLOW_CONN_LEGACY_MDW": connection_variable(database),
    }
    done = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", code % batch],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    read, early, late = map(int, done.stdout.split()[-3:])
    assert read == rows
    grown_mb, table_mb = (late - early) / 1024, rows * width / 2**20
    assert grown_mb < table_mb / 4, f"{grown_mb:.0f} MB more at the end of a table of {table_mb:.0f} MB"


def test_a_killed_task_cancels_its_query(source: LegacyMdwHook) -> None:
    source.cancel()  # nothing runs yet
    endless = Entity(
        "slow",
        Source((Table("dispatch_course", "t", {"id": Kind.INTEGER}),), key="(SELECT 'x' FROM pg_sleep(30))"),
        (),
    )
    with source.snapshot() as snapshot:
        threading.Timer(0.3, source.cancel).start()
        with pytest.raises(MigrationError) as caught:
            list(snapshot.keys(endless))
    assert caught.value.facts["sqlstate"] == "57014"
