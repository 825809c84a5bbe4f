"""The closed set of things worth saying about a whole run: they change what its report means.

A note holds facts of systems and settings (names, counts, versions), never a value of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any, Literal

Severity = Literal["info", "warn"]


@dataclass(frozen=True)
class NoteKind:
    """One kind of note.

    Attributes:
        template: its text, with the names of its facts in braces.
        subject: the fact that tells several notes of one run apart; empty where a run has one at most.
    """

    code: str
    severity: Severity
    template: str
    subject: str = ""

    @property
    def facts(self) -> frozenset[str]:
        """Names of the facts, each of which a note must give."""
        return frozenset(name for _, name, _, _ in Formatter().parse(self.template) if name)


_KINDS = (
    NoteKind(
        "initial_full",
        "info",
        "No complete run came before this one, so it loaded everything.",
    ),
    NoteKind(
        "source_restored",
        "warn",
        "The source is not simply a later state of the database of the last run: {reason}."
        " No stored row version was trusted: everything was compared with the source.",
    ),
    NoteKind(
        "mapping_changed",
        "info",
        "The mapping changed from {before} to {after}: rows mapped by the older one were transformed anew.",
    ),
    NoteKind(
        "rules_changed",
        "info",
        "The rules changed from {before} to {after}: rows made by the older ones were transformed anew.",
    ),
    NoteKind(
        "foreign_writes",
        "warn",
        "Somebody else wrote {rows:,} rows of the target since they were loaded; foreign_writes is {policy}."
        " migration.differences names them.",
    ),
    NoteKind(
        "taken_up_again",
        "info",
        "{taken_up:,} rows that differed were loaded again, {removed:,} that nobody loaded were marked as deleted.",
    ),
    NoteKind(
        "embedding_over_budget",
        "warn",
        "Embedding {entity} was estimated at {cost} US dollars, more than the ai_budget of {budget}: it stops before"
        " that is exceeded. What is embedded by then stays.",
        subject="entity",
    ),
    NoteKind(
        "without_row_versions",
        "warn",
        "{table} is a view or foreign table, whose rows carry no version: changes in it were looked for in"
        " its content.",
        subject="table",
    ),
    NoteKind(
        "redrive",
        "info",
        "Only rows in quarantine were tried again; other changes of the source wait for the next run.",
    ),
    NoteKind(
        "horizon_held",
        "warn",
        "Process {pid} (user {user}, database {database}) of the source has an old transaction open (age in"
        " transactions: {age_transactions:,}, in seconds: {age_seconds:,}). What it has written will be"
        " migrated by the first run after its end; end it if nobody needs it.",
        subject="pid",
    ),
    NoteKind(
        "horizon_held_prepared",
        "warn",
        "A prepared transaction (user {user}, database {database}) of the source waits for its end (age in"
        " transactions: {age_transactions:,}, in seconds: {age_seconds:,}). What it has written will be"
        " migrated by the first run after that; see pg_prepared_xacts.",
        subject="age_transactions",
    ),
    NoteKind(
        "plaintext",
        "warn",
        "Connection {connection} is not encrypted, which a setting allows: patients' data crossed a network readable.",
        subject="connection",
    ),
    NoteKind(
        "source_role_writes",
        "warn",
        "The role {role} may do more in the source than read: {rights}. Nothing was written, for the migration reads in"
        " read-only transactions; a role with SELECT alone would make sure of it.",
    ),
    NoteKind(
        "source_role_creates",
        "info",
        "The role {role} may create objects in the source, in schema {schemas}. Before PostgreSQL 15 everybody may;"
        " REVOKE CREATE ON SCHEMA … FROM PUBLIC ends it.",
    ),
    NoteKind(
        "duplicates_found",
        "info",
        "{entity}: {merged:,} rows are merged into others; {pending:,} pairs wait in the review queue, and {again:,}"
        " decided ones are asked again, for their rows changed. docs/reviewing-duplicates.md says how to decide.",
        subject="entity",
    ),
    NoteKind(
        "duplicates_listed",
        "info",
        "{entity}: {merged:,} rows would be merged into others; {pending:,} pairs would wait for a review, and"
        " {again:,} decided ones would be asked again. {file} beside this report lists them: legacy ids and scores.",
        subject="entity",
    ),
    NoteKind(
        "decisions_contradict",
        "warn",
        "{entity}: {pairs:,} confirmed pairs could not be merged, because a rejected pair stands between them. Decide"
        " one of them anew: docs/reviewing-duplicates.md.",
        subject="entity",
    ),
    NoteKind(
        "approved",
        "info",
        "{by} approved at {at} what loading was to do: {new:,} new rows, {known:,} known ones, {merged:,} merges,"
        " {deleted:,} deletions (plan {plan}).",
    ),
    NoteKind(
        "approval_rejected",
        "warn",
        "{by} rejected at {at} what loading was to do: {new:,} new rows, {known:,} known ones, {merged:,} merges,"
        " {deleted:,} deletions (plan {plan}).",
    ),
    NoteKind(
        "files_not_copied",
        "info",
        "No file was looked at, because {reason}: the manifest lists {files:,}, of which {verified:,} are in Storage.",
    ),
    NoteKind(
        "files_copied",
        "info",
        "Of {files:,} files {verified:,} are in Storage, proved by size and checksum. In this run {copied:,} were"
        " copied ({size}); {missing:,} are missing at the source, {failed:,} failed, {pending:,} are still to come.",
    ),
    NoteKind(
        "files_to_copy",
        "info",
        "Of {files:,} files {found:,} are at the source, {unchanged:,} of them in Storage already; {size} would be"
        " copied. {missing:,} are missing at the source, {failed:,} cannot be read.",
    ),
    NoteKind(
        "files_withdrawn",
        "info",
        "{objects:,} objects in Storage belong to rows that are gone or have another file now. They were left there:"
        " migration.files (withdrawn_at) lists them.",
    ),
)

NOTES: dict[str, NoteKind] = {kind.code: kind for kind in _KINDS}


@dataclass(frozen=True)
class Note:
    """One note of a run.

    Raises:
        KeyError: the code is not registered.
        ValueError: facts are missing or not of its kind.
    """

    code: str
    facts: Mapping[str, Any]

    def __post_init__(self) -> None:
        if set(self.facts) != self.kind.facts:
            raise ValueError(f"{self.code} takes {sorted(self.kind.facts)}, not {sorted(self.facts)}")

    @property
    def kind(self) -> NoteKind:
        """What the code stands for."""
        return NOTES[self.code]

    @property
    def subject(self) -> str:
        """What tells it from other notes of its kind in the same run."""
        return str(self.facts[self.kind.subject]) if self.kind.subject else ""

    @property
    def text(self) -> str:
        """The sentence for a person."""
        return _Formatter().vformat(self.kind.template, (), self.facts)


class _Formatter(Formatter):
    """Says "unknown" for a fact that could not be found out, whatever its format."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        return "unknown" if value is None else super().format_field(value, format_spec)
