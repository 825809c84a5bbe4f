"""OpenAI's Batch API for embeddings: half the price, within a day.

https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal

from include.core.errors import MigrationError
from include.embedding.provider import Vectors
from plugins.hooks.openai_provider import (
    OpenAIProvider,
    json_object,
    read_vectors,
    refusal,
    refusals,
    tokens_billed,
)

if TYPE_CHECKING:
    from openai._legacy_response import LegacyAPIResponse

# What is not collected by then is deleted by the provider: nothing of ours stays there for good.
_KEPT_SECONDS = 7 * 86_400
_EXPIRY: Any = {"anchor": "created_at", "seconds": _KEPT_SECONDS}
_LISTED_AT_ONCE = 100
_CHUNK_BYTES = 1 << 18
_NOT_FOUND, _NOT_ALLOWED, _NOT_IMPLEMENTED = 404, 405, 501
_MISSING = (_NOT_FOUND, _NOT_ALLOWED, _NOT_IMPLEMENTED)
_OK = 200
_OUTPUTS = ("output_file_id", "error_file_id")
# The provider's own codes for what it did not get round to.
_PUT_OFF = ("batch_expired", "batch_cancelled")

Status = Literal["waiting", "done", "failed", "expired", "cancelled"]
_STATUS: dict[str, Status] = {
    "completed": "done",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobState:
    """How far a job is.

    Attributes:
        status: 'waiting' until there is nothing more to wait for. Only a job that is 'done', 'expired' or
            'cancelled' has answers to collect, the latter two not all.
        total: texts; 0 while the provider has not counted them.
        done: texts that have a vector.
        failed: texts that were refused or not got round to.
        tokens: what is billed; None when the provider does not say.
        code: the provider's code for why the job failed; 'token_limit_exceeded' says that too many
            texts are waiting there already and that the same job may be submitted later.
    """

    status: Status
    total: int = 0
    done: int = 0
    failed: int = 0
    tokens: int | None = None
    code: str | None = None


class OpenAIBatches:
    """Jobs that embed many texts, each known by an id of the caller's.

    Every method raises the EMBEDDING_* errors of :class:`OpenAIProvider`, and repeats nothing.
    """

    max_texts = 50_000
    max_bytes = 200_000_000

    def __init__(self, provider: OpenAIProvider) -> None:
        self._provider = provider
        self._client = provider.client

    def parts(self, texts_by_id: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """Cut the texts into parts that one job each may hold, in order."""
        part: dict[str, str] = {}
        size = 0
        for text_id, text in texts_by_id.items():
            line = len(self._line(text_id, text))
            if part and (len(part) == self.max_texts or size + line > self.max_bytes):
                yield part
                part, size = {}, 0
            part[text_id] = text
            size += line
        if part:
            yield part

    def submit(self, texts_by_id: Mapping[str, str], labels: Mapping[str, str]) -> str:
        """Submit a job; returns its id. After an error ask :meth:`find` whether there is one.

        Args:
            texts_by_id: what :meth:`parts` takes for one job; the id is the content hash.
            labels: by which the job is found again: at most 16, keys of 64 characters, values of 512.

        Raises:
            ValueError: no text, or more than a job may hold.
            MigrationError: EMBEDDING_BATCH_UNSUPPORTED where the provider has no such API.
        """
        with tempfile.TemporaryFile() as file, _supported():
            self._write(texts_by_id, file)
            input_file = self._upload(file)
            try:
                return self._create(input_file, labels)
            except MigrationError as error:
                # After any other error there may be a job that needs it; if not, it expires.
                if not error.transient:
                    self._delete(input_file)
                raise

    def find(self, labels: Mapping[str, str]) -> str | None:
        """The newest job with these labels that has or will have answers; None without one.

        So a job is found whose submission was not recorded, because the process ended in between. One that
        was forgotten is not found: its texts are gone.
        """
        for job in self._recent():
            alive = job.get("status") not in ("failed", "cancelling", "cancelled")
            if alive and labels.items() <= _object(job, "metadata").items() and self._has_input(job):
                return str(job["id"])
        return None

    def state(self, job_id: str) -> JobState:
        """Ask how far a job is. One that the provider does not know has failed, as 'job_not_found'."""
        job = self._job(job_id)
        if job is None:
            return JobState("failed", code="job_not_found")
        counts = _object(job, "request_counts")
        errors = _object(job, "errors").get("data") or []
        return JobState(
            _STATUS.get(str(job.get("status")), "waiting"),
            total=counts.get("total") or 0,
            done=counts.get("completed") or 0,
            failed=counts.get("failed") or 0,
            tokens=tokens_billed(job),
            code=next((error["code"] for error in errors if error.get("code")), None),
        )

    def collect(self, job_id: str) -> Iterator[tuple[str, Vectors | str]]:
        """Read what a job answered: each text's id with its vector, or with an error's code.

        Texts that are not among them were not answered; ids that were not submitted are not looked for here.
        A text with two answers has none that could be trusted: EMBEDDING_WRONG_ANSWER. A file that the
        provider no longer has is as good as empty. The files are on disk before the first answer is
        yielded, so that it does not matter how long the caller takes.

        Raises:
            MigrationError: EMBEDDING_BUSY when the download broke off.
        """
        job = self._job(job_id) or {}
        with tempfile.TemporaryFile() as file:
            for name in _OUTPUTS:
                if job.get(name):
                    self._download(job[name], file)
            yield from self._answers(file)

    def forget(self, job_id: str) -> None:
        """Delete texts and answers of a finished job at the provider, as far as they are there."""
        job = self._job(job_id) or {}
        # The texts first: by them a forgotten job is known.
        for name in ("input_file_id", *_OUTPUTS):
            if job.get(name):
                self._delete(job[name])

    def _line(self, text_id: str, text: str) -> bytes:
        request = {
            "custom_id": text_id,
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"input": text, **self._provider.request_options},
        }
        return json.dumps(request, ensure_ascii=False).encode() + b"\n"

    def _write(self, texts_by_id: Mapping[str, str], file: IO[bytes]) -> None:
        for text_id, text in texts_by_id.items():
            file.write(self._line(text_id, text))
        if not 0 < len(texts_by_id) <= self.max_texts or file.tell() > self.max_bytes:
            raise ValueError(f"{len(texts_by_id)} texts of {file.tell()} bytes are no job")
        file.seek(0)

    def _upload(self, file: IO[bytes]) -> str:
        with refusals():
            response = self._client.files.with_raw_response.create(
                file=("texts.jsonl", file), purpose="batch", expires_after=_EXPIRY
            )
        return str(_answer(response, "id", str)["id"])

    def _create(self, input_file: str, labels: Mapping[str, str]) -> str:
        with refusals():
            response = self._client.batches.with_raw_response.create(
                input_file_id=input_file,
                endpoint="/v1/embeddings",
                completion_window="24h",
                metadata=dict(labels),
                output_expires_after=_EXPIRY,
            )
        return str(_answer(response, "id", str)["id"])

    def _delete(self, file: str) -> None:
        with _gone_is_fine(), refusals():
            self._client.files.with_raw_response.delete(file)

    def _recent(self) -> Iterator[dict[str, Any]]:
        """All jobs whose files may still be there, the newest first."""
        oldest, seen = time.time() - _KEPT_SECONDS, set[str]()
        page: dict[str, Any] = {"has_more": True}
        after: dict[str, object] = {}
        while page.get("has_more"):
            with _supported(), refusals():
                response = self._client.batches.with_raw_response.list(
                    limit=_LISTED_AT_ONCE, extra_query=after
                )
            page = _answer(response, "data", list)
            for job in page["data"]:
                # A server that knows no pages gives the same one again.
                if job["id"] in seen or job.get("created_at", 0) < oldest:
                    return
                seen.add(job["id"])
                after = {"after": job["id"]}
                yield job

    def _job(self, job_id: str) -> dict[str, Any] | None:
        with _gone_is_fine(), refusals():
            return _answer(self._client.batches.with_raw_response.retrieve(job_id), "id", str)
        return None

    def _has_input(self, job: Mapping[str, Any]) -> bool:
        with _gone_is_fine(), refusals():
            self._client.files.with_raw_response.retrieve(job["input_file_id"])
            return True
        return False

    def _download(self, name: str, file: IO[bytes]) -> None:
        """Append a file of the provider's."""
        with (
            _gone_is_fine(),
            refusals(),
            self._client.files.with_streaming_response.content(name) as response,
        ):
            for chunk in response.iter_bytes(_CHUNK_BYTES):
                file.write(chunk)
            # One that ends within a line would run into the next.
            file.write(b"\n")

    def _answers(self, file: IO[bytes]) -> Iterator[tuple[str, Vectors | str]]:
        seen, repeated, unreadable = set[str](), set[str](), 0
        file.seek(0)
        for line in _lines(file):
            if line is None:
                unreadable += 1
                continue
            (repeated if line["custom_id"] in seen else seen).add(line["custom_id"])
        if repeated or unreadable:
            log.warning(
                "job answers: %d texts answered twice, %d lines unreadable", len(repeated), unreadable
            )
        file.seek(0)
        for line in _lines(file):
            if line is not None and line["custom_id"] not in repeated:
                yield line["custom_id"], self._read(line)
        for text_id in sorted(repeated):
            yield text_id, "EMBEDDING_WRONG_ANSWER"

    def _read(self, line: Mapping[str, Any]) -> Vectors | str:
        """The vector of one line, or the code of what went wrong with it."""
        error, response = line.get("error"), line.get("response")
        if isinstance(error, dict) and error.get("code") in _PUT_OFF:
            return "EMBEDDING_BUSY"
        status = response.get("status_code") if isinstance(response, dict) else None
        body = response.get("body") if isinstance(response, dict) else None
        if type(status) is not int or not isinstance(body, dict):
            return "EMBEDDING_WRONG_ANSWER"
        if status != _OK:
            return refusal(status, body.get("error")).code
        try:
            vector: Vectors = read_vectors(body, 1, self._provider.dimensions)[0]
        except MigrationError as wrong:
            return wrong.code
        return vector


def _lines(file: IO[bytes]) -> Iterator[dict[str, Any] | None]:
    """Each line, which has an id; None for one that cannot be read."""
    for raw in filter(bytes.strip, file):
        try:
            line = json.loads(raw)
        except ValueError:
            line = None
        yield line if isinstance(line, dict) and isinstance(line.get("custom_id"), str) else None


def _answer(response: LegacyAPIResponse[Any], member: str, kind: type) -> dict[str, Any]:
    """Read an answer; the client itself hands on as text, or fails over, what it cannot read."""
    content = response.http_response.content
    if content.lstrip().startswith(b"<"):
        raise MigrationError("EMBEDDING_BATCH_UNSUPPORTED", "What answers is a web page.")
    answer = json_object(content)
    if not isinstance(answer.get(member), kind):
        raise MigrationError("EMBEDDING_WRONG_ANSWER", "The answer is not one of the Batch API.")
    return answer


def _object(answer: Mapping[str, Any], member: str) -> dict[str, Any]:
    """An object within an answer; an empty one where there is none."""
    found = answer.get(member)
    return found if isinstance(found, dict) else {}


@contextmanager
def _supported() -> Iterator[None]:
    """Say so where the provider has no such API."""
    try:
        yield
    except MigrationError as error:
        if error.facts.get("status") not in _MISSING:
            raise
        raise MigrationError(
            "EMBEDDING_BATCH_UNSUPPORTED", "The address is not known.", **error.facts
        ) from None


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    """Pass over what the provider no longer has."""
    try:
        yield
    except MigrationError as error:
        if error.facts.get("status") != _NOT_FOUND:
            raise
