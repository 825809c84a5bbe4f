"""Crashes and what becomes of them: a run is killed, others take over, and both are looked at from outside."""

from __future__ import annotations

import queue
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pyarrow.parquet as pq

from include.synthetic.sizes import SourceSize
from local.postgres import EmbeddedPostgres
from plugins.hooks.staging import run_folder
from tests.end_to_end.airflow_worker import DAG_ID, run_id_of
from tests.end_to_end.conftest import READER
from tests.end_to_end.content import EMBEDDINGS
from tests.end_to_end.crashing import (
    EMBEDDING,
    POINTS,
    READING,
    REPORT_FILES,
    TEXTS_PER_REQUEST,
    Crash,
    merging,
)
from tests.end_to_end.runs import Airflow, Databases, Outcome
from tests.incremental.compare import Target, read

SIZE = SourceSize.real().scaled(40, users=60, states=40, jaws=60, projects=60, plans=60, tasks=150)
SOURCE_SEED = 1
# Several batches of every larger entity, but one partition: what a run of Airflow costs is its number of tasks.
CONF: Mapping[str, Any] = {"dry_run": False, "batch_size": 12, "max_rejected": 0.5}
ENVIRONMENT: Mapping[str, str] = {"MIGRATION_PARTITION_ROWS": "100000"}
CLEARED, ANEW = "the same run, cleared", "a new run"

_LONGEST_SECONDS = 60
_POLL_SECONDS = 0.05
_FATES = ("inserted", "updated", "merged")


@dataclass(frozen=True)
class Scenario:
    """A migration to interrupt, and what it comes to when nothing interrupts it.

    Attributes:
        before: name of the target to begin with; its runs are `earlier`.
        batches: (phase, entity) → batches.
        requests: entity → requests it takes to embed its documents, `TEXTS_PER_REQUEST` each.
    """

    dag_id: str
    source: str
    before: str
    earlier: frozenset[str]
    expected: Result
    batches: Mapping[tuple[str, str], list[str]]
    requests: Mapping[str, int]


@dataclass(frozen=True)
class Result:
    """What a target holds when a migration has come to its end.

    Attributes:
        deleted: table → rows marked as deleted.
        fates: entity → rows inserted, updated, merged by all runs together.
        texts: content hash → how often it was sent to the provider by all runs together.
    """

    state: str
    log: str
    target: Target
    deleted: Mapping[str, int]
    fates: Mapping[str, tuple[int, ...]]
    texts: Counter[str]


@dataclass
class Killed:
    """A run that died, and the runs that took over from there.

    Attributes:
        in_the_middle: everything before the point had happened, and nothing behind it.
        lost: hashes of texts that the provider answered in vain.
    """

    scenario: Scenario
    crash: Crash
    outcome: Outcome
    in_the_middle: bool = False
    lost: frozenset[str] = frozenset()
    resumed: dict[str, Result] = field(default_factory=dict)


@dataclass(frozen=True)
class Matrix:
    """Makes crashes. Threads may share it: each takes an idle Airflow.

    Attributes:
        make_target: copies a target, gives the copy's name.
        folder: for notes of what was sent to the provider.
    """

    server: EmbeddedPostgres
    make_target: Callable[[str], str]
    folder: Path
    idle: queue.SimpleQueue[Airflow]
    scenarios: list[Scenario] = field(default_factory=list)

    def databases(self, source: str, target: str) -> Databases:
        """By their names."""
        return Databases(
            source=self.server.dsn(source, role=READER),
            target=self.server.dsn(target, role="postgres"),
            source_admin=self.server.dsn(source),
        )

    def migrated(self, airflow: Airflow, source: str, before: str) -> str:
        """The name of a target behind a full run."""
        name = self.make_target(before)
        blank = Scenario(DAG_ID, source, before, frozenset(), _NOTHING, {}, {})
        outcome = _ordered(airflow, blank, self.databases(source, name), {"directly": True})
        assert outcome.state == "success", outcome.log[-4000:]
        return name

    def uninterrupted(self, airflow: Airflow, dag_id: str, source: str, before: str) -> Scenario:
        """The scenario of a run in Airflow that nothing interrupts."""
        name = self.make_target(before)
        databases = self.databases(source, name)
        earlier = frozenset(run for (run,) in _rows(databases, "SELECT run_id FROM migration.runs"))
        texts = self.folder / f"uninterrupted-{name}"
        blank = Scenario(dag_id, source, before, earlier, _NOTHING, {}, {})
        result = self._run(airflow, blank, databases, texts, {})
        batches: dict[tuple[str, str], list[str]] = {}
        for run, phase, entity, batch in databases.read(
            "SELECT run_id, phase, entity, batch FROM migration.batches WHERE extracted > 0 ORDER BY 1, 2, 3, 4"
        ):
            if run not in earlier:
                batches.setdefault((phase, entity), []).append(batch)
        requests = {}
        for table, (_, entity) in EMBEDDINGS.items():
            stored = {row[0] for row in databases.read(f"SELECT content_hash FROM public.{table}")}
            if sent := len(stored & result.texts.keys()):
                requests[entity] = ceil(sent / TEXTS_PER_REQUEST)
        return Scenario(dag_id, source, before, earlier, result, batches, requests)

    def kill(self, point: str, seed: int) -> Killed:
        """Kill a run at a point, then let a new run complete it, and for most seeds also the same run.

        Every fifth crash and the clearing behind it happen in Airflow, the others without its bookkeeping.
        """
        airflow = self.idle.get()
        try:
            return self._kill(airflow, point, seed)
        finally:
            self.idle.put(airflow)

    def _kill(self, airflow: Airflow, point: str, seed: int) -> Killed:
        turn = POINTS.index(point) + seed
        scenario = self.scenarios[turn % len(self.scenarios)]
        name = self.make_target(scenario.before)
        databases = self.databases(scenario.source, name)
        entity, place = _place(point, scenario, random.Random(f"{point} {seed}"))
        crash = Crash(point, entity, place, watch=self.server.dsn(name), block=f"block_{uuid4().hex}")
        # Gives the run an id that is known beforehand.
        moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=seed, minutes=POINTS.index(point))
        directly = {"directly": True}
        run = {"moment": moment.isoformat(), **({} if turn % 5 == 0 else directly)}
        texts = self.folder / f"{point}-{seed}"
        with _released_at_last(crash):
            order = {**run, "embedded": str(texts), "crash": vars(crash)}
            outcome = _ordered(airflow, scenario, databases, order)
            killed = Killed(scenario, crash, outcome)
            if outcome.state != "killed":
                return killed
            look = _Look(airflow, databases, crash, run_id_of(moment.isoformat()), _texts(texts))
            killed.in_the_middle = look.in_the_middle()
            killed.lost = look.lost_texts()
            if seed % 3 != 1:  # else the next run finds the merge still in flight
                _release(crash)
            answers = airflow.state.staging / "answers"
            kept = self.folder / f"{point}-{seed}-answers"
            if answers.exists():
                shutil.copytree(answers, kept)
            if seed % 3 != 1:
                copy = self.databases(scenario.source, self.make_target(name))
                sent = self.folder / f"{point}-{seed}-cleared"
                sent.write_text(texts.read_text() if texts.exists() else "")
                killed.resumed[CLEARED] = self._run(airflow, scenario, copy, sent, {**run, "cleared": True})
            if kept.exists():  # each of those who take over finds what the dead run has left
                shutil.copytree(kept, answers, dirs_exist_ok=True)
            with _released_when_waited_for(crash):
                killed.resumed[ANEW] = self._run(airflow, scenario, databases, texts, directly)
        return killed

    def _run(
        self,
        airflow: Airflow,
        scenario: Scenario,
        databases: Databases,
        texts: Path,
        order: Mapping[str, Any],
    ) -> Result:
        outcome = _ordered(airflow, scenario, databases, {**order, "embedded": str(texts)})
        return Result(
            outcome.state,
            outcome.log,
            read(databases.target),
            _deleted(databases),
            _fates(databases, scenario.earlier),
            _texts(texts),
        )


_NOTHING = Result("", "", Target({}, {}), {}, {}, Counter())


def _ordered(airflow: Airflow, scenario: Scenario, databases: Databases, order: Mapping[str, Any]) -> Outcome:
    return airflow.run(databases, environment=ENVIRONMENT, dag_id=scenario.dag_id, order=order, **CONF)


def _place(point: str, scenario: Scenario, chosen: random.Random) -> tuple[str, str]:
    """Entity and batch, request or file: the entity first, so that small ones have their turn too."""
    if point == "while_reporting":
        return "", chosen.choice(REPORT_FILES)
    if point in EMBEDDING:
        entity = chosen.choice(sorted(scenario.requests))
        return entity, str(chosen.randrange(scenario.requests[entity]))
    phase = "extraction" if point in READING else "loading"
    entity = chosen.choice(sorted(entity for known, entity in scenario.batches if known == phase))
    return entity, chosen.choice(scenario.batches[phase, entity])


@dataclass(frozen=True)
class _Look:
    """What is seen right behind a death."""

    airflow: Airflow
    databases: Databases
    crash: Crash
    run_id: str
    texts: Counter[str]

    def in_the_middle(self) -> bool:
        """Whether the run died where it should."""
        running = self.databases.read(f"SELECT status FROM migration.runs WHERE run_id = '{self.run_id}'")
        return running == [("running",)] and bool(getattr(self, f"_{self.crash.point}")())

    def lost_texts(self) -> frozenset[str]:
        """Hashes of texts that were sent and have no vector."""
        tables = " UNION ALL ".join(f"SELECT content_hash FROM public.{table}" for table in EMBEDDINGS)
        stored = {row[0] for row in _rows(self.databases, tables)}
        return frozenset(self.texts.keys() - stored)

    def _after_read(self) -> bool:
        return not self._staged().exists() and not self._done("extraction")

    def _after_stage(self) -> bool:
        return pq.read_metadata(self._staged()).num_rows > 0 and not self._done("extraction")

    def _before_commit(self) -> bool:
        return not self._done("loading")

    def _after_commit(self) -> bool:
        return self._done("loading")

    def _during_merge(self) -> bool:
        with psycopg.connect(self.crash.watch) as connection:
            return len(merging(connection)) == 1 and not self._done("loading")

    def _between_embedding_and_store(self) -> bool:
        return 0 < len(self.lost_texts()) <= TEXTS_PER_REQUEST

    def _while_reporting(self) -> bool:
        report = self.airflow.state.reports / run_folder(self.run_id) / self.crash.place
        return report.stat().st_size > 0 and not report.read_text().rstrip().endswith(("}", "</html>"))

    def _staged(self) -> Path:
        folder = self.airflow.state.staging / run_folder(self.run_id) / "raw" / self.crash.entity
        return folder / f"{self.crash.place}.parquet"

    def _done(self, phase: str) -> bool:
        return bool(
            self.databases.read(
                f"SELECT 1 FROM migration.batches WHERE run_id = '{self.run_id}' AND phase = '{phase}'"
                f" AND entity = '{self.crash.entity}' AND batch = '{self.crash.place}'"
            )
        )


def _rows(databases: Databases, query: str) -> list[tuple[Any, ...]]:
    """Rows of a query; none before its tables are deployed."""
    try:
        return databases.read(query)
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return []


def _deleted(databases: Databases) -> dict[str, int]:
    tables = databases.read(
        "SELECT table_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND column_name = 'deleted_at' ORDER BY 1"
    )
    return {
        table: databases.read(f"SELECT count(*) FROM public.{table} WHERE deleted_at IS NOT NULL")[0][0]
        for (table,) in tables
    }


def _fates(databases: Databases, earlier: frozenset[str]) -> dict[str, tuple[int, ...]]:
    sums = ", ".join(f"sum({fate})::int" for fate in _FATES)
    rows = databases.read(
        f"SELECT run_id, entity, {sums} FROM migration.batches WHERE phase = 'loading' GROUP BY 1, 2"
    )
    found: dict[str, tuple[int, ...]] = {}
    for run, entity, *counts in rows:
        if run not in earlier:
            known = found.get(entity, (0,) * len(_FATES))
            found[entity] = tuple(one + other for one, other in zip(known, counts, strict=True))
    return found


def _texts(file: Path) -> Counter[str]:
    return Counter(file.read_text().split()) if file.exists() else Counter()


def _release(crash: Crash) -> None:
    """Let the merge go on whose client died, and wait for its end."""
    with psycopg.connect(crash.watch, autocommit=True) as connection:
        held = connection.execute("SELECT 1 FROM pg_prepared_xacts WHERE gid = %s", [crash.block]).fetchone()
        if held is None:
            return
        connection.execute(f"ROLLBACK PREPARED '{crash.block}'".encode())
        deadline = time.monotonic() + _LONGEST_SECONDS
        while merging(connection) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


@contextmanager
def _released_at_last(crash: Crash) -> Iterator[None]:
    """A database with a prepared transaction could not be dropped."""
    try:
        yield
    finally:
        _release(crash)


@contextmanager
def _released_when_waited_for(crash: Crash) -> Iterator[None]:
    """Keeps the dead run's merge in flight until the next run has to wait for it."""
    ended = threading.Event()

    def release() -> None:
        with psycopg.connect(crash.watch, autocommit=True) as connection:
            while not ended.wait(_POLL_SECONDS) and not _waiting(connection):
                pass
        _release(crash)

    thread = threading.Thread(target=release)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _waiting(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'mdw_migration' AND cardinality(pg_blocking_pids(pid)) > 0"
    ).fetchone()
    # The merge itself waits, too.
    return row is not None and row[0] > len(merging(connection))
