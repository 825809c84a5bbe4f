"""A TCP proxy before a PostgreSQL server that cuts a connection where it is told."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

_CHUNK = 16_384
# Closing sends RST: what was under way is lost, as when a firewall forgets the connection.
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Cut:
    """Where to cut: behind so many bytes that follow a statement.

    Attributes:
        statement: part of what the client sends.
        answered: count what the server answers instead of what the client sends.
    """

    statement: bytes
    length: int
    answered: bool = False


class Proxy:
    """Passes everything on between clients and one server; `cut` makes it fail once."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._cut: Cut | None = None
        self._lock = threading.Lock()
        self.cuts = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def port(self) -> int:
        """Where clients connect."""
        return int(self._listener.getsockname()[1])

    def cut(self, where: Cut) -> None:
        """Cut the next connection that comes there."""
        with self._lock:
            self._cut = where

    def close(self) -> None:
        """Take no more clients."""
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                _Connection(self, client, socket.create_connection(self._server)).start()

    def take_cut(self, sent: bytes) -> Cut | None:
        """The cut to make behind what was sent; each is given once."""
        with self._lock:
            found = self._cut if self._cut is not None and self._cut.statement in sent else None
            if found is not None:
                self._cut = None
                self.cuts += 1
            return found


class _Connection:
    """One client and its connection to the server."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._cut: Cut | None = None
        self._left = 0

    def start(self) -> None:
        for forward in (self._send, self._answer):
            threading.Thread(target=forward, daemon=True).start()

    def _send(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(_CHUNK):
                if self._cut is None and (found := self._proxy.take_cut(data)):
                    end = data.index(found.statement) + len(found.statement)
                    self._server.sendall(data[:end])
                    data = data[end:]
                    self._left, self._cut = found.length, found
                self._pass(data, self._server, answered=False)
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_WR)

    def _answer(self) -> None:
        with suppress(OSError):
            while data := self._server.recv(_CHUNK):
                self._pass(data, self._client, answered=True)
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)

    def _pass(self, data: bytes, to: socket.socket, *, answered: bool) -> None:
        if self._cut is None or self._cut.answered != answered:
            to.sendall(data)
            return
        to.sendall(data[: self._left])
        self._left -= len(data)
        if self._left <= 0:
            for end in (self._client, self._server):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                # The other thread still waits on it, which keeps close() from having an effect.
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RD)
                end.close()
            raise ConnectionResetError


@contextmanager
def proxied(dsn: str) -> Iterator[tuple[str, Proxy]]:
    """A DSN that goes through a proxy, and the proxy."""
    parts = urlsplit(dsn)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = Proxy(parts.hostname, parts.port)
    try:
        through = f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}"
        yield urlunsplit(parts._replace(netloc=through)), proxy
    finally:
        proxy.close()
