"""A small server that answers as Supabase Storage does, for the demo and for tests. Files are kept on disk.

It is written from the public documentation and behaviour of Supabase's storage-api; it is not that server, which
needs Docker. What it has: buckets (create, get, list, update, empty, delete), objects (upload as multipart or plain
body, x-upsert, info, HEAD, download, list, delete), resumable uploads (TUS 1.0.0: create, PATCH, HEAD, DELETE,
expiry), the rules for keys and sizes, and refusals of the same shape: HTTP 400 for most, the real status as text in
the body. What it lacks: signed addresses, image transformations, move and copy, the S3 endpoint, data sent with the
creation of a resumable upload, and row-level security, for which stands: service_role may do everything, nobody
else anything. It is stricter in one point: of a resumable upload every piece but the last must have 6 MB, as the
documentation demands.

    with StorageServer(folder, jwt_secret) as server:
        SupabaseApi(..., storage=server.url)

Tests make it fail by :class:`Fault`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jwt
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from local.postgres import HOST

PIECE_BYTES = 6 * 1024 * 1024
UPLOAD_SECONDS = 24 * 3600.0
_BLOCK_BYTES = 1 << 16
_MOST_KEYS_PER_DELETE = 1_000
_START_SECONDS = 15.0
_KEY = re.compile(r"[A-Za-z0-9_/!.*'() &$=@;:+,?-]+")
_BUCKET = re.compile(r"[A-Za-z0-9_!.*'() &$=@;:+,?-]{1,100}")
_TUS = {"Tus-Resumable": "1.0.0"}
_TUS_PATH = "/upload/resumable"


@dataclass
class Fault:
    """One thing that goes wrong with requests that fit.

    Attributes:
        method: of the request; part: of its path.
        times: how often; then all is well again.
        skip: so many requests that fit are left alone first.
        drop_after: break the connection when so many bytes of the body have come; what came is kept, as by TUS.
        status: answer with it instead, before the body is read.
        error: and with this word; retry_after: and with so many seconds.
        redirect: answer with this address.
        swallow: do it, but break the connection instead of answering.
        damage: store a wrong byte: ``received`` as if the network had changed it, ``stored`` as if the disk had,
            which the checksum of the object does not show.
        slow: seconds to wait before the request is looked at.
    """

    method: str
    part: str
    times: int = 1
    skip: int = 0
    drop_after: int | None = None
    status: int | None = None
    error: str = "SlowDown"
    retry_after: str | None = None
    redirect: str = ""
    swallow: bool = False
    damage: str | None = None
    slow: float = 0.0


class _RefusedError(Exception):
    """An answer of Storage that is no success."""

    def __init__(self, status: int, error: str, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.message = message
        self.code = code or error

    def response(self) -> Response:
        body = {
            "statusCode": str(self.status),
            "error": self.error,
            "code": self.code,
            "message": self.message,
        }
        return JSONResponse(body, 500 if self.status == 500 else 400)  # noqa: PLR2004

    def tus_response(self) -> Response:
        return PlainTextResponse(self.message, self.status, headers=_TUS)


class _DroppedError(Exception):
    """The connection is to be broken."""


_NO_BUCKET = _RefusedError(404, "Bucket not found", "Bucket not found", "NoSuchBucket")
_NO_OBJECT = _RefusedError(404, "not_found", "Object not found", "NoSuchKey")
_NO_UPLOAD = _RefusedError(404, "NoSuchUpload", "The file for this url was not found")
_DUPLICATE = _RefusedError(409, "Duplicate", "The resource already exists", "KeyAlreadyExists")
_TOO_LARGE = _RefusedError(
    413, "Payload too large", "The object exceeded the maximum allowed size", "EntityTooLarge"
)


@dataclass(frozen=True)
class Bucket:
    """A bucket as its file holds it."""

    id: str
    public: bool
    created_at: str
    file_size_limit: int | None = None
    allowed_mime_types: list[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {**asdict(self), "name": self.id, "owner": "", "updated_at": self.created_at}

    def refuse(self, size: int | None, mime_type: str, most: int) -> None:
        """Raise 413 or 415 for what the bucket does not take."""
        if size is not None and size > min(self.file_size_limit or most, most):
            raise _TOO_LARGE
        kind = mime_type.split(";", maxsplit=1)[0].strip()
        group = f"{kind.split('/', maxsplit=1)[0]}/*"
        if self.allowed_mime_types and not {kind, group} & set(self.allowed_mime_types):
            raise _RefusedError(
                415, "invalid_mime_type", f"mime type {kind} is not supported", "InvalidMimeType"
            )


@dataclass(frozen=True)
class StoredObject:
    """An object as the file beside its bytes holds it."""

    id: str
    name: str
    bucket_id: str
    size: int
    mimetype: str
    etag: str
    cache_control: str
    created_at: str
    metadata: dict[str, Any]

    def info(self) -> dict[str, Any]:
        """As ``object/info`` shows it."""
        return {
            "id": self.id,
            "name": self.name,
            "version": self.id,
            "bucket_id": self.bucket_id,
            "size": self.size,
            "content_type": self.mimetype,
            "cache_control": self.cache_control,
            "etag": self.etag,
            "metadata": self.metadata,
            "last_modified": self.created_at,
            "created_at": self.created_at,
        }

    def listed(self, prefix: str) -> dict[str, Any]:
        """As a list of a folder shows it."""
        known = {"size": self.size, "mimetype": self.mimetype, "eTag": self.etag}
        return {
            "name": self.name.removeprefix(prefix),
            "id": self.id,
            "updated_at": self.created_at,
            "created_at": self.created_at,
            "metadata": known,
        }


@dataclass(frozen=True)
class Upload:
    """A resumable upload as the file beside its bytes holds it."""

    id: str
    bucket: str
    key: str
    size: int
    mimetype: str
    metadata: dict[str, Any]
    expires: float


class _Disk:
    """Buckets, objects and uploads below a folder. Names of files are digests: keys may hold anything."""

    def __init__(self, folder: Path) -> None:
        self._buckets = folder / "buckets"
        self._uploads = folder / "uploads"
        for part in (self._buckets, self._uploads):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)

    def clear(self) -> None:
        for part in (self._buckets, self._uploads):
            shutil.rmtree(part)
            part.mkdir(mode=0o700)

    def bucket(self, name: str) -> Bucket:
        file = self._bucket(name) / "bucket.json"
        if not file.exists():
            raise _NO_BUCKET
        return Bucket(**json.loads(file.read_text()))

    def buckets(self) -> list[Bucket]:
        return [
            Bucket(**json.loads(file.read_text())) for file in sorted(self._buckets.glob("*/bucket.json"))
        ]

    def keep_bucket(self, bucket: Bucket) -> None:
        folder = self._bucket(bucket.id)
        folder.mkdir(exist_ok=True)
        (folder / "bucket.json").write_text(json.dumps(asdict(bucket)))

    def remove_bucket(self, name: str) -> None:
        shutil.rmtree(self._bucket(name))

    def object(self, bucket: str, key: str) -> StoredObject:
        file = self._object(bucket, key).with_suffix(".json")
        if not file.exists():
            raise _NO_OBJECT
        return StoredObject(**json.loads(file.read_text()))

    def content(self, bucket: str, key: str) -> Path:
        return self._object(bucket, key)

    def objects(self, bucket: str, prefix: str = "") -> list[StoredObject]:
        every = (
            StoredObject(**json.loads(file.read_text()))
            for file in self._bucket(bucket).glob("*.json")
            if file.name != "bucket.json"
        )
        return sorted(
            (found for found in every if found.name.startswith(prefix)), key=lambda found: found.name
        )

    def keep_object(self, stored: StoredObject, content: Path) -> None:
        place = self._object(stored.bucket_id, stored.name)
        content.replace(place)
        place.with_suffix(".json").write_text(json.dumps(asdict(stored)))

    def remove_object(self, stored: StoredObject) -> None:
        place = self._object(stored.bucket_id, stored.name)
        place.with_suffix(".json").unlink()
        place.unlink()

    def scratch(self) -> Path:
        return self._uploads / f"scratch-{secrets.token_hex(8)}"

    def upload(self, upload_id: str) -> Upload:
        file = self.upload_content(upload_id).with_suffix(".json")
        if not file.exists():
            raise _NO_UPLOAD
        return Upload(**json.loads(file.read_text()))

    def keep_upload(self, upload: Upload) -> None:
        content = self.upload_content(upload.id)
        content.touch()
        content.with_suffix(".json").write_text(json.dumps(asdict(upload)))

    def remove_upload(self, upload: Upload) -> None:
        content = self.upload_content(upload.id)
        content.with_suffix(".json").unlink()
        content.unlink(missing_ok=True)

    def upload_content(self, upload_id: str) -> Path:
        return self._uploads / f"{_digest(upload_id)}.bin"

    def _bucket(self, name: str) -> Path:
        return self._buckets / _digest(name)

    def _object(self, bucket: str, key: str) -> Path:
        return self._bucket(bucket) / f"{_digest(key)}.bin"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _now() -> str:
    return datetime.now(UTC).isoformat()


class _Api:
    """The requests, one method for each."""

    def __init__(self, server: StorageServer, disk: _Disk) -> None:
        self._server = server
        self._disk = disk
        self._sending: set[str] = set()

    def routes(self) -> list[Route]:
        """All paths, the more specific ones first."""
        return [
            self._route("/status", self.status, ["GET"], public=True),
            self._route("/bucket", self.list_buckets, ["GET"]),
            self._route("/bucket", self.create_bucket, ["POST"]),
            self._route("/bucket/{bucket}", self.get_bucket, ["GET"]),
            self._route("/bucket/{bucket}", self.update_bucket, ["PUT"]),
            self._route("/bucket/{bucket}", self.delete_bucket, ["DELETE"]),
            self._route("/bucket/{bucket}/empty", self.empty_bucket, ["POST"]),
            self._route("/object/list/{bucket}", self.list_objects, ["POST"]),
            self._route("/object/info/authenticated/{bucket}/{key:path}", self.info, ["GET"]),
            self._route("/object/info/{bucket}/{key:path}", self.info, ["GET"]),
            self._route("/object/authenticated/{bucket}/{key:path}", self.download, ["GET", "HEAD"]),
            self._route("/object/{bucket}/{key:path}", self.download, ["GET", "HEAD"]),
            self._route("/object/{bucket}/{key:path}", self.upload, ["POST", "PUT"]),
            self._route("/object/{bucket}", self.delete_objects, ["DELETE"]),
            self._route("/object/{bucket}/{key:path}", self.delete_object, ["DELETE"]),
            self._route(_TUS_PATH, self.tus_options, ["OPTIONS"], public=True),
            self._route(_TUS_PATH, self.tus_create, ["POST"], tus=True),
            self._route(f"{_TUS_PATH}/{{upload}}", self.tus_head, ["HEAD"], tus=True, public=True),
            self._route(f"{_TUS_PATH}/{{upload}}", self.tus_patch, ["PATCH"], tus=True),
            self._route(f"{_TUS_PATH}/{{upload}}", self.tus_delete, ["DELETE"], tus=True),
        ]

    def _route(
        self,
        path: str,
        handler: Callable[[Request], Awaitable[Response]],
        methods: list[str],
        *,
        tus: bool = False,
        public: bool = False,
    ) -> Route:
        async def answer(request: Request) -> Response:
            fault = self._server.fault_of(request)
            request.state.fault = fault
            try:
                if fault is not None:
                    await _planned_refusal(fault)
                    if fault.redirect:
                        return RedirectResponse(fault.redirect)
                if not public:
                    self._authorise(request)
                response = await handler(request)
            except _RefusedError as refused:
                response = refused.tus_response() if tus else refused.response()
                if fault is not None and fault.retry_after is not None:
                    response.headers["Retry-After"] = fault.retry_after
            except (_DroppedError, ClientDisconnect):
                response = _broken(request)
            return _broken(request) if fault is not None and fault.swallow else response

        route = Route(path, answer, methods=methods)
        route.methods = set(methods)  # GET does not bring HEAD with it
        return route

    def _authorise(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            claims = jwt.decode(
                token if scheme.lower() == "bearer" else "",
                self._server.jwt_secret,
                algorithms=["HS256"],
                options={"verify_aud": False},
            )
        except jwt.InvalidTokenError as error:
            raise _RefusedError(403, "Unauthorized", str(error), "AccessDenied") from None
        if claims.get("role") != "service_role":
            if request.method in ("GET", "HEAD"):
                raise _NO_OBJECT if "key" in request.path_params else _NO_BUCKET
            raise _RefusedError(
                403, "Unauthorized", "new row violates row-level security policy", "AccessDenied"
            )

    async def status(self, _: Request) -> Response:
        return Response()

    async def list_buckets(self, _: Request) -> Response:
        return JSONResponse([bucket.to_json() for bucket in self._disk.buckets()])

    async def get_bucket(self, request: Request) -> Response:
        return JSONResponse(self._disk.bucket(request.path_params["bucket"]).to_json())

    async def create_bucket(self, request: Request) -> Response:
        body = await request.json()
        name = body.get("id") or body.get("name") or ""
        if not _BUCKET.fullmatch(name) or name.strip() != name:
            raise _RefusedError(400, "Invalid Input", "Bucket name invalid", "InvalidBucketName")
        if any(bucket.id == name for bucket in self._disk.buckets()):
            raise _RefusedError(409, "Duplicate", "The resource already exists", "BucketAlreadyExists")
        self._disk.keep_bucket(_changed(Bucket(name, False, _now()), body))
        return JSONResponse({"name": name})

    async def update_bucket(self, request: Request) -> Response:
        bucket = self._disk.bucket(request.path_params["bucket"])
        self._disk.keep_bucket(_changed(bucket, await request.json()))
        return JSONResponse({"message": "Successfully updated"})

    async def delete_bucket(self, request: Request) -> Response:
        bucket = self._disk.bucket(request.path_params["bucket"])
        if self._disk.objects(bucket.id):
            raise _RefusedError(
                409,
                "InvalidRequest",
                "The bucket you tried to delete is not empty",
                "ResourceNotEmpty",
            )
        self._disk.remove_bucket(bucket.id)
        return JSONResponse({"message": "Successfully deleted"})

    async def empty_bucket(self, request: Request) -> Response:
        bucket = self._disk.bucket(request.path_params["bucket"])
        for stored in self._disk.objects(bucket.id):
            self._disk.remove_object(stored)
        return JSONResponse({"message": "Empty bucket has been queued. Completion may take up to an hour."})

    async def list_objects(self, request: Request) -> Response:
        """The entries of one folder; folders have no id."""
        body = await request.json()
        prefix = body.get("prefix") or ""
        prefix = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
        entries: dict[str, dict[str, Any]] = {}
        for stored in self._disk.objects(request.path_params["bucket"], prefix):
            name, slash, _ = stored.name.removeprefix(prefix).partition("/")
            entries.setdefault(name, {"name": name, "id": None} if slash else stored.listed(prefix))
        start = int(body.get("offset") or 0)
        return JSONResponse(list(entries.values())[start : start + int(body.get("limit") or 100)])

    async def info(self, request: Request) -> Response:
        return JSONResponse(self._object(request).info())

    async def download(self, request: Request) -> Response:
        stored = self._object(request)
        headers = {"ETag": stored.etag, "Cache-Control": stored.cache_control}
        content = self._disk.content(stored.bucket_id, stored.name)
        return FileResponse(content, media_type=stored.mimetype, headers=headers)

    async def upload(self, request: Request) -> Response:
        bucket = self._disk.bucket(request.path_params["bucket"])
        key = _checked_key(request.path_params["key"])
        upsert = request.method == "PUT" or request.headers.get("x-upsert") == "true"
        if not upsert:
            self._refuse_existing(bucket.id, key)
        scratch = self._disk.scratch()
        try:
            mime_type, metadata = await self._receive_object(request, bucket, scratch)
            stored = self._keep(
                request, scratch, bucket=bucket.id, key=key, mime_type=mime_type, metadata=metadata
            )
        finally:
            scratch.unlink(missing_ok=True)
        return JSONResponse({"Id": stored.id, "Key": f"{bucket.id}/{key}"})

    async def _receive_object(
        self, request: Request, bucket: Bucket, scratch: Path
    ) -> tuple[str, dict[str, Any]]:
        """The type and the metadata of a body, whose content goes to the scratch file."""
        kind = request.headers.get("content-type", "application/octet-stream")
        if not kind.startswith("multipart/form-data"):
            await _receive(request, scratch)
            bucket.refuse(scratch.stat().st_size, kind, self._server.most_bytes)
            return kind, {}
        # Read as it comes, so that a broken connection is one; then taken apart.
        await _receive(request, scratch)
        form = await _parsed_form(request, scratch)
        file = next((value for value in form.values() if isinstance(value, UploadFile)), None)
        if file is None:
            raise _RefusedError(400, "InvalidRequest", "No content provided")
        with scratch.open("wb") as sink:
            while block := await file.read(_BLOCK_BYTES):
                sink.write(block)
        mime_type = str(form.get("contentType") or file.content_type)
        bucket.refuse(scratch.stat().st_size, mime_type, self._server.most_bytes)
        text = form.get("metadata")
        return mime_type, json.loads(text) if isinstance(text, str) else {}

    async def delete_objects(self, request: Request) -> Response:
        bucket = self._disk.bucket(request.path_params["bucket"])
        keys = (await request.json())["prefixes"]
        if len(keys) > _MOST_KEYS_PER_DELETE:
            raise _RefusedError(
                400,
                "InvalidRequest",
                f"Bulk object requests are limited to {_MOST_KEYS_PER_DELETE} objects per request.",
            )
        found = [stored for stored in self._disk.objects(bucket.id) if stored.name in set(keys)]
        for stored in found:
            self._disk.remove_object(stored)
        return JSONResponse([stored.info() for stored in found])

    async def delete_object(self, request: Request) -> Response:
        self._disk.remove_object(self._object(request))
        return JSONResponse({"message": "Successfully deleted"})

    async def tus_options(self, _: Request) -> Response:
        known = {"Tus-Version": "1.0.0", "Tus-Extension": "creation,termination,expiration"}
        return Response(
            status_code=204, headers={**_TUS, **known, "Tus-Max-Size": str(self._server.most_bytes)}
        )

    async def tus_create(self, request: Request) -> Response:
        _check_tus_version(request)
        metadata = _tus_metadata(request.headers.get("upload-metadata", ""))
        length = request.headers.get("upload-length", "")
        if not length.isdecimal():
            raise _RefusedError(400, "TusError", "Upload-Length or Upload-Defer-Length header required")
        bucket = self._disk.bucket(metadata.get("bucketName", ""))
        key = _checked_key(metadata.get("objectName", ""))
        mime_type = metadata.get("contentType", "application/octet-stream")
        bucket.refuse(int(length), mime_type, self._server.most_bytes)
        if request.headers.get("x-upsert") != "true":
            self._refuse_existing(bucket.id, key)
        name = f"{bucket.id}/{key}/{secrets.token_hex(16)}"
        upload = Upload(
            id=base64.urlsafe_b64encode(name.encode()).decode().rstrip("="),
            bucket=bucket.id,
            key=key,
            size=int(length),
            mimetype=mime_type,
            metadata=json.loads(metadata.get("metadata") or "{}"),
            expires=time.time() + self._server.upload_seconds,
        )
        self._disk.keep_upload(upload)
        # As seen from here: behind a gateway neither host nor path are what the client must use.
        headers = {"Location": f"{request.url}/{upload.id}", "Upload-Expires": _http_date(upload.expires)}
        return Response(status_code=201, headers={**_TUS, **headers})

    async def tus_head(self, request: Request) -> Response:
        upload = self._upload(request)
        return Response(headers=self._tus_state(upload))

    async def tus_patch(self, request: Request) -> Response:
        _check_tus_version(request)
        if request.headers.get("content-type") != "application/offset+octet-stream":
            raise _RefusedError(415, "TusError", "Content-Type header required")
        upload = self._upload(request)
        if upload.id in self._sending:
            raise _RefusedError(423, "ResourceLocked", "The resource is locked")
        self._sending.add(upload.id)
        try:
            await self._receive_piece(request, upload)
        finally:
            self._sending.discard(upload.id)
        state = self._tus_state(upload)
        if int(state["Upload-Offset"]) == upload.size:
            self._complete(request, upload)
            state["Tus-Complete"] = "1"
        return Response(status_code=204, headers=state)

    async def _receive_piece(self, request: Request, upload: Upload) -> None:
        content = self._disk.upload_content(upload.id)
        offset = content.stat().st_size
        if request.headers.get("upload-offset") != str(offset):
            raise _RefusedError(409, "TusError", f"Upload-Offset conflict, {offset} is expected")
        length = request.headers.get("content-length", "")
        rest = upload.size - offset
        if not length.isdecimal() or int(length) > rest:
            raise _RefusedError(413, "TusError", "Upload's size exceeded")
        if int(length) not in (PIECE_BYTES, rest):
            raise _RefusedError(400, "TusError", f"Pieces of {PIECE_BYTES} bytes are expected")
        await _receive(request, content, append=True)

    def _complete(self, request: Request, upload: Upload) -> None:
        if request.headers.get("x-upsert") != "true":
            self._refuse_existing(upload.bucket, upload.key)
        self._keep(
            request,
            self._disk.upload_content(upload.id),
            bucket=upload.bucket,
            key=upload.key,
            mime_type=upload.mimetype,
            metadata=upload.metadata,
            pieces=True,
        )
        self._disk.remove_upload(upload)

    async def tus_delete(self, request: Request) -> Response:
        self._disk.remove_upload(self._upload(request))
        return Response(status_code=204, headers=_TUS)

    def _object(self, request: Request) -> StoredObject:
        bucket = self._disk.bucket(request.path_params["bucket"])
        return self._disk.object(bucket.id, request.path_params["key"])

    def _upload(self, request: Request) -> Upload:
        upload = self._disk.upload(request.path_params["upload"])
        if upload.expires < time.time():
            raise _RefusedError(410, "TusError", "The file for this url no longer exists")
        return upload

    def _tus_state(self, upload: Upload) -> dict[str, str]:
        size = self._disk.upload_content(upload.id).stat().st_size
        return {
            **_TUS,
            "Upload-Offset": str(size),
            "Upload-Length": str(upload.size),
            "Upload-Expires": _http_date(upload.expires),
            "Cache-Control": "no-store",
        }

    def _refuse_existing(self, bucket: str, key: str) -> None:
        try:
            self._disk.object(bucket, key)
        except _RefusedError:
            return
        raise _DUPLICATE

    def _keep(
        self,
        request: Request,
        content: Path,
        *,
        bucket: str,
        key: str,
        mime_type: str,
        metadata: dict[str, Any],
        pieces: bool = False,
    ) -> StoredObject:
        fault: Fault | None = request.state.fault
        damage = fault.damage if fault is not None else None
        if damage == "received":
            _flip_byte(content)
        stored = StoredObject(
            id=secrets.token_hex(16),
            name=key,
            bucket_id=bucket,
            size=content.stat().st_size,
            mimetype=mime_type,
            etag=f'"{_etag(content, pieces=pieces)}"',
            cache_control="max-age=3600",
            created_at=_now(),
            metadata=metadata,
        )
        if damage == "stored":
            _flip_byte(content)
        self._disk.keep_object(stored, content)
        return stored


def _changed(bucket: Bucket, body: dict[str, Any]) -> Bucket:
    known = ("public", "file_size_limit", "allowed_mime_types")
    return replace(bucket, **{name: body[name] for name in known if name in body})


def _checked_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise _RefusedError(400, "InvalidKey", f"Invalid key: {key}")
    return key


def _check_tus_version(request: Request) -> None:
    if request.headers.get("tus-resumable") != _TUS["Tus-Resumable"]:
        raise _RefusedError(412, "TusError", "Tus-Resumable Required")


def _tus_metadata(header: str) -> dict[str, str]:
    pairs = (pair.strip().partition(" ") for pair in header.split(",") if pair.strip())
    try:
        return {name: base64.b64decode(value, validate=True).decode() for name, _, value in pairs}
    except ValueError:
        raise _RefusedError(400, "InvalidParameter", "Invalid Upload-Metadata header") from None


def _http_date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")


def _etag(content: Path, *, pieces: bool) -> str:
    """The MD5 of what came in one piece; of several, as in S3, the MD5 of theirs, and how many."""
    with content.open("rb") as source:
        if not pieces:
            return hashlib.file_digest(source, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        parts = [
            hashlib.md5(part, usedforsecurity=False).digest()
            for part in iter(lambda: source.read(PIECE_BYTES), b"")
        ]
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


def _flip_byte(content: Path) -> None:
    with content.open("r+b") as file:
        file.seek(content.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


async def _receive(request: Request, place: Path, *, append: bool = False) -> None:
    """Write the body down as it comes; what came before the connection broke stays."""
    fault: Fault | None = request.state.fault
    received = 0
    with place.open("ab" if append else "wb") as sink:
        async for block in request.stream():
            if (
                fault is not None
                and fault.drop_after is not None
                and received + len(block) >= fault.drop_after
            ):
                sink.write(block[: fault.drop_after - received])
                raise _DroppedError
            sink.write(block)
            received += len(block)


async def _parsed_form(request: Request, body: Path) -> dict[str, Any]:
    """The fields of a multipart body that was written to a file."""

    async def blocks() -> AsyncGenerator[bytes, None]:
        with body.open("rb") as source:
            while block := source.read(_BLOCK_BYTES):
                yield block

    try:
        return dict(await MultiPartParser(request.headers, blocks()).parse())
    except MultiPartException:
        raise _RefusedError(400, "InvalidRequest", "No content provided") from None


async def _planned_refusal(fault: Fault) -> None:
    if fault.slow:
        await asyncio.sleep(fault.slow)
    if fault.status is not None:
        raise _RefusedError(fault.status, fault.error, "as planned")


def _broken(request: Request) -> Response:
    """End the connection as a network does; the answer goes nowhere."""
    cycle = request._receive.__self__  # type: ignore[attr-defined]
    cycle.transport.abort()
    return Response()


class StorageServer:
    """The server, in a thread of this process.

    Args:
        folder: where everything is kept (0700).
        jwt_secret: by which tokens are signed.
        most_bytes: of an object; larger ones are refused.
        upload_seconds: after so long a resumable upload is gone.
    """

    def __init__(
        self,
        folder: Path,
        jwt_secret: str,
        *,
        most_bytes: int = 5 * 1024**3,
        upload_seconds: float = UPLOAD_SECONDS,
    ) -> None:
        self.jwt_secret = jwt_secret
        self.most_bytes = most_bytes
        self.upload_seconds = upload_seconds
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.url = ""
        self._lock = threading.Lock()
        self._disk = _Disk(folder)
        routes = _Api(self, self._disk).routes()
        # As a project's own address has it, for clients that come without a gateway.
        self._app = Starlette(routes=[*routes, Mount("/storage/v1", routes=routes)])

    def clear(self) -> None:
        """Forget all that is kept, noted and planned."""
        self._disk.clear()
        self.faults.clear()
        self.requests.clear()
        self.upload_seconds = UPLOAD_SECONDS

    def fault_of(self, request: Request) -> Fault | None:
        """What is to go wrong with a request; every one is noted."""
        with self._lock:
            self.requests.append((request.method, request.url.path))
            for fault in self.faults:
                if fault.method != request.method or fault.part not in request.url.path or not fault.times:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def __enter__(self) -> Self:
        self._listener = socket.create_server((HOST, 0))
        self.url = f"http://{HOST}:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._app, log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=2
        )
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._uvicorn.run, kwargs={"sockets": [self._listener]}, name="storage", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._uvicorn.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("the storage server does not start")
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(timeout=10)
        self._listener.close()
