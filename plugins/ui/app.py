"""The app behind the pages: routes, files, headers. Airflow mounts it under /migration."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles

from plugins.ui import report_routes, review_routes, run_routes
from plugins.ui.access import AnyUser
from plugins.ui.answers import protect
from plugins.ui.pages import STATIC

_FILES = StaticFiles(directory=STATIC)

app = FastAPI(title="MDW migration", docs_url=None, redoc_url=None, openapi_url=None)
protect(app)
for routes in (run_routes, review_routes, report_routes):
    app.include_router(routes.router)


@app.get("/static/{name}")
async def static_file(name: str, request: Request, _: AnyUser) -> Response:
    """Scripts and styles; they hold no data, but nothing here is for strangers. Checked anew each time: no-cache."""
    answer = await _FILES.get_response(name, request.scope)
    answer.headers["Cache-Control"] = "no-cache"
    return answer
