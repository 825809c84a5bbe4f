"""Where the pages' files are."""

from __future__ import annotations

from pathlib import Path

from fastapi.responses import FileResponse

STATIC = Path(__file__).parent / "static"


def page_file(name: str) -> FileResponse:
    """A page as it is; what it shows, its script asks for."""
    return FileResponse(STATIC / name, media_type="text/html")
