"""The connection type `supabase`: what Airflow shows of it, and what its hook makes of an address and a key."""

from __future__ import annotations

import json
import logging
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import UUID

import pytest
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
from airflow.models.connection import Connection
from airflow.providers_manager import ProvidersManager
from mdw_supabase.hook import (
    InvalidCredentialsError,
    MissingCredentialsError,
    PlaintextRefusedError,
    SupabaseHook,
)

from local.api_keys import ApiKeys
from local.environment import supabase_variable
from local.supabase_api import SupabaseApi

KEYS = ApiKeys.random()
HOSTED = "https://abcdefghij.supabase.co"
Configure = Callable[..., SupabaseHook]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """A hook whose connection has this address and key."""

    def configured(url: str, key: str = KEYS.secret, **extra: object) -> SupabaseHook:
        connection = {**json.loads(supabase_variable(url, key)), "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SUPABASE", json.dumps(connection))
        return SupabaseHook()

    return configured


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Neither connection nor variables."""
    for name in (
        "AIRFLOW_CONN_SUPABASE",
        "SUPABASE_URL",
        "SUPABASE_SERVICE_ROLE_KEY",
        "SUPABASE_ALLOW_PLAINTEXT",
    ):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


class TestForm:
    def test_the_type_is_registered_by_the_installed_package(self) -> None:
        manager = ProvidersManager()
        assert manager.providers["mdw-supabase"].version == "0.1.0"
        hook = manager.hooks["supabase"]
        assert hook is not None
        assert (hook.hook_name, hook.connection_id_attribute_name) == ("Supabase", "supabase_conn_id")
        assert hook.connection_testable

    def test_the_form_asks_for_url_and_key_alone(self) -> None:
        (form,) = [meta for meta in HookMetaService.hook_meta_data() if meta.connection_type == "supabase"]
        fields = form.model_dump(by_alias=True)["standard_fields"]
        assert (fields["host"]["title"], fields["password"]["title"]) == ("Project URL", "Service role key")
        assert fields["host"]["placeholder"] == "https://<project>.supabase.co"
        assert all(fields[name]["hidden"] for name in ("login", "port", "url_schema"))
        assert form.extra_fields is not None
        assert [field["schema"]["title"] for field in form.extra_fields.values()] == ["Allow plaintext"]


class TestCredentials:
    @pytest.mark.parametrize(
        ("given", "url"),
        [
            (HOSTED, HOSTED),
            (f" {HOSTED}/ ", HOSTED),
            ("abcdefghij.supabase.co", HOSTED),
            ("http://127.0.0.1:54321", "http://127.0.0.1:54321"),
            ("http://localhost:54321/", "http://localhost:54321"),
            ("http://[::1]:54321", "http://[::1]:54321"),
        ],
    )
    def test_an_address_is_taken_as_people_write_it(self, configure: Configure, given: str, url: str) -> None:
        assert configure(given, f"{KEYS.secret}\n").credentials() == (url, KEYS.secret)

    def test_a_connection_as_a_uri(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("AIRFLOW_CONN_SUPABASE", f"supabase://:{KEYS.secret}@abcdefghij.supabase.co:8443")
        assert SupabaseHook().credentials() == (f"{HOSTED}:8443", KEYS.secret)

    @pytest.mark.parametrize(
        "given",
        [
            "",
            "ftp://abcdefghij.supabase.co",
            "https://",
            f"{HOSTED}/rest/v1",
            f"{HOSTED}?apikey=x",
            "https://me:secret@abcdefghij.supabase.co",
            "https://abcdefghij.supabase.co:port",
            "https://two words.supabase.co",
            "https://\u2603.supabase.co",
        ],
    )
    def test_another_address_is_refused(self, configure: Configure, given: str) -> None:
        with pytest.raises(InvalidCredentialsError, match="project URL"):
            configure(given).credentials()

    @pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "“quoted”", "snow\u2603man"])
    def test_a_key_that_would_break_a_header_is_not_quoted(self, configure: Configure, key: str) -> None:
        hook = configure(HOSTED, key)
        with pytest.raises(InvalidCredentialsError, match="service role key") as refused:
            hook.credentials()
        assert not key or key not in str(refused.value)
        assert hook.test_connection() == (False, str(refused.value))

    @pytest.mark.parametrize(
        "url",
        ["http://abcdefghij.supabase.co", "http://192.168.1.7:54321", "http://host.docker.internal:54321"],
    )
    def test_plaintext_to_another_machine_needs_to_be_allowed(self, configure: Configure, url: str) -> None:
        with pytest.raises(PlaintextRefusedError, match="allow_plaintext"):
            configure(url).credentials()
        with pytest.raises(PlaintextRefusedError):
            configure(url, allow_plaintext=False).credentials()
        with pytest.raises(PlaintextRefusedError):
            configure(url, allow_plaintext=None).credentials()
        assert configure(url, allow_plaintext=True).credentials().is_plaintext

    def test_only_unencrypted_traffic_to_another_machine_is_plaintext(self, configure: Configure) -> None:
        for url in (HOSTED, "http://127.0.0.1:54321", "http://localhost:54321"):
            assert not configure(url).credentials().is_plaintext

    def test_variables_take_the_place_of_an_absent_connection(self, environment: pytest.MonkeyPatch) -> None:
        with pytest.raises(MissingCredentialsError, match="SUPABASE_SERVICE_ROLE_KEY"):
            SupabaseHook().credentials()
        environment.setenv("SUPABASE_URL", "http://supabase.intranet")
        with pytest.raises(InvalidCredentialsError):
            SupabaseHook().credentials()
        environment.setenv("SUPABASE_SERVICE_ROLE_KEY", KEYS.secret)
        with pytest.raises(PlaintextRefusedError):
            SupabaseHook().credentials()
        environment.setenv("SUPABASE_ALLOW_PLAINTEXT", "true")
        assert SupabaseHook().credentials() == ("http://supabase.intranet", KEYS.secret)
        environment.setenv("AIRFLOW_CONN_SUPABASE", supabase_variable(HOSTED, KEYS.service_role))
        assert SupabaseHook().credentials() == (HOSTED, KEYS.service_role)

    @pytest.mark.parametrize(
        ("key", "role"),
        [
            (KEYS.secret, "service_role"),
            (KEYS.service_role, "service_role"),
            (KEYS.publishable, "anon"),
            (KEYS.anon, "anon"),
            (KEYS.user_token(UUID(int=1)), "authenticated"),
            ("a.b.c", None),
            ("W10.W10.W10", None),
            ("something", None),
        ],
    )
    def test_the_role_of_a_key(self, configure: Configure, key: str, role: str | None) -> None:
        assert configure(HOSTED, key).credentials().role == role

    def test_the_key_shows_nowhere(
        self, configure: Configure, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        credentials = configure(HOSTED).credentials()
        logging.getLogger("airflow.task").warning("%s %r", credentials, credentials)
        assert pickle.loads(pickle.dumps(credentials)) == credentials  # noqa: S301 - its own
        shown = f"{credentials} {credentials!r} {caplog.text} {capfd.readouterr()}"
        assert HOSTED in shown
        assert KEYS.secret not in shown


class TestButton:
    """What `Test` says, with the real API and with what else may answer at an address."""

    @pytest.fixture(autouse=True)
    def silence(self, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        """No key in any log, whatever is tested."""
        caplog.set_level(logging.DEBUG)
        yield
        for key in (KEYS.secret, KEYS.service_role, KEYS.anon, KEYS.publishable):
            assert key not in caplog.text

    def test_airflow_presses_it(self, target_api: SupabaseApi, configure: Configure) -> None:
        configure(target_api.url, target_api.keys.secret)
        connection = Connection(conn_id="supabase", conn_type="supabase", host=target_api.url)
        assert connection.test_connection() == (True, f"The API of {target_api.url} accepts the key.")

    def test_both_kinds_of_service_keys_are_accepted(
        self, target_api: SupabaseApi, configure: Configure
    ) -> None:
        for key in (target_api.keys.secret, target_api.keys.service_role):
            assert configure(target_api.url, key).test_connection()[0]

    def test_a_key_for_browsers_is_told_apart(self, target_api: SupabaseApi, configure: Configure) -> None:
        for key in (target_api.keys.publishable, target_api.keys.anon):
            assert configure(target_api.url, key).test_connection() == (
                False,
                "The key is that of role anon: the service role key is needed.",
            )

    def test_a_wrong_key(self, target_api: SupabaseApi, configure: Configure) -> None:
        for key in (KEYS.secret, KEYS.service_role, "nonsense"):
            done, message = configure(target_api.url, key).test_connection()
            assert not done
            assert message == f"{target_api.url} refuses the key (HTTP 401)."

    def test_an_api_without_a_database(self, supabase_api: SupabaseApi, configure: Configure) -> None:
        done, message = configure(supabase_api.url, supabase_api.keys.secret).test_connection()
        assert (done, "its API is not (HTTP 503)" in message) == (False, True)

    def test_nobody_listens(self, configure: Configure) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
        done, message = configure(url).test_connection()
        assert not done
        assert message.startswith(f"{url} cannot be reached:")

    def test_something_else_answers(self, configure: Configure) -> None:
        with web_server(200) as url:
            assert configure(url).test_connection() == (
                False,
                f"{url} answers, but not as a Supabase project does (HTTP 200).",
            )

    def test_the_key_follows_no_redirect(self, configure: Configure) -> None:
        with web_server(200) as elsewhere, web_server(302, Location=elsewhere) as url:
            done, message = configure(url).test_connection()
        assert (done, "HTTP 302" in message) == (False, True)

    def test_an_expired_key_is_named(self, configure: Configure) -> None:
        with web_server(401, body=b'{"code": "PGRST303", "message": "JWT expired"}') as url:
            assert configure(url, KEYS.service_role).test_connection() == (
                False,
                f"{url} refuses the key (HTTP 401, PGRST303).",
            )

    def test_plaintext_is_refused_before_anything_is_sent(self, configure: Configure) -> None:
        done, message = configure("http://192.0.2.1").test_connection()
        assert not done
        assert "unencrypted" in message


@contextmanager
def web_server(status: int, body: bytes = b"<html></html>", **headers: str) -> Iterator[str]:
    """A server that answers everything the same way; gives its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
