"""Loads batches of clean rows: the server-side merge of one batch is one transaction, with its row in the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include.core.mapping import mapping_version, rules_version
from include.core.resolve import refuse_unstorable
from include.core.spec import Entity
from include.core.tracking import Fates
from plugins.hooks.target import Target
from plugins.hooks.tracking import peak_memory_mb


@dataclass(frozen=True)
class LoadBatch:
    """One batch on its way into the target.

    Attributes:
        clean: legacy_id, id, columns, source_version.
        rejects: legacy_id, code, column, payload.
        findings: legacy_id, code, column.
    """

    name: str
    key_range: str
    clean: pa.Table
    rejects: pa.Table
    findings: pa.Table


class BatchLoader:
    """Loads batches of one entity for one run; each batch is one transaction.

    Rows that the target refuses are found by halving and quarantined alone; those that cannot even be sent are
    quarantined before. A dry run takes the same way, takes the business writes back and keeps only the counts and
    the planned ids.
    """

    def __init__(self, target: Target, run_id: str, entity: Entity, *, dry_run: bool) -> None:
        self._target = target
        self._run_id = run_id
        self._entity = entity
        self._dry_run = dry_run

    def load(self, batch: LoadBatch, attempt: int) -> tuple[Fates, float]:
        """Merge a batch and record it in the ledger, all or nothing; returns fates and seconds."""
        ledger = {
            "phase": "loading",
            "batch": batch.name,
            "key_range": batch.key_range,
            "attempt": attempt,
        }
        clean, rejects = refuse_unstorable(batch.clean, batch.rejects)
        rows = {"rows": clean, "rejects": rejects, "findings": batch.findings}
        answer = self._call(ledger, incoming=rows)
        seconds = answer.pop("seconds")
        return Fates(**answer), seconds

    def load_affected(self, name: str, most: int, attempt: int) -> Fates:
        """Merge rows of the target again whose references fit no more, though the source did not touch them.

        They are no rows of the source's extract, so they have a place of their own in the ledger: the phase
        ``references``.

        Args:
            name: of the batch.
            most: rows to take at once.
        """
        ledger = {"phase": "references", "batch": name, "key_range": "", "attempt": attempt}
        answer = self._call(ledger, incoming={}, affected=most)
        del answer["seconds"]
        return Fates(**answer)

    def _call(self, ledger: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._target.call(
            "load_batch",
            run=self._run_id,
            entity=self._entity.name,
            batch={**ledger, "memory_mb": peak_memory_mb()},
            versions={"mapping": mapping_version(), "rules": rules_version()},
            dry_run=self._dry_run,
            **arguments,
        )
        return answer


def findings_of(findings: pa.Table, clean: pa.Table) -> pa.Table:
    """The findings of some rows."""
    return findings.filter(pc.is_in(findings.column("legacy_id"), clean.column("legacy_id").combine_chunks()))
