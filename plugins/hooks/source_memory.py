"""What the target remembers of earlier runs: which source they read, by which versions, and what they loaded."""

from __future__ import annotations

from dataclasses import dataclass

from plugins.hooks.source_identity import SourceIdentity
from plugins.hooks.target import Target


@dataclass(frozen=True)
class CompleteRun:
    """The last complete run.

    Attributes:
        horizon: the oldest transaction of the source that it may not have seen.
        undisturbed: no later run may have loaded rows.
    """

    run_id: str
    horizon: int
    mapping_version: str
    rules_version: str
    code_version: str
    undisturbed: bool


def recall_identities(target: Target) -> list[SourceIdentity]:
    """What the last complete run and all later ones took the source for, oldest first.

    Failed runs count, since they have stored row versions too: a source set back to a state between the last
    complete run and a failed one would otherwise look like a later state of the former. Dry runs store none.
    """
    return [SourceIdentity.from_json(identity) for identity in target.call("source_identities")]


def last_complete_run(target: Target) -> CompleteRun | None:
    """The run that left the watermark of the source; None: there was none."""
    found = target.call("last_complete_run")
    return None if found is None else CompleteRun(**found)


def loaded_entities(target: Target) -> set[str]:
    """Entities that have rows in the target, or had."""
    return set(target.call("loaded_entities"))
