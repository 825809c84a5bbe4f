"""The local Supabase API: real PostgREST behind a gateway that treats keys as a hosted project's does."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import httpx
import psycopg
import pytest
from postgrest.exceptions import APIError
from supabase import create_client

from local import postgrest
from local.api_keys import ApiKeys
from local.postgres import EmbeddedPostgres
from local.processes import running, spawn
from local.supabase_api import SupabaseApi
from tests.conftest import Serving, fresh_database

T = TypeVar("T")
PERSON = UUID("6f9619ff-8b86-4011-b42d-00cf4fc964ff")
WHO = """CREATE SCHEMA migration_api;
GRANT USAGE ON SCHEMA migration_api TO anon, authenticated, service_role;
CREATE FUNCTION migration_api.who() RETURNS jsonb LANGUAGE sql STABLE
    RETURN jsonb_build_array(current_user, auth.uid());
NOTIFY pgrst, 'reload schema'"""


@pytest.fixture
def who_api(target_database: str, serving: Serving) -> Iterator[SupabaseApi]:
    """An API with a function that tells who the caller is."""
    with psycopg.connect(target_database) as connection:
        connection.execute(WHO)
    with serving(target_database) as api:
        yield api


def who(api: SupabaseApi, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{api.url}/rest/v1/rpc/who", json={}, headers={"Content-Profile": "migration_api", **headers}
    )


def test_without_a_key_nobody_gets_in(who_api: SupabaseApi) -> None:
    user = f"Bearer {who_api.keys.user_token(PERSON)}"
    for headers in ({}, {"Authorization": user}, {"Authorization": f"Bearer {who_api.keys.secret}"}):
        assert who(who_api, **headers).status_code == 401
    assert who(who_api, apikey="sb_secret_wrong").status_code == 401
    assert who(who_api, apikey=ApiKeys.random().service_role).status_code == 401


@pytest.mark.parametrize(
    ("key", "role"),
    [
        ("publishable", "anon"),
        ("anon", "anon"),
        ("secret", "service_role"),
        ("service_role", "service_role"),
    ],
)
def test_both_kinds_of_keys_stand_for_their_role(who_api: SupabaseApi, key: str, role: str) -> None:
    value = getattr(who_api.keys, key)
    assert who(who_api, apikey=value).json() == [role, None]
    answer = create_client(who_api.url, value).schema("migration_api").rpc("who", {}).execute()
    assert answer.data == [role, None]


@pytest.mark.parametrize("key", ["publishable", "anon", "secret"])
def test_a_persons_token_is_kept(who_api: SupabaseApi, key: str) -> None:
    token = who_api.keys.user_token(PERSON)
    answer = who(who_api, apikey=getattr(who_api.keys, key), Authorization=f"Bearer {token}")
    assert answer.json() == ["authenticated", str(PERSON)]


def test_an_expired_and_a_forged_token_are_refused(who_api: SupabaseApi) -> None:
    expired = who_api.keys.user_token(PERSON, seconds=-60)
    answer = who(who_api, apikey=who_api.keys.anon, Authorization=f"Bearer {expired}")
    assert (answer.status_code, answer.json()["code"]) == (401, "PGRST301")
    forged = ApiKeys.random().user_token(PERSON)
    assert who(who_api, apikey=who_api.keys.anon, Authorization=f"Bearer {forged}").status_code == 401


def test_nobody_answers_for_services_that_are_not_here(target_api: SupabaseApi) -> None:
    for path in ("/auth/v1/user", "/storage/v1/bucket", "/", "/rest"):
        answer = httpx.get(target_api.url + path, headers={"apikey": target_api.keys.secret})
        assert answer.status_code == 404
        assert "message" in answer.json()


def test_a_read_ends_at_the_row_cap(target_database: str, serving: Serving) -> None:
    with psycopg.connect(target_database) as connection:
        connection.execute("CREATE TABLE public.t AS SELECT n FROM generate_series(1, 1200) AS n")
        connection.execute("GRANT SELECT ON public.t TO service_role")
    with serving(target_database) as api:
        client = create_client(api.url, api.keys.secret)
        assert len(client.table("t").select("n").execute().data) == 1000
        assert len(client.table("t").select("n").range(1000, 1199).execute().data) == 200
        with pytest.raises(APIError) as refused:
            create_client(api.url, api.keys.anon).table("t").select("n").execute()
    assert refused.value.code == "42501"


def test_statements_end_after_the_hosted_timeout(target_api: SupabaseApi, target_database: str) -> None:
    with psycopg.connect(target_database) as connection:
        connection.execute(
            "CREATE FUNCTION public.timeout() RETURNS text LANGUAGE sql"
            " RETURN current_setting('statement_timeout'); NOTIFY pgrst, 'reload schema'"
        )
    answer = until(lambda: call(target_api, "timeout"), lambda answer: answer.status_code == 200)
    assert answer.json() == "8s"


def test_a_function_may_set_its_own_timeout(target_database: str, serving: Serving) -> None:
    with psycopg.connect(target_database) as connection:
        connection.execute(
            "CREATE FUNCTION public.slow() RETURNS void LANGUAGE sql SET statement_timeout = '100ms'"
            " AS 'SELECT pg_sleep(5)'"
        )
    with serving(target_database) as api:
        answer = call(api, "slow")
    assert (answer.status_code, answer.json()["code"]) == (500, "57014")


def test_a_schema_that_comes_later_is_found(target_api: SupabaseApi, target_database: str) -> None:
    assert who(target_api, apikey=target_api.keys.secret).json()["code"] == "PGRST202"
    with psycopg.connect(target_database) as connection:
        connection.execute(WHO)
    answer = until(
        lambda: who(target_api, apikey=target_api.keys.secret), lambda answer: answer.status_code == 200
    )
    assert answer.json()[0] == "service_role"


def test_between_two_databases_the_service_is_unavailable(
    server: EmbeddedPostgres, target_template: str, serving: Serving, supabase_api: SupabaseApi
) -> None:
    for _ in range(2):
        with fresh_database(server, template=target_template, owner="postgres") as name:
            with psycopg.connect(server.dsn(name)) as connection:
                connection.execute("CREATE FUNCTION public.name() RETURNS text RETURN current_database()")
            with serving(server.dsn(name)) as api:
                assert call(api, "name").json() == name
        assert call(supabase_api, "name").status_code == 503


def test_long_requests_and_answers_pass(target_database: str, serving: Serving) -> None:
    with psycopg.connect(target_database) as connection:
        connection.execute("CREATE TABLE public.t (id text)")
        connection.execute("GRANT ALL ON public.t TO service_role")
        connection.execute("CREATE FUNCTION public.echo(p_x jsonb) RETURNS jsonb LANGUAGE sql RETURN p_x")
    with serving(target_database) as api:
        client = create_client(api.url, api.keys.secret)
        text = "ä" * 3_000_000
        assert client.rpc("echo", {"p_x": text}).execute().data == text
        # PostgREST repeats the query of a read in a header of its answer.
        ids = [f"{n:036}" for n in range(400)]
        assert client.table("t").select("id").in_("id", ids).execute().data == []


def test_many_at_once(who_api: SupabaseApi) -> None:
    headers = {"apikey": who_api.keys.secret, "Content-Profile": "migration_api"}

    def ask(_: int) -> int:
        return client.post("/rest/v1/rpc/who", json={}).status_code

    with httpx.Client(base_url=who_api.url, headers=headers) as client, ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(500))) == {200}


def test_a_request_may_be_too_long(tmp_path: Path) -> None:
    with SupabaseApi(tmp_path / "api", max_body=1000) as api:
        assert call(api, "echo", p_x="x" * 2000).status_code == 413
        assert call(api, "echo", p_x="x").status_code == 503


def test_keys_are_kept_private_and_out_of_sight(tmp_path: Path) -> None:
    file = tmp_path / "private" / "keys.json"
    keys = ApiKeys.kept_in(file)
    assert ApiKeys.kept_in(file) == keys
    assert file.stat().st_mode & 0o777 == 0o600
    assert repr(keys) == "ApiKeys()"
    assert ApiKeys.random() != keys


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "from local.processes import running\n"
        "server = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL)\n"
        "with running(server):\n"
        "    print(server.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with (tmp_path / "log").open("wb") as output:
        starter = spawn([sys.executable, "-c", code], os.environ, output)
    with running(starter):
        pid = until((tmp_path / "log").read_text, bool)
        starter.send_signal(signal.SIGKILL)
        starter.wait()
        until(lambda: alive(int(pid)), lambda found: not found)


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(postgrest, "PROGRAM", tmp_path / "nothing")
    with (
        SupabaseApi(tmp_path / "api") as api,
        pytest.raises(postgrest.PostgrestError, match="make setup"),
        api.serving("postgresql://authenticator@127.0.0.1:1/nothing"),
    ):
        pytest.fail("it serves nothing")


@pytest.mark.usefixtures("supabase_api")
def test_a_database_that_refuses_is_told(server: EmbeddedPostgres, tmp_path: Path) -> None:
    wrong = server.dsn("no_such_database", role="authenticator")
    with (
        SupabaseApi(tmp_path / "api") as api,
        pytest.raises(postgrest.PostgrestError, match="no_such_database") as refused,
        api.serving(wrong),
    ):
        pytest.fail("it serves nothing")
    assert server.password("authenticator") not in str(refused.value)


def call(api: SupabaseApi, function: str, **arguments: str) -> httpx.Response:
    return httpx.post(
        f"{api.url}/rest/v1/rpc/{function}", json=arguments, headers={"apikey": api.keys.secret}
    )


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def until(look: Callable[[], T], enough: Callable[[T], bool], seconds: float = 10) -> T:
    """What `look` sees once it is enough."""
    deadline = time.monotonic() + seconds
    while not enough(seen := look()):
        assert time.monotonic() < deadline, f"still {seen!r}"
        time.sleep(0.02)
    return seen
