"""Servers that take what Airflow's clients send, over real sockets: a webhook, a mail server, a StatsD server."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message as Mail
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "T000/B000/verysecrettoken"


class Slack:
    """An incoming webhook.

    Args:
        status: that it answers with.
        wait: seconds before it does.

    Attributes:
        posted: the messages that came, with the ``path`` they were sent to.
    """

    def __init__(self, status: int = 200, wait: float = 0.0) -> None:
        self.posted: list[dict[str, Any]] = []
        slack = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                slack.posted.append({"path": self.path, **json.loads(body)})
                time.sleep(wait)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def connection(self) -> str:
        """The Airflow connection, as JSON."""
        host = f"http://127.0.0.1:{self.server.server_port}"
        return json.dumps({"conn_type": "slackwebhook", "host": host, "password": f"{host}/{SECRET}"})


class _Smtp(socketserver.StreamRequestHandler):
    """As much of SMTP as taking a mail needs."""

    def handle(self) -> None:
        self.wfile.write(b"220 sink\r\n")
        for raw in self.rfile:
            word = raw.split()[0].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.mails.append(message_from_bytes(b"".join(lines)))  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 fine\r\n")
            if word == b"QUIT":
                return


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """While it lasts, the server answers."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class MailServer:
    """Takes mails for anybody.

    Attributes:
        mails: that came.
    """

    def __init__(self) -> None:
        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Smtp)
        self.server.daemon_threads = True
        self.mails: list[Mail] = []
        self.server.mails = self.mails  # type: ignore[attr-defined]

    @property
    def connection(self) -> str:
        """The Airflow connection, as JSON."""
        extra = {"disable_tls": True, "disable_ssl": True, "from_email": "airflow@clinic.test"}
        port = self.server.server_address[1]
        return json.dumps({"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": extra})


def mail_text(mail: Mail) -> str:
    """The HTML of a mail."""
    (part,) = [part for part in mail.walk() if part.get_content_type() == "text/html"]
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content.decode()


@contextmanager
def statsd() -> Iterator[tuple[int, list[str]]]:
    """The port of a StatsD server, and what came there once the block is left."""
    lines: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        # A run of minutes must fit in.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        yield server.getsockname()[1], lines
        while True:
            try:
                lines.append(server.recv(65_536).decode())
            except BlockingIOError:
                return
