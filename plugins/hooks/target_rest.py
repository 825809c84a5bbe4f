"""The target through the Supabase client: functions as RPC, rows as JSON; all it needs is the URL and the service key.

The client never repeats a write, so this module does: a bulk call carries a token by which the target knows it
again, and every other function may be repeated anyway. Messages of the API may quote rows; they end here.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pyarrow as pa
import tenacity
from postgrest.exceptions import APIError
from supabase import Client, ClientOptions, create_client

from include.core.errors import MigrationError, raised_by_target
from plugins.hooks.connect import REGISTERED, is_transient
from plugins.hooks.supabase_project import CONNECTION, SupabaseProject, supabase_project
from plugins.hooks.target import Rows, Target

SCHEMA = "migration_api"
# A bulk call may merge for minutes; a chunk is only stored.
_TIMEOUT = httpx.Timeout(660, connect=10)
_CHUNK_TIMEOUT = httpx.Timeout(60, connect=10)
_CHUNK_BYTES = 1 << 20
_PAGE_ROWS = 10_000
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0

# Old and new codes of PostgREST, SQLSTATEs, and what proxies answer.
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
    "413": "TARGET_REQUEST_TOO_LARGE",
}
_STATEMENT_TIMEOUT = "57014"


@contextmanager
def open_rest(*, max_retries: int, batch_size: int) -> Iterator[RestTarget]:
    """The target on a client of its own.

    Raises:
        MigrationError: CONNECTION_MISSING, TARGET_PLAINTEXT.
    """
    project = supabase_project()
    with _Api(project) as api:
        yield RestTarget(api, project, max_retries=max_retries, batch_size=batch_size)


class RestTarget:
    """Calls functions over a client that the caller owns.

    Args:
        max_retries: how often a request is repeated after a transient error.
        batch_size: most rows of one request.
    """

    way = "rest"
    conn_id = CONNECTION

    def __init__(self, api: _Api, project: SupabaseProject, *, max_retries: int, batch_size: int) -> None:
        self._api = api
        self._project = project
        self.plaintext = project.plaintext
        self._max_retries = max_retries
        self._chunk_rows = batch_size

    def call(
        self, function: str, /, *, incoming: Mapping[str, pa.Table | Rows] | None = None, **arguments: Any
    ) -> Any:
        """See :class:`Target`."""
        named = {f"p_{name}": value for name, value in arguments.items()}
        if incoming is None:
            return self._repeated(function, named)
        token = uuid.uuid4().hex
        chunks = {name: self._send(token, name, Rows.of(rows)) for name, rows in incoming.items()}
        once = {
            "p_call": token,
            "p_run": arguments.get("run", ""),
            "p_function": function,
            "p_chunks": chunks,
        }
        return self._repeated("call_once", {**once, "p_arguments": named})

    def rows(self, function: str, columns: Sequence[str], /, **arguments: Any) -> Iterator[pa.Table]:
        """See :class:`Target`. A page ends where the server caps it, so only an empty one is the last."""
        schema = pa.schema([(column, pa.string()) for column in columns])
        named = {f"p_{name}": value for name, value in arguments.items()}
        yield schema.empty_table()
        after = None
        while page := self._repeated(function, {**named, "p_after": after, "p_most": _PAGE_ROWS}):
            yield pa.Table.from_pylist(page, schema=schema)
            after = page[-1][columns[0]]

    @contextmanager
    def another(self) -> Iterator[Target]:
        """See :class:`Target`."""
        with _Api(self._project) as api:
            yield RestTarget(api, self._project, max_retries=0, batch_size=self._chunk_rows)

    def cancel(self) -> None:
        """Nothing that runs behind the API can be stopped; it ends whole, or is rolled back whole."""

    def _repeated(self, function: str, named: Mapping[str, Any]) -> Any:
        """One request, repeated after transient errors."""
        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._max_retries + 1),
            wait=_pause,
            retry=tenacity.retry_if_exception(_is_transient),
            reraise=True,
        )
        return attempts(self._api.request, function, named)

    def _send(self, token: str, name: str, rows: Rows) -> list[int]:
        """Send rows in chunks; returns the numbers of those that arrived.

        Every attempt has a number of its own: one that was given up may still arrive.
        """
        arrived: list[int] = []
        number = 0
        for table in rows.tables:
            start = 0
            while start < table.num_rows:
                chunk = table.slice(start, self._rows_per_chunk(table))
                start += self._send_chunk(token, name, number, rows, chunk, arrived)
                number = arrived[-1] + 1
        if not arrived:  # the columns must be known, whatever the number of rows
            self._send_chunk(token, name, number, rows, rows.schema.empty_table(), arrived)
        return arrived

    def _send_chunk(
        self, token: str, name: str, number: int, rows: Rows, chunk: pa.Table, arrived: list[int]
    ) -> int:
        """Send the chunk or, after errors that smaller ones may escape, the first part of it; returns its rows."""
        failures = 0
        while True:
            content = {
                "p_call": token,
                "p_name": name,
                "p_chunk": number,
                "p_columns": rows.schema.names,
                "p_types": rows.types,
                "p_rows": [list(row) for row in zip(*(c.to_pylist() for c in chunk.columns), strict=True)],
            }
            try:
                self._api.request("send", content)
            except MigrationError as error:
                if error.code == "TARGET_REQUEST_TOO_LARGE" and chunk.num_rows > 1:
                    self._chunk_rows = chunk.num_rows // 2  # the same limit awaits the next one
                elif _is_transient(error) or error.facts.get("sqlstate") == _STATEMENT_TIMEOUT:
                    failures += 1
                    if failures > self._max_retries:
                        raise
                    time.sleep(_seconds(error, failures))
                else:
                    raise
                number += 1
                chunk = chunk.slice(0, max(1, chunk.num_rows // 2)) if chunk.num_rows else chunk
            else:
                arrived.append(number)
                return int(chunk.num_rows)

    def _rows_per_chunk(self, table: pa.Table) -> int:
        bytes_per_row = max(1, table.nbytes // table.num_rows)
        return max(1, min(self._chunk_rows, _CHUNK_BYTES // bytes_per_row))


class _Api:
    """The Supabase client on an HTTP client that remembers what the last answer asked for."""

    def __init__(self, project: SupabaseProject) -> None:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per request says nothing
        self._answer = threading.local()
        self._http = httpx.Client(
            timeout=_TIMEOUT, event_hooks={"request": [_shorten], "response": [self._remember]}
        )
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of arguments that the client itself passes on
            self._client: Client = create_client(
                project.url,
                project.key,
                ClientOptions(
                    schema=SCHEMA,
                    httpx_client=self._http,
                    auto_refresh_token=False,
                    persist_session=False,
                    postgrest_client_retry=False,
                ),
            )

    def __enter__(self) -> _Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def request(self, function: str, named: Mapping[str, Any]) -> Any:
        """One RPC; errors as registered ones."""
        self._answer.status, self._answer.retry_after = None, None
        try:
            return self._client.rpc(function, dict(named)).execute().data
        except APIError as error:
            raise self._translated(function, error) from None
        except httpx.ConnectError:
            raise MigrationError("TARGET_UNREACHABLE", "", function=function) from None
        except httpx.TransportError as error:
            raise MigrationError(
                "TARGET_INTERRUPTED", "", function=function, error=type(error).__name__
            ) from None

    def _remember(self, response: httpx.Response) -> None:
        self._answer.status = response.status_code
        self._answer.retry_after = response.headers.get("Retry-After")

    def _translated(self, function: str, error: APIError) -> MigrationError:
        code, status = str(error.code or ""), self._answer.status or 0
        if code == REGISTERED:
            return raised_by_target(str(error.message), str(error.details or ""))
        facts: dict[str, object] = {"function": function, "status": status, "sqlstate": code}
        if (self._answer.retry_after or "").isdigit():
            facts["retry_after_seconds"] = int(self._answer.retry_after)
        known = _CODES.get(code) or _CODES.get(str(status))
        if known is None:
            # A statement that failed is reported as 500 with its SQLSTATE, a proxy's failure without one.
            transient = is_transient(code) if len(code) == len("57014") else status >= 500  # noqa: PLR2004
            known = "TARGET_INTERRUPTED" if transient else "TARGET_QUERY_FAILED"
        return MigrationError(known, "", **facts)


def _shorten(request: httpx.Request) -> None:
    if request.url.path.endswith("/rpc/send"):
        request.extensions["timeout"] = _CHUNK_TIMEOUT.as_dict()


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, MigrationError) and error.transient


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return _seconds(error, state.attempt_number)


def _seconds(error: BaseException | None, failures: int) -> float:
    """What the server asks for, else growing, and random so that workers do not come back all at once."""
    asked = error.facts.get("retry_after_seconds", 0) if isinstance(error, MigrationError) else 0
    growing = random.uniform(0, min(_FIRST_PAUSE_SECONDS * 2**failures, _LONGEST_PAUSE_SECONDS))  # noqa: S311 - jitter
    return growing + (asked if isinstance(asked, int) else 0)
