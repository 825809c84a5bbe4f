"""At most one run migrates at a time; a dead one is followed safely, and a run that lost the lock writes nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import MagicMock

import psycopg
import pytest
from psycopg.types.json import Jsonb

from include.core.errors import MigrationError
from include.core.settings import check, params
from include.core.tracking import Fates
from include.entities import EMBEDDED, ENTITIES
from plugins.hooks import run_lock, target_postgres, tracking
from plugins.hooks.connect import TARGET, translated
from plugins.hooks.run_lock import Heartbeat, Process, RunLock
from plugins.hooks.target_postgres import PostgresTarget
from plugins.hooks.target_schema import is_deployed
from plugins.hooks.tracking import LedgerRow, TrackingHook
from plugins.operators.extract import ExtractOperator
from plugins.operators.load import LoadOperator
from plugins.operators.preflight import PlanOperator
from plugins.operators.report import CloseOperator
from plugins.operators.step import MigrationOperator, Run
from plugins.operators.validate import IntegrityOperator
from tests.hooks.loading import Target, practice

BOTH_WAYS = True

OPEN = {
    "type": "full",
    "scope": "everything",
    "dry_run": False,
    "parameters": {"entities": []},
    "mapping_version": "m1",
    "rules_version": "r1",
    "code_version": "c1",
    "started_by": "anna",
    "source_horizon": 7,
    "source_identity": {},
}
VERSIONS = {"code_version": "c1", "mapping_version": "m1"}


def opened(api: PostgresTarget, run: str, **values: Any) -> TrackingHook:
    """A run that holds the lock."""
    hook = TrackingHook(api, run)
    hook.open_run(**{**OPEN, **values})
    return hook


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(MigrationError) as caught:
        call()
    assert not caught.value.transient
    return caught.value.code


def holder(target: Target) -> list[tuple[Any, ...]]:
    return target.all("SELECT run_id FROM migration.run_lock")


def hold(connection: psycopg.Connection[Any], run: str) -> None:
    """As the functions that write do, to the end of the transaction."""
    with translated(TARGET):
        connection.execute("SELECT migration.hold_lock(%s)", [run])


def silence(target: Target, seconds: int) -> None:
    """Let the holder's last sign of life lie in the past."""
    target.connection.execute(
        "UPDATE migration.run_lock SET heartbeat_at = clock_timestamp() - make_interval(secs => %s)",
        [seconds],
    )


def status(target: Target, run: str) -> str:
    ((found,),) = target.all("SELECT status FROM migration.runs WHERE run_id = %s", [run])
    return str(found)


@pytest.fixture
def other(target_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A second session, as of another worker."""
    with target_postgres.session() as connection:
        yield connection


class TestExclusion:
    @pytest.mark.parametrize("second", [{"type": "incremental"}, {"type": "full"}, {"dry_run": True}])
    def test_a_second_run_is_refused_and_told_by_whom(
        self, target: Target, second: Mapping[str, Any]
    ) -> None:
        opened(target.api, "first", dry_run=True)
        with pytest.raises(MigrationError) as caught:
            opened(target.api, "second", **second)
        text = str(caught.value)
        assert caught.value.code == "RUN_LOCKED"
        assert not caught.value.transient
        for word in ("full dry run first", "started by anna", "since 20", "last sign of life 20", "next:"):
            assert word in text
        assert target.all("SELECT run_id FROM migration.runs") == [("first",)]

    def test_opening_again_keeps_it(self, target: Target) -> None:
        opened(target.api, "first")
        since = target.all("SELECT since FROM migration.run_lock")
        opened(target.api, "first")
        assert target.all("SELECT since FROM migration.run_lock") == since

    @pytest.mark.parametrize("end", ["completed", "failed"])
    def test_the_end_of_a_run_frees_it(self, target: Target, end: str) -> None:
        opened(target.api, "first").close_run(end, {}, "")
        assert holder(target) == []
        opened(target.api, "second")
        assert holder(target) == [("second",)]

    def test_what_precedes_the_opening_can_ask(self, target: Target, database: str) -> None:
        first, second = (TrackingHook(target.api, run) for run in ("first", "second"))
        second.refuse_if_locked()
        opened(target.api, "first")
        first.refuse_if_locked()
        assert code_of(second.refuse_if_locked) == "RUN_LOCKED"
        silence(target, 901)
        second.refuse_if_locked()
        assert holder(target) == [("first",)]
        with psycopg.connect(database, autocommit=True) as empty:
            assert not is_deployed(empty)  # then nobody is asked


class TestTakeover:
    def test_after_long_silence(self, target: Target) -> None:
        opened(target.api, "dead")
        silence(target, 890)
        assert code_of(lambda: opened(target.api, "next")) == "RUN_LOCKED"
        silence(target, 901)
        opened(target.api, "next")
        assert holder(target) == [("next",)]
        assert target.all(
            "SELECT status, ended_at IS NOT NULL FROM migration.runs WHERE run_id = 'dead'"
        ) == [("failed", True)]
        ((run, details),) = target.all(
            "SELECT run_id, details FROM migration.audit_log WHERE event = 'lock taken over'"
        )
        assert (run, details["from"]) == ("next", "dead")
        assert "no sign of life for 901 s" in details["why"]

    def test_the_grace_is_a_setting(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MIGRATION_LOCK_GRACE_SECONDS", "60")
        opened(target.api, "dead")
        silence(target, 61)
        opened(target.api, "next")

    @pytest.mark.parametrize("text", ["0", "59", "-900", "many", "1e3", "²", "900.5"])
    def test_a_wrong_grace_is_refused_by_name(
        self, target: Target, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        monkeypatch.setenv("MIGRATION_LOCK_GRACE_SECONDS", text)
        with pytest.raises(MigrationError, match="MIGRATION_LOCK_GRACE_SECONDS") as caught:
            opened(target.api, "first")
        assert caught.value.code == "PARAM_INVALID"

    def test_at_once_when_its_process_has_ended(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with process_of_another_run() as (process, kill):
            monkeypatch.setattr(run_lock, "whole_run_process", lambda: process)
            opened(target.api, "dead")
            monkeypatch.setattr(run_lock, "whole_run_process", lambda: None)
            assert code_of(lambda: opened(target.api, "next")) == "RUN_LOCKED"
            kill()
            opened(target.api, "next")
        assert holder(target) == [("next",)]
        assert status(target, "dead") == "failed"

    @pytest.mark.parametrize("elsewhere", [{"host": "other"}, {"space": "other boot or container"}])
    def test_not_when_it_lives_where_nobody_can_look(
        self, target: Target, monkeypatch: pytest.MonkeyPatch, elsewhere: Mapping[str, str]
    ) -> None:
        with process_of_another_run() as (process, kill):
            kill()
        monkeypatch.setattr(run_lock, "whole_run_process", lambda: replace(process, **elsewhere))
        opened(target.api, "far")
        assert code_of(lambda: opened(target.api, "next")) == "RUN_LOCKED"

    def test_a_pid_that_is_used_again_is_no_life(self) -> None:
        own = Process.current()
        assert not own.gone
        assert replace(own, started=own.started - 60).gone

    def test_at_once_when_its_airflow_calls_it_finished(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        finished: set[tuple[str, str]] = set()
        monkeypatch.setattr(run_lock, "finished_in_airflow", lambda dag, run: (dag, run) in finished)
        opened(target.api, "marked", dag_id="mdw_full_migration")
        assert code_of(lambda: opened(target.api, "next")) == "RUN_LOCKED"
        finished.add(("mdw_full_migration", "marked"))
        opened(target.api, "next")
        assert holder(target) == [("next",)]

    def test_outside_of_a_task_no_airflow_is_asked(self) -> None:
        assert not run_lock.finished_in_airflow("mdw_full_migration", "any")
        assert run_lock.whole_run_process() is None

    def test_of_two_takers_one_wins(self, target: Target, target_dsn: str) -> None:
        for turn in range(10):
            opened(target.api, f"dead-{turn}")
            silence(target, 10_000)
            results = at_once(target_dsn, [partial(opened, run=f"taker-{turn}-{n}") for n in range(3)])
            codes = [result.code if isinstance(result, MigrationError) else "won" for result in results]
            assert sorted(codes) == ["RUN_LOCKED", "RUN_LOCKED", "won"]
            assert holder(target) == [(f"taker-{turn}-{codes.index('won')}",)]
            assert status(target, f"dead-{turn}") == "failed"
            TrackingHook(target.api, holder(target)[0][0]).close_run("failed", {}, "")

    def test_a_sign_of_life_in_the_last_moment_counts(
        self, target: Target, other: psycopg.Connection[Any]
    ) -> None:
        """Between the look and the taking."""
        opened(target.api, "slow")
        silence(target, 901)
        seen = PostgresTarget(other).call("lock_holder")
        RunLock(target.api, "slow").beat()
        other.execute("SELECT migration.evict('next', %s)", [Jsonb({**seen, "why": "silent"})])
        assert holder(target) == [("slow",)]
        assert status(target, "slow") == "running"


@contextmanager
def process_of_another_run() -> Iterator[tuple[Process, Callable[[], None]]]:
    """A live process, and how to end it."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def kill() -> None:
        child.kill()
        child.wait()

    own = Process.current()
    try:
        yield replace(own, pid=child.pid, started=run_lock.psutil.Process(child.pid).create_time()), kill
    finally:
        kill()
        child.communicate()


def at_once(dsn: str, calls: Sequence[Callable[[PostgresTarget], object]]) -> list[object]:
    """Results or errors of calls that start together, each with a connection of its own."""
    start = threading.Barrier(len(calls))
    results: list[object] = [None] * len(calls)

    def work(number: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            start.wait()
            try:
                results[number] = calls[number](PostgresTarget(connection))
            except MigrationError as error:
                results[number] = error

    threads = [threading.Thread(target=work, args=[number]) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return results


class TestFencing:
    def test_a_takeover_waits_for_the_batch_under_way(
        self, target: Target, target_dsn: str, other: psycopg.Connection[Any]
    ) -> None:
        slow = opened(target.api, "slow")
        silence(target, 901)
        taken = threading.Event()

        def take() -> None:
            with psycopg.connect(target_dsn, autocommit=True) as connection:
                opened(PostgresTarget(connection), "next")
            taken.set()

        taker = threading.Thread(target=take)
        with target.connection.transaction():
            hold(target.connection, "slow")
            slow.record_batch(LedgerRow("cases", "loading", "b1", "", Fates(1, inserted=1), 1, 0.1))
            taker.start()
            wait_until(lambda: waiting_sessions(other) == 1)
            assert not taken.is_set()
        taker.join(30)
        assert taken.is_set()
        assert holder(target) == [("next",)]
        assert target.all("SELECT batch FROM migration.batches") == [("b1",)]
        with target.connection.transaction():
            assert code_of(partial(hold, target.connection, "slow")) == "RUN_LOST"

    def test_a_dead_batch_that_goes_on_in_the_server_is_not_waited_for_for_ever(
        self, target: Target, other: psycopg.Connection[Any]
    ) -> None:
        opened(target.api, "slow")
        silence(target, 901)
        other.execute("SET lock_timeout = '200ms'")
        with target.connection.transaction():
            hold(target.connection, "slow")
            with pytest.raises(MigrationError, match="its last batch still runs") as caught:
                opened(PostgresTarget(other), "next")
        assert caught.value.code == "RUN_LOCKED"
        opened(PostgresTarget(other), "next")

    def test_batches_side_by_side_and_signs_of_life_wait_for_nobody(
        self, target: Target, target_dsn: str, other: psycopg.Connection[Any]
    ) -> None:
        opened(target.api, "run")
        silence(target, 100)
        other.execute("SET lock_timeout = '1s'")
        with (
            psycopg.connect(target_dsn, autocommit=True, options="-c lock_timeout=1s") as third,
            target.connection.transaction(),
            other.transaction(),
        ):
            hold(target.connection, "run")
            hold(other, "run")
            RunLock(PostgresTarget(third), "run").beat()
            TrackingHook(PostgresTarget(third), "run").stop_if_failed(fail_fast=True)
            with third.transaction():
                hold(third, "run")
        assert target.all("SELECT heartbeat_at > now() - interval '1 min' FROM migration.run_lock") == [
            (True,)
        ]

    def test_a_run_that_lost_the_lock_does_not_go_on(self, target: Target) -> None:
        lost = opened(target.api, "lost")
        silence(target, 901)
        opened(target.api, "next")
        assert code_of(lambda: lost.stop_if_failed(fail_fast=False)) == "RUN_LOST"
        assert code_of(lambda: lost.close_run("completed", {}, "")) == "RUN_LOST"
        assert code_of(lambda: lost.enter("loading", "loading.cases", fail_fast=False)) == "RUN_LOCKED"
        assert status(target, "lost") == "failed"
        ended = target.all("SELECT ended_at FROM migration.runs WHERE run_id = 'lost'")
        lost.close_run("failed", {"entities": []}, "report")
        assert target.all("SELECT ended_at FROM migration.runs WHERE run_id = 'lost'") == ended
        assert holder(target) == [("next",)]

    def test_it_loads_nothing(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        target.load("practices", [practice(1)])
        run = target.all("SELECT run_id FROM migration.run_lock")[0][0]
        silence(target, 901)
        opened(target.api, "next")
        monkeypatch.setattr(Target, "tracking", lambda self, run, **_: TrackingHook(self.api, run))
        assert code_of(lambda: target.load("practices", [practice(2)], run=run, batch="b2")) == "RUN_LOST"
        assert target.states("practices") == {"1": "live"}


def waiting_sessions(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestSignsOfLife:
    RECENT = "SELECT heartbeat_at > clock_timestamp() - interval '10 s' FROM migration.run_lock"

    def test_given_beside_a_step(self, target: Target, other: psycopg.Connection[Any]) -> None:
        opened(target.api, "run")
        silence(target, 100)
        before = threading.active_count()
        with Heartbeat(PostgresTarget(other), "run", every_seconds=0.05), target.connection.transaction():
            hold(target.connection, "run")
            wait_until(lambda: target_sees(other, self.RECENT))
        assert threading.active_count() == before

    def test_a_short_step_pays_nothing(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        opened(target.api, "run")
        connected: list[object] = []
        monkeypatch.setattr(target.api, "another", lambda: connected.append(1))
        begin = time.monotonic()
        with Heartbeat(target.api, "run"):
            pass
        assert time.monotonic() - begin < 0.5
        assert connected == []

    def test_an_unreachable_target_hides_no_error_of_the_step(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = threading.Event()

        def refuse(*_: object, **__: object) -> None:
            tried.set()
            raise MigrationError("TARGET_UNREACHABLE", "")

        def step() -> None:
            with Heartbeat(target.api, "run", every_seconds=0.01):
                assert tried.wait(10)
                raise LookupError("the step's own")

        monkeypatch.setattr(target.api, "another", refuse)
        with pytest.raises(LookupError, match="the step's own"):
            step()

    def test_asking_before_a_batch_is_one(self, target: Target) -> None:
        run = opened(target.api, "run")
        silence(target, 100)
        run.stop_if_failed(fail_fast=True)
        assert target.all(self.RECENT) == [(True,)]
        image = target.image("migration.run_lock")
        run.stop_if_failed(fail_fast=True)  # a moment later
        assert target.image("migration.run_lock") == image

    def test_a_run_that_goes_on_elsewhere_says_so(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Tasks of a killed `airflow dags test` run, cleared in the UI, run in worker processes."""
        with process_of_another_run() as (process, _):
            monkeypatch.setattr(run_lock, "whole_run_process", lambda: process)
            run = opened(target.api, "run")
        monkeypatch.setattr(run_lock, "whole_run_process", lambda: None)
        run.enter("loading", "loading.cases", fail_fast=True)
        assert target.all("SELECT pid, process_started FROM migration.run_lock") == [(None, None)]
        assert code_of(lambda: opened(target.api, "next")) == "RUN_LOCKED"


def target_sees(connection: psycopg.Connection[Any], query: str) -> bool:
    row = connection.execute(query.encode()).fetchone()
    return row is not None and bool(row[0])


class TestLifecycle:
    def enter(self, run: TrackingHook, **values: Any) -> bool:
        return run.enter("loading", "loading.cases", **{"fail_fast": True, "versions": VERSIONS, **values})

    def test_a_cleared_task_of_a_failed_run_takes_the_lock_again(self, target: Target) -> None:
        run = opened(target.api, "run")
        run.fail_step("loading.cases")
        run.close_run("failed", {}, "")
        assert self.enter(run)
        assert (status(target, "run"), holder(target)) == ("running", [("run",)])
        assert target.all("SELECT ended_at, failed_steps FROM migration.runs") == [(None, [])]

    def test_but_not_beside_another_run(self, target: Target) -> None:
        run = opened(target.api, "run")
        run.close_run("failed", {}, "")
        opened(target.api, "other")
        assert code_of(lambda: self.enter(run)) == "RUN_LOCKED"
        assert status(target, "run") == "failed"

    @pytest.mark.parametrize(
        ("mine", "later", "end", "superseded"),
        [
            (False, False, "completed", True),
            (False, False, "failed", False),
            (False, True, "completed", False),  # a dry run writes nothing
            (True, True, "completed", True),
            (True, False, "completed", True),
        ],
    )
    def test_nor_behind_another_run_that_loaded(
        self, target: Target, mine: bool, later: bool, end: str, superseded: bool
    ) -> None:
        run = opened(target.api, "run", dry_run=mine)
        run.close_run("failed", {}, "")
        opened(target.api, "later", dry_run=later).close_run(end, {}, "")
        for again in (lambda: self.enter(run), lambda: run.open_run(**{**OPEN, "dry_run": mine})):
            if superseded:
                assert code_of(again) == "RUN_SUPERSEDED"
                assert holder(target) == []
            else:
                again()
                assert holder(target) == [("run",)]

    def test_a_failed_run_that_loaded_something_counts_too(self, target: Target) -> None:
        run = opened(target.api, "run")
        run.close_run("failed", {}, "")
        later = opened(target.api, "later")
        later.record_batch(LedgerRow("cases", "loading", "b1", "", Fates(1, inserted=1), 1, 0.1))
        later.close_run("failed", {}, "")
        assert code_of(lambda: self.enter(run)) == "RUN_SUPERSEDED"
        assert self.enter(later)

    def test_what_a_failed_run_has_planned_stays_until_it_is_superseded(self, target: Target) -> None:
        planned = "INSERT INTO migration.planned_ids (run_id, id) VALUES (%s, gen_random_uuid())"
        count = "SELECT run_id FROM migration.planned_ids ORDER BY run_id"
        failed = opened(target.api, "failed", dry_run=True)
        target.connection.execute(planned, ["failed"])
        failed.close_run("failed", {}, "")
        assert target.all(count) == [("failed",)]
        later = opened(target.api, "later", dry_run=True)
        target.connection.execute(planned, ["later"])
        later.close_run("completed", {}, "")
        assert target.all(count) == []

    def test_a_dry_run_leaves_what_a_real_one_has_decided(self, target: Target) -> None:
        failed = opened(target.api, "failed")
        target.connection.execute(
            "INSERT INTO migration.survivors VALUES ('failed', 'patients', gen_random_uuid(), gen_random_uuid())"
        )
        failed.close_run("failed", {}, "")
        opened(target.api, "dry", dry_run=True).close_run("completed", {}, "")
        assert target.all("SELECT run_id FROM migration.survivors") == [("failed",)]
        opened(target.api, "real").close_run("completed", {}, "")
        assert target.all("SELECT run_id FROM migration.survivors") == []

    def test_in_a_complete_run_nothing_is_to_be_done(self, target: Target) -> None:
        run = opened(target.api, "run")
        run.close_run("completed", {}, "")
        before = [target.image(f"migration.{table}") for table in ("runs", "run_lock", "audit_log")]
        assert not self.enter(run, versions={"code_version": "c2", "mapping_version": "m2"})
        run.open_run(**{**OPEN, "code_version": "c2"})
        assert [target.image(f"migration.{table}") for table in ("runs", "run_lock", "audit_log")] == before

    def test_not_even_while_another_run_holds_the_lock(self, target: Target) -> None:
        run = opened(target.api, "run")
        run.close_run("completed", {}, "")
        opened(target.api, "other")
        assert not self.enter(run)

    @pytest.mark.parametrize("changed", ["code_version", "mapping_version"])
    def test_other_code_or_mapping_is_refused(self, target: Target, changed: str) -> None:
        run = opened(target.api, "run")
        for call in (
            lambda: self.enter(run, versions={**VERSIONS, changed: "new"}),
            lambda: run.open_run(**{**OPEN, changed: "new"}),
        ):
            with pytest.raises(MigrationError, match="present is new") as caught:
                call()
            assert caught.value.code == "RUN_CODE_CHANGED"


class TestClearedTasks:
    """What operators do in a run that is complete."""

    PARTITION: ClassVar[dict[str, Any]] = {"name": "p000", "batches": 3}

    @pytest.mark.parametrize(
        ("operator", "arguments", "returned"),
        [
            (PlanOperator, {"entity": "cases"}, []),
            (ExtractOperator, {"entity": "cases", "partition": PARTITION}, {"name": "p000", "batches": 0}),
            (LoadOperator, {"entity": "cases", "partition": PARTITION}, {"name": "p000", "batches": 0}),
            (IntegrityOperator, {}, None),
            (CloseOperator, {}, None),
        ],
    )
    def test_they_do_nothing(
        self,
        target: Target,
        monkeypatch: pytest.MonkeyPatch,
        operator: type[MigrationOperator],
        arguments: Mapping[str, Any],
        returned: object,
    ) -> None:
        opened(target.api, "run").close_run("completed", {}, "")
        settings = check({}, params(ENTITIES, kind="full", environment={}, embedded=EMBEDDED))
        run = Run("run", "dag", "full", settings, "loading.cases", 1, "anna", MagicMock())
        monkeypatch.setattr(Run, "of", classmethod(lambda _, __: run))
        monkeypatch.setattr(operator, "step", MagicMock(side_effect=AssertionError("did something")))
        before = target.image("migration.runs")
        instance = SimpleNamespace(dag_id="dag", map_index=-1, try_number=2)
        context: Any = {"dag_run": SimpleNamespace(run_id="run"), "ti": instance}
        assert operator(task_id="cleared", **arguments).execute(context) == returned
        assert (target.image("migration.runs"), holder(target)) == (before, [])


class TestClearedTogether:
    """Several failed tasks, cleared at once: the first to start must not stop at the others' old failures."""

    def run(self, target: Target, *failed: str) -> TrackingHook:
        run = opened(target.api, "run")
        for step in failed:
            run.fail_step(step)
        return run

    def enter(self, run: TrackingHook, states: Callable[[Sequence[str]], Mapping[str, str]]) -> bool:
        return run.enter("loading", "loading.cases[0]", fail_fast=True, states=states)

    def test_those_that_wait_to_run_again_are_forgotten(self, target: Target) -> None:
        run = self.run(target, "loading.patients[0]", "loading.patients[1]", "loading.practices")
        asked: list[list[str]] = []

        def states(steps: Sequence[str]) -> Mapping[str, str]:
            asked.append([*steps])
            return {
                "loading.patients[0]": "queued",
                "loading.patients[1]": "success",
                "loading.practices": "None",
            }

        assert self.enter(run, states)
        assert asked == [["loading.patients[0]", "loading.patients[1]", "loading.practices"]]
        assert target.all("SELECT failed_steps FROM migration.runs") == [([],)]

    def test_one_that_is_still_failed_stops_the_step(self, target: Target) -> None:
        run = self.run(target, "loading.patients[0]", "loading.practices")
        states = {"loading.patients[0]": "failed", "loading.practices": "queued"}
        assert code_of(lambda: self.enter(run, lambda _: states)) == "RUN_STOPPED"
        assert target.all("SELECT failed_steps FROM migration.runs") == [(["loading.patients[0]"],)]

    @pytest.mark.parametrize(("then", "stops"), [("failed", True), ("gone", False)])
    def test_one_that_runs_is_waited_for(
        self, target: Target, monkeypatch: pytest.MonkeyPatch, then: str, stops: bool
    ) -> None:
        """It is about to fail for Airflow too, or was cleared and is about to enter."""
        monkeypatch.setattr(tracking, "_DOUBT_SECONDS", 0.01)
        run = self.run(target, "loading.patients[0]")
        answers = iter(["running", "running", then])

        def states(_: Sequence[str]) -> Mapping[str, str]:
            if (answer := next(answers)) == "gone":
                target.connection.execute("UPDATE migration.runs SET failed_steps = '{}'")
            return {"loading.patients[0]": answer}

        if stops:
            assert code_of(lambda: self.enter(run, states)) == "RUN_STOPPED"
        else:
            assert self.enter(run, states)

    def test_but_not_for_ever(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tracking, "_DOUBT_SECONDS", 0.01)
        monkeypatch.setattr(tracking, "_LONGEST_DOUBT_SECONDS", 0.1)
        run = self.run(target, "loading.patients[0]")
        assert self.enter(run, lambda _: {"loading.patients[0]": "running"})

    def test_nobody_is_asked_where_nothing_failed_or_failures_stop_nobody(self, target: Target) -> None:
        def states(_: Sequence[str]) -> Mapping[str, str]:
            raise AssertionError("asked")

        run = self.run(target)
        assert self.enter(run, states)
        run.fail_step("loading.patients[0]")
        assert run.enter("loading", "loading.cases[0]", fail_fast=False, states=states)


def test_the_same_target_is_found_once_more(target: Target) -> None:
    """The password is no part of a connection's visible parameters."""
    opened(target.api, "run")
    with target.api.another() as again:
        assert again.call("lock_holder")["run_id"] == "run"
