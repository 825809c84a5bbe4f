"""Where the Supabase project is and the key to it: connection `supabase`, or the environment."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from include.core.errors import MigrationError

CONNECTION = "supabase"
_VARIABLES = ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY")


@dataclass(frozen=True)
class SupabaseProject:
    """A project's address and its service key, which no representation shows.

    Attributes:
        plaintext: the address is not encrypted, and a setting allows that.
    """

    url: str
    key: str = field(repr=False)
    plaintext: bool = False


def is_configured() -> bool:
    """Whether address and key are there."""
    url, key, _ = _known()
    return bool(url and key)


def supabase_project() -> SupabaseProject:
    """The project.

    Raises:
        MigrationError: CONNECTION_MISSING; TARGET_PLAINTEXT where the key would cross a network in the clear.
    """
    url, key, allowed = _known()
    if not url or not key:
        raise MigrationError(
            "CONNECTION_MISSING",
            f"Set AIRFLOW_CONN_{CONNECTION.upper()} or {' and '.join(_VARIABLES)}.",
            connection=CONNECTION,
        )
    plaintext = urlsplit(url).scheme != "https" and not is_loopback(urlsplit(url).hostname or "")
    if plaintext and not allowed:
        raise MigrationError("TARGET_PLAINTEXT", "", connection=CONNECTION)
    return SupabaseProject(url.rstrip("/"), key, plaintext)


def _known() -> tuple[str, str, bool]:
    try:
        conn = BaseHook.get_connection(CONNECTION)
    except AirflowNotFoundException:
        url, key = (os.environ.get(name, "") for name in _VARIABLES)
        return url, key, False
    host = conn.host or ""
    # Airflow splits the scheme off where the connection was written as a URI.
    url = host if "://" in host else f"{conn.schema or 'https'}://{host}" if host else ""
    if conn.port and urlsplit(url).port is None:
        url = f"{url}:{conn.port}"
    return url, conn.password or "", conn.extra_dejson.get("allow_plaintext") is True


def is_loopback(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
