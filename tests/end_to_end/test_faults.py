"""What breaks under a run: connections, servers, locks, the disk.

A fault that passes by itself is survived inside the run; one that does not fails it with a code that says what
to do, leaves whole batches only, and the next run comes to what an undisturbed one does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import IsolationLevel

from include.core.errors import REGISTRY
from local.environment import PLATFORM_SQL, PROJECT
from local.legacy_source import fill
from local.postgres import EmbeddedPostgres, run_script
from tests.conftest import FAST_SETTINGS, fresh_database, stopped_with_parent
from tests.end_to_end.conftest import READER, MakeDatabases, allow_reading
from tests.end_to_end.crash_matrix import ENVIRONMENT, SIZE, SOURCE_SEED
from tests.end_to_end.crashing import merging
from tests.end_to_end.proxy import Cut, proxied
from tests.end_to_end.runs import Airflow, Databases, Outcome
from tests.incremental.compare import Target, differences, read

ENTITIES = ["practices", "profiles", "patients", "cases"]
CONF: Mapping[str, Any] = {
    "dry_run": False,
    "enable_ai": False,
    "entities": ENTITIES,
    "batch_size": 12,
    "max_rejected": 0.5,
    "max_retries": 3,
}
DISK_BYTES = 16 * 4096
LONGEST_SECONDS = 120
POLL_SECONDS = 0.02

# What happens in the source between two runs: every patient and every order is to be written again.
CHANGES = (
    "UPDATE auth_user SET first_name = first_name || 'a'",
    "UPDATE dispatch_instruction SET price = coalesce(price, 0) + 1",
)


@dataclass(frozen=True)
class Undisturbed:
    """A migration, and what it comes to when nothing disturbs it.

    Attributes:
        databases: the source, and the target it was loaded into undisturbed.
        before: name of a target as it was before.
    """

    databases: Databases
    before: str
    expected: Target


class Frail:
    """A server that a test may break, ended with the test process."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        # What was committed must outlive a crash, as in Supabase.
        settings = {**FAST_SETTINGS, "synchronous_commit": "on"}
        self.server = stack.enter_context(EmbeddedPostgres(folder, settings=settings))
        self._stack = stack
        self._watch()

    def restart(self) -> None:
        """As `pg_ctl restart -m immediate`: all sessions are cut off, and the log brings back what was committed."""
        pid = self.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: self.server.pid is None)
        self.server.start()
        self._watch()

    def _watch(self) -> None:
        assert self.server.pid is not None
        self._stack.enter_context(stopped_with_parent(self.server.pid))


@pytest.fixture(scope="module")
def frail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frail]:
    with ExitStack() as stack:
        made = Frail(tmp_path_factory.mktemp("frail") / "server", stack)
        for role in (READER, "postgres"):
            made.server.create_login(role)
        yield made


@pytest.fixture(scope="module")
def small_source(server: EmbeddedPostgres) -> Iterator[str]:
    with fresh_database(server) as name:
        fill(server.dsn(name), SIZE, SOURCE_SEED, progress=lambda _: None)
        yield name


@pytest.fixture(scope="module")
def first(
    airflow: Airflow, make_databases: MakeDatabases, small_source: str, target_template: str
) -> Undisturbed:
    """A run into an empty target."""
    databases = make_databases(small_source)
    undisturbed(airflow, databases)
    return Undisturbed(databases, target_template, read(databases.target))


@pytest.fixture(scope="module")
def again(
    server: EmbeddedPostgres, airflow: Airflow, make_databases: MakeDatabases, small_source: str
) -> Iterator[Undisturbed]:
    """A run into a target that holds the rows as they were before the source changed."""
    databases = make_databases(small_source)
    undisturbed(airflow, databases)
    with fresh_database(server, template=name_of(databases.target), owner="postgres") as before:
        with psycopg.connect(databases.source_admin) as connection:
            for statement in CHANGES:
                connection.execute(statement.encode())
        undisturbed(airflow, databases)
        yield Undisturbed(databases, before, read(databases.target))


@pytest.fixture
def target(server: EmbeddedPostgres) -> Iterator[Callable[[Undisturbed], Databases]]:
    """Copies the target as it was before."""
    with ExitStack() as stack:

        def copy(case: Undisturbed) -> Databases:
            name = stack.enter_context(fresh_database(server, template=case.before, owner="postgres"))
            return replace(case.databases, target=server.dsn(name, role="postgres"))

        yield copy


MakeTarget = Callable[[Undisturbed], Databases]


def name_of(dsn: str) -> str:
    return urlsplit(dsn).path.removeprefix("/")


def undisturbed(airflow: Airflow, databases: Databases) -> None:
    """A run to its end, without Airflow's bookkeeping."""
    outcome = airflow.run(databases, environment=ENVIRONMENT, order={"directly": True}, **CONF)
    assert outcome.state == "success", outcome.log[-4000:]


@contextmanager
def under_way(airflow: Airflow, databases: Databases) -> Iterator[Future[Outcome]]:
    """A run in Airflow, beside the test."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(airflow.run, databases, environment=ENVIRONMENT, **CONF)


def wait_until(condition: Callable[[], object], run: Future[Outcome] | None = None) -> None:
    """Fails when the run ends before."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while not condition():
        assert run is None or not run.done(), run.result().log[-4000:]
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)


def done(databases: Databases, phase: str, which: str = "true") -> int:
    """Finished batches of a phase; none before the schema is deployed."""
    try:
        query = (
            f"SELECT count(*) FROM migration.batches WHERE phase = '{phase}' AND status = 'done' AND {which}"
        )
        return int(databases.read(query)[0][0])
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return 0


def assert_survived(outcome: Outcome, databases: Databases, expected: Target, *signs: str) -> None:
    """The run itself came to the end of an undisturbed one, though the log tells of each fault."""
    assert outcome.state == "success", outcome.log[-6000:]
    for sign in signs:
        assert sign in outcome.log
    # Of equal rows with another history, as in another server, only the version differs.
    different = [
        d for d in differences(read(databases.target), expected) if d.columns.keys() != {"source_version"}
    ]
    assert different == []


class TestServers:
    """A server dies under a run, as by `pg_ctl restart -m immediate`, and comes back."""

    def test_the_target_amid_a_merge(self, airflow: Airflow, frail: Frail, first: Undisturbed) -> None:
        with fresh_database(frail.server, owner="postgres") as name:
            run_script(frail.server.dsn(name), PLATFORM_SQL)
            admin = frail.server.dsn(name)
            databases = replace(first.databases, target=frail.server.dsn(name, role="postgres"))
            with under_way(airflow, databases) as run:
                # Behind the rows that are gone, for which every table is looked through.
                wait_until(lambda: done(databases, "loading", "extracted > 0"), run)
                # Only their merge touches the cases now: the tables of tracking are analysed between batches, too.
                with held(admin, "public.cases IN SHARE ROW EXCLUSIVE MODE") as looking:
                    wait_until(lambda: merging(looking), run)
                    frail.restart()
                outcome = run.result()
            assert_survived(outcome, databases, first.expected, "[TARGET_INTERRUPTED]")

    def test_the_source_amid_an_extraction(
        self, airflow: Airflow, frail: Frail, first: Undisturbed, target: MakeTarget
    ) -> None:
        with fresh_database(frail.server) as name:
            admin = frail.server.dsn(name)
            fill(admin, SIZE, SOURCE_SEED, progress=lambda _: None)
            allow_reading(admin)
            source = frail.server.dsn(name, role=READER)
            databases = replace(target(first), source=source, source_admin=admin)
            with under_way(airflow, databases) as run:
                wait_until(lambda: done(databases, "extraction"), run)
                with held(
                    admin, "auth_user, dispatch_patient, dispatch_office, dispatch_instruction"
                ) as looking:
                    wait_until(lambda: copying(looking), run)
                    frail.restart()
                outcome = run.result()
            assert_survived(outcome, databases, first.expected, "[SOURCE_INTERRUPTED]")


@contextmanager
def held(dsn: str, tables: str) -> Iterator[psycopg.Connection[Any]]:
    """Keeps others from the tables as long as their server lives; gives another session."""
    with psycopg.connect(dsn, autocommit=True) as looking:
        holding = psycopg.connect(dsn)
        try:
            holding.execute(f"LOCK TABLE {tables}".encode())
            yield looking
        finally:
            holding.close()
            looking.close()


def copying(connection: psycopg.Connection[Any]) -> bool:
    """Whether a COPY of the migration waits for a lock in the source."""
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND application_name = 'mdw_migration' AND query LIKE 'COPY (%'"
    ).fetchone()
    return row is not None and row[0] > 0


def test_a_connection_cut_amid_a_copy_from_the_source(
    airflow: Airflow, again: Undisturbed, target: MakeTarget
) -> None:
    with proxied(again.databases.source) as (source, proxy):
        databases = replace(target(again), source=source)
        # An earlier run's batches are in the ledger, too.
        earlier = done(databases, "extraction")
        with under_way(airflow, databases) as run:
            wait_until(lambda: done(databases, "extraction") > earlier, run)
            proxy.cut(Cut(b"COPY (", 400, answered=True))
            outcome = run.result()
    assert proxy.cuts == 1
    assert_survived(outcome, databases, again.expected, "[SOURCE_INTERRUPTED]", "sqlstate=connection lost")


class Rival:
    """Another writer in the target, with a transaction of its own."""

    def __init__(self, dsn: str, statement: str, then: Callable[[psycopg.Connection[Any]], object]) -> None:
        self.connection = psycopg.connect(dsn)
        self.connection.isolation_level = IsolationLevel.READ_COMMITTED
        # Whoever waits shorter is the victim of a deadlock.
        self.connection.execute("SET deadlock_timeout = '1h'")
        self.connection.execute(statement.encode())
        self.pid = self.connection.info.backend_pid
        self.then = then

    def blocks(self, connection: psycopg.Connection[Any]) -> bool:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'mdw_migration' AND %s = ANY (pg_blocking_pids(pid))",
            [self.pid],
        ).fetchone()
        return row is not None and row[0] > 0


def test_other_writers_and_a_connection_cut_amid_a_copy_to_the_target(
    server: EmbeddedPostgres, airflow: Airflow, again: Undisturbed, target: MakeTarget
) -> None:
    """In one run: a COPY cut off, a lock that is held too long, a deadlock, a failed serialization."""
    databases = target(again)
    admin = server.dsn(name_of(databases.target))
    with proxied(databases.target) as (through, proxy), ExitStack() as stack:
        proxy.cut(Cut(b'COPY "pg_temp"."incoming_rows" ', 400))
        with psycopg.connect(admin, autocommit=True) as connection:
            name = name_of(databases.target)
            connection.execute(
                f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'".encode()
            )
            impatient(connection, "profiles", "lock_timeout", "300ms")
        rivals = [
            # Held until the loader has given up.
            Rival(admin, lock_map("profiles"), lambda rival: (time.sleep(1), rival.rollback())),
            # The loader has written the patient and wants its place in the map, the rival the other way round.
            Rival(
                admin,
                lock_map("patients"),
                lambda rival: (rival.execute(touch("patients")), rival.rollback()),
            ),
            Rival(admin, touch("cases"), lambda rival: rival.commit()),
        ]
        for rival in rivals:
            stack.callback(rival.connection.close)
        looking = stack.enter_context(psycopg.connect(admin, autocommit=True))
        with under_way(airflow, replace(databases, target=through)) as run:
            while rivals and not run.done():
                for rival in [rival for rival in rivals if rival.blocks(looking)]:
                    rivals.remove(rival)
                    rival.then(rival.connection)
                time.sleep(POLL_SECONDS)
            # Or validation finds a trigger that nobody deployed.
            looking.execute("DROP FUNCTION public.set_lock_timeout() CASCADE")
            outcome = run.result()
    assert not rivals, outcome.log[-6000:]
    assert proxy.cuts == 1
    signs = [f"sqlstate={state}" for state in ("connection lost", "55P03", "40P01", "40001")]
    assert_survived(outcome, databases, again.expected, "[TARGET_INTERRUPTED]", *signs)


LAST_KEY = (
    "(SELECT legacy_id FROM migration.id_map WHERE entity = '{}' AND state = 'live'"
    " ORDER BY legacy_id::int DESC LIMIT 1)"
)


def lock_map(entity: str) -> str:
    """Locks the last row of an entity in the map of ids: it is in the entity's last batch."""
    key = LAST_KEY.format(entity)
    return f"SELECT 1 FROM migration.id_map WHERE entity = '{entity}' AND legacy_id = {key} FOR UPDATE"


def touch(entity: str) -> str:
    """Writes the same row of the entity's table as it is."""
    return (
        f"UPDATE public.{entity} SET updated_at = updated_at WHERE id = (SELECT target_id FROM migration.id_map"
        f" WHERE entity = '{entity}' AND legacy_id = {LAST_KEY.format(entity)})"
    )


def impatient(connection: psycopg.Connection[Any], entity: str, setting: str, value: str) -> None:
    """From the first batch of an entity on, its loader's session has another setting."""
    body = f"PERFORM set_config('{setting}', '{value}', false); PERFORM pg_sleep(0.6); RETURN NULL;"
    connection.execute(
        f"CREATE FUNCTION public.set_{setting}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$BEGIN {body} END$$".encode()
    )
    connection.execute(
        f"CREATE TRIGGER set_{setting} BEFORE INSERT ON public.{entity} FOR EACH STATEMENT"
        f" EXECUTE FUNCTION public.set_{setting}()".encode()
    )


def test_a_statement_timeout_stops_the_run(
    server: EmbeddedPostgres, airflow: Airflow, again: Undisturbed, target: MakeTarget
) -> None:
    """Waiting will not make the statement quicker, so that it is not retried."""
    databases = target(again)
    with psycopg.connect(server.dsn(name_of(databases.target)), autocommit=True) as admin:
        impatient(admin, "patients", "statement_timeout", "300ms")
        outcome = airflow.run(databases, environment=ENVIRONMENT, **CONF)
        admin.execute("DROP FUNCTION public.set_statement_timeout() CASCADE")
    assert_stopped(outcome, "TARGET_QUERY_FAILED", "loading.patients", "sqlstate=57014")
    assert outcome.log.count("loading.patients failed in attempt") == 1
    assert_whole_batches(databases, outcome, "patients")
    undisturbed(airflow, databases)
    assert differences(read(databases.target), again.expected) == []


def assert_stopped(outcome: Outcome, code: str, place: str, *signs: str) -> None:
    """The run failed at a place, with a registered code and its guidance, and the report says so."""
    assert outcome.state == "failed", outcome.log[-4000:]
    for sign in (f"[{code}]", f"next:  {REGISTRY[code].next_step}", *signs):
        assert sign in outcome.log, outcome.log[-6000:]
    assert outcome.report is not None
    assert outcome.report["status"] == "failed"
    assert outcome.report["failed_tasks"][0].startswith(place)


def assert_whole_batches(databases: Databases, outcome: Outcome, entity: str) -> None:
    """What this run wrote of an entity is what its ledger says, and some batches are missing."""
    ledger = databases.read(
        "SELECT sum(updated + inserted + merged)::int, sum(extracted)::int FROM migration.batches"
        f" WHERE run_id = '{outcome.run_id}' AND entity = '{entity}' AND phase = 'loading' AND status = 'done'"
    )
    written = databases.read(
        f"SELECT count(*)::int FROM migration.id_map WHERE entity = '{entity}' AND last_run = '{outcome.run_id}'"
    )
    assert ledger[0][0] == written[0][0] > 0
    assert ledger[0][1] < databases.read("SELECT count(*) FROM dispatch_patient", source=True)[0][0]


@pytest.fixture(scope="module")
def mountable(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Not every system lets everybody mount a disk; tests/hooks/test_staging.py has another way to fill one."""
    mount = "import sys; from pathlib import Path; from tests.end_to_end.crashing import small_disk;"
    tried = subprocess.run(  # noqa: S603 - a fixed command
        [
            *(sys.executable, "-c", f"{mount} small_disk(Path(sys.argv[1]), {DISK_BYTES})"),
            str(tmp_path_factory.mktemp("disk")),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(tried.stderr.splitlines()[-1])


def test_a_full_disk_stops_the_run(
    airflow: Airflow, first: Undisturbed, target: MakeTarget, mountable: None
) -> None:
    """A real disk of a few pages for what is staged."""
    databases = target(first)
    environment = {**ENVIRONMENT, "MIGRATION_STAGING_URI": f"file://{airflow.state.staging}"}
    outcome = airflow.run(databases, environment=environment, order={"disk_bytes": DISK_BYTES}, **CONF)
    assert_stopped(outcome, "STORAGE_FULL", "extraction", "kind=raw")
    assert databases.read("SELECT count(*) FROM public.practices") == [(0,)]
    undisturbed(airflow, databases)
    assert differences(read(databases.target), first.expected) == []
