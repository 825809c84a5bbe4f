"""Notes of a run in the tracking tables."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from include.core.notes import Note


class RunNotes:
    """Writes and reads the notes of one run, over a connection that the caller owns."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], run_id: str) -> None:
        self._connection = connection
        self.run_id = run_id

    def record(self, code: str, **facts: Any) -> None:
        """Keep a note; one about the same subject is replaced. The run must be open.

        Args:
            facts: JSON values, exactly those that include/core/notes.py names for the code.

        Raises:
            KeyError: unregistered code.
            ValueError: other facts than the registered ones.
        """
        note = Note(code, facts)
        self._connection.execute(
            "INSERT INTO migration.run_notes AS n (run_id, code, subject, facts) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (run_id, code, subject) DO UPDATE SET facts = excluded.facts"
            " WHERE n.facts <> excluded.facts",
            [self.run_id, note.code, note.subject, Jsonb(facts)],
        )

    def all(self) -> list[Note]:
        """Every note of the run, in the order they were first made."""
        rows = self._connection.execute(
            "SELECT code, facts FROM migration.run_notes WHERE run_id = %s ORDER BY id", [self.run_id]
        ).fetchall()
        return [Note(code, facts) for code, facts in rows]
