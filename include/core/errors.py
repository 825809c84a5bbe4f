"""The registry of everything that can go wrong, and the one exception that carries it.

An error states facts (entity, batch, column, setting …), never a value of a row: the legacy id and the
column lead there for whoever may look. "The data is wrong" is not an error but a result (quarantine,
finding, failed check); errors say "I could not look" or "I must not go on".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Category(StrEnum):
    """The five kinds of error."""

    CONFIGURATION = "configuration"
    CONNECTION = "connection"
    DATA_VALIDATION = "data validation"
    TRANSFORMATION = "transformation"
    API = "api"


@dataclass(frozen=True)
class ErrorKind:
    """One registered error.

    ``transient`` errors are retried by the run itself; ``retry_safe`` says whether a person may retry
    by hand once the cause is gone (every write is idempotent, so this is almost always true).
    """

    code: str
    category: Category
    meaning: str
    next_step: str
    transient: bool = False
    retry_safe: bool = True


def _of_systems() -> Iterable[ErrorKind]:
    config, connection, api = Category.CONFIGURATION, Category.CONNECTION, Category.API
    yield ErrorKind(
        "PARAM_UNKNOWN",
        config,
        "The run was given a parameter that does not exist.",
        "Remove or correct the named parameter and trigger again; the DAG's manual lists all of them.",
    )
    yield ErrorKind(
        "PARAM_INVALID",
        config,
        "A parameter has a value outside its limits.",
        "Give a value within the limits named in the message and trigger again.",
    )
    yield ErrorKind(
        "ENTITY_UNKNOWN",
        config,
        "The run names an entity that this tool does not know.",
        "Use names from the list in the message, or leave `entities` empty for all of them.",
    )
    yield ErrorKind(
        "ENTITY_PARENT_MISSING",
        config,
        "An entity was chosen without one it refers to, and that one was never loaded.",
        "Add the named entity to `entities`, or load it first in a run of its own.",
    )
    yield ErrorKind(
        "CONNECTION_MISSING",
        config,
        "Neither the Airflow connection nor the environment variables for a system are set.",
        "Set the connection or the variables named in the message (README, 'Your own databases').",
    )
    yield ErrorKind(
        "CONNECTION_INVALID",
        config,
        "The address or the key of connection `supabase`, or of the variables in its place, cannot be used.",
        "Correct it as the message says: the project's URL as the dashboard shows it, and its service key.",
    )
    yield ErrorKind(
        "SOURCE_UNREACHABLE",
        connection,
        "The legacy database did not answer.",
        "Check host, port, network and TLS of connection `legacy_mdw`, then clear the failed task.",
        transient=True,
    )
    yield ErrorKind(
        "SOURCE_LOGIN_REFUSED",
        connection,
        "The legacy database refused the login.",
        "Correct user, password or database name of connection `legacy_mdw`, then clear the failed task.",
    )
    yield ErrorKind(
        "SOURCE_QUERY_FAILED",
        connection,
        "A statement sent to the legacy database failed.",
        "Look the SQLSTATE up; 57014 means the statement timeout was reached, 42501 a table that the role may not read "
        "or would read under row security. Then clear the failed task.",
    )
    yield ErrorKind(
        "SOURCE_INTERRUPTED",
        connection,
        "The connection to the legacy database broke, or the server ended the statement (lock timeout, shutdown).",
        "Nothing to do while retries remain; then check the server and clear the failed task.",
        transient=True,
    )
    yield ErrorKind(
        "SOURCE_DRIFT",
        config,
        "The legacy database lacks a table or column that a chosen entity needs, or has it with another type.",
        "Compare the listed names with the source. If a column was renamed, change it in the entity's file "
        "under include/entities; if a whole table is gone, leave its entities out of `entities`.",
    )
    yield ErrorKind(
        "SOURCE_FORBIDDEN",
        config,
        "The legacy role may not read a table that a chosen entity needs.",
        "GRANT SELECT on the listed tables to the role of connection `legacy_mdw`.",
    )
    yield ErrorKind(
        "SOURCE_PLAINTEXT",
        config,
        "The connection to the legacy database would not be encrypted: patients' data would cross a network readable.",
        "Set sslmode to require (better: verify-full) in connection `legacy_mdw`, or LEGACY_DB_SSL=true. Where that "
        'cannot be, allow it: "allow_plaintext": true in the connection\'s extra, or LEGACY_DB_SSL=false.',
    )
    yield ErrorKind(
        "SOURCE_ROW_SECURITY",
        config,
        "Row security of the legacy database would hide rows from our role, which would look like deleted rows.",
        "Run the statement in the message on the legacy database as a superuser, or use a role that owns the tables.",
    )
    yield ErrorKind(
        "TARGET_UNREACHABLE",
        connection,
        "The target database, or the API before it, did not answer.",
        "Check host, port, network and TLS of connection `supabase_db` (or `supabase`), then clear the failed task.",
        transient=True,
    )
    yield ErrorKind(
        "TARGET_LOGIN_REFUSED",
        connection,
        "The target database refused the login.",
        "Correct user, password or database name of connection `supabase_db`, then clear the failed task.",
    )
    yield ErrorKind(
        "TARGET_QUERY_FAILED",
        connection,
        "A statement sent to the target database failed.",
        "Look the SQLSTATE up in the PostgreSQL manual; the batch was rolled back whole. Then clear the task.",
    )
    yield ErrorKind(
        "TARGET_INTERRUPTED",
        connection,
        "The connection to the target broke, or the server ended the transaction (deadlock, lock timeout, shutdown).",
        "Nothing to do while retries remain; the batch was rolled back whole. Then clear the failed task.",
        transient=True,
    )
    yield ErrorKind(
        "TARGET_PLAINTEXT",
        config,
        "The connection to the target would not be encrypted: key and patients' data would cross a network readable.",
        "Use an https address in connection `supabase`, or sslmode require (better: verify-full) in connection "
        '`supabase_db`. Where that cannot be, allow it: "allow_plaintext": true in the connection\'s extra.',
    )
    yield ErrorKind(
        "TARGET_KEY_REFUSED",
        api,
        "The target's API refused the key, or the key is not a service key.",
        "Put the project's service key (secret or service_role, not publishable or anon) into connection `supabase` "
        "or SUPABASE_SERVICE_ROLE_KEY, then clear the failed task.",
    )
    yield ErrorKind(
        "TARGET_SCHEMA_NOT_EXPOSED",
        config,
        "The schema migration_api is not among those that the target's API exposes.",
        "Add it: Dashboard, Project Settings, Data API, Exposed schemas; with the Supabase CLI in config.toml, "
        "`[api] schemas`. Only the service key may call what it holds. Then clear the failed task.",
    )
    yield ErrorKind(
        "TARGET_NO_API",
        api,
        "What answers at the address of connection `supabase` is not the API of a Supabase project.",
        "Compare the address with the project's URL in the dashboard; a proxy in between, a login page or a paused "
        "project may answer too. Then clear the failed task.",
    )
    yield ErrorKind(
        "TARGET_REQUEST_TOO_LARGE",
        api,
        "A single row is larger than the target's API takes.",
        "Load over the direct connection `supabase_db` (load_via=postgres), which has no such limit.",
    )
    yield ErrorKind(
        "TARGET_PLATFORM_MISSING",
        config,
        "The target is not a Supabase database: roles or schemas that Supabase provides are absent.",
        "Point `supabase_db` at a Supabase database; on a plain PostgreSQL run "
        "include/sql/platform/supabase_platform.sql once as a superuser.",
    )
    yield ErrorKind(
        "TARGET_SCHEMA_MISSING",
        config,
        "The target's schema is not deployed as this version needs it, and the Supabase client cannot deploy it.",
        "Write the files with `python -m local.schema --out supabase/migrations` and apply them with "
        "`supabase db push` or in the SQL editor, in order; or configure `supabase_db`, then a run deploys itself.",
    )
    yield ErrorKind(
        "TARGET_SCHEMA_CHANGED",
        config,
        "A schema file that was already deployed differs from the one recorded in the target.",
        "Never edit a released file: restore it from version control and put the change into a new file.",
        retry_safe=False,
    )
    yield ErrorKind(
        "TARGET_SCHEMA_FOREIGN",
        config,
        "The target holds tables of ours that this tool did not deploy.",
        "Use an empty database, or move the listed tables away: they are never overwritten.",
        retry_safe=False,
    )
    yield ErrorKind(
        "TARGET_DIMENSIONS",
        config,
        "The target's vector columns have another number of dimensions than the embedding provider.",
        "Choose the provider the target was deployed for, or run with enable_ai=false.",
    )


def _of_runs() -> Iterable[ErrorKind]:
    config, data, transform = Category.CONFIGURATION, Category.DATA_VALIDATION, Category.TRANSFORMATION
    yield ErrorKind(
        "NO_FULL_RUN",
        config,
        "No full migration was ever completed, so there is nothing that changes could be compared with.",
        "Trigger `mdw_full_migration` (dry_run=false, all entities), or allow_initial_full=true here.",
    )
    yield ErrorKind(
        "RUN_STOPPED",
        data,
        "Another task of this run failed, and fail_fast stops the rest.",
        "Repair the first failed task (the report names it), then clear it together with what follows it.",
    )
    yield ErrorKind(
        "RUN_STATE_MISSING",
        config,
        "The tracking tables know nothing of this run.",
        "Clear `preparation.open_run` and what follows it, or trigger a new run.",
    )
    yield ErrorKind(
        "RUN_LOCKED",
        config,
        "Another run is migrating into this target, and only one may at a time.",
        "Wait for the named run to end, then trigger again. If it waits for approval, answer it there (Required "
        "Actions, docs/approval.md). If it is dead, mark it as failed in the Airflow that "
        "started it: the next run there then takes the lock over at once, any other one when it has given no sign "
        "of life for MIGRATION_LOCK_GRACE_SECONDS.",
    )
    yield ErrorKind(
        "NOT_MERGED",
        Category.DATA_VALIDATION,
        "The merge of a row was to be undone, but the row is not merged into another one.",
        "Compare the legacy id with `migration.merges`: rows in force have no `undone_at`. If it is undone already, "
        "nothing is left to do. To part a whole cluster, name the merged rows, not their survivor.",
    )
    yield ErrorKind(
        "RUN_LOST",
        config,
        "This run gave no sign of life for too long, and its lock was taken from it; it wrote nothing since.",
        "Trigger a new run when the present one has ended: it does what is missing.",
    )
    yield ErrorKind(
        "RUN_SUPERSEDED",
        config,
        "Another run has loaded since this one failed, so what this one has staged is out of date.",
        "Trigger a new run: it does what is missing.",
    )
    yield ErrorKind(
        "RUN_CODE_CHANGED",
        config,
        "The code or the mapping is another one than this run was opened with, and a run never mixes two.",
        "Trigger a new run: it does what is missing, for every row remembers what it was made by.",
    )
    yield ErrorKind(
        "STORAGE_UNWRITABLE",
        config,
        "The place for staged files, for reports or for logs cannot be written.",
        "Let MIGRATION_STAGING_URI and MIGRATION_REPORT_URI name a folder or bucket that the workers may write, and "
        "MIGRATION_LOG_DIR a local folder.",
    )
    yield ErrorKind(
        "STORAGE_FULL",
        config,
        "There is no room left where rows are staged.",
        "Make room there, or let MIGRATION_STAGING_URI name a larger disk or a bucket and trigger a new run; with "
        "more room in the same place, clear the failed task together with what follows it.",
    )
    yield ErrorKind(
        "STAGING_MISSING",
        transform,
        "A staged file that this step reads is gone.",
        "Trigger a new run: what was loaded is remembered row by row and is not written again.",
    )
    yield ErrorKind(
        "TRANSFORM_FAILED",
        transform,
        "A rule of an entity failed on a whole batch.",
        "This is a defect of the rule named in the message: mend it, then clear the transformation task.",
    )
    yield ErrorKind(
        "MATCH_WORKER_ENDED",
        transform,
        "A process that compared people ended before it was done.",
        "It was killed, mostly for want of memory. Give the worker more memory, or raise `match_shares` so that tasks "
        "on several machines share the work; then clear the deduplication task.",
    )
    yield ErrorKind(
        "MATCH_MODEL_OUTDATED",
        transform,
        "What matching learnt earlier was learnt by another version of it, or from other columns.",
        "Run a full migration, or clear the deduplication task: it learns anew from all rows.",
    )
    yield ErrorKind(
        "TOO_MANY_REJECTED",
        data,
        "A larger share of an entity's rows was rejected than max_rejected allows.",
        "Look at migration.quarantine for the codes; repair the cause, or raise max_rejected; then trigger a new run,"
        " which tries the rows in quarantine again. A cleared task would not: its batch is done.",
    )
    yield ErrorKind(
        "TOO_MANY_DELETED",
        data,
        "A larger share of an entity's rows is gone from the source than max_deleted allows; nothing was written.",
        "Find out why they are gone: a wrong source, a restored backup, a clean-up? If it is right, trigger again "
        "with a higher max_deleted.",
    )
    yield ErrorKind(
        "FOREIGN_WRITES",
        data,
        "Rows of the target are not as this migration wrote them: somebody else changed, added or removed some.",
        "migration.differences names rows and columns. Find out who wrote; then trigger again with foreign_writes=keep "
        "to leave them as they are, or with foreign_writes=overwrite to load them again.",
    )
    yield ErrorKind(
        "CHECKS_FAILED",
        data,
        "Validation found the target different from what the source demands.",
        "Open the report: every failed check lists what was expected, what was found and sample keys. Once the cause "
        "is known, a run of `mdw_incremental_migration` with repair loads the rows that differ again, and no others.",
    )


def _of_rollback() -> Iterable[ErrorKind]:
    config, data = Category.CONFIGURATION, Category.DATA_VALIDATION
    yield ErrorKind(
        "RUN_ROLLED_BACK",
        config,
        "This run was rolled back: what it did is undone, and it is not taken up again.",
        "Trigger a new run: it does what is to be done.",
        retry_safe=False,
    )
    yield ErrorKind(
        "ROLLBACK_RUN_UNKNOWN",
        config,
        "There is no such run to be rolled back: the target does not know it, or it was a dry run and wrote nothing.",
        "Take the id from the run's report or from `migration.runs` (column run_id, dry_run false).",
    )
    yield ErrorKind(
        "ROLLBACK_BLOCKED",
        data,
        "Something was built on what the run wrote: later runs, or rows of others that refer to its rows.",
        "Later runs: roll back the newest of them first, or all at once with with_later_runs=true. Rows of others: "
        "remove them, or let them refer to something else, then clear the task.",
    )
    yield ErrorKind(
        "ROLLBACK_FOREIGN_WRITES",
        data,
        "Somebody else has changed or removed rows since the run wrote them.",
        "Find out who wrote, and whether it may be lost. If so, trigger again with overwrite_foreign=true: columns "
        "the run wrote are put back, others are left as they are.",
    )
    yield ErrorKind(
        "ROLLBACK_IMPOSSIBLE",
        data,
        "The run cannot be rolled back any more: what it replaced is not kept, or people have undone merges since.",
        "Nothing was changed. Restore a backup of the target, or correct the source and trigger a full run: it makes "
        "the target what the source is.",
        retry_safe=False,
    )


def _of_preflight() -> Iterable[ErrorKind]:
    yield ErrorKind(
        "PREFLIGHT_FAILED",
        Category.CONFIGURATION,
        "Something that a migration relies on is not as it must be; nothing was written.",
        "The table above these lines ends with the checks that failed, each with its fix (also in preflight.json of "
        "the report folder; docs/preflight.md lists all checks). Mend them, then trigger the preflight again.",
    )


def _of_review() -> Iterable[ErrorKind]:
    data = Category.DATA_VALIDATION
    yield ErrorKind(
        "REVIEW_ENTITY_UNKNOWN",
        data,
        "There is no review for this entity: its rows are never merged, or it is not known.",
        "Name one of the entities in the message.",
    )
    yield ErrorKind(
        "REVIEW_PAIR_UNKNOWN",
        data,
        "A decision is about a pair that was never found, or about a row that is gone; no decision was kept.",
        "Compare the two legacy ids with the queue (`python -m plugins.review list`), correct or remove the named "
        "lines and import again.",
    )
    yield ErrorKind(
        "REVIEW_DECISION_INVALID",
        data,
        "A decision cannot be used as it is; no decision was kept.",
        "Write `confirm`, `reject` or `reopen` and a reason on the named lines, one decision for a pair, then import "
        "again.",
    )
    yield ErrorKind(
        "REVIEW_PAIR_CHANGED",
        data,
        "A pair changed since it was shown, on the page or in a file, so the decision is about something else; "
        "none was kept.",
        "Look at the named pairs anew: the page shows them as they are now, a file is to be exported again (the other "
        "lines can be copied over).",
    )
    yield ErrorKind(
        "REVIEW_NOTHING_TO_UNDO",
        data,
        "The last decision on this pair is somebody else's, or is undone already; nothing was changed.",
        "Look at the pair, and decide it anew where that is wanted.",
    )
    yield ErrorKind(
        "REVIEW_FILE_INVALID",
        data,
        "The file of decisions cannot be read or written.",
        "Do what the message says, then give the command again: nothing was kept.",
    )


def _of_services() -> Iterable[ErrorKind]:
    config, connection, api = Category.CONFIGURATION, Category.CONNECTION, Category.API
    yield ErrorKind(
        "EMBEDDING_KEY_REFUSED",
        api,
        "The embedding provider refused the key.",
        "Put a valid key into connection `openai_default` or OPENAI_API_KEY, then clear the failed task.",
    )
    yield ErrorKind(
        "EMBEDDING_QUOTA",
        api,
        "The embedding provider's quota is used up.",
        "Raise the quota or wait for its renewal, then clear the failed task: nothing is paid for twice.",
    )
    yield ErrorKind(
        "EMBEDDING_BUDGET",
        config,
        "The next request to the embedding provider would exceed ai_budget. What was embedded stays.",
        "Raise ai_budget and trigger a new run, which sends what is left; or leave it: rows without a vector are only "
        "not found by searches.",
    )
    yield ErrorKind(
        "EMBEDDING_BUSY",
        api,
        "The embedding provider limits the rate, is overloaded or did not answer.",
        "Nothing to do while retries remain; then wait and clear the failed task.",
        transient=True,
    )
    yield ErrorKind(
        "EMBEDDING_MODEL_UNKNOWN",
        config,
        "The embedding provider does not know the model, refuses one of its settings, or has no embeddings at this "
        "address.",
        "Correct model, dimensions or base_url in connection `openai_default` (or MIGRATION_EMBEDDING_MODEL, "
        "MIGRATION_EMBEDDING_DIMENSIONS, OPENAI_BASE_URL), then trigger a new run.",
    )
    yield ErrorKind(
        "EMBEDDING_NO_TEXT",
        Category.DATA_VALIDATION,
        "Nothing is known of a row that its document could say, so it has no vector.",
        "Nothing to do: it gets one when a column of its document (docs/field-mapping.md) is filled.",
    )
    yield ErrorKind(
        "EMBEDDING_PLAN_OUTDATED",
        config,
        "The embedding model is another one than this run planned with, and vectors of two are never mixed.",
        "Clear the entity's task `ai_enhancement.<entity>_plan` together with what follows it, or trigger a new run.",
    )
    yield ErrorKind(
        "EMBEDDING_PRICE_UNKNOWN",
        config,
        "Nobody knows what the embedding model costs, so ai_budget could not be kept.",
        "Give price_per_million_tokens (US dollars; 0 for a server of your own) in the extra of connection "
        "`openai_default`, then trigger a new run.",
    )
    yield ErrorKind(
        "EMBEDDING_BATCH_FAILED",
        api,
        "The Batch API did not do a job: it refused it as a whole, or somebody cancelled it.",
        "Look the job up in the provider's dashboard. Clear the failed task to submit it again, or trigger a new run "
        "with ai_batch_api off.",
    )
    yield ErrorKind(
        "EMBEDDING_UNTRUSTED",
        connection,
        "The certificate of the embedding provider's address is not trusted by this machine, so nothing was sent.",
        "Add the authority that signed it (a proxy's, in many companies) to the operating system's certificate store "
        "of every worker, then clear the failed task.",
    )
    yield ErrorKind(
        "EMBEDDING_REFUSED",
        api,
        "The embedding provider refused the request.",
        "Single texts that are refused are set aside and the rest goes on, so this is about all texts: look up the "
        "provider's code in the message, check model, dimensions and its limits on a request, then clear the task.",
    )
    yield ErrorKind(
        "EMBEDDING_BATCH_UNSUPPORTED",
        config,
        "The embedding provider has no Batch API at this address.",
        "Switch ai_batch_api off and trigger again: the texts are then sent directly.",
    )
    yield ErrorKind(
        "EMBEDDING_WRONG_ANSWER",
        api,
        "The provider's answer does not hold one finite vector of the right size per text; nothing was stored.",
        "Clear the failed task; if it happens again, check the model and its number of dimensions.",
        transient=True,
    )
    yield ErrorKind(
        "SEARCH_NOTHING_STORED",
        config,
        "There is nothing to search: no row of the entity has a vector.",
        "Trigger a run that is no dry run, with enable_ai on and the entity among ai_entities, then search again.",
    )
    yield ErrorKind(
        "SEARCH_OTHER_MODEL",
        config,
        "The vectors in the target are of another model than the provider here makes, so nothing near means anything.",
        "Set the provider, model and dimensions that the message says the vectors have (MIGRATION_EMBEDDING_PROVIDER, "
        "MIGRATION_EMBEDDING_MODEL, MIGRATION_EMBEDDING_DIMENSIONS), or trigger a run: it embeds with those set now.",
    )

    yield ErrorKind(
        "FILES_SETTING_INVALID",
        config,
        "A setting about the legacy files cannot be used.",
        "Correct the variable named in the message (README, '3D files').",
    )
    yield ErrorKind(
        "FILES_ROOT_UNREADABLE",
        connection,
        "The place of the legacy files cannot be read at all, so no file was looked for.",
        "Let MIGRATION_FILES_URI name a folder or address that every worker may read, then clear the failed task; "
        "or unset it: then the manifest alone is written.",
    )
    yield ErrorKind(
        "FILES_SOURCE_INTERRUPTED",
        connection,
        "Reading a legacy file broke off.",
        "Nothing to do while retries remain; then check the place of the files and clear the failed task: what was "
        "copied is not copied again.",
        transient=True,
    )
    yield ErrorKind(
        "FILES_KEY_REFUSED",
        api,
        "Supabase Storage refused the service key.",
        "Put the project's service key into connection `supabase` or SUPABASE_SERVICE_ROLE_KEY, then clear the task.",
    )
    yield ErrorKind(
        "FILES_BUCKET_MISSING",
        api,
        "The bucket is gone from Supabase Storage.",
        "Clear the failed task together with `plan_files`, which makes the bucket anew.",
    )
    yield ErrorKind(
        "FILES_BUCKET_PUBLIC",
        config,
        "The bucket for the files is public: everybody who knows or guesses a key could read patients' data.",
        "Make it private (Supabase dashboard, Storage, edit bucket), then clear the failed task.",
    )
    yield ErrorKind(
        "FILES_STORAGE_BUSY",
        api,
        "Supabase Storage limits the rate, is overloaded or did not answer.",
        "Nothing to do while retries remain; then wait and clear the failed task: what was copied is not copied again.",
        transient=True,
    )
    yield ErrorKind(
        "FILES_STORAGE_REFUSED",
        api,
        "Supabase Storage refused a request that is right by its documentation.",
        "Look the status and code up in Storage's error codes; check that the address is that of a Supabase project.",
    )


def _of_faults() -> Iterable[ErrorKind]:
    yield ErrorKind(
        "UNEXPECTED",
        Category.TRANSFORMATION,
        "Something happened that this tool does not expect: most likely a fault of its own.",
        "Report type and place as the message names them, with the version of the code; the text of the exception is "
        "left out, for it may quote a row. What was committed stays; once the cause is gone, clear the failed task.",
    )


def _of_approval() -> Iterable[ErrorKind]:
    config = Category.CONFIGURATION
    yield ErrorKind(
        "APPROVAL_REJECTED",
        config,
        "Who was asked to approve what loading would do has rejected it; nothing was written to the business tables.",
        "Ask the person named in the message for the reason, correct source, mapping or parameters, and trigger a new "
        "run. To ask again for the same, clear `approval.gate`; nothing before it is done again.",
    )
    yield ErrorKind(
        "APPROVAL_TIMED_OUT",
        config,
        "Nobody answered in time whether the run may load; nothing was written to the business tables.",
        "Trigger a new run, which reads the source as it is now; or clear `approval.gate` to be asked again. "
        "MIGRATION_APPROVAL_DAYS says how long a run waits.",
    )
    yield ErrorKind(
        "APPROVAL_UNATTENDED",
        config,
        "The run must be approved by a person, but `airflow dags test` has nobody to ask; nothing was written to the "
        "business tables.",
        "Look at the numbers in the log of `approval.numbers`. Then repeat the run with MIGRATION_APPROVE=yes in the "
        "environment, which approves them, or =wait, where an Airflow over the same metadata database serves the pages "
        "to answer in. Otherwise trigger the run there.",
    )


REGISTRY: dict[str, ErrorKind] = {
    kind.code: kind
    for kinds in (
        _of_systems,
        _of_runs,
        _of_rollback,
        _of_preflight,
        _of_review,
        _of_approval,
        _of_services,
        _of_faults,
    )
    for kind in kinds()
}


class MigrationError(Exception):
    """An error from the registry, with the facts of this occurrence.

    Raise it with ``from None`` where the cause could quote a row's values (database drivers do).

    Args:
        code: a key of :data:`REGISTRY`; a ``KeyError`` says that it is not registered.
        detail: one sentence of what exactly happened here; no value of a row.
        facts: where it happened (``entity="patients"``, ``batch="p000-b0003"`` …).
    """

    def __init__(self, code: str, detail: str, **facts: object) -> None:
        self.kind = REGISTRY[code]
        self.detail = detail
        self.facts = facts
        super().__init__(self._text())

    @property
    def code(self) -> str:
        """The stable code, the heading of its section in the runbook."""
        return self.kind.code

    @property
    def transient(self) -> bool:
        """Whether the run retries this by itself."""
        return self.kind.transient

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call the class with the finished text alone.
        return _rebuild, (self.kind.code, self.detail, self.facts)

    def about(self, **facts: object) -> MigrationError:
        """The same with more facts; what it says already stays."""
        return MigrationError(self.code, self.detail, **{**facts, **self.facts})

    def _text(self) -> str:
        where = ", ".join(f"{name}={value}" for name, value in self.facts.items())
        retry = "retrying is safe" if self.kind.retry_safe else "retrying will not help and may do harm"
        lines = [f"[{self.kind.code}] {self.kind.meaning} {self.detail}".rstrip()]
        if where:
            lines.append(f"  where: {where}")
        lines.append(f"  retry: {'automatic' if self.kind.transient else 'not automatic'}; {retry}")
        lines.append(f"  next:  {self.kind.next_step}")
        return "\n".join(lines)


def _rebuild(code: str, detail: str, facts: dict[str, object]) -> MigrationError:
    return MigrationError(code, detail, **facts)


def raised_by_target(code: str, detail: str) -> MigrationError:
    """The error that a function of the target raised by its registered code (migration.refuse)."""
    return MigrationError(code, detail)
