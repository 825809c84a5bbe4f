"""Notes of a run in the tracking tables."""

from __future__ import annotations

from typing import Any

from include.core.notes import Note
from plugins.hooks.target import Target


class RunNotes:
    """Writes and reads the notes of one run."""

    def __init__(self, target: Target, run_id: str) -> None:
        self._target = target
        self.run_id = run_id

    def record(self, code: str, **facts: Any) -> None:
        """Keep a note; one about the same subject is replaced. The run must be open.

        Args:
            facts: JSON values, exactly those that include/core/notes.py names for the code.

        Raises:
            KeyError: unregistered code.
            ValueError: other facts than the registered ones.
            MigrationError: RUN_LOST.
        """
        note = Note(code, facts)
        self._target.call("record_note", run=self.run_id, code=note.code, subject=note.subject, facts=facts)

    def all(self) -> list[Note]:
        """Every note of the run, in the order they were first made."""
        return [Note(**note) for note in self._target.call("notes", run=self.run_id)]
