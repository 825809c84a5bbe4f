"""What every answer of the pages has in common: headers that keep it safe, and errors without values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from include.core.errors import MigrationError

_POLICY = "; ".join(
    (
        "default-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def protect(app: FastAPI) -> None:
    """Add the headers, unless a route sets its own, and the handlers of errors."""
    app.middleware("http")(_with_headers)
    app.add_exception_handler(MigrationError, _guidance)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _with_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    answer = await call_next(request)
    for name, value in _HEADERS.items():
        answer.headers.setdefault(name, value)
    return answer


async def _guidance(_: Request, error: Exception) -> JSONResponse:
    """A registered error as its code, what it means and what to do next."""
    if not isinstance(error, MigrationError):
        raise error
    code = status.HTTP_503_SERVICE_UNAVAILABLE if error.transient else status.HTTP_409_CONFLICT
    return JSONResponse(guidance(error), code)


def guidance(error: MigrationError) -> dict[str, Any]:
    """What a page shows of an error; errors hold facts and no values of rows."""
    return {
        "code": error.code,
        "meaning": error.kind.meaning,
        "detail": error.detail,
        "next_step": error.kind.next_step,
        "transient": error.transient,
    }


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Where a request is wrong; FastAPI's own answer repeats what was sent."""
    if not isinstance(error, RequestValidationError):
        raise error
    where = sorted({".".join(map(str, problem["loc"])) for problem in error.errors()})
    return JSONResponse(
        {"detail": f"Not understood: {', '.join(where)}."}, status.HTTP_422_UNPROCESSABLE_CONTENT
    )
