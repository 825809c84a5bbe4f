"""Functions of schema migration_api as requests of the Supabase client: repeated where that may help.

The client never repeats a write, so this does; every function may be called again (plugins/hooks/target_rest.py says
how bulk calls are). Messages of the API may quote rows; they end here.
"""

from __future__ import annotations

import logging
import random
import re
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

import httpx
import tenacity
from mdw_supabase.hook import Credentials
from postgrest.exceptions import APIError
from supabase import Client, ClientOptions, create_client

from include.core.errors import MigrationError, raised_by_target
from include.core.retry_after import retry_after
from plugins.hooks.connect import REGISTERED, is_transient

SCHEMA = "migration_api"
SEND = "send"
# A bulk call may merge for minutes; a chunk of rows is only stored.
_TIMEOUT = httpx.Timeout(660, connect=10)
_SEND_TIMEOUT = httpx.Timeout(60, connect=10)
# Of a sign of life, which is worth nothing when it comes late.
_SHORT_TIMEOUT = httpx.Timeout(20, connect=10)
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0

_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_SAFE_CODE = re.compile(r"[0-9A-Z]{3,12}")
# Codes of PostgREST old and new, SQLSTATEs, and HTTP statuses for answers without either.
_CODES = {
    **dict.fromkeys(("PGRST202", "PGRST205", "42883", "42P01", "3F000"), "TARGET_SCHEMA_MISSING"),
    **dict.fromkeys(
        ("PGRST300", "PGRST301", "PGRST302", "PGRST303", "42501", "28000", "28P01", "401", "403"),
        "TARGET_KEY_REFUSED",
    ),
    **dict.fromkeys(
        ("PGRST000", "PGRST001", "PGRST002", "PGRST003", "408", "425", "429"), "TARGET_INTERRUPTED"
    ),
    "PGRST106": "TARGET_SCHEMA_NOT_EXPOSED",
    "404": "TARGET_NO_API",
    "413": "TARGET_REQUEST_TOO_LARGE",
}

T = TypeVar("T")


class RestClient:
    """One project's API with its service key; for one thread.

    Args:
        max_retries: how often a request is repeated after a transient error.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        project: Credentials,
        *,
        max_retries: int,
        timeout: httpx.Timeout = _TIMEOUT,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per request says nothing
        self._project = project
        self.plaintext = project.is_plaintext
        self._answer = httpx.Response(0)  # the last one; none yet
        self._cancelled = False
        self._http = httpx.Client(
            timeout=timeout,
            trust_env=not project.stays_here,
            event_hooks={"request": [_shorten], "response": [self._remember]},
        )
        self._client = _client(project, self._http)
        self._attempts = tenacity.Retrying(
            # Where the server asks for so long a pause, the task had better be put off as a whole.
            stop=lambda state: state.attempt_number > max_retries or _asked(state) > _LONGEST_PAUSE_SECONDS,
            wait=_pause,
            retry=tenacity.retry_if_exception(self._may_pass),
            sleep=sleep,
            reraise=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def another(self) -> RestClient:
        """One for another thread, which neither waits long nor tries again."""
        return RestClient(self._project, max_retries=0, timeout=_SHORT_TIMEOUT)

    def cancel(self) -> None:
        """Ask nothing more. What was asked ends whole in the server, or is rolled back whole."""
        self._cancelled = True

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """The value of a function, as :meth:`request` gives it, asked for as often as that may help."""
        return self.repeated(lambda: self.request(function, arguments))

    def repeated(self, attempt: Callable[[], T]) -> T:
        """What an attempt returns, repeated after transient errors with growing pauses."""
        return self._attempts(attempt)

    def request(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """The JSON value of a function (None for void), asked for once.

        Args:
            arguments: by the full names of the parameters.

        Raises:
            MigrationError: as the function raised it; TARGET_….
        """
        if self._cancelled:
            raise MigrationError("TARGET_INTERRUPTED", "The task is being stopped.")
        try:
            value = self._client.rpc(function, dict(arguments)).execute().data
        except APIError as error:
            raise _failure(function, error, self._answer) from None
        except (httpx.ConnectError, httpx.ConnectTimeout):
            host = httpx.URL(self._project.url).host
            raise MigrationError("TARGET_UNREACHABLE", "", function=function, host=host) from None
        except httpx.RequestError as error:
            raise _interrupted(function, error=type(error).__name__) from None
        return _checked(function, value, self._answer)

    def _remember(self, answer: httpx.Response) -> None:
        self._answer = answer

    def _may_pass(self, error: BaseException) -> bool:
        """Whether something on the way went wrong; what a function itself refuses stays refused."""
        if not isinstance(error, MigrationError) or self._cancelled:
            return False
        return error.transient and "function" in error.facts


def _client(project: Credentials, http: httpx.Client) -> Client:
    options = ClientOptions(
        schema=SCHEMA,
        httpx_client=http,
        auto_refresh_token=False,
        persist_session=False,
        postgrest_client_retry=False,
    )
    with warnings.catch_warnings():
        # Of arguments that the client passes on to itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        return create_client(project.url, project.key, options)


def _shorten(request: httpx.Request) -> None:
    if request.url.path.endswith(f"/{SEND}"):
        request.extensions["timeout"] = _SEND_TIMEOUT.as_dict()


def _checked(function: str, value: Any, answer: httpx.Response) -> Any:
    """The value, unless the answer was none: the client passes on as text what it cannot parse."""
    if answer.status_code == httpx.codes.NO_CONTENT:
        return None
    if "json" not in answer.headers.get("content-type", ""):
        raise MigrationError("TARGET_NO_API", "", function=function, status=answer.status_code)
    if not answer.content or value == answer.text:
        raise _interrupted(function, error="an answer cut short")
    return value


def _failure(function: str, error: APIError, answer: httpx.Response) -> MigrationError:
    """The registered error, by code and status alone."""
    code, status = str(error.code or ""), answer.status_code
    if code == REGISTERED:
        return raised_by_target(str(error.message), str(error.details or ""))
    facts: dict[str, object] = {"function": function, "status": status}
    if code != str(status) and _SAFE_CODE.fullmatch(code):
        facts["sqlstate" if _SQLSTATE.fullmatch(code) else "postgrest"] = code
    asked = retry_after(answer.headers.get("retry-after", ""))
    if asked is not None:
        facts["retry_after_seconds"] = round(asked, 3)
    return MigrationError(_registered(code, status), "", **facts)


def _registered(code: str, status: int) -> str:
    if _SQLSTATE.fullmatch(code):  # the status only paraphrases it
        return _CODES.get(code) or ("TARGET_INTERRUPTED" if is_transient(code) else "TARGET_QUERY_FAILED")
    if code in _CODES:
        return _CODES[code]
    if httpx.codes.is_redirect(status):
        return "TARGET_NO_API"
    known = "TARGET_INTERRUPTED" if httpx.codes.is_server_error(status) else "TARGET_QUERY_FAILED"
    return _CODES.get(str(status), known)


def _interrupted(function: str, **facts: object) -> MigrationError:
    return MigrationError("TARGET_INTERRUPTED", "", function=function, **facts)


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds that grow, at random so that workers do not come back all at once, behind what the server asks for."""
    growing: float = _FIRST_PAUSE_SECONDS * 2 ** (state.attempt_number - 1)
    jitter = random.uniform(0.5, 1)  # noqa: S311 - no secret
    return _asked(state) + min(growing, _LONGEST_PAUSE_SECONDS) * jitter


def _asked(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.facts.get("retry_after_seconds") if isinstance(error, MigrationError) else None
    return float(asked) if isinstance(asked, int | float) else 0.0
