"""The parameters of a run: one table from which the trigger form, the checks and the manual are made.

The form validates in the browser, but the API, the CLI and schedules bypass it; preparation therefore
checks every value again and refuses unknown keys.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from include.core.errors import MigrationError

_MOST_SHOWN = 5
MOST_MATCH_SHARES = 24
# Sections of the form, folded until somebody opens them.
LIMITS = "Limits: when the run asks or stops"
DUPLICATES = "Duplicate patients"
EMBEDDINGS = "Embeddings"
PROOF = "Proof and repair"
TECHNICAL = "Technical"


@dataclass(frozen=True)
class Param:
    """One parameter.

    Attributes:
        kind: JSON type: boolean, integer, number, string or array (of names).
        variable: environment variable that supplies the default.
        labels: of the choices, as the form shows them; none where they speak for themselves.
        section: of the form; empty for the essential ones, which it shows unfolded.
        kinds: of runs that take it.
    """

    name: str
    kind: str
    default: Any
    title: str
    description: str
    variable: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    section: str = ""
    kinds: tuple[str, ...] = ("full", "incremental")


@dataclass(frozen=True)
class Settings:
    """Checked parameters of a run; those that runs of its kind do not take have their defaults."""

    dry_run: bool
    entities: tuple[str, ...]
    enable_ai: bool
    batch_size: int
    max_retries: int
    max_rejected: float
    max_deleted: float
    require_approval: bool
    approve_merged_above: float
    approve_deleted_above: float
    merge_at: float
    review_at: float
    match_shares: int
    fail_fast: bool
    keep_staging: bool
    log_level: str
    load_via: str
    copy_files: bool
    ai_entities: tuple[str, ...]
    ai_budget: float
    ai_batch_api: bool
    embed_clinical_text: bool
    foreign_writes: str
    repair: bool
    verify_files: str
    samples: int
    allow_initial_full: bool
    redrive: bool

    def to_json(self) -> dict[str, Any]:
        """For the run's record; there are no secrets among parameters."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def params(
    entities: Collection[str],
    *,
    kind: str,
    environment: Mapping[str, str],
    embedded: Mapping[str, bool] | None = None,
) -> list[Param]:
    """Every parameter with its default.

    Args:
        entities: names that may be chosen.
        embedded: of them, those that have documents, and whether they are embedded unless told otherwise.
        kind: full, which is a dry run unless told otherwise; incremental, which runs every night; or validation,
            which moves nothing.
        environment: overrides defaults by name of variable.
    """
    declared = _declared(entities, embedded or {}, kind)
    return [_with_default(param, environment) for param in declared if kind in param.kinds]


_EVERY = ("full", "incremental", "validation")


def _declared(entities: Collection[str], embedded: Mapping[str, bool], kind: str = "full") -> list[Param]:
    """All parameters, whoever takes them, with the defaults of a kind of run."""
    return [
        Param(
            "dry_run",
            "boolean",
            kind != "incremental",
            "Dry run",
            "On: everything is read, transformed, compared and merged, then rolled back. The report predicts every"
            " count exactly, and no business table is written. Off: the rows are loaded.",
        ),
        Param(
            "entities",
            "array",
            [],
            "Entities",
            "Which entities to migrate; none chosen means all. What they refer to must be chosen too, or loaded.",
            choices=tuple(entities),
            kinds=_EVERY,
        ),
        Param(
            "require_approval",
            "boolean",
            False,
            "Require approval",
            "Before anything is loaded, a person sees what will be done, and approves or rejects it (Required Actions)."
            " Dry runs ask nobody.",
        ),
        Param(
            "enable_ai",
            "boolean",
            True,
            "AI enhancement",
            "Embed documents of projects, cases and workflow tasks. Off: no provider is needed or touched.",
            kinds=_EVERY,
        ),
        Param(
            "copy_files",
            "boolean",
            True,
            "Copy files",
            "Copy projects' files to Supabase Storage, if MIGRATION_FILES_URI says where they are. Off: the manifest"
            " is written, no file is looked at.",
        ),
        *_incremental_params(),
        *_limits(),
        *_matching_params(),
        *_ai_params(embedded),
        *_proof_params(kind),
        *_technical_params(),
    ]


def _limits() -> list[Param]:
    """When a run asks, and when it stops."""
    return [
        Param(
            "approve_merged_above",
            "number",
            0.1,
            "Ask above merges",
            "Share of an entity's rows that may newly be merged into others before a person must approve (0.1 = 10 %);"
            " up to 50 rows always may. 1: never asks.",
            minimum=0,
            maximum=1,
            section=LIMITS,
        ),
        Param(
            "approve_deleted_above",
            "number",
            0.02,
            "Ask above deletions",
            "Share of an entity's rows that may be marked as deleted before a person must approve (0.02 = 2 %); up to"
            " 50 rows always may. 1: never asks. Above `max_deleted` the run stops earlier.",
            minimum=0,
            maximum=1,
            section=LIMITS,
        ),
        Param(
            "max_deleted",
            "number",
            0.05,
            "Most deleted",
            "Share of an entity's rows that may be gone from the source before the run stops (0.05 = 5 %);"
            " up to 50 rows always may.",
            minimum=0,
            maximum=1,
            section=LIMITS,
        ),
        Param(
            "max_rejected",
            "number",
            0.1,
            "Most rejected",
            "Share of an entity's rows that may go to quarantine before the run stops (0.1 = 10 %).",
            minimum=0,
            maximum=1,
            section=LIMITS,
        ),
        Param(
            "foreign_writes",
            "string",
            "stop",
            "Foreign writes",
            "What happens to rows that somebody else changed in the target since they were loaded.",
            variable="MIGRATION_FOREIGN_WRITES",
            choices=("stop", "keep", "overwrite"),
            labels=(
                "stop: the run ends before anything is written",
                "keep: they stay as they are, validation only warns",
                "overwrite: they are loaded again",
            ),
            kinds=_EVERY,
            section=LIMITS,
        ),
        Param(
            "fail_fast",
            "boolean",
            True,
            "Fail fast",
            "After the first failure no further batch starts. Off: independent batches go on.",
            section=LIMITS,
        ),
    ]


def _matching_params() -> list[Param]:
    return [
        Param(
            "merge_at",
            "number",
            0.99,
            "Merge at",
            "Probability (0 to 1) that two patients are one person from which on they are merged without being asked.",
            minimum=0.5,
            maximum=1,
            section=DUPLICATES,
        ),
        Param(
            "review_at",
            "number",
            0.05,
            "Review at",
            "Probability from which on two patients wait in the review queue. Not above `merge_at`.",
            minimum=0.001,
            maximum=1,
            section=DUPLICATES,
        ),
        Param(
            "match_shares",
            "integer",
            1,
            "Shares of matching",
            "Tasks that share the comparison of patients. More than one pays where several machines work.",
            minimum=1,
            maximum=MOST_MATCH_SHARES,
            section=DUPLICATES,
        ),
    ]


def _technical_params() -> list[Param]:
    return [
        Param(
            "batch_size",
            "integer",
            25_000,
            "Batch size",
            "Rows per commit. Small batches cost time, large ones memory.",
            variable="MIGRATION_BATCH_SIZE",
            minimum=1,
            maximum=250_000,
            section=TECHNICAL,
        ),
        Param(
            "max_retries",
            "integer",
            3,
            "Retries",
            "How often a step is retried after a transient error. Permanent errors are never retried.",
            variable="MIGRATION_MAX_RETRIES",
            minimum=0,
            maximum=10,
            kinds=_EVERY,
            section=TECHNICAL,
        ),
        Param(
            "load_via",
            "string",
            "auto",
            "Way into the target",
            "How the target is reached. Through the Supabase client a batch has at most 1,000 rows.",
            variable="MIGRATION_LOAD_VIA",
            choices=("auto", "postgres", "rest"),
            labels=(
                "auto: postgres where connection supabase_db exists, else rest",
                "postgres: connection supabase_db",
                "rest: the Supabase client, connection supabase",
            ),
            kinds=_EVERY,
            section=TECHNICAL,
        ),
        Param(
            "log_level",
            "string",
            "INFO",
            "Log level",
            "How much the migration logs.",
            variable="MIGRATION_LOG_LEVEL",
            choices=("DEBUG", "INFO", "WARNING", "ERROR"),
            kinds=_EVERY,
            section=TECHNICAL,
        ),
        Param(
            "keep_staging",
            "boolean",
            False,
            "Keep staging",
            "Keep the staged files after success. They hold health data. After a failure they are always kept.",
            section=TECHNICAL,
        ),
    ]


def _proof_params(kind: str) -> list[Param]:
    return [
        Param(
            "repair",
            "boolean",
            False,
            "Repair",
            "Compare every row of the target with the source first, and load those that differ again.",
            section=PROOF,
        ),
        Param(
            "verify_files",
            "string",
            "all" if kind == "validation" else "copied",
            "Verify files",
            "Which files are read from Storage again and compared byte by byte.",
            choices=("none", "copied", "all"),
            labels=("none", "copied: those that this run copied", "all"),
            kinds=_EVERY,
            section=PROOF,
        ),
        Param(
            "samples",
            "integer",
            5,
            "Samples",
            "Random rows per entity that the report shows side by side, source and target, masked.",
            minimum=0,
            maximum=100,
            kinds=_EVERY,
            section=PROOF,
        ),
    ]


def _ai_params(embedded: Mapping[str, bool]) -> list[Param]:
    return [
        Param(
            "ai_entities",
            "array",
            [name for name, by_default in embedded.items() if by_default],
            "Embedded entities",
            "Whose documents are embedded, of the entities that the run migrates.",
            variable="MIGRATION_AI_ENTITIES",
            choices=tuple(embedded),
            kinds=_EVERY,
            section=EMBEDDINGS,
        ),
        Param(
            "ai_budget",
            "number",
            10,
            "AI budget",
            "Most that the embeddings of one run may cost, in US dollars. The run stops before it is exceeded; what was"
            " embedded stays, and a later run goes on from there.",
            variable="MIGRATION_AI_BUDGET",
            minimum=0,
            maximum=100_000,
            section=EMBEDDINGS,
        ),
        Param(
            "ai_batch_api",
            "boolean",
            False,
            "Batch API",
            "Embed through OpenAI's Batch API: half the price, an answer within 24 hours. For big first loads.",
            section=EMBEDDINGS,
        ),
        Param(
            "embed_clinical_text",
            "boolean",
            False,
            "Embed clinical text",
            "Let clinical notes of cases into the embedded documents. Known names, e-mails, dates and numbers are"
            " removed first; what the database does not know may remain. With OpenAI it leaves your network.",
            variable="MIGRATION_EMBED_CLINICAL_TEXT",
            kinds=_EVERY,
            section=EMBEDDINGS,
        ),
    ]


def _incremental_params() -> list[Param]:
    return [
        Param(
            "allow_initial_full",
            "boolean",
            False,
            "Allow an initial full load",
            "Where no full migration was completed yet, load everything instead of stopping.",
            kinds=("incremental",),
        ),
        Param(
            "redrive",
            "boolean",
            False,
            "Only quarantined rows",
            "Retry the rows in quarantine and nothing else, for instance after their data or a mapping was repaired.",
            kinds=("incremental",),
        ),
    ]


def check(values: Mapping[str, Any], known: Collection[Param]) -> Settings:
    """Settings from a run's parameters.

    Raises:
        MigrationError: PARAM_UNKNOWN, PARAM_INVALID or ENTITY_UNKNOWN.
    """
    by_name = {param.name: param for param in known}
    refuse_unknown(values, by_name)
    checked = {param.name: param.default for param in _declared((), {})}
    checked |= {name: _checked(param, values.get(name, param.default)) for name, param in by_name.items()}
    checked |= {name: tuple(value) for name, value in checked.items() if isinstance(value, list)}
    if checked["review_at"] > checked["merge_at"]:
        raise MigrationError("PARAM_INVALID", "review_at must not be above merge_at.", param="review_at")
    if checked["repair"] and checked["redrive"]:
        raise MigrationError("PARAM_INVALID", "repair and redrive do not go together.", param="repair")
    return Settings(**checked)


def refuse_unknown(values: Collection[Any], known: Collection[str]) -> None:
    """Raises PARAM_UNKNOWN where there are others than those known."""
    unknown = [name for name in values if name not in known]
    if unknown:
        raise MigrationError("PARAM_UNKNOWN", f"Unknown: {_shown(unknown)}; known are {sorted(known)}.")


def fits(param: Param) -> bool:
    """Whether the default, which may come from the environment, is a value that the parameter may have."""
    try:
        _checked(param, param.default)
    except MigrationError:
        return False
    return True


_TYPES: dict[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list, tuple),
}


def _checked(param: Param, value: Any) -> Any:
    right_type = isinstance(value, _TYPES[param.kind]) and (
        param.kind == "boolean" or not isinstance(value, bool)
    )
    if not right_type:
        raise MigrationError("PARAM_INVALID", f"{param.name} must be of type {param.kind}.", param=param.name)
    if param.kind == "array":
        return _checked_names(param, value)
    if param.choices and value not in param.choices:
        raise MigrationError(
            "PARAM_INVALID", f"{param.name} must be one of {list(param.choices)}.", param=param.name
        )
    too_low = param.minimum is not None and not value >= param.minimum  # "not >=" refuses NaN as well
    too_high = param.maximum is not None and not value <= param.maximum
    if too_low or too_high:
        limits = f"between {param.minimum:g} and {param.maximum:g}"
        raise MigrationError("PARAM_INVALID", f"{param.name} must be {limits}.", param=param.name)
    return value + 0 if param.kind == "number" else value  # which makes -0.0 a zero


def _checked_names(param: Param, value: Collection[Any]) -> list[str]:
    unknown = [name for name in value if name not in param.choices]
    if unknown:
        raise MigrationError(
            "ENTITY_UNKNOWN",
            f"Unknown: {_shown(unknown)}; known are {list(param.choices)}.",
            param=param.name,
        )
    return list(dict.fromkeys(value))


def _shown(values: Sequence[Any]) -> str:
    """What somebody gave, as it may stand in a message: few and short, on one line, look-alikes told apart."""
    some = values[:_MOST_SHOWN]
    words = [reprlib.repr(value) if isinstance(value, str) else type(value).__name__ for value in some]
    text = ", ".join(words).encode("ascii", "backslashreplace").decode()
    return f"[{text}]" + (f" and {len(values) - len(some):,} more" if len(values) > len(some) else "")


def whole_number(text: str, least: int, most: int) -> int | None:
    """The number that a text of the environment writes in plain digits; None where it is no such number."""
    number = int(text) if re.fullmatch("[0-9]{1,18}", text) else None
    return number if number is not None and least <= number <= most else None


def _integer(text: str) -> Any:
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def _number(text: str) -> Any:
    return float(text) if re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]{1,12})?", text) else text


def _boolean(text: str) -> Any:
    return {"true": True, "false": False}.get(text.lower(), text)


def _names(text: str) -> Any:
    return [name.strip() for name in text.split(",") if name.strip()]


# A value of the environment by the kind of its parameter; what cannot be read stays text.
_READ: dict[str, Callable[[str], Any]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "array": _names,
    "string": str,
}


def _with_default(param: Param, environment: Mapping[str, str]) -> Param:
    """The parameter with its default taken from the environment, if set there.

    A value that cannot be read is left as text, so that the check of preparation names it: a DAG file that
    cannot be parsed would only vanish from the list of DAGs.
    """
    text = environment.get(param.variable, "") if param.variable else ""
    if not text:
        return param
    default = _READ[param.kind](text.strip())
    if param.name == "log_level":
        default = text.strip().upper()
    return Param(**{**{f.name: getattr(param, f.name) for f in fields(param)}, "default": default})
