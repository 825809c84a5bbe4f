"""The closed set of things that can be wrong with a row: why, and how to mend it.

A *finding* leaves the row loaded; a *rejection* puts it into quarantine. Both carry one of these codes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FindingKind:
    """One kind of dirt: a reason a person understands and what removes it."""

    code: str
    reason: str
    how_to_fix: str


_KINDS = (
    FindingKind(
        "parent_missing",
        "The row this one belongs to is not in the target.",
        "Load or repair the parent; the next run retries this row by itself.",
    ),
    FindingKind(
        "reference_missing",
        "An optional reference names a row that is not in the target; it was left empty.",
        "Nothing, or repair the reference in the source; the raw id is kept in metadata.",
    ),
    FindingKind(
        "key_missing",
        "The row has no usable legacy id.",
        "Give the row a primary key in the source.",
    ),
    FindingKind(
        "key_repeated",
        "Another row of the source has the same legacy id.",
        "Remove the repetition in the source.",
    ),
    FindingKind(
        "link_repeated",
        "The same two rows are linked by a link with a lower id.",
        "Nothing: the first link was loaded. Remove the repetition in the source.",
    ),
    FindingKind(
        "value_refused",
        "The target refused a value of this row (its type, range, encoding or a constraint).",
        "Look at the column named in the quarantine entry and repair the value in the source.",
    ),
    FindingKind(
        "code_unmapped",
        "The mapping has no meaning for this legacy code; the raw code is kept.",
        "Add the code to include/mappings/codes.toml and run again.",
    ),
    FindingKind(
        "email_malformed",
        "The e-mail is no address; it was left empty and the raw text kept in metadata.",
        "Repair the address in the source.",
    ),
    FindingKind("name_empty", "The name is empty in the source.", "Fill the name in the source."),
    FindingKind(
        "json_malformed",
        "A JSON text could not be parsed; it is kept as text under metadata.raw.",
        "Repair the text in the source.",
    ),
    FindingKind(
        "cycle",
        "The predecessors of this task form a cycle; it is ordered by id.",
        "Remove one of the links in the source.",
    ),
    FindingKind(
        "predecessor_elsewhere",
        "A predecessor belongs to another workflow; it does not count for the order.",
        "Nothing: it is kept in predecessor_tasks.",
    ),
    FindingKind(
        "time_reversed",
        "This row happened before the one it follows; the duration is left empty.",
        "Repair the timestamps in the source.",
    ),
    FindingKind(
        "owner_missing",
        "No plan leads from this project to an order, so it has no owner.",
        "Nothing, or link the project by a plan in the source.",
    ),
    FindingKind(
        "file_missing",
        "The file of this row is not where legacy files lie.",
        "Put it there (migration.files, column source_path, says where); the next run copies it.",
    ),
    FindingKind(
        "file_unreadable",
        "The file of this row cannot be read: no usable uid, no permission, a link, or no plain file.",
        "Make a plain file of it that the migration may read; the next run copies it.",
    ),
    FindingKind(
        "file_unstable",
        "The file of this row changed each time while it was read.",
        "Nothing if the next run copies it; else see who writes it.",
    ),
    FindingKind(
        "file_size_differs",
        "The file of this row has another size than the row says; it was copied as it is.",
        "Compare the two; perhaps the file was cut off, or written anew without the row.",
    ),
    FindingKind(
        "file_refused",
        "Storage does not take the file of this row: it is too large, or of a type that its bucket does not allow.",
        "Raise the limits of the bucket and of the project's Storage settings; the next run tries again.",
    ),
    FindingKind(
        "file_damaged",
        "What Storage holds is not what was sent, not even the second time.",
        "Run again; if it stays, see the status of Storage and what lies between.",
    ),
)

FINDINGS: dict[str, FindingKind] = {kind.code: kind for kind in _KINDS}


def kind_of(code: str) -> FindingKind:
    """The registered kind; a ``KeyError`` says that the code is not registered."""
    return FINDINGS[code]
