"""Which way into the target is taken, and what both ways have in common."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from include.core.errors import MigrationError
from plugins.hooks.target import Rows, batch_rows, choose_way, naming, open_target
from tests.api.faults import FaultyApi, answered, faulty

KEY = "sb_secret_aB3_dEf"
DIRECT = json.dumps({"conn_type": "postgres", "host": "127.0.0.1", "port": 9, "schema": "x", "login": "x"})
VARIABLES = ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_ALLOW_PLAINTEXT")


def through_api(url: str, **extra: object) -> str:
    return json.dumps({"conn_type": "supabase", "host": url, "password": KEY, "extra": extra})


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Neither way is configured."""
    for name in ("AIRFLOW_CONN_SUPABASE_DB", "AIRFLOW_CONN_SUPABASE", *VARIABLES):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("direct", "api", "variables", "way"),
    [
        (True, False, False, "postgres"),
        (True, True, True, "postgres"),
        (False, True, False, "rest"),
        (False, False, True, "rest"),
        (False, True, True, "rest"),
    ],
)
def test_the_direct_connection_comes_first(
    settings: pytest.MonkeyPatch, direct: bool, api: bool, variables: bool, way: str
) -> None:
    if direct:
        settings.setenv("AIRFLOW_CONN_SUPABASE_DB", DIRECT)
    if api:
        settings.setenv("AIRFLOW_CONN_SUPABASE", through_api("https://x.supabase.co"))
    if variables:
        settings.setenv("SUPABASE_URL", "https://x.supabase.co")
        settings.setenv("SUPABASE_SERVICE_ROLE_KEY", KEY)
    assert choose_way("auto") == way
    assert [choose_way(named) for named in ("postgres", "rest")] == ["postgres", "rest"]


@pytest.mark.parametrize("load_via", ["auto", "postgres", "rest"])
def test_without_any_the_error_names_what_to_set(settings: pytest.MonkeyPatch, load_via: str) -> None:
    with pytest.raises(MigrationError) as caught, open_target(load_via, entity="patients"):
        pytest.fail("there is no target")
    assert caught.value.code == "CONNECTION_MISSING"
    direct, api = "AIRFLOW_CONN_SUPABASE_DB", ("'supabase'", "AIRFLOW_CONN_SUPABASE,")
    assert (direct in str(caught.value)) is (load_via != "rest")
    assert any(name in str(caught.value) for name in api) is (load_via != "postgres")
    assert all(name in str(caught.value) for name in VARIABLES[:2]) is (load_via != "postgres")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://supabase.intranet", "TARGET_PLAINTEXT"),
        ("https://x.supabase.co/rest/v1", "CONNECTION_INVALID"),
        ("", "CONNECTION_INVALID"),
    ],
)
def test_a_wrong_connection_is_not_an_absent_one(settings: pytest.MonkeyPatch, url: str, code: str) -> None:
    settings.setenv("AIRFLOW_CONN_SUPABASE", through_api(url))
    assert choose_way("auto") == "rest"
    with pytest.raises(MigrationError) as caught, open_target():
        pytest.fail("there is no target")
    assert (caught.value.code, caught.value.transient) == (code, False)
    assert KEY not in str(caught.value)


def test_variables_that_are_set_in_part_are_not_overlooked(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("SUPABASE_URL", "https://x.supabase.co")
    with pytest.raises(MigrationError) as caught, open_target():
        pytest.fail("there is no target")
    assert caught.value.code == "CONNECTION_INVALID"


@pytest.fixture
def intranet(settings: pytest.MonkeyPatch) -> Iterator[FaultyApi]:
    """A server on what looks like another machine, and the port it has there."""
    resolve = socket.getaddrinfo

    def resolved(host: str, *rest: Any, **more: Any) -> Any:
        return resolve("127.0.0.1" if host == "supabase.intranet" else host, *rest, **more)

    settings.setattr(socket, "getaddrinfo", resolved)
    with faulty("http://127.0.0.1:9") as network:
        network.url = network.url.replace("127.0.0.1", "supabase.intranet")
        yield network


def test_nothing_leaves_this_machine_in_the_clear(intranet: FaultyApi, settings: pytest.MonkeyPatch) -> None:
    settings.setenv("AIRFLOW_CONN_SUPABASE", through_api(intranet.url))
    with pytest.raises(MigrationError) as caught, open_target("rest") as target:
        target.call("lock_holder")
    assert caught.value.code == "TARGET_PLAINTEXT"
    assert intranet.requests == []


def test_unless_a_setting_allows_it(intranet: FaultyApi, settings: pytest.MonkeyPatch) -> None:
    settings.setenv("AIRFLOW_CONN_SUPABASE", through_api(intranet.url, allow_plaintext=True))
    intranet.fail("lock_holder", answered(200, {"run_id": "r"}))
    with open_target("rest") as target:
        assert target.call("lock_holder") == {"run_id": "r"}
    (request,) = intranet.requests
    assert request.headers["apikey"] == KEY
    assert request.headers["Content-Profile"] == "migration_api"


def test_a_batch_is_no_larger_than_the_way_can_carry(settings: pytest.MonkeyPatch) -> None:
    assert [batch_rows("rest", size) for size in (1, 1_000, 25_000)] == [1, 1_000, 1_000]
    assert [batch_rows("postgres", size) for size in (100, 25_000)] == [100, 25_000]
    settings.setenv("AIRFLOW_CONN_SUPABASE", through_api("https://x.supabase.co"))
    assert batch_rows("auto", 25_000) == 1_000


def test_facts_are_added_to_errors_of_the_target_alone() -> None:
    for code, named in (("TARGET_INTERRUPTED", True), ("RUN_LOST", False)):
        with pytest.raises(MigrationError) as caught, naming(entity="patients", batch="b1"):
            raise MigrationError(code, "", function="load_batch")
        assert ("batch" in caught.value.facts) is named
        assert caught.value.facts["function"] == "load_batch"


def test_types_of_columns() -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0], pa.float32()), 2)
    table = pa.table({"key": ["a"], "vector": vectors})
    rows = Rows.of(table)
    assert (rows.types, Rows.of(rows), [*rows.tables]) == (["text", "vector(2)"], rows, [table])
