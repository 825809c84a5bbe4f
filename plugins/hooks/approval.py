"""What loading will do, the wait for a person's approval, and the answer, in the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from include.core.approval import Expected
from include.core.notes import Note
from plugins.hooks.run_notes import RunNotes
from plugins.hooks.staging import StagingHook
from plugins.hooks.target import Rows, Target

_APPROVED, _REJECTED = "approved", "approval_rejected"
_SECONDS_PER_DAY = 86_400


class Approval:
    """The approval of one run."""

    def __init__(self, target: Target, run_id: str) -> None:
        self._target = target
        self._run_id = run_id

    def expected(self, entity: str, staging: StagingHook) -> Expected:
        """What loading will do with an entity's rows, but for how many of them are new.

        Raises:
            MigrationError: STAGING_MISSING.
        """
        read = self._target.call("fates", run=self._run_id, entity=entity, phase="transformation")
        changes = self._target.call(
            "expected_changes",
            incoming={"gone_keys": staging.read("gone", entity, "all")},
            run=self._run_id,
            entity=entity,
        )
        return Expected(
            entity,
            read=read["extracted"],
            rejected=read["rejected"],
            stored=changes["known"],
            merged=changes["merged"],
            deleted=changes["deleted"],
            to_review=changes["to_review"],
        )

    def new_rows(self, entity: str, staging: StagingHook) -> int:
        """How many of the transformed rows the target does not know; their keys are sent, batch by batch.

        Raises:
            MigrationError: STAGING_MISSING.
        """
        batches = self._target.call(
            "done_batches", run=self._run_id, entity=entity, phase="transformation", prefix=""
        )

        def keys() -> Iterator[pa.Table]:
            for batch in batches:
                yield staging.read("clean", entity, batch, ["legacy_id"])

        incoming = {"clean_keys": Rows(pa.schema({"legacy_id": pa.string()}), keys())}
        return int(self._target.call("expected_new", incoming=incoming, run=self._run_id, entity=entity))

    def was_given(self) -> bool:
        """Whether somebody approved anything in this run."""
        return any(note.code == _APPROVED for note in RunNotes(self._target, self._run_id).all())

    def stands(self, plan: str) -> bool:
        """Whether these very numbers were approved before, in this run."""
        notes = RunNotes(self._target, self._run_id).all()
        return any(note.code == _APPROVED and note.facts["plan"] == plan for note in notes)

    def wait(self, days: int, facts: Mapping[str, Any]) -> None:
        """Keep the lock for a run that no process gives signs of life for; the next step ends the wait.

        Raises:
            MigrationError: RUN_LOST.
        """
        self._target.call(
            "await_approval", run=self._run_id, seconds=days * _SECONDS_PER_DAY, details=dict(facts)
        )

    def record(self, *, approved: bool, facts: Mapping[str, Any]) -> None:
        """The answer, for report and audit trail.

        Args:
            facts: by, at (ISO 8601), plan, and the totals that were shown.

        Raises:
            MigrationError: RUN_LOST.
        """
        note = Note(_APPROVED if approved else _REJECTED, facts)
        self._target.call(
            "record_answer", run=self._run_id, code=note.code, subject=note.subject, facts=dict(facts)
        )
