"""Supabase Storage: buckets, objects and resumable uploads, by connection `supabase` (URL and service key).

Small objects go through the supabase client as one request. It has no resumable uploads, which Storage wants above
6 MB: those are spoken here (TUS 1.0.0). The client repeats no writes, so this does, after transient errors alone;
every write may be repeated.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from airflow.sdk import BaseHook
from mdw_supabase.hook import is_loopback

from include.core.errors import MigrationError
from include.core.retry_after import retry_after
from plugins.hooks.supabase_project import supabase_project

CHUNK_BYTES = 6 * 1024 * 1024
"""What Storage wants as one request at most, and of a resumable upload as one piece exactly (but for the last)."""

_TUS = {"Tus-Resumable": "1.0.0"}
_RESUMABLE = "upload/resumable"
# A server may take a while to assemble what it was sent.
_TIMEOUT = httpx.Timeout(120, connect=10)
_BLOCK_BYTES = 1 << 18
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 30.0
_SAFE_CODE = re.compile(r"[A-Za-z_ ]{1,40}")
_KEY_CODES = {"Unauthorized", "InvalidJWT", "AccessDenied", "Invalid JWT"}
_OBJECT_REFUSALS = (httpx.codes.REQUEST_ENTITY_TOO_LARGE, httpx.codes.UNSUPPORTED_MEDIA_TYPE)
_OBJECT_CODES = {"InvalidKey", "InvalidMimeType", "invalid_mime_type", "EntityTooLarge", "Payload too large"}
_TRANSIENT = (
    httpx.codes.REQUEST_TIMEOUT,
    httpx.codes.CONFLICT,
    httpx.codes.LOCKED,
    httpx.codes.TOO_EARLY,
    httpx.codes.TOO_MANY_REQUESTS,
)
_GONE = (httpx.codes.NOT_FOUND, httpx.codes.GONE)

T = TypeVar("T")


class ObjectRefusedError(Exception):
    """Storage does not take this one object; others it does."""


class UploadGoneError(Exception):
    """A resumable upload cannot be gone on with: it expired, or its server lost it."""


@dataclass(frozen=True)
class StoredObject:
    """What Storage says of an object.

    Attributes:
        etag: an MD5 of the content where it was stored in one piece; else anything.
    """

    size: int
    etag: str

    @classmethod
    def of_info(cls, info: Mapping[str, Any]) -> StoredObject:
        """From ``object/info``: older servers, and others that follow them, show what the object's row holds."""
        row = info.get("metadata") or {}
        size = row.get("size") if info.get("size") is None else info["size"]
        etag = str(info.get("etag") or row.get("eTag") or "").strip('"').lower()
        return cls(-1 if size is None else int(size), etag)

    def has_md5(self, md5: str) -> bool:
        """Whether the tag proves the content; False proves nothing."""
        return self.etag == md5


class StorageHook(BaseHook):
    """One project's Storage. May be used by several threads at once.

    Args:
        url: of the project.
        key: its service key; sent with every request, to this address alone.
        max_retries: how often a request is repeated after a transient error.
        sleep: waits for so many seconds.
    """

    def __init__(
        self, url: str, key: str, *, max_retries: int = 3, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        from storage3 import SyncStorageClient  # noqa: PLC0415 - takes half a second: only when it is used

        super().__init__()
        # A line for every request would drown those of the migration.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._base = f"{url.rstrip('/')}/storage/v1/"
        self._max_retries = max_retries
        self._sleep = sleep
        headers = {"apikey": key, "Authorization": f"Bearer {key}"}
        # Not followed: a redirect elsewhere would be given the key. No proxy on the way to this very machine.
        here = is_loopback(urlsplit(url).hostname or "")
        self._http = httpx.Client(
            headers=headers, timeout=_TIMEOUT, follow_redirects=False, trust_env=not here
        )
        self._storage = SyncStorageClient(self._base, headers, http_client=self._http)

    @classmethod
    def from_connection(cls, *, max_retries: int) -> StorageHook:
        """By connection `supabase`, or the variables in its place.

        Raises:
            MigrationError: CONNECTION_MISSING, TARGET_PLAINTEXT.
        """
        project = supabase_project()
        return cls(project.url, project.key, max_retries=max_retries)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def check(self) -> None:
        """Make sure that Storage answers and takes the key.

        Raises:
            MigrationError: of the request.
        """
        self._retried(self._storage.list_buckets)

    def has_bucket(self, bucket: str) -> bool:
        """Whether there is such a bucket.

        Raises:
            MigrationError: FILES_BUCKET_PUBLIC, or of the request.
        """
        try:
            found = self._retried(lambda: self._storage.get_bucket(bucket), bucket=bucket)
        except MigrationError as error:
            if error.code == "FILES_BUCKET_MISSING":
                return False
            raise
        if found.public:
            raise MigrationError("FILES_BUCKET_PUBLIC", "", bucket=bucket)
        return True

    def ensure_bucket(self, bucket: str) -> bool:
        """Make a private bucket where there is none; returns whether it was made.

        Raises:
            MigrationError: FILES_BUCKET_PUBLIC, or of the request.
        """
        if self.has_bucket(bucket):
            return False
        try:
            self._retried(
                lambda: self._storage.create_bucket(bucket, options={"public": False}), bucket=bucket
            )
        except MigrationError as error:
            # Somebody else made it, or an earlier attempt whose answer was lost.
            if error.facts.get("status") != httpx.codes.CONFLICT or not self.has_bucket(bucket):
                raise
        return True

    def stat(self, bucket: str, key: str) -> StoredObject | None:
        """What Storage says of an object; None where there is none."""
        try:
            info = self._retried(lambda: self._storage.from_(bucket).info(key), bucket=bucket)
        except MigrationError as error:
            if error.facts.get("status") == httpx.codes.NOT_FOUND and error.code != "FILES_BUCKET_MISSING":
                return None
            raise
        return StoredObject.of_info(info)

    def upload(self, bucket: str, key: str, content: bytes, mime_type: str) -> None:
        """Store a whole object, in place of one that is there.

        Raises:
            ObjectRefusedError: too large, of a type or with a key that is not allowed.
            MigrationError: of the request.
        """
        options: Any = {"content-type": mime_type, "upsert": "true"}
        # As a file, which is sent block by block: of bytes, what is not yet sent would be copied each time.
        self._retried(
            lambda: self._storage.from_(bucket).upload(key, BufferedReader(BytesIO(content)), options),
            bucket=bucket,
        )

    def begin_upload(self, bucket: str, key: str, size: int, mime_type: str) -> ResumableUpload:
        """Begin a resumable upload, which takes the place of the object when it is complete.

        Raises:
            ObjectRefusedError: as for :meth:`upload`.
            MigrationError: of the request.
        """
        about = {"bucketName": bucket, "objectName": key, "contentType": mime_type, "cacheControl": "3600"}
        metadata = ",".join(
            f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in about.items()
        )
        headers = {"Upload-Length": str(size), "Upload-Metadata": metadata, "x-upsert": "true"}
        answer = self._retried(lambda: self._tus("POST", "", headers), bucket=bucket)
        # Of the address given only the end is used: behind a gateway the rest may be wrong, and the key goes there.
        upload_id = answer.headers.get("location", "").rstrip("/").rsplit("/", 1)[-1]
        if not re.fullmatch(r"[A-Za-z0-9_.=~-]{1,2000}", upload_id):
            raise MigrationError("FILES_STORAGE_REFUSED", "A resumable upload got no address.", bucket=bucket)
        return ResumableUpload(self, upload_id, size)

    def resume_upload(self, upload_id: str, size: int) -> ResumableUpload:
        """Go on with an upload that was begun, perhaps by another process; see :meth:`ResumableUpload.offset`."""
        return ResumableUpload(self, upload_id, size)

    def digest(self, bucket: str, key: str) -> tuple[int, str]:
        """Size and SHA-256 (hexadecimal) of what Storage holds, read back as a stream."""
        return self._retried(lambda: self._read_back(bucket, key), bucket=bucket)

    def _read_back(self, bucket: str, key: str) -> tuple[int, str]:
        size, digest = 0, hashlib.sha256()
        url = f"{self._base}object/{quote(bucket)}/{quote(key)}"
        with self._http.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
            if not answer.is_success:
                answer.read()
                answer.raise_for_status()
            for block in answer.iter_raw(_BLOCK_BYTES):
                size += len(block)
                digest.update(block)
        return size, digest.hexdigest()

    def _tus(
        self, method: str, upload_id: str, headers: dict[str, str], content: bytes | None = None
    ) -> httpx.Response:
        """A request of a resumable upload; ``upload_id`` empty for all of them."""
        url = f"{self._base}{_RESUMABLE}{f'/{upload_id}' if upload_id else ''}"
        headers = {**_TUS, **headers}
        if content is not None:
            headers["Content-Length"] = str(len(content))  # else it would be sent as if it had no end
        body = None if content is None else _blocks(content)
        answer = self._http.request(method, url, headers=headers, content=body)
        return answer.raise_for_status()

    def _retried(self, request: Callable[[], T], **facts: object) -> T:
        """The answer to a request, repeated after transient errors."""
        for attempt in range(self._max_retries + 1):
            try:
                with self._translated(**facts):
                    return request()
            except MigrationError as error:
                if not self._waited(error, attempt):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _waited(self, error: MigrationError, attempt: int) -> bool:
        """Wait for the next attempt; False where there is to be none."""
        if not error.transient or attempt >= self._max_retries:
            return False
        asked = error.facts.get("retry_after_seconds")
        growing = min(_FIRST_WAIT_SECONDS * 2**attempt, _LONGEST_WAIT_SECONDS)
        # Jitter, or threads that were refused together would come back together.
        wait = float(asked) if isinstance(asked, int | float) else growing * random.uniform(0.5, 1.5)  # noqa: S311
        if wait > _LONGEST_WAIT_SECONDS:
            return False  # the task is put off as a whole, by what was asked
        self._sleep(wait)
        return True

    @contextmanager
    def _translated(self, **facts: object) -> Iterator[None]:
        """Turn the client's errors into registered ones; messages of the server may quote keys and are left out."""
        from storage3.exceptions import StorageApiError  # noqa: PLC0415 - as above

        try:
            yield
        except StorageApiError as error:
            cause = error.__cause__
            headers = cause.response.headers if isinstance(cause, httpx.HTTPStatusError) else httpx.Headers()
            raise _failure(_status(error.status), str(error.code), headers, error.message, **facts) from None
        except httpx.HTTPStatusError as error:
            body = _body(error.response)
            status = _status(body.get("statusCode") or error.response.status_code)
            code, message = str(body.get("error", "")), str(body.get("message", ""))
            raise _failure(status, code, error.response.headers, message, **facts) from None
        except httpx.TransportError as error:
            raise MigrationError("FILES_STORAGE_BUSY", "", cause=type(error).__name__, **facts) from None


class ResumableUpload:
    """An upload that is sent piece by piece, and gone on with after a break from what the server has.

    Attributes:
        upload_id: by which another process can go on with it.
    """

    def __init__(self, hook: StorageHook, upload_id: str, size: int) -> None:
        self._hook = hook
        self.upload_id = upload_id
        self._size = size

    def offset(self) -> int:
        """How many bytes the server has.

        Raises:
            UploadGoneError: it expired, or is of another size.
            MigrationError: of the request.
        """
        answer = self._hook._retried(lambda: self._request("HEAD"))
        offset = answer.headers.get("upload-offset", "")
        if not offset.isdecimal() or answer.headers.get("upload-length") != str(self._size):
            raise UploadGoneError
        return int(offset)

    def send(self, piece: bytes, start: int) -> int:
        """Send what begins at ``start``; returns the server's offset, which may be less than all of it.

        Raises:
            UploadGoneError: the server has less than ``start``, or more than was sent, or nothing any more.
            ObjectRefusedError: as for :meth:`StorageHook.upload`.
            MigrationError: of the request, once it has failed as often as it may without a byte getting through.
        """
        attempt = 0
        while True:
            try:
                with self._hook._translated():
                    answer = self._request("PATCH", start, piece)
                return self._checked(_offset(answer), start, len(piece))
            except MigrationError as error:
                if not self._hook._waited(error, attempt):
                    raise
            attempt += 1
            reached = self._checked(self.offset(), start, len(piece))
            if reached > start:
                return reached

    def _checked(self, offset: int, start: int, length: int) -> int:
        if not start <= offset <= start + length:
            raise UploadGoneError
        return offset

    def _request(self, method: str, start: int | None = None, piece: bytes | None = None) -> httpx.Response:
        # Storage wants to be told again with each piece that an object may be replaced.
        headers = {"x-upsert": "true"}
        if start is not None:
            headers |= {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(start)}
        try:
            return self._hook._tus(method, self.upload_id, headers, piece)
        except httpx.HTTPStatusError as error:
            if error.response.status_code in _GONE:
                raise UploadGoneError from None
            raise


def _blocks(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), _BLOCK_BYTES):
        yield content[start : start + _BLOCK_BYTES]


def _offset(answer: httpx.Response) -> int:
    offset = answer.headers.get("upload-offset", "")
    return int(offset) if offset.isdecimal() else -1


def _status(value: object) -> int:
    """Storage answers most refusals with 400 and tells the real status in the body, as a text."""
    return int(str(value)) if str(value).isdecimal() else 0


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _failure(status: int, code: str, headers: httpx.Headers, message: str, **facts: object) -> Exception:
    facts = {"status": status, **facts}
    if _SAFE_CODE.fullmatch(code):
        facts["storage_code"] = code
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN) or code in _KEY_CODES:
        return MigrationError("FILES_KEY_REFUSED", "", **facts)
    if status in _OBJECT_REFUSALS or code in _OBJECT_CODES:
        return ObjectRefusedError(code)
    if status == httpx.codes.NOT_FOUND and "bucket" in f"{code} {message}".lower():
        return MigrationError("FILES_BUCKET_MISSING", "", **facts)
    if (status in _TRANSIENT and code != "Duplicate") or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        wait = retry_after(headers.get("retry-after", ""))
        if wait is not None:
            facts["retry_after_seconds"] = round(wait, 3)
        return MigrationError("FILES_STORAGE_BUSY", "", **facts)
    return MigrationError("FILES_STORAGE_REFUSED", "", **facts)
