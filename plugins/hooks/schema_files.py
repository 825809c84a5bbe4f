"""The numbered SQL files of the target: in which order, with which hash.

A released file never changes: its hash is recorded on deployment, and a difference stops every later run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent.parent.parent / "include" / "sql"


@dataclass(frozen=True)
class SchemaFile:
    """One file: ``name`` is its path below include/sql."""

    name: str
    sql: str

    @property
    def hash(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def schema_files() -> list[SchemaFile]:
    """All files in deployment order: tracking first, so that it can record the rest."""
    paths = [path for part in ("migration", "target") for path in sorted((_FOLDER / part).glob("*.sql"))]
    return [SchemaFile(str(path.relative_to(_FOLDER)), path.read_text(encoding="utf-8")) for path in paths]
