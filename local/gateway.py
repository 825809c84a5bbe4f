"""The one address of a Supabase project: checks the caller's key and passes the request on.

    /rest/v1     PostgREST, on a socket in the same folder
    /storage/v1  a storage server, where one was named
    /…           404: nothing else of a project is to be had here

An opaque key (`sb_publishable_…`, `sb_secret_…`) is turned into its role's token, a person's own token is
passed on. As in Supabase, storage is open without a key (public and signed addresses) and checks tokens itself.

    python -m local.gateway --folder FOLDER --socket FD [--storage URL] [--max-body BYTES]
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from local.api_keys import ApiKeys

REST, STORAGE = "rest", "storage"
REST_SOCKET = "rest.sock"
KEYS_FILE = "keys.json"
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
# They concern one of the two connections, not the request; and the key stays here.
_NOT_PASSED_ON = {
    "connection",
    "keep-alive",
    "transfer-encoding",
    "te",
    "upgrade",
    "host",
    "apikey",
    "expect",
}
# A connection per request: PostgREST 12 may close a kept one while the next request is on its way.
_NO_KEEP_ALIVE = httpx.Limits(max_keepalive_connections=0)
_TIMEOUT = httpx.Timeout(60, connect=5, pool=None)


def application(keys: ApiKeys, services: Mapping[str, httpx.AsyncClient], max_body: int | None) -> Starlette:
    """The gateway in front of `services` (first part of the path → client whose base URL is the service)."""

    async def answer(request: Request) -> Response:
        service = services.get(request.path_params["service"])
        if service is None:
            return _refusal(404, "This local project has no such service.")
        key = request.headers.get("apikey")
        token = keys.token_of(key) if key is not None else None
        if token is None and request.path_params["service"] == REST:
            return _refusal(401, "No API key found in request" if key is None else "Invalid API key")
        if max_body is not None and int(request.headers.get("content-length", 0)) > max_body:
            return _refusal(413, "Payload too large")
        return await _passed_on(request, service, token)

    @asynccontextmanager
    async def closing(_: Starlette) -> AsyncIterator[None]:
        yield
        for client in services.values():
            await client.aclose()

    return Starlette(
        routes=[Route("/{service}/v1{path:path}", answer, methods=_METHODS)],
        exception_handlers={404: _unknown_path},
        lifespan=closing,
    )


async def _passed_on(request: Request, service: httpx.AsyncClient, token: str | None) -> Response:
    """The service's answer, streamed both ways."""
    prefix = f"/{request.path_params['service']}/v1".encode()
    path = request.scope["raw_path"].removeprefix(prefix) or b"/"
    query = request.scope["query_string"]
    base = service.base_url
    onward = httpx.Request(
        request.method,
        base.copy_with(raw_path=base.raw_path.rstrip(b"/") + path + (b"?" + query if query else b"")),
        headers=_request_headers(request.headers, token),
        content=request.stream() if _has_body(request.headers) else None,
    )
    try:
        answer = await service.send(onward, stream=True)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return _refusal(503, "The service does not run")
    except httpx.ReadTimeout:
        return _refusal(504, "The service did not answer in time")
    except httpx.TransportError:
        return _refusal(502, "The service broke the connection")
    response = StreamingResponse(
        answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose)
    )
    response.raw_headers = [
        (name.lower(), value)
        for name, value in answer.headers.raw
        if name.decode().lower() not in _NOT_PASSED_ON
    ]
    return response


def _request_headers(headers: Headers, token: str | None) -> list[tuple[str, str]]:
    """The caller's headers with a token in place of an opaque key or of none."""
    kept = [(name, value) for name, value in headers.items() if name not in _NOT_PASSED_ON]
    opaque = headers.get("authorization", "Bearer sb_").startswith("Bearer sb_")
    if token is not None and opaque:
        kept = [(name, value) for name, value in kept if name != "authorization"]
        kept.append(("authorization", f"Bearer {token}"))
    return [*kept, ("connection", "close")]


def _has_body(headers: Headers) -> bool:
    return "content-length" in headers or "transfer-encoding" in headers


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"message": message}, status)


async def _unknown_path(_request: Request, _error: Exception) -> Response:
    return _refusal(404, "This local project has no such path.")


def services(folder: Path, storage: str | None) -> dict[str, httpx.AsyncClient]:
    """The clients of the services that run here."""
    found = {
        REST: httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(folder / REST_SOCKET), limits=_NO_KEEP_ALIVE),
            base_url="http://postgrest",
            timeout=_TIMEOUT,
        )
    }
    if storage is not None:
        found[STORAGE] = httpx.AsyncClient(base_url=storage, timeout=_TIMEOUT, trust_env=False)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; serves until told to end."""
    parser = argparse.ArgumentParser(prog="python -m local.gateway", description="One address for the API.")
    parser.add_argument(
        "--folder", type=Path, required=True, help="with the keys and the socket of PostgREST"
    )
    parser.add_argument("--socket", type=int, required=True, help="an inherited descriptor to listen on")
    parser.add_argument("--storage", help="address of a storage server")
    parser.add_argument("--max-body", type=int, help="bytes; a longer request is answered with 413")
    options = parser.parse_args(arguments)
    app = application(
        ApiKeys.kept_in(options.folder / KEYS_FILE),
        services(options.folder, options.storage),
        options.max_body,
    )
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=options.socket)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
