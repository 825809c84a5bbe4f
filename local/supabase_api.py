"""A Supabase project's API in front of a local database: one address, keys, PostgREST behind a gateway.

    with SupabaseApi(folder) as api, api.serving(server.dsn("supabase", role="authenticator")):
        client = supabase.create_client(api.url, api.keys.secret)

The gateway and its address last as long as `api`; `serving` may be entered again for the next database.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from local.api_keys import ApiKeys
from local.environment import PROJECT
from local.gateway import KEYS_FILE
from local.postgres import HOST
from local.postgrest import LOG, MAX_ROWS, PostgrestError, postgrest
from local.processes import running, spawn

GATEWAY_LOG = "gateway.log"
_START_SECONDS = 30.0
_ANSWER_SECONDS = 5.0
_POLL_SECONDS = 0.02
_TAIL_LINES = 5
# What PostgREST's log says.
_LISTENS = "Listening for notifications"
_NO_DATABASE = "PGRST000"


class SupabaseApi:
    """The gateway of one folder (keys, socket, logs; 0700).

    Args:
        storage: address of a storage server for /storage/v1.
        max_body: bytes of a request; a longer one is answered with 413.
    """

    def __init__(self, folder: Path, *, storage: str | None = None, max_body: int | None = None) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.keys = ApiKeys.kept_in(self.folder / KEYS_FILE)
        self.url = ""
        self._options = [
            *(["--storage", storage] if storage is not None else []),
            *(["--max-body", str(max_body)] if max_body is not None else []),
        ]
        self._stack = ExitStack()
        self._client = httpx.Client(timeout=_ANSWER_SECONDS, trust_env=False)

    def __enter__(self) -> Self:
        with socket.create_server((HOST, 0)) as listener:
            self.url = f"http://{HOST}:{listener.getsockname()[1]}"
            command = [sys.executable, "-m", "local.gateway", "--folder", ".", *self._options]
            log = self.folder / GATEWAY_LOG
            log.touch(mode=0o600)
            with log.open("ab") as output:
                process = spawn(
                    [*command, "--socket", str(listener.fileno())],
                    {**os.environ, "PYTHONPATH": str(PROJECT)},
                    output,
                    folder=self.folder,
                    descriptors=[listener.fileno()],
                )
        self._stack.enter_context(running(process))
        self._stack.enter_context(self._client)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextmanager
    def serving(self, dsn: str, *, max_rows: int = MAX_ROWS) -> Iterator[None]:
        """Serve a database under /rest/v1; `dsn` is a URI of the role `authenticator`.

        Raises:
            PostgrestError: PostgREST is not installed, or does not answer in time.
        """
        with postgrest(self.folder, dsn, self.keys.jwt_secret, max_rows=max_rows) as process:
            deadline = time.monotonic() + _START_SECONDS
            while not (self._listens() and self._answers()):
                refused = _NO_DATABASE in self._rest_log()
                if refused or process.poll() is not None or time.monotonic() > deadline:
                    lines = self._rest_log().strip().splitlines()[-_TAIL_LINES:]
                    raise PostgrestError(f"PostgREST does not answer; it said: {' | '.join(lines)}")
                time.sleep(_POLL_SECONDS)
            yield

    def _answers(self) -> bool:
        """Whether the gateway is up and PostgREST has read the schema."""
        headers = {"apikey": self.keys.secret}
        try:
            answer = self._client.head(f"{self.url}/rest/v1/", headers=headers)
        except httpx.TimeoutException:
            return False
        return answer.status_code == httpx.codes.OK

    def _listens(self) -> bool:
        """Whether PostgREST would hear of a change of the schema."""
        return _LISTENS in self._rest_log()

    def _rest_log(self) -> str:
        return (self.folder / LOG).read_text(errors="replace")
