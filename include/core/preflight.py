"""Preflight: named checks of everything a run relies on, what each one asks, and the verdict over all of them.

A check says *why* it came out as it did (facts of systems, counts; never a value of a row) and the exact *fix*. None
keeps the others from running.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from include.core.errors import MigrationError

# SQLSTATE of a statement that was given up.
_CANCELLED = "57014"
# What only the task of a run is told to do.
_OF_A_RUN = re.compile(r",? then clear the (failed )?task\b")


class Status(StrEnum):
    """How a check came out, in the order of the final table."""

    PASS = "pass"  # noqa: S105 - no password
    SKIPPED = "skipped"
    """It could not be asked, because something else is missing or switched off."""
    WARN = "warn"
    """A run works, but somebody should know."""
    FAIL = "fail"
    """A run would stop, or do harm."""


@dataclass(frozen=True)
class CheckKind:
    """A check of the catalogue.

    Attributes:
        name: ``area.name``; stable.
        asks: what is looked at.
        why: what happens to a run where it fails.
        fix: what mends it, in general; a result names the exact statement or setting.
    """

    name: str
    asks: str
    why: str
    fix: str

    @property
    def area(self) -> str:
        """The part of the installation that it belongs to, and the task that runs it."""
        return self.name.partition(".")[0]


def _of_settings() -> Iterable[CheckKind]:
    yield CheckKind(
        "settings.parameters",
        "the parameters, as a full migration would check them",
        "a run refuses unknown or invalid ones before it does anything",
        "correct the parameter that is named",
    )
    yield CheckKind(
        "settings.mapping",
        "the mapping of codes, with the file that overrides it",
        "a run stops where the file cannot be read",
        "correct the file that `MIGRATION_MAPPING_FILE` names",
    )
    yield CheckKind(
        "settings.connections",
        "which connections exist: source, target (both ways), embedding provider",
        "without a source or a way into the target nothing can run; files need `supabase`",
        "set the connection or the variables that are named",
    )
    yield CheckKind(
        "settings.notifications",
        "whether Slack or mail is configured, and whether those connections exist; nothing is sent",
        "nobody would hear of a run that fails",
        "correct the variable, or create the connection, as [operating.md](operating.md#notifications) says",
    )


def _of_source_server() -> Iterable[CheckKind]:
    yield CheckKind(
        "source.reachable",
        "whether the legacy database answers and takes the login",
        "nothing can be read",
        "correct connection `legacy_mdw`, or open the way to the server",
    )
    yield CheckKind(
        "source.version",
        "the release of PostgreSQL",
        "statements are made for 9.5 and later; releases newer than those tested may surprise",
        "use a server of 9.5 or later",
    )
    yield CheckKind(
        "source.encoding",
        "the encoding of the database",
        "SQL_ASCII keeps whatever bytes it was given, so texts may arrive unreadable",
        "see `source.text`, which counts them",
    )
    yield CheckKind(
        "source.encryption",
        "whether rows cross the network encrypted",
        "patients' data could be read on the way",
        "set sslmode to verify-full in connection `legacy_mdw`",
    )
    yield CheckKind(
        "source.pooler",
        "whether a connection pooler stands in between, and in which mode",
        "it may cut long reads off, and a cancelled statement may go on",
        "connect to the server's own port",
    )
    yield CheckKind(
        "source.role",
        "what the role may do beyond reading",
        "a run writes nothing there, but the role should not be able to",
        "revoke what is named, or use a role with SELECT alone",
    )
    yield CheckKind(
        "source.select",
        "whether the role may read every table that is needed",
        "a run stops before it starts (`SOURCE_FORBIDDEN`)",
        "grant what is named",
    )
    yield CheckKind(
        "source.row_security",
        "whether row security hides rows from the role",
        "hidden rows would look like deleted ones; a run refuses (`SOURCE_ROW_SECURITY`)",
        "give the role BYPASSRLS",
    )
    yield CheckKind(
        "source.columns",
        "tables, columns and types against what the entities need",
        "a run stops before it starts (`SOURCE_DRIFT`)",
        "adapt the entity's file, or leave its entities out",
    )
    yield CheckKind(
        "source.transactions",
        "transactions that have been open for long",
        "what they wrote is migrated by the first run after their end, not by this one",
        "end the session that is named, if nobody needs it",
    )
    yield CheckKind(
        "source.standby",
        "whether the server is a standby, how far it lags, and whether it cancels long reads",
        "reads are cancelled when they are in the way of what is replayed; rows may be old",
        "raise max_standby_streaming_delay or switch hot_standby_feedback on",
    )


def _of_source_data() -> Iterable[CheckKind]:
    yield CheckKind(
        "source.rows",
        "rows of every table against the server's statistics",
        "a table that was full and is empty may be the wrong database, or a broken restore",
        "find out why; ANALYZE where the statistics are merely old",
    )
    yield CheckKind(
        "source.keys",
        "whether the ids of every table are unique",
        "rows with the same id would be taken for one",
        "mend the rows that the statement lists",
    )
    yield CheckKind(
        "source.references",
        "references to rows that do not exist, counted for each",
        "a row that makes no sense without its parent goes to quarantine; other references are cleared",
        "mend them in the source, or accept the counts",
    )
    yield CheckKind(
        "source.codes",
        "codes that the mapping does not know, with counts",
        "such a row gets the default (NULL mostly) and a finding; the raw code is kept",
        "give the code a meaning in the file that `MIGRATION_MAPPING_FILE` names",
    )
    yield CheckKind(
        "source.timestamps",
        "timestamps without time zone",
        "they are read as UTC, and are wrong by hours where they were meant otherwise",
        "state the zone in the source",
    )
    yield CheckKind(
        "source.text",
        "texts that are no valid UTF-8, and JSON texts with a NUL",
        "invalid texts stop the batch that reads them; JSON with a NUL is kept as raw text only",
        "repair the rows that the statement finds",
    )
    yield CheckKind(
        "source.passwords",
        "hash algorithms of passwords, counted; the hashes themselves are not read",
        "passwords are not migrated; who gets an account must be able to log in",
        "plan password resets, or ask for hashes that Supabase Auth imports",
    )
    yield CheckKind(
        "source.accounts",
        "accounts that look like tests or demonstrations, counted",
        "all rows migrate, such ones too",
        "remove them in the source, if they are not wanted",
    )


def _of_target() -> Iterable[CheckKind]:
    yield CheckKind(
        "target.reachable",
        "whether the target answers, by the way a run would take",
        "nothing can be written",
        "correct connection `supabase_db` or `supabase`",
    )
    yield CheckKind(
        "target.version",
        "the release of PostgreSQL",
        "the schema needs 15 or later; tested are 16 to 18",
        "upgrade the target",
    )
    yield CheckKind(
        "target.encryption",
        "whether rows and keys cross the network encrypted",
        "patients' data could be read on the way",
        "set sslmode to verify-full in connection `supabase_db`, or use an https address",
    )
    yield CheckKind(
        "target.pooler",
        "whether a connection pooler stands in between, and in which mode",
        "a pooler in transaction mode loses the session's settings, such as the time zone",
        "use the pooler's session mode (port 5432) or the direct address",
    )
    yield CheckKind(
        "target.writable",
        "whether the server takes writes",
        "Supabase turns a project read-only when its disk is full; a standby never writes",
        "enlarge the disk, or connect to the primary",
    )
    yield CheckKind(
        "target.platform",
        "roles, schemas and extensions that Supabase provides",
        "a run refuses a plain PostgreSQL (`TARGET_PLATFORM_MISSING`)",
        "use a Supabase database",
    )
    yield CheckKind(
        "target.role",
        "whether the role may deploy and call what is deployed",
        "the first step that writes would fail",
        "grant what is named, or log in as the owner",
    )
    yield CheckKind(
        "target.schema",
        "the deployed schema files against those of this version, by hash",
        "a run deploys what is new, and refuses what was changed",
        "deploy, or restore the file that was edited",
    )
    yield CheckKind(
        "target.tables",
        "tables of our names that somebody else created",
        "a run never overwrites them (`TARGET_SCHEMA_FOREIGN`)",
        "use an empty database, or move them away",
    )
    yield CheckKind(
        "target.triggers",
        "triggers on our tables that are not ours",
        "they fire for every loaded row: slow, and what they write nobody asked for",
        "disable them while a run loads",
    )
    yield CheckKind(
        "target.enums",
        "the values of the deployed enums",
        "a value that is missing makes every row with it fail",
        "add the value that is named",
    )
    yield CheckKind(
        "target.vectors",
        "dimensions of the vector columns against the embedding provider",
        "vectors of another size cannot be stored (`TARGET_DIMENSIONS`)",
        "choose the provider the target was deployed for",
    )
    yield CheckKind(
        "target.limits",
        "time limits and safeguards of the server that concern a run",
        "statements through the API are ended when the role's time is up",
        "raise the role's statement_timeout",
    )
    yield CheckKind(
        "target.lock",
        "whether another run holds the target's lock",
        "one run migrates at a time (`RUN_LOCKED`)",
        "wait for its end",
    )


def _of_services() -> Iterable[CheckKind]:
    yield CheckKind(
        "storage.staging",
        "whether the place for staged rows can be written, and its free space",
        "no row can be staged (`STORAGE_UNWRITABLE`)",
        "let `MIGRATION_STAGING_URI` name a place that the workers may write",
    )
    yield CheckKind(
        "storage.reports",
        "whether the place for reports can be written",
        "a run could not say what it did",
        "let `MIGRATION_REPORT_URI` name a place that the workers may write",
    )
    yield CheckKind(
        "storage.files",
        "the place of the legacy files, and whether some projects' files are where they should be",
        "files are not copied, or all are reported as missing",
        "correct `MIGRATION_FILES_URI` and `MIGRATION_FILES_TEMPLATE`",
    )
    yield CheckKind(
        "storage.bucket",
        "whether Supabase Storage answers, and the bucket is private",
        "files cannot be copied; a public bucket would show them to everybody",
        "correct connection `supabase`; make the bucket private",
    )
    yield CheckKind(
        "ai.provider",
        "the embedding provider, asked to embed the word *preflight*",
        "embedding stops at its first request",
        "correct key, model or address in connection `openai_default`",
    )
    yield CheckKind(
        "ai.price",
        "whether the price of the model is known",
        "a budget could not be kept (`EMBEDDING_PRICE_UNKNOWN`)",
        "give price_per_million_tokens in the connection's extra",
    )
    yield CheckKind(
        "estimate.time",
        "how long a full migration would take, from the rows there are and measured rates",
        "it should fit between two working days",
        "more cores for workers and target; a direct connection instead of the API",
    )
    yield CheckKind(
        "estimate.staging",
        "bytes that staging would need, against the free space",
        "a run stops where the disk is full (`STORAGE_FULL`)",
        "make room, or let `MIGRATION_STAGING_URI` name a larger place",
    )
    yield CheckKind(
        "estimate.target",
        "bytes by which the target would grow",
        "Supabase turns a project read-only when its disk is full",
        "enlarge the target's disk beforehand",
    )
    yield CheckKind(
        "estimate.ai_cost",
        "what the embeddings would cost, against `ai_budget`",
        "a run stops before it spends more (`EMBEDDING_BUDGET`)",
        "raise `ai_budget`, or leave entities out of `ai_entities`",
    )


CATALOGUE: dict[str, CheckKind] = {
    kind.name: kind
    for kinds in (_of_settings, _of_source_server, _of_source_data, _of_target, _of_services)
    for kind in kinds()
}
"""Every check by name, in the order they run."""
AREAS: tuple[str, ...] = tuple(dict.fromkeys(kind.area for kind in CATALOGUE.values()))


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        facts: counts and names for the JSON report, and for the checks that estimate.
    """

    status: Status
    why: str
    fix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def passed(why: str, **facts: Any) -> Outcome:
    """All is well."""
    return Outcome(Status.PASS, why, "", facts)


def warned(why: str, fix: str, **facts: Any) -> Outcome:
    """A run works, but somebody should know."""
    return Outcome(Status.WARN, why, fix, facts)


def failed(why: str, fix: str, **facts: Any) -> Outcome:
    """A run would stop, or do harm."""
    return Outcome(Status.FAIL, why, fix, facts)


def skipped(why: str) -> Outcome:
    """It could not, or need not, be asked."""
    return Outcome(Status.SKIPPED, why)


def refused(error: MigrationError) -> Outcome:
    """What an error of the registry means as an outcome: a statement that was given up is no verdict."""
    if error.facts.get("sqlstate") == _CANCELLED:
        return warned("It took too long and was given up; nothing is known.", "Ask again at a quieter hour.")
    facts = ", ".join(f"{name}={value}" for name, value in error.facts.items())
    said = " ".join(
        filter(None, (f"[{error.code}]", error.kind.meaning, error.detail, facts and f"({facts})"))
    )
    return failed(said, _OF_A_RUN.sub("", error.kind.next_step), code=error.code)


@dataclass(frozen=True)
class Result:
    """The outcome of a check of the catalogue."""

    name: str
    status: Status
    why: str
    fix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        CATALOGUE[self.name]

    @classmethod
    def of(cls, name: str, outcome: Outcome, seconds: float = 0.0) -> Result:
        """The outcome under its name."""
        return cls(name, outcome.status, outcome.why, outcome.fix, outcome.facts, round(seconds, 3))

    def to_json(self) -> dict[str, Any]:
        """For XCom and the report."""
        return {**asdict(self), "status": self.status.value, "facts": dict(self.facts)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Result:
        """Back from :meth:`to_json`."""
        return cls(**{**values, "status": Status(values["status"])})


def run_check(name: str, check: Callable[[], Outcome]) -> Result:
    """Run one check: whatever it raises becomes its result, so that the next one runs."""
    started = time.monotonic()
    try:
        outcome = check()
    except MigrationError as error:
        outcome = refused(error)
    except Exception as error:  # noqa: BLE001 - drivers and stores have errors of their own, which may quote rows
        outcome = failed(
            f"The check itself broke: {type(error).__name__}.",
            "This is a defect: report it with the check's name.",
        )
    return Result.of(name, outcome, time.monotonic() - started)


def run_checks(checks: Mapping[str, Callable[[], Outcome]]) -> list[Result]:
    """Run checks one after the other."""
    return [run_check(name, check) for name, check in checks.items()]


def skip_area(area: str, why: str, but: Iterable[str] = ()) -> list[Result]:
    """Every check of an area as skipped, but those named."""
    left_out = set(but)
    return [
        Result.of(name, skipped(why))
        for name, kind in CATALOGUE.items()
        if kind.area == area and name not in left_out
    ]


@dataclass(frozen=True)
class Verdict:
    """All results, one for every check, in the order of the catalogue."""

    results: tuple[Result, ...]

    @classmethod
    def over(cls, results: Iterable[Result]) -> Verdict:
        """The verdict; a check without a result counts as failed, for its task ended before it could tell."""
        found = {result.name: result for result in results}
        return cls(tuple(found.get(name) or _unheard(name) for name in CATALOGUE))

    def named(self, status: Status) -> list[str]:
        """Names of the checks that came out so."""
        return [result.name for result in self.results if result.status is status]

    @property
    def headline(self) -> str:
        """The counts, worst first."""
        counts = Counter(result.status for result in self.results)
        return ", ".join(f"{counts[status]} {status.value}" for status in reversed(Status))

    def to_json(self) -> dict[str, Any]:
        """For the report's file."""
        return {"headline": self.headline, "checks": [result.to_json() for result in self.results]}

    def table(self) -> list[tuple[Status, str]]:
        """Lines with the worst last, so that they are the last ones of a log."""
        width = max(len(result.name) for result in self.results)
        return [
            (status, line)
            for status in Status
            for result in self.results
            if result.status is status
            for line in _lines(result, width)
        ]

    def to_text(self) -> str:
        """For the report's other file."""
        return "\n".join([*(line for _, line in self.table()), f"preflight: {self.headline}", ""])


def _unheard(name: str) -> Result:
    return Result.of(
        name, failed("There is no result: its task ended before.", "Read the task's log, then run it again.")
    )


def _lines(result: Result, width: int) -> list[str]:
    first = f"{result.status.value:<8} {result.name:<{width}} {result.seconds:>6.2f} s  {result.why}"
    indent = " " * (len("skipped ") + 1 + width + 11)
    fixes = result.fix.splitlines()
    return [first, *(f"{indent}{'     ' if place else 'fix: '}{line}" for place, line in enumerate(fixes))]


def manual(kinds: Sequence[CheckKind] = tuple(CATALOGUE.values())) -> list[str]:
    """The catalogue as rows of a Markdown table: name, what is asked, why, fix."""
    return [f"| `{kind.name}` | {kind.asks} | {kind.why} | {kind.fix} |" for kind in kinds]
