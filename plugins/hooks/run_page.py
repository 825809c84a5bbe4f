"""What the pages about a migration ask of the target: a call each; counts and codes, values of rows only on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from include.core.errors import REGISTRY
from include.core.notes import NOTES, Note
from include.core.run_progress import LedgerSum, standing
from include.entities import ENTITIES
from plugins.hooks.target import Target

PAGE_ROWS = 100
HISTORY_RUNS = 30
_ORDER = {name: place for place, name in enumerate(ENTITIES)}
_FATES = ("inserted", "updated", "unchanged", "merged", "rejected", "skipped", "deleted")


class RunPage:
    """Reads what is shown of runs and of the target."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def run(self, dag_id: str, run_id: str) -> dict[str, Any] | None:
        """How a run stands: ``run``, ``parts`` (include/core/run_progress.py), ``seconds_left``, ``fates``, ``checks``,
        ``notes``, ``embeddings``, ``errors``; None where the target knows of no such run of the DAG.
        """
        found = self._target.call("page_run", dag=dag_id, run=run_id)
        return None if found is None else _shown(found)

    def checks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Every check of a run, those that did not pass first."""
        return list(self._target.call("page_checks", dag=dag_id, run=run_id))

    def state(self) -> dict[str, Any]:
        """The target now: ``lock``, ``follows``, ``quarantine``, ``pairs``, ``runs`` (the latest first)."""
        return dict(self._target.call("page_state", runs=HISTORY_RUNS))

    def quarantine(
        self, entity: str | None, code: str | None, after: Mapping[str, str] | None
    ) -> list[dict[str, Any]]:
        """At most :data:`PAGE_ROWS` rows behind ``after`` (code, entity, legacy_id), without values."""
        place = None if after is None else dict(after)
        return list(
            self._target.call("page_quarantine", entity=entity, code=code, after=place, most=PAGE_ROWS)
        )

    def quarantined_values(self, row: str, by: str) -> dict[str, Any] | None:
        """The values of a row: health data. Who looked is kept in the audit trail; None: no longer in quarantine."""
        values: dict[str, Any] | None = self._target.call("page_quarantined_values", id=row, by=by)
        return values


def _shown(found: Mapping[str, Any]) -> dict[str, Any]:
    run = found["run"]
    plans = sorted(found["plans"], key=_place)
    ledger = [LedgerSum.from_json(row) for row in found["ledger"]]
    estimates = found["embeddings"]["estimates"]
    progress = standing(
        kind=run["type"],
        status=run["status"],
        phase=run["phase"],
        selected={plan["entity"]: plan["selected_rows"] for plan in plans},
        ledger=ledger,
        before=[LedgerSum.from_json(row) for row in found["before"]],
        embedded={entity: estimate.get("documents", 0) for entity, estimate in estimates.items()},
    )
    return {
        "now": found["now"],
        "run": run,
        "seconds_left": progress.seconds_left,
        "parts": [asdict(part) for part in progress.parts],
        "plans": plans,
        "fates": [
            {"entity": row["entity"], **{fate: row[fate] for fate in _FATES}}
            for row in sorted(found["ledger"], key=_place)
            if row["phase"] == "loading"
        ],
        "checks": found["checks"],
        # Of a version that knew others, none is shown rather than no page.
        "notes": [_note(note) for note in found["notes"] if note["code"] in NOTES],
        "embeddings": found["embeddings"],
        "errors": _errors({code for row in ledger if row.failed for code in row.codes}),
    }


def _place(row: Mapping[str, Any]) -> int:
    """Parents first, as they are loaded; an entity of another version last."""
    return _ORDER.get(row["entity"], len(_ORDER))


def _errors(codes: set[str]) -> list[dict[str, str]]:
    """What codes mean, and what to do."""
    known = [REGISTRY[code] for code in sorted(codes) if code in REGISTRY]
    return [{"code": kind.code, "meaning": kind.meaning, "next_step": kind.next_step} for kind in known]


def _note(found: Mapping[str, Any]) -> dict[str, str]:
    note = Note(found["code"], found["facts"])
    return {"severity": note.kind.severity, "text": note.text}
