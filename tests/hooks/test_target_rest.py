"""The client's way in: the real PostgREST and gateway, and between them and the client a network that fails."""

from __future__ import annotations

import email.utils
import json
import logging
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import httpx
import numpy as np
import psycopg
import pyarrow as pa
import pytest
from mdw_supabase.hook import Credentials

from include.core.errors import MigrationError
from include.core.tracking import Fates
from local.postgres import EmbeddedPostgres
from local.supabase_api import SupabaseApi
from plugins.hooks import rest_client, target_rest
from plugins.hooks.rest_client import RestClient
from plugins.hooks.run_lock import Heartbeat
from plugins.hooks.target import Rows, naming, open_target
from plugins.hooks.target_rest import RestTarget
from tests.api.faults import (
    Exchange,
    Fault,
    FaultyApi,
    Late,
    answered,
    cut_answer,
    faulty,
    lost_answer,
    reset,
    shortened_answer,
    silent,
)
from tests.conftest import Serving
from tests.hooks.loading import Target, patient, practice

BOTH_WAYS = True

CANARY = "Zweifelstein"
PAGE = "<html><body>gateway</body></html>"
COLUMNS = ("key", "text")
# What the tests call: it tells what came in and counts how often it did.
FUNCTIONS = """
CREATE TABLE migration.test_calls (at timestamptz DEFAULT clock_timestamp());
CREATE TABLE migration.test_rows (key text PRIMARY KEY, text text);
CREATE FUNCTION migration_api.test_echo(p_run text, p_seconds double precision DEFAULT 0) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM pg_sleep(p_seconds);
  INSERT INTO migration.test_calls DEFAULT VALUES;
  RETURN (SELECT jsonb_agg(jsonb_build_array(i.key, i.text) ORDER BY i.place) FROM pg_temp.incoming_rows i);
END $$;
CREATE FUNCTION migration_api.test_page(p_after text, p_most bigint) RETURNS TABLE (key text, text text)
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT r.key, r.text FROM migration.test_rows r WHERE p_after IS NULL OR r.key > p_after ORDER BY r.key LIMIT p_most
$$;
CREATE FUNCTION migration_api.test_fail(p_state text, p_message text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = p_state, MESSAGE = p_message, DETAIL = p_message, HINT = p_message;
END $$;
CREATE FUNCTION migration_api.test_question(p_run text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
  RETURN (SELECT jsonb_agg(i.text) FROM pg_temp.incoming_rows i);
END $$;
CREATE FUNCTION migration_api.test_slow() RETURNS jsonb
LANGUAGE sql SET search_path = '' SET statement_timeout = '50ms' AS $$ SELECT to_jsonb(pg_sleep(9)::text) $$;
CREATE FUNCTION migration_api.test_long() RETURNS jsonb
LANGUAGE sql SET search_path = '' SET statement_timeout = '10min' AS $$ SELECT to_jsonb(pg_sleep(8.5)::text) $$;
CREATE FUNCTION migration_api.test_nothing(p_run text) RETURNS void
LANGUAGE sql SET search_path = '' AS $$ INSERT INTO migration.test_calls DEFAULT VALUES $$;
CREATE FUNCTION migration_api.test_arguments(p_text text, p_number bigint, p_share double precision, p_yes boolean,
  p_texts text[], p_json jsonb) RETURNS jsonb
LANGUAGE sql SET search_path = '' AS $$
  SELECT jsonb_build_array(p_text, p_number, p_share, p_yes, array_length(p_texts, 1), p_json IS NULL, p_json)
$$;
SELECT migration.secure();
"""

QUOTING_TRIGGER = """
CREATE FUNCTION public.test_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'no %', NEW USING ERRCODE = 'P0001', DETAIL = NEW::text, HINT = NEW::text;
END $$;
CREATE TRIGGER test_refuse BEFORE INSERT ON public.patients FOR EACH ROW EXECUTE FUNCTION public.test_refuse();
"""
# The bits of the floats of each vector that came in.
BITS = """
CREATE FUNCTION migration_api.test_bits(p_run text) RETURNS jsonb LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  RETURN (SELECT jsonb_agg((
      SELECT string_agg(encode(float4send(u.x), 'hex'), '' ORDER BY u.n)
      FROM unnest(i.vector::real[]) WITH ORDINALITY AS u (x, n)) ORDER BY i.place)
    FROM pg_temp.incoming_rows i);
END $$;
SELECT migration.secure();
"""


class World:
    """A deployed target behind its API, behind a network that can be told to fail."""

    def __init__(self, api: SupabaseApi, network: FaultyApi, session: psycopg.Connection[Any]) -> None:
        self.api = api
        self.network = network
        self.pauses: list[float] = []
        self._session = session

    def client(self, max_retries: int = 3, key: str | None = None) -> RestClient:
        """One that notes its pauses instead of making them."""
        project = Credentials(self.network.url, key or self.api.keys.secret)
        return RestClient(project, max_retries=max_retries, sleep=self.pauses.append)

    def target(self, max_retries: int = 3, batch_size: int = 1_000) -> RestTarget:
        """Through the network."""
        return RestTarget(self.client(max_retries), batch_size=batch_size)

    def loading(self, target: RestTarget) -> Target:
        """What loads batches through it."""
        return Target(self._session, target)

    def all(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query, past the API."""
        return self._session.execute(query.encode()).fetchall()

    def execute(self, statement: str) -> None:
        """A statement, past the API."""
        self._session.execute(statement.encode())

    @property
    def executions(self) -> int:
        """How often the function of the tests has run, to its end."""
        return len(self.all("SELECT FROM migration.test_calls"))


@pytest.fixture
def world(
    session: psycopg.Connection[Any], target_dsn: str, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    session.execute(FUNCTIONS.encode())
    with serving(target_dsn) as api, faulty(api.url) as network:
        connection = {"conn_type": "supabase", "host": network.url, "password": api.keys.secret}
        monkeypatch.setenv("AIRFLOW_CONN_SUPABASE", json.dumps(connection))
        yield World(api, network, session)


@pytest.fixture
def nowhere() -> Iterator[FaultyApi]:
    """A network without an API behind it."""
    with faulty("http://127.0.0.1:9") as network:
        yield network


def some_rows(count: int) -> pa.Table:
    keys = pa.array([str(key) for key in range(count)], pa.string())
    return pa.table({"key": keys, "text": keys})


def pairs(table: pa.Table) -> list[list[str]]:
    return [list(row.values()) for row in table.to_pylist()]


def echo(target: RestTarget, rows: pa.Table) -> Any:
    return target.call("test_echo", incoming={"rows": rows}, run="run-1")


def sizes(world: World) -> list[int]:
    """Rows of each request that sent some."""
    return [len(request.arguments["p_rows"]) for request in world.network.of("send")]


@contextmanager
def error(code: str, *, transient: bool | None = None) -> Iterator[list[MigrationError]]:
    """The one error that is expected; it shows neither key nor row, in whatever way it is printed."""
    caught: list[MigrationError] = []
    with pytest.raises(MigrationError) as raised:
        yield caught
    assert raised.value.code == code
    assert transient is None or raised.value.transient is transient
    shown = f"{raised.value!r} {raised.value} {raised.value.args} {''.join(traceback.format_exception(raised.value))}"
    assert CANARY not in shown
    assert "sb_" not in shown
    caught.append(raised.value)


class TestSending:
    def test_rows_arrive_in_order_in_requests_of_the_batch_size(self, world: World) -> None:
        rows = some_rows(250)
        assert echo(world.target(batch_size=100), rows) == pairs(rows)
        assert sizes(world) == [100, 100, 50]
        assert world.all("SELECT FROM migration.incoming") == []

    def test_wide_rows_travel_in_smaller_requests(self, world: World) -> None:
        rows = pa.table({"key": [str(key) for key in range(8)], "text": ["x" * 400_000] * 8})
        assert echo(world.target(), rows) == pairs(rows)
        assert sizes(world) == [2, 2, 2, 2]

    def test_vectors_are_measured_as_what_is_sent(self, world: World) -> None:
        chance = np.random.default_rng(3)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(chance.random(1_536 * 300, np.float32)), 1_536)
        keys = some_rows(300).column("key")
        world.target().call(
            "test_nothing", incoming={"fresh": pa.table({"key": keys, "v": vectors})}, run="r"
        )
        assert len(sizes(world)) > 3
        assert max(len(request.body) for request in world.network.of("send")) < 1_100_000

    def test_what_the_gateway_finds_too_large_is_halved(
        self, world: World, server: EmbeddedPostgres, target_dsn: str, tmp_path: Path
    ) -> None:
        name = str(psycopg.conninfo.conninfo_to_dict(target_dsn)["dbname"])
        with (
            SupabaseApi(tmp_path / "api", max_body=4_500) as api,
            api.serving(server.dsn(name, role="authenticator")),
            faulty(api.url) as network,
        ):
            strict = World(api, network, world._session)
            target = strict.target()
            rows = some_rows(1_000)
            assert echo(target, rows) == pairs(rows)
            assert sizes(strict)[:4] == [1_000, 500, 250, 250]  # 413, 413, and what follows starts small
            assert all(size <= 250 for size in sizes(strict)[2:])
            assert strict.pauses == []
            assert strict.executions == 1
            loading = strict.loading(target)
            large = practice(2, address=json.dumps(CANARY * 1_000))
            with (
                error("TARGET_REQUEST_TOO_LARGE", transient=False) as caught,
                naming(entity="practices", batch="b7"),
            ):
                loading.load("practices", [practice(1), large, practice(3)])
            assert {"entity": "practices", "batch": "b7"}.items() <= caught[0].facts.items()
            assert "load_via=postgres" in str(caught[0])
            assert loading.all("SELECT FROM public.practices") == []
            assert network.of("call_once")[1:] == []

    @pytest.mark.parametrize(
        "fault",
        [
            pytest.param(answered(502, PAGE), id="502 HTML"),
            pytest.param(answered(503, PAGE), id="503 HTML"),
            pytest.param(answered(504, PAGE), id="504 HTML"),
            pytest.param(answered(500, {"message": "internal"}), id="500 without code"),
            pytest.param(answered(503, {"code": "PGRST002", "message": "cache"}), id="PGRST002"),
            pytest.param(answered(520, ""), id="520 empty"),
            pytest.param(reset, id="reset before"),
            pytest.param(lost_answer, id="reset after"),
            pytest.param(answered(200, PAGE[:20], content_type="application/json"), id="no JSON"),
        ],
    )
    def test_after_a_fault_a_smaller_chunk_is_sent(self, world: World, fault: Fault) -> None:
        world.network.fail("send", fault, fault)
        rows = some_rows(100)
        assert echo(world.target(), rows) == pairs(rows)
        assert sizes(world) == [100, 50, 25, 75]
        first, second = world.pauses
        assert 0.25 <= first <= 0.5 <= second <= 1
        assert world.executions == 1

    def test_silence_is_a_fault_too(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rest_client, "_SEND_TIMEOUT", httpx.Timeout(0.3))
        world.network.fail("send", silent(1))
        rows = some_rows(10)
        assert echo(world.target(), rows) == pairs(rows)
        assert sizes(world) == [10, 5, 5]

    def test_a_chunk_that_takes_the_server_too_long_is_halved(self, world: World) -> None:
        world.network.fail("send", answered(500, {"code": "57014", "message": CANARY}))
        rows = some_rows(10)
        target = world.target(max_retries=0)
        assert echo(target, rows) == pairs(rows)
        assert sizes(world) == [10, 5, 5]
        world.network.fail("send", *[answered(500, {"code": "57014", "message": CANARY})] * 3)
        with error("TARGET_QUERY_FAILED", transient=False):
            echo(target, rows)

    def test_in_the_end_the_task_is_to_be_tried_again(self, world: World) -> None:
        world.network.fail("send", *[answered(503, PAGE)] * 4)
        target, rows = world.target(max_retries=3), some_rows(10)
        with error("TARGET_INTERRUPTED", transient=True) as caught:
            echo(target, rows)
        assert caught[0].facts == {"function": "send", "status": 503}
        assert sizes(world) == [10, 5, 2, 1]
        assert [round(pause * 4) / 4 >= low for pause, low in zip(world.pauses, (0.25, 0.5, 1), strict=True)]
        assert sorted(world.pauses) == world.pauses
        assert world.executions == 0
        assert echo(target, rows) == pairs(rows)
        assert world.executions == 1

    def test_rows_of_many_tables_and_of_none(self, world: World) -> None:
        schema = some_rows(0).schema
        several = Rows(schema, (some_rows(count) for count in (3, 0, 2)))
        assert world.target().call("test_echo", incoming={"rows": several}, run="r") == pairs(
            some_rows(3)
        ) + pairs(some_rows(2))
        assert world.target().call("test_echo", incoming={"rows": Rows(schema, [])}, run="r") is None


class TestWaiting:
    @pytest.mark.parametrize("status", [429, 503])
    def test_as_long_as_the_server_asks(self, world: World, status: int) -> None:
        until = datetime.now(UTC) + timedelta(seconds=20)
        world.network.fail(
            "lock_holder",
            answered(status, PAGE, retry_after="7"),
            answered(
                status, {"message": "busy"}, retry_after=email.utils.format_datetime(until, usegmt=True)
            ),
        )
        assert world.target().call("lock_holder") is None
        assert 7 < world.pauses[0] <= 7.5
        assert 15 < world.pauses[1] <= 21

    def test_longer_than_that_the_task_is_put_off_as_a_whole(self, world: World) -> None:
        world.network.fail("lock_holder", answered(503, PAGE, retry_after="3600"))
        with error("TARGET_INTERRUPTED", transient=True) as caught:
            world.target().call("lock_holder")
        assert caught[0].facts["retry_after_seconds"] == 3600
        assert world.pauses == []
        assert len(world.network.requests) == 1

    @pytest.mark.parametrize("fault", [reset, lost_answer, cut_answer, shortened_answer, answered(408, "")])
    def test_a_question_is_asked_again(self, world: World, fault: Fault) -> None:
        world.network.fail("finding_counts", fault, fault, fault)
        assert world.target(max_retries=3).call("finding_counts") == []
        assert len(world.network.requests) == 4
        assert sorted(world.pauses) == world.pauses

    def test_nobody_there(self) -> None:
        pauses: list[float] = []
        project = Credentials("http://127.0.0.1:9", "sb_secret_any")
        with (
            RestClient(project, max_retries=2, sleep=pauses.append) as client,
            error("TARGET_UNREACHABLE", transient=True) as caught,
        ):
            RestTarget(client, batch_size=1).call("lock_holder")
        assert len(pauses) == 2
        assert caught[0].facts == {"function": "lock_holder", "host": "127.0.0.1"}

    def test_no_proxy_comes_between_programs_of_this_machine(
        self, world: World, nowhere: FaultyApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", nowhere.url)
        monkeypatch.setenv("NO_PROXY", "")
        assert world.target().call("finding_counts") == []
        assert nowhere.requests == []

    def test_a_statement_may_take_longer_than_the_roles_setting(self, world: World) -> None:
        assert world.target(max_retries=0).call("test_long") == ""


class TestOnce:
    @pytest.mark.parametrize("fault", [lost_answer, cut_answer, shortened_answer])
    def test_a_batch_whose_answer_was_lost_is_loaded_once(self, world: World, fault: Fault) -> None:
        world.network.fail("call_once", fault, fault)
        loading = world.loading(world.target())
        assert loading.load("practices", [practice(key) for key in range(9)]) == Fates(9, inserted=9)
        assert len(world.network.of("call_once")) == 3
        assert world.all("SELECT extracted, inserted, unchanged, attempt FROM migration.batches") == [
            (9, 9, 0, 1)
        ]
        assert world.all("SELECT count(*) FROM public.practices") == [(9,)]

    def test_a_chunk_that_comes_late_changes_nothing(self, world: World) -> None:
        early, late = Late(), Late()
        world.network.fail("send", early, late)

        def behind_the_early_one(exchange: Exchange) -> None:
            early.release()
            exchange.give(exchange.pass_on())

        world.network.fail("call_once", behind_the_early_one)
        rows = some_rows(40)
        assert echo(world.target(), rows) == pairs(rows)
        assert (early.status, late.release()) == (204, 204)
        assert world.executions == 1
        assert world.all("SELECT FROM migration.incoming") == []

    def test_a_call_that_comes_late_is_not_done_again(self, world: World) -> None:
        late = Late()
        world.network.fail("call_once", late)
        rows = some_rows(5)
        assert echo(world.target(), rows) == pairs(rows)
        assert late.release() == 200
        assert world.executions == 1

    def test_the_same_call_at_the_same_moment_runs_once(self, world: World) -> None:
        answers = self._twice(world, {"p_run": "r", "p_seconds": 0.5})
        assert answers == [pairs(some_rows(3))] * 2
        assert world.executions == 1
        assert world.all("SELECT call FROM migration.calls") == [("token",)]

    def test_the_second_one_runs_where_the_first_one_failed(self, world: World) -> None:
        world.execute(
            "CREATE SEQUENCE migration.test_tries; GRANT USAGE ON SEQUENCE migration.test_tries TO service_role;"
            " ALTER TABLE migration.test_calls ADD CHECK (nextval('migration.test_tries') > 1)"
        )
        answers = self._twice(world, {"p_run": "r", "p_seconds": 0.5})
        (failed,) = (answer for answer in answers if isinstance(answer, MigrationError))
        assert (failed.code, failed.facts["sqlstate"]) == ("TARGET_QUERY_FAILED", "23514")
        assert pairs(some_rows(3)) in answers
        assert world.executions == 1

    def _twice(self, world: World, arguments: dict[str, Any]) -> list[Any]:
        """The answers to one call that two clients make at the same moment."""
        call = {"p_call": "token"}
        world.client().call("send", {**call, "p_name": "rows", "p_chunk": 0, "p_rows": pairs(some_rows(3))})
        sent = {"rows": {"columns": COLUMNS, "types": ["text", "text"], "chunks": [0]}}
        once = {**call, "p_function": "test_echo", "p_incoming": sent, "p_arguments": arguments}
        answers: list[Any] = []
        begun = threading.Barrier(2)

        def ask() -> None:
            with world.client(max_retries=0) as client:
                begun.wait()
                try:
                    answers.append(client.call("call_once", once))
                except MigrationError as error:
                    answers.append(error)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def test_rows_that_were_lost_in_a_crash_are_sent_anew(self, world: World) -> None:
        def crash(exchange: Exchange) -> None:
            world.execute("TRUNCATE migration.incoming")  # as recovery does with what is not logged
            exchange.give(exchange.pass_on())

        world.network.fail("call_once", crash)
        target, rows = world.target(), some_rows(5)
        with error("TARGET_INTERRUPTED", transient=True) as caught:
            echo(target, rows)
        assert "crashed" in caught[0].detail
        assert len(world.network.of("call_once")) == 1  # asking again brings no row back
        assert world.executions == 0
        assert echo(target, rows) == pairs(rows)

    def test_answers_are_kept_for_a_day(self, world: World) -> None:
        target = world.target()
        tracking = world.loading(target).tracking("run-1")
        for _ in range(2):
            target.call("test_nothing", incoming={"rows": some_rows(1)}, run="run-1")
        world.execute(
            "UPDATE migration.calls SET answered_at = now() - interval '2 days'"
            " WHERE call = (SELECT min(call) FROM migration.calls)"
        )
        tracking.close_run("completed", {}, "")
        assert world.all("SELECT count(*) FROM migration.calls") == [(1,)]

    def test_a_function_that_returns_nothing(self, world: World) -> None:
        world.network.fail("call_once", lost_answer)
        target = world.target()
        assert target.call("test_nothing", incoming={"rows": some_rows(1)}, run="r") is None
        assert world.executions == 1
        assert target.call("test_nothing", run="r") is None

    def test_an_answer_that_may_hold_values_of_rows_is_kept_nowhere(self, world: World) -> None:
        target = world.target()
        answer = target.call("test_question", incoming={"rows": some_rows(2)}, run="r")
        assert len(answer) == 2
        assert world.all("SELECT count(*) FROM migration.calls WHERE result IS NOT NULL") == [(0,)]
        world.network.fail("call_once", lost_answer)
        with pytest.raises(MigrationError) as caught:
            target.call("test_question", incoming={"rows": some_rows(2)}, run="r")
        assert caught.value.code == "TARGET_INTERRUPTED"
        assert caught.value.transient

    @pytest.mark.parametrize("incoming", [None, {}])
    def test_arguments_of_every_type(self, world: World, incoming: dict[str, pa.Table] | None) -> None:
        given = {"text": "1e2", "number": 2**60, "share": 0.1, "yes": False, "texts": ["a,b", 'c"', "{}"]}
        found = world.target().call("test_arguments", incoming=incoming, **given, json={"a": [1.5, None]})
        assert found == ["1e2", 2**60, 0.1, False, 3, False, {"a": [1.5, None]}]
        nothing = dict.fromkeys((*given, "json"))
        found = world.target().call("test_arguments", incoming=incoming, **nothing)
        assert found == [None, None, None, None, None, True, None]


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "code", "registered"),
        [
            (404, "PGRST202", "TARGET_SCHEMA_MISSING"),
            (404, "PGRST205", "TARGET_SCHEMA_MISSING"),
            (404, "42P01", "TARGET_SCHEMA_MISSING"),
            (404, "42883", "TARGET_SCHEMA_MISSING"),
            (400, "3F000", "TARGET_SCHEMA_MISSING"),
            (406, "PGRST106", "TARGET_SCHEMA_NOT_EXPOSED"),
            (401, "PGRST301", "TARGET_KEY_REFUSED"),
            (401, "PGRST302", "TARGET_KEY_REFUSED"),
            (401, "PGRST303", "TARGET_KEY_REFUSED"),
            (401, None, "TARGET_KEY_REFUSED"),
            (403, "42501", "TARGET_KEY_REFUSED"),
            (403, None, "TARGET_KEY_REFUSED"),
            (413, None, "TARGET_REQUEST_TOO_LARGE"),
            (404, None, "TARGET_NO_API"),
            (301, None, "TARGET_NO_API"),
            (400, "PGRST102", "TARGET_QUERY_FAILED"),
            (402, None, "TARGET_QUERY_FAILED"),
            (418, None, "TARGET_QUERY_FAILED"),
            (400, "22P02", "TARGET_QUERY_FAILED"),
            (409, "23505", "TARGET_QUERY_FAILED"),
            (413, "54000", "TARGET_QUERY_FAILED"),  # a statement too complex, not a request too large
            (500, "57014", "TARGET_QUERY_FAILED"),
            (500, "XX000", "TARGET_QUERY_FAILED"),
        ],
    )
    def test_what_will_not_pass_is_asked_once(
        self, nowhere: FaultyApi, status: int, code: str | None, registered: str
    ) -> None:
        quoted = {"message": CANARY, "details": f"Key (email)=({CANARY})", "hint": CANARY}
        nowhere.fail("f", answered(status, {"code": code, **quoted} if code else quoted))
        with self._client(nowhere) as client, error(registered, transient=False) as caught:
            client.call("f", {"p_rows": [[CANARY]]})
        assert len(nowhere.requests) == 1
        named = {"sqlstate" if len(code) == 5 else "postgrest": code} if code else {}
        assert caught[0].facts == {"function": "f", "status": status, **named}

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (503, "PGRST000"),
            (503, "PGRST001"),
            (503, "PGRST002"),
            (504, "PGRST003"),
            (500, "40001"),
            (500, "40P01"),
            (500, "55P03"),
            (503, "53300"),
            (503, "57P01"),
            (503, "57P03"),
            (503, "08006"),
            (500, None),
            (502, None),
            (503, None),
            (504, None),
            (522, None),
            (429, None),
            (425, None),
            (408, None),
        ],
    )
    def test_what_may_pass_is_asked_again(self, nowhere: FaultyApi, status: int, code: str | None) -> None:
        nowhere.fail("f", *[answered(status, {"code": code, "message": CANARY} if code else PAGE)] * 3)
        with self._client(nowhere) as client, error("TARGET_INTERRUPTED", transient=True):
            client.call("f", {})
        assert len(nowhere.requests) == 3

    @pytest.mark.parametrize(
        "fault",
        [answered(200, f"<html>{CANARY}</html>"), answered(404, CANARY), answered(302, "", Location="/x")],
    )
    def test_an_address_where_something_else_answers(self, nowhere: FaultyApi, fault: Fault) -> None:
        nowhere.fail("f", fault)
        with self._client(nowhere) as client, error("TARGET_NO_API", transient=False):
            client.call("f", {})
        assert len(nowhere.requests) == 1

    def test_strange_codes_are_not_passed_on(self, nowhere: FaultyApi) -> None:
        nowhere.fail("f", answered(400, {"code": f"no code but {CANARY}", "message": "m"}))
        with self._client(nowhere) as client, error("TARGET_QUERY_FAILED") as caught:
            client.call("f", {})
        assert caught[0].facts == {"function": "f", "status": 400}

    def _client(self, network: FaultyApi) -> RestClient:
        return RestClient(Credentials(network.url, "sb_secret_any"), max_retries=2, sleep=lambda _: None)

    def test_keys_that_are_none(self, world: World) -> None:
        keys, forged = world.api.keys, type(world.api.keys).random()
        user = UUID(int=7)
        for key in (
            keys.anon,
            keys.publishable,
            forged.secret,
            forged.service_role,
            "sb_secret_wrong",
            "wrong",
        ):
            with world.client(key=key) as client, error("TARGET_KEY_REFUSED", transient=False):
                client.call("lock_holder", {})
        for token in (keys.user_token(user), keys.user_token(user, seconds=-60), forged.user_token(user)):
            with world.client() as client, error("TARGET_KEY_REFUSED", transient=False):
                client._client.postgrest.headers["Authorization"] = f"Bearer {token}"
                client.call("lock_holder", {})
        assert len(world.network.requests) == 9

    def test_what_is_not_there(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        with error("TARGET_SCHEMA_MISSING", transient=False):
            world.target().call("no_such_function")
        with error("TARGET_SCHEMA_MISSING", transient=False):
            world.target().call("no_such_function", incoming={"rows": some_rows(1)}, run="r")
        with error("TARGET_SCHEMA_MISSING", transient=False):
            world.target().call("test_nothing", incoming={"rows": some_rows(1)}, run="r", other="x")
        monkeypatch.setattr(rest_client, "SCHEMA", "migration")
        with error("TARGET_SCHEMA_NOT_EXPOSED", transient=False):
            world.target().call("lock_holder")
        assert [request.function for request in world.network.requests].count("call_once") == 2

    @pytest.mark.parametrize(
        ("state", "code", "requests"),
        [
            # Not 40001: PostgREST 12 repeats a transaction that cannot be serialised by itself.
            ("40P01", "TARGET_INTERRUPTED", 3),
            ("55P03", "TARGET_INTERRUPTED", 3),
            ("57P01", "TARGET_INTERRUPTED", 3),
            ("53200", "TARGET_INTERRUPTED", 3),
            ("57014", "TARGET_QUERY_FAILED", 1),
            ("54000", "TARGET_QUERY_FAILED", 1),
            ("23505", "TARGET_QUERY_FAILED", 1),
            ("P0001", "TARGET_QUERY_FAILED", 1),
            ("42501", "TARGET_KEY_REFUSED", 1),
            ("42P01", "TARGET_SCHEMA_MISSING", 1),
        ],
    )
    def test_states_of_statements(self, world: World, state: str, code: str, requests: int) -> None:
        with error(code, transient=requests > 1) as caught:
            world.target(max_retries=2).call("test_fail", state=state, message=CANARY)
        assert caught[0].facts["sqlstate"] == state
        assert len(world.network.requests) == requests

    def test_a_statement_that_takes_too_long(self, world: World) -> None:
        with error("TARGET_QUERY_FAILED", transient=False) as caught:
            world.target().call("test_slow")
        assert caught[0].facts["sqlstate"] == "57014"

    def test_what_the_target_refuses_by_a_registered_code(self, world: World) -> None:
        with error("RUN_LOST", transient=False):
            world.target().call("load_batch", incoming={}, run="unknown", entity="practices", batch={}, versions={},
                                dry_run=False, affected=1)  # fmt: skip
        assert len(world.network.requests) == 1

    def test_neither_rows_nor_keys_show(
        self, world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        logging.getLogger("httpx").setLevel(logging.NOTSET)
        caplog.set_level(logging.DEBUG)
        world.execute(QUOTING_TRIGGER)
        target = world.target()
        for _ in range(2):
            with error("TARGET_QUERY_FAILED", transient=False):
                world.loading(target).load("patients", [patient(1, first_name=CANARY), patient(2)])
            world.network.fail("call_once", lost_answer)
        world.network.fail("send", answered(500, CANARY), reset)
        with error("TARGET_QUERY_FAILED"):
            world.loading(target).load("patients", [patient(1, first_name=CANARY)])
        output = f"{caplog.text} {capfd.readouterr()} {target._client!r} {target!r} {vars(target)}"
        assert "httpcore" in caplog.text
        for secret in (CANARY, world.api.keys.secret, world.api.keys.service_role, world.api.keys.jwt_secret):
            assert secret not in output


class TestPaging:
    KEYS = (
        *(f"k{number:05}" for number in range(2_500)),
        *"aAbBzZäÄéÉß",
        *["0", "9", "10", "1a", "1A", "-1", "_", "漢", "🦷"],
        "a b",
        "",
    )

    @pytest.fixture
    def keys(self, world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        rows = json.dumps([{"key": key, "text": key * 2} for key in self.KEYS])
        world.execute(
            f"INSERT INTO migration.test_rows SELECT * FROM jsonb_to_recordset('{rows}') AS r (key text, text text)"
        )
        monkeypatch.setattr(target_rest, "_PAGE_ROWS", 1_300)  # the server gives less: 1,000
        return [key for (key,) in world.all("SELECT key FROM migration.test_rows ORDER BY key")]

    def read(self, target: RestTarget) -> Iterator[str]:
        for table in target.rows("test_page", COLUMNS):
            assert table.schema == some_rows(0).schema
            assert table.column("text").to_pylist() == [key * 2 for key in table.column("key").to_pylist()]
            yield from table.column("key").to_pylist()

    def test_everything_comes_once_and_in_order(self, world: World, keys: list[str]) -> None:
        assert list(self.read(world.target())) == keys
        assert len(world.network.requests) == 4

    def test_rows_that_come_meanwhile(self, world: World, keys: list[str]) -> None:
        found = []
        for number, key in enumerate(self.read(world.target())):
            if number == 1_500:
                world.execute(
                    "INSERT INTO migration.test_rows VALUES ('!before', '!before!before'), ('zz', 'zzzz')"
                )
            found.append(key)
        assert sorted({*found, "!before"} - {"zz"}) == sorted([*keys, "!before"])
        assert len(found) == len(set(found))
        assert set(keys) <= set(found)

    def test_a_page_that_was_lost_is_asked_for_again(self, world: World, keys: list[str]) -> None:
        world.network.fail("test_page", reset, cut_answer, shortened_answer, answered(502, PAGE))
        assert list(self.read(world.target(max_retries=4))) == keys

    def test_nothing_is_a_table_without_rows(self, world: World) -> None:
        (table,) = world.target().rows("test_page", COLUMNS)
        assert (table.num_rows, table.schema) == (0, some_rows(0).schema)


class TestValues:
    """What arrives, whichever way it came."""

    TEXTS: ClassVar = {
        "astral": "🦷 𝔘𝔫𝔦 👩\u200d⚕️",
        "combining": "e\u0301 é n\u0303",
        "right to left": "\u202eשלום\u202c",
        "quotes": "\"double\" 'single' `back` „low“",
        "backslashes": r"\ \\ \n \u0041 \x41 \N \.",
        "line breaks": "a\nb\r\nc\rd\u2028e\u2029f",
        "controls": "\t\x01\x1f\x7f\x85",
        "braces": '{"json": [1]} {1,2} ${x} %s %(x)s',
        "byte order mark": "\ufeffx\ufeff",
        "noncharacters": "\ufffe\uffff\U0010ffff",
        "blanks": "  x  ",
        "empty": "",
        "null": "NULL",
        "long": '漢字🦷\\" ' * 400_000,
    }

    def test_texts(self, target: Target) -> None:
        rows = [practice(key, name=text) for key, text in enumerate(self.TEXTS.values())]
        assert target.load("practices", [*rows, practice(99, name=None)]).inserted == len(rows) + 1
        found = dict(target.all("SELECT legacy_office_id, name FROM public.practices"))
        assert found == {**dict(enumerate(self.TEXTS.values())), 99: None}

    def test_numbers_in_json_stay_exact(self, target: Target) -> None:
        text = '{"a": 12345678901234567890.123456789012345678901, "b": 1E+400, "c": -0.10, "d": 9007199254740993}'
        target.load("practices", [practice(1, metadata=text)])
        assert target.all(f"SELECT metadata::text = ('{text}'::jsonb)::text FROM public.practices") == [
            (True,)
        ]
        assert target.all("SELECT metadata ->> 'd', length(metadata ->> 'b') FROM public.practices") == [
            ("9007199254740993", 401)
        ]

    @pytest.mark.parametrize(
        ("values", "column"),
        [
            ({"name": f"{CANARY}\0"}, "name"),
            ({"name": "\0", "phone": "\0"}, "name"),
            ({"phone": "\0", "metadata": "no json"}, "phone"),
            ({"metadata": '"\0"'}, "metadata"),
            ({"metadata": r'"\u0000"'}, "metadata"),
            ({"metadata": r'{"a": "\ud800"}'}, "metadata"),
            ({"metadata": r'{"a": "\udc00\ud800"}'}, "metadata"),
            ({"metadata": "NaN"}, "metadata"),
        ],
    )
    def test_what_cannot_be_stored_is_quarantined_alone(
        self, target: Target, values: dict[str, str], column: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        rows = [practice(1), practice(2, **values), practice(3)]
        assert target.load("practices", rows, findings=[("2", "name_empty", "name")]) == Fates(
            3, inserted=2, rejected=1
        )
        assert target.quarantine("practices") == [("2", "value_refused", column)]
        ((payload,),) = target.all("SELECT payload FROM migration.quarantine")
        assert payload.keys() == {*rows[1], *payload}
        assert {name: payload[name] for name in values} == {
            name: value.replace("\0", "\u2400") for name, value in values.items()
        }
        assert CANARY not in caplog.text
        assert target.all("SELECT extracted, rejected FROM migration.batches") == [(3, 1)]
        assert target.load("practices", [practice(2)], run="run-2").inserted == 1

    def test_vectors_arrive_bit_by_bit(self, target: Target) -> None:
        target.connection.execute(BITS.encode())
        chance = np.random.default_rng(5)
        bits = chance.integers(0, 2**32, 4_000, dtype=np.uint32).view(np.float32)
        finite = bits[np.isfinite(bits)][:3_000]
        edges = np.array([0.0, -0.0, 1e-45, -1.1754944e-38, 3.4028235e38, 0.1, 1 / 3, 16777217], np.float32)
        vectors = np.concatenate([edges, finite]).reshape(-1, 16)
        rows = pa.table(
            {
                "key": [None, *map(str, range(1, len(vectors)))],
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
            }
        )
        found = target.api.call("test_bits", incoming={"rows": rows}, run="r")
        assert found == [v.astype(">f4").tobytes().hex() for v in vectors]


class TestLife:
    def test_signs_of_life_beside_a_long_call(self, world: World) -> None:
        with open_target("rest") as target:
            tracking = world.loading(target).tracking("run-1")  # type: ignore[arg-type]
            world.execute("UPDATE migration.run_lock SET heartbeat_at = now() - interval '1 hour'")
            with Heartbeat(target, tracking.run_id, every_seconds=0.1):
                target.call("test_echo", incoming={"rows": some_rows(1)}, run="r", seconds=1)
        assert world.all("SELECT heartbeat_at > now() - interval '1 min' FROM migration.run_lock") == [
            (True,)
        ]

    def test_a_sign_of_life_does_not_wait(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rest_client, "_SHORT_TIMEOUT", httpx.Timeout(0.2))
        world.network.fail("beat", silent(2))
        begun = time.monotonic()
        with world.target().another() as other, error("TARGET_INTERRUPTED"):
            other.call("beat", run="run-1")
        assert time.monotonic() - begun < 1.5
        assert len(world.network.of("beat")) == 1

    def test_a_task_that_is_killed_asks_nothing_more(self, world: World) -> None:
        with world.client(max_retries=5) as client:
            target = RestTarget(client, batch_size=10)

            def kill(exchange: Exchange) -> None:
                target.cancel()
                exchange.give(exchange.pass_on())

            world.network.fail("send", kill)
            with error("TARGET_INTERRUPTED", transient=True):
                echo(target, some_rows(30))
            assert [request.function for request in world.network.requests] == ["send"]
            assert world.executions == 0
            assert world.pauses == []

    def test_variables_instead_of_the_connection(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AIRFLOW_CONN_SUPABASE")
        monkeypatch.setenv("SUPABASE_URL", f"{world.network.url}/")
        monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", world.api.keys.service_role)
        with open_target("rest") as target:
            assert target.call("lock_holder") is None
