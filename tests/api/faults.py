"""An HTTP proxy before an API that lets requests of a function fail in the ways that networks and gateways do."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

_RESET = struct.pack("ii", 1, 0)  # closing sends RST
_OF_ONE_CONNECTION = {"connection", "transfer-encoding", "content-length", "date", "server"}
_LATE_SECONDS = 30


@dataclass(frozen=True)
class Request:
    """What came in."""

    function: str
    body: bytes
    headers: httpx.Headers

    @property
    def arguments(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What goes back."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Fault = Callable[["Exchange"], None]


def answered(status: int, body: str | object = "", **headers: str) -> Fault:
    """The request is answered here, by HTML (a text) or JSON; the API never sees it."""
    html = isinstance(body, str)
    content = body if isinstance(body, str) else json.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    kind = {"Content-Type": "text/html" if html else "application/json"}
    return lambda exchange: exchange.give(Answer(status, content.encode(), {**kind, **named}))


def reset(exchange: Exchange) -> None:
    """The connection breaks before the API got the request."""
    exchange.reset()


def lost_answer(exchange: Exchange) -> None:
    """The API does what is asked, and the connection breaks before it can say so."""
    exchange.pass_on()
    exchange.reset()


def cut_answer(exchange: Exchange) -> None:
    """Half of the answer arrives."""
    answer = exchange.pass_on()
    exchange.give(answer, length=len(answer.body) // 2)


def shortened_answer(exchange: Exchange) -> None:
    """Half of the answer arrives and looks like all of it."""
    answer = exchange.pass_on()
    exchange.give(Answer(answer.status, answer.body[: len(answer.body) // 2], answer.headers))


def silent(seconds: float) -> Fault:
    """The API does what is asked, and nothing is heard of it for so long."""

    def fault(exchange: Exchange) -> None:
        answer = exchange.pass_on()
        time.sleep(seconds)
        exchange.give(answer)

    return fault


@dataclass
class Late:
    """The connection breaks, and the request reaches the API long after: when it is released."""

    released: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)
    status: int = 0

    def __call__(self, exchange: Exchange) -> None:
        def arrive() -> None:
            self.released.wait(_LATE_SECONDS)
            self.status = exchange.pass_on().status
            self.arrived.set()

        threading.Thread(target=arrive, daemon=True).start()
        exchange.reset()

    def release(self) -> int:
        """Let it arrive; the status of the answer that nobody waits for any more."""
        self.released.set()
        assert self.arrived.wait(_LATE_SECONDS)
        return self.status


class FaultyApi:
    """The API behind the proxy.

    Attributes:
        url: of the proxy.
        requests: everything that came, in order.
    """

    def __init__(self, api_url: str) -> None:
        self._onward = httpx.Client(base_url=api_url, timeout=60, trust_env=False)
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.requests: list[Request] = []
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def fail(self, function: str, *faults: Fault) -> None:
        """Let the next requests of a function meet these faults, one each."""
        self._faults[function].extend(faults)

    def of(self, function: str) -> list[Request]:
        """The requests of one function."""
        return [request for request in self.requests if request.function == function]

    def meet(self, exchange: Exchange) -> None:
        """Give a request its fault, or pass it on."""
        self.requests.append(exchange.request)
        faults = self._faults[exchange.request.function]
        if faults:
            faults.popleft()(exchange)
        else:
            exchange.give(exchange.pass_on())

    def pass_on(self, path: str, request: Request) -> Answer:
        """What the API answers."""
        headers = {k: v for k, v in request.headers.items() if k.lower() not in (*_OF_ONE_CONNECTION, "host")}
        answer = self._onward.post(
            path, content=request.body, headers={**headers, "Accept-Encoding": "identity"}
        )
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in _OF_ONE_CONNECTION}
        return Answer(answer.status_code, answer.content, kept)

    def close(self) -> None:
        """Take no more requests."""
        self._server.shutdown()
        self._server.server_close()
        self._onward.close()


class Exchange:
    """One request and what becomes of it."""

    def __init__(self, api: FaultyApi, handler: BaseHTTPRequestHandler) -> None:
        self._api = api
        self._handler = handler
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.request = Request(handler.path.rsplit("/", 1)[-1], body, httpx.Headers(handler.headers.items()))

    def pass_on(self) -> Answer:
        """The API's answer to the request."""
        return self._api.pass_on(self._handler.path, self.request)

    def give(self, answer: Answer, length: int | None = None) -> None:
        """Answer the client, or with so many bytes of it alone."""
        handler = self._handler
        with suppress(ConnectionError):  # it has gone
            handler.send_response(answer.status)
            for name, value in answer.headers.items():
                handler.send_header(name, value)
            if answer.status != HTTPStatus.NO_CONTENT:
                handler.send_header("Content-Length", str(len(answer.body)))
            handler.end_headers()
            handler.wfile.write(answer.body[:length])
        handler.close_connection = length is not None

    def reset(self) -> None:
        """Break the connection."""
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._handler.connection.close()
        self._handler.close_connection = True


def _handler(api: FaultyApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            api.meet(Exchange(api, self))

        def finish(self) -> None:
            with suppress(OSError, ValueError):  # reset
                super().finish()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    return Handler


@contextmanager
def faulty(api_url: str) -> Iterator[FaultyApi]:
    """A proxy before the API at this address."""
    api = FaultyApi(api_url)
    try:
        yield api
    finally:
        api.close()
