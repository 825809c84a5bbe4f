"""The two databases of the local environment: a synthetic legacy MDW and a target like a Supabase project."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg import sql

from include.synthetic.sizes import SourceSize
from local.environment import PLATFORM_SQL, PROJECT, State
from local.legacy_source import fill
from local.postgres import EmbeddedPostgres, ServerError, run_script

LEGACY = "legacy_mdw"
TARGET = "supabase"
READER = "mdw_reader"
OWNER = "postgres"
SEED = 1
DEFAULT_PATIENTS = 785
"""A tenth of the real installation (docs/legacy-mdw.md section 5.2)."""

_GENERATOR = ("include/synthetic", "local/legacy_source.py")


def legacy_dsn(server: EmbeddedPostgres) -> str:
    """The legacy database as the migration sees it: SELECT only."""
    return server.dsn(LEGACY, role=READER)


def target_dsn(server: EmbeddedPostgres) -> str:
    """The target as the project's owner, who on Supabase is no superuser either."""
    return server.dsn(TARGET, role=OWNER)


def demo_server(state: State) -> EmbeddedPostgres:
    """The server of the demo, running.

    Raises:
        ServerError: there is no demo, or it does not start.
    """
    server = EmbeddedPostgres(state.postgres)
    if not server.folder.exists():
        raise ServerError("There is no demo yet: make demo")
    server.start()
    return server


def prepare(
    server: EmbeddedPostgres, *, patients: int | None, seed: int = SEED, progress: Callable[[str], None]
) -> None:
    """Make both databases, or keep them when they were made with the same size, seed and generator.

    `patients` is the number of patients in the legacy database; None keeps what is there, whatever its size.
    A different size makes both anew: in a target filled from another source, rows would have lost theirs.
    """
    recorded = _recorded(server) if {LEGACY, TARGET} <= server.databases() else None
    size = patients or (json.loads(recorded)["patients"] if recorded else DEFAULT_PATIENTS)
    wanted = _recipe(size, seed)
    if recorded is not None and (patients is None or recorded == wanted):
        progress(f"databases: kept, {size:,} patients in {LEGACY}")
    else:
        progress(f"databases: making a synthetic {LEGACY} with {size:,} patients and an empty {TARGET}")
        tables = SourceSize.real().scaled(patients=size)
        for name in (LEGACY, TARGET):
            server.drop_database(name)
        fill(server.create_database(LEGACY), tables, seed, progress=_untold)
        _allow_reading(server)
        server.create_login(OWNER)
        server.create_database(TARGET, owner=OWNER)
        _record(server, wanted)
    run_script(server.dsn(TARGET), PLATFORM_SQL)


def _untold(_line: str) -> None:
    """The generator's line per table is more than the demo wants to say."""


def _allow_reading(server: EmbeddedPostgres) -> None:
    """A login that may read the legacy tables and nothing else, as production should grant it."""
    server.create_login(READER)
    with psycopg.connect(server.dsn(LEGACY)) as connection:
        for grant in ("USAGE ON SCHEMA public", "SELECT ON ALL TABLES IN SCHEMA public"):
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.SQL(grant), sql.Identifier(READER)))


def _recipe(patients: int, seed: int) -> str:
    """What decides the content of the legacy database, as text."""
    return json.dumps({"patients": patients, "seed": seed, "generator": _generator_hash()}, sort_keys=True)


def _generator_hash() -> str:
    """Changes with the code that makes the rows."""
    digest = hashlib.sha256()
    for entry in _GENERATOR:
        path = PROJECT / entry
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]


def _recorded(server: EmbeddedPostgres) -> str | None:
    """The recipe of the present database; kept as its comment, so that it goes where the data goes."""
    with psycopg.connect(server.dsn()) as connection:
        row = connection.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", (LEGACY,)
        ).fetchone()
    return row[0] if row else None


def _record(server: EmbeddedPostgres, recipe: str) -> None:
    with psycopg.connect(server.dsn()) as connection:
        connection.execute(
            sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(LEGACY), sql.Literal(recipe))
        )
