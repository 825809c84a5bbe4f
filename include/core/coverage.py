"""What the validation of a run proves, level by level, and what it does not look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LEVELS = {1: "counts", 2: "key sets", 3: "content", 4: "integrity", 5: "samples"}

_NEVER = (
    "Content of rows that are deleted in the source or wait in quarantine: the source says nothing of it any more, or"
    " nothing that can be stored.",
    "Columns that this migration does not fill, such as profiles.auth_user_id, and tables of others.",
    "Objects in Storage that belong to no project.",
)
_ONE_BY_ONE = (
    "Rows whose source row did not change since they were loaded were compared with what was written then, not"
    " transformed anew; the DAG mdw_validation does that."
)


def levels(checks: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each level: its name, how many checks there were, passed, failed and only warned.

    Args:
        checks: rows of migration.checks.
    """
    known = [*checks]
    found = []
    for level, name in LEVELS.items():
        mine = [check for check in known if check["level"] == level]
        lost = [check["severity"] for check in mine if not check["passed"]]
        found.append(
            {
                "level": level,
                "name": name,
                "checks": len(mine),
                "passed": len(mine) - len(lost),
                "failed": lost.count("fail"),
                "warned": lost.count("warn"),
            }
        )
    return found


def not_covered(run: Mapping[str, Any], entities: Sequence[str], embedded: Sequence[str]) -> list[str]:
    """What the validation of a run leaves out, a sentence each.

    Args:
        run: a row of migration.runs; one of an older version may lack parameters.
        entities: all there are.
        embedded: those that have documents.
    """
    settings = run["parameters"]
    chosen = settings.get("entities") or entities
    said = []
    if left := [name for name in entities if name not in chosen]:
        said.append(f"Entities that were not chosen: {', '.join(left)}.")
    if run["scope"] != "everything":
        said.append(_ONE_BY_ONE)
    asked = settings.get("ai_entities", ()) if settings.get("enable_ai") else ()
    if left := [name for name in embedded if name in chosen and name not in asked]:
        said.append(f"Embeddings of {', '.join(left)}: not asked for.")
    files = {"none": "any file", "copied": "files that earlier runs copied"}
    verified = settings.get("verify_files", "none")
    if verified in files:
        said.append(f"Bytes of {files[verified]}: verify_files is {verified}.")
    return [*said, *_NEVER]
