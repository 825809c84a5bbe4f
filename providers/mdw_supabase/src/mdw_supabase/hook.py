"""A Supabase project by its URL and service role key. The key is in no message, log line or repr of this module."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

import httpx
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

if TYPE_CHECKING:
    from supabase import Client

CONNECTION_ID = "supabase"
URL_VARIABLE, KEY_VARIABLE = "SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY"
PLAINTEXT_VARIABLE, PLAINTEXT_EXTRA = "SUPABASE_ALLOW_PLAINTEXT", "allow_plaintext"

_TEST_TIMEOUT = httpx.Timeout(15, connect=10)
# Opaque keys and tokens. Anything else would be quoted by the error of whoever puts it into a header.
_KEY_CHARACTERS = re.compile(r"[A-Za-z0-9._~+/=-]+")
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
_OPAQUE_ROLES = {"sb_publishable_": "anon", "sb_secret_": "service_role"}
_SERVICE_ROLE = "service_role"


class CredentialsError(ValueError):
    """There is no usable URL and key; the message says why, and never quotes the key."""


class MissingCredentialsError(CredentialsError):
    """Neither the connection nor the variables are there."""


class InvalidCredentialsError(CredentialsError):
    """The URL or the key cannot be used as they are."""


class PlaintextRefusedError(CredentialsError):
    """The URL would send the key and the data unencrypted to another machine."""


class Credentials(NamedTuple):
    """A project's address and key.

    Attributes:
        url: without a slash at the end.
        key: a secret.
    """

    url: str
    key: str

    def __repr__(self) -> str:
        return f"Credentials(url={self.url!r})"

    @property
    def is_plaintext(self) -> bool:
        """Whether what is sent leaves this machine unencrypted."""
        return _is_plaintext(urlsplit(self.url))

    @property
    def stays_here(self) -> bool:
        """Whether the address is on this machine; then no proxy may come in between."""
        return is_loopback(urlsplit(self.url).hostname or "")

    @property
    def role(self) -> str | None:
        """The role the key stands for, as far as it shows."""
        for prefix, role in _OPAQUE_ROLES.items():
            if self.key.startswith(prefix):
                return role
        return _token_role(self.key)

    @property
    def headers(self) -> dict[str, str]:
        """What a request needs: a secret."""
        return {"apikey": self.key, "Authorization": f"Bearer {self.key}"}


class SupabaseHook(BaseHook):
    """Reads a connection of type `supabase`, or the variables in its place."""

    conn_name_attr = "supabase_conn_id"
    default_conn_name = CONNECTION_ID
    conn_type = "supabase"
    hook_name = "Supabase"

    def __init__(self, supabase_conn_id: str = CONNECTION_ID) -> None:
        super().__init__()
        self.supabase_conn_id = supabase_conn_id

    def credentials(self) -> Credentials:
        """URL and key; nothing is asked of the project.

        Raises:
            MissingCredentialsError: there is neither connection nor variables.
            InvalidCredentialsError: one of the two is missing or malformed.
            PlaintextRefusedError: the URL is http:// and names another machine.
        """
        try:
            conn = self.get_connection(self.supabase_conn_id)
        except AirflowNotFoundException:
            return self._from_variables(os.environ)
        url = conn.host or ""
        if conn.port and urlsplit(url).port is None:
            url = f"{url}:{conn.port}"
        return _checked(url, conn.password or "", allow_plaintext=conn.extra_dejson.get(PLAINTEXT_EXTRA))

    def get_conn(self) -> Client:
        """A client of the project; raises what `credentials` does."""
        from supabase import create_client  # noqa: PLC0415 - slow to import

        return create_client(*self.credentials())

    def test_connection(self) -> tuple[bool, str]:
        """Ask the project's API with the key; says what it found."""
        try:
            credentials = self.credentials()
        except CredentialsError as error:
            return False, str(error)
        if credentials.role not in (None, _SERVICE_ROLE):
            return False, f"The key is that of role {credentials.role}: the service role key is needed."
        try:
            # Redirects are not followed: they would carry the key elsewhere.
            answer = httpx.get(
                f"{credentials.url}/rest/v1/",
                headers=credentials.headers,
                timeout=_TEST_TIMEOUT,
                trust_env=not credentials.stays_here,
            )
        except httpx.TimeoutException:
            return False, f"{credentials.url} did not answer in time."
        except httpx.TransportError as error:
            return False, f"{credentials.url} cannot be reached: {_reason(error)}"
        return _verdict(credentials, answer)

    def _from_variables(self, environment: Mapping[str, str]) -> Credentials:
        url, key = environment.get(URL_VARIABLE), environment.get(KEY_VARIABLE)
        if not url and not key:
            raise MissingCredentialsError(
                f"There is no connection {self.supabase_conn_id!r}, nor {URL_VARIABLE} and {KEY_VARIABLE}."
            )
        return _checked(url or "", key or "", allow_plaintext=environment.get(PLAINTEXT_VARIABLE))


def is_loopback(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _checked(url: str, key: str, *, allow_plaintext: object) -> Credentials:
    key = key.strip()
    mask_secret(key)
    parts = _project_url(url.strip())
    if not _KEY_CHARACTERS.fullmatch(key):
        raise InvalidCredentialsError(
            "The service role key is empty or contains characters that no key has: copy it anew."
        )
    if _is_plaintext(parts) and str(allow_plaintext).lower() not in ("true", "1"):
        raise PlaintextRefusedError(
            f"{parts.geturl()} would send the key and the data unencrypted to another machine: use https://, or "
            f"allow it by the connection's extra {PLAINTEXT_EXTRA} or {PLAINTEXT_VARIABLE}=true."
        )
    return Credentials(parts.geturl(), key)


def _project_url(text: str) -> SplitResult:
    """The address of a project; https where no scheme is given."""
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        host = httpx.URL(parts.geturl()).raw_host.decode()
        valid = parts.scheme in ("http", "https") and bool(_HOST.fullmatch(host)) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        valid = False
    if not valid:
        raise InvalidCredentialsError("The project URL is not an address like https://<project>.supabase.co.")
    if parts.username or parts.password or parts.query or parts.fragment or parts.path.strip("/"):
        raise InvalidCredentialsError(
            "The project URL must end behind the host: without path, login and parameters."
        )
    return parts._replace(path="")


def _is_plaintext(parts: SplitResult) -> bool:
    return parts.scheme != "https" and not is_loopback(parts.hostname or "")


def _token_role(token: str) -> str | None:
    """The role that a JWT claims, unverified; None for anything else."""
    payload = token.split(".")[1] if token.count(".") == 2 else ""  # noqa: PLR2004 - parts of a JWT
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, binascii.Error):
        return None
    role = claims.get("role") if isinstance(claims, dict) else None
    return role if isinstance(role, str) else None


def _verdict(credentials: Credentials, answer: httpx.Response) -> tuple[bool, str]:
    """What an answer of the API says about address and key."""
    status = answer.status_code
    if answer.is_success and "openapi" in answer.headers.get("content-type", ""):
        warning = " Unencrypted, as allowed." if credentials.is_plaintext else ""
        return True, f"The API of {credentials.url} accepts the key.{warning}"
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return False, f"{credentials.url} refuses the key (HTTP {status}{_error_code(answer)})."
    if answer.is_server_error:
        return (
            False,
            f"{credentials.url} is there, but its API is not (HTTP {status}): is the project paused?",
        )
    return False, f"{credentials.url} answers, but not as a Supabase project does (HTTP {status})."


def _error_code(answer: httpx.Response) -> str:
    """PostgREST's code for the refusal, such as PGRST301 for an expired key."""
    try:
        body: Any = answer.json()
    except ValueError:
        return ""
    code = body.get("code") if isinstance(body, dict) else None
    return f", {code}" if isinstance(code, str) and re.fullmatch(r"[A-Z0-9]{3,12}", code) else ""


def _reason(error: httpx.TransportError) -> str:
    """The system's own words, such as "Connection refused", which know nothing of the request."""
    return str(error) or type(error).__name__
