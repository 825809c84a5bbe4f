"""Writes the target's schema as files for the Supabase CLI or the SQL editor, where no run can deploy it itself.

    python -m local.schema [--out supabase/migrations] [--dimensions 512]

The files are those of include/sql, each with its hash, and a last one that registers entities and codes. A file
that was written before with the same content keeps its name, so that the CLI applies what is new and nothing twice.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from include.entities import ENTITIES
from plugins.hooks.schema_files import SchemaFile, schema_files
from plugins.hooks.target_schema import registration

_DEFAULT = Path("supabase/migrations")
# Of a first writing; what comes later is numbered by the clock, behind all that may be applied.
_FIRST_VERSION = datetime(2026, 1, 1, tzinfo=UTC)
_EMBEDDINGS = "target/0003_embeddings.sql"
_REGISTRATION = "register"


def files(dimensions: int | None) -> dict[str, str]:
    """Name behind the version → text, in the order of deployment.

    Args:
        dimensions: of the vector columns; None leaves them at what the file says.
    """
    written = {
        re.sub(r"\W+", "_", file.name.removesuffix(".sql")): _with_hash(file, dimensions)
        for file in schema_files()
    }
    return {**written, _REGISTRATION: _registration()}


def write(folder: Path, dimensions: int | None) -> list[Path]:
    """Write what is not there yet; returns the new files.

    Raises:
        FileExistsError: a file of include/sql was written before with other content: it may be deployed already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    new: list[Path] = []
    start = datetime.now(UTC) if any(folder.glob(f"*_{_REGISTRATION}.sql")) else _FIRST_VERSION
    for number, (name, text) in enumerate(files(dimensions).items()):
        known = sorted(folder.glob(f"*_{name}.sql"))
        if known and known[-1].read_text(encoding="utf-8") == text:
            continue
        if known and name != _REGISTRATION:
            raise FileExistsError(f"{known[-1]} differs from the file of this version.")
        path = folder / f"{start + timedelta(seconds=number):%Y%m%d%H%M%S}_{name}.sql"
        path.write_text(text, encoding="utf-8")
        new.append(path)
    return new


def _with_hash(file: SchemaFile, dimensions: int | None) -> str:
    fixed = dimensions is not None and file.name == _EMBEDDINGS
    before = f"SELECT set_config('mdw.dimensions', '{dimensions}', false);\n" if fixed else ""
    # Both are names and digits of our own.
    known = f"UPDATE migration.schema_versions SET hash = '{file.hash}' WHERE name = '{file.name}' AND hash IS NULL;"  # noqa: S608
    return f"{before}{file.sql}{known}\n"


def _registration() -> str:
    """Entities and codes as this version declares them; the API looks at the schema when it is told to."""
    declared = json.dumps(registration(ENTITIES.values()), indent=1, sort_keys=True)
    return (
        f"SELECT migration.register($declared${declared}$declared$::jsonb);\n"
        "SELECT migration.record_deployment();\nNOTIFY pgrst, 'reload schema';\n"
    )


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m local.schema", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=_DEFAULT, help=f"folder (default: {_DEFAULT})")
    parser.add_argument("--dimensions", type=int, help="of the vectors of your embedding provider")
    arguments = parser.parse_args()
    try:
        new = write(arguments.out, arguments.dimensions)
    except FileExistsError as error:
        sys.stderr.write(f"{error} Deploy with the version that wrote it, or choose an empty folder.\n")
        return 1
    for path in new:
        sys.stdout.write(f"{path}\n")
    sys.stdout.write(
        f"{len(new)} new files in {arguments.out}. Apply them in order: `supabase db push`, or the SQL editor.\n"
        "Then add migration_api to the API's exposed schemas.\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
