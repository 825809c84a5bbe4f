"""The full migration: everything, all phases."""

from __future__ import annotations

from airflow.sdk import DAG

from plugins import phases
from plugins.form import form

MANUAL = """
### Full migration: legacy MDW → Supabase

Moves every chosen entity from the legacy database to the target and proves that nothing was lost. Running it
again is harmless: rows that did not change are not written.

**Before you start.** Connections `legacy_mdw` (a role with SELECT is enough) and one way into the target must work:
`supabase_db` (PostgreSQL) or `supabase` (URL and service key; the schema is deployed beforehand by
`python -m local.schema` and the Supabase CLI). Files go through `supabase` either way. The
first run should be a dry run (the default): it predicts every count and writes nothing to the business tables.

**Params.** `dry_run`, `entities`, `enable_ai`, `ai_entities`, `ai_budget`, `ai_batch_api`, `embed_clinical_text`,
`batch_size`, `max_retries`, `max_rejected`, `max_deleted`, `merge_at`, `review_at`, `match_shares`, `fail_fast`,
`foreign_writes`, `repair`, `verify_files`, `samples`, `keep_staging`, `log_level`, `load_via`, `copy_files`; the form
describes each. Unknown keys are refused.

**Duplicates.** Patients that are one person with a probability of `merge_at` or more are merged, those from `review_at`
on wait for a person: docs/reviewing-duplicates.md says how to decide, and how to undo a merge. A dry run lists both
beside its report, without names.

**Embeddings.** `ai_enhancement.<entity>_plan` says how many texts, tokens and dollars are to be sent before anything
is; so does a dry run. Texts that the provider refuses do not stop the others: they are in
`migration.embedding_quarantine`, and a run with `redrive` (incremental) tries them again. With `ai_batch_api` the
tasks wait as *deferred* for hours, without a worker. docs/embeddings.md tells more.

**What others wrote.** `preparation.compare_target` looks for rows of the target that are not as they were loaded. By
default (`foreign_writes=stop`) the run ends there with `[FOREIGN_WRITES]`, before anything is written. `repair`
compares every row with the source first, and loads those that differ again. docs/validation.md tells more.

**When a task is red.**

* `preparation.*`: a parameter, a connection or a schema is not as needed; nothing was written. Read the last
  lines of its log, repair, trigger again.
* `extraction.*`, `transformation.*`: the source or a rule failed; nothing was written to the business tables.
* `deduplication.*`: patients could not be compared; nothing was written to the business tables.
* `loading.*`: one batch was rolled back whole, all others stand.
* `loading.phase_2a_files.*`: the place of the files or Supabase Storage failed; rows and what was copied stand. A file
  that is missing or broken is a finding of its project and makes nothing red.
* `ai_enhancement.*`: the embedding provider failed, or `ai_budget` is reached; loaded rows and stored vectors stand,
  and what was answered is never paid for again. After `[EMBEDDING_BUDGET]` trigger a new run with a higher budget.
* `validation.*`: the target is not what the source demands. Open the report: each failed check has sample keys; once
  the cause is known, a run of `mdw_incremental_migration` with `repair` loads what differs again. `mdw_rollback` puts
  back what a run has written.
* `completion.close`: all is loaded and checked; only the report or the record of success is missing.

From `extraction.*` on: repair, then press *Clear Dag Run* on the run's page and choose *Clear only failed tasks*.
What failed, and what the failure kept from running, runs again; finished batches are not read, loaded or embedded
again. One batch alone: open its red mapped instance, press *Clear Task Instance*, leave *Downstream* chosen. The run
then ends as completed, with a new report. Never mark a load as success by hand: validation sees what is missing, and
fails. A run whose code or mapping was changed meanwhile refuses to go on, and so does one behind which
another run has loaded: trigger a new run, it does what is missing.

Tasks of a completed run may be cleared in any order: they do nothing. To migrate again, trigger a new run.

`[RUN_STOPPED]` in a log only says that another task failed first. `completion.close` writes the report of a run that
succeeded, `completion.report` that of every other one (but for refused parameters); their logs name the place.
docs/runbook.md explains every code.

**One run at a time.** Whoever starts a second one, of this or another DAG and from wherever, is told with
`[RUN_LOCKED]` which run holds the lock, who started it and since when. The lock of a run that is dead is taken over:
at once when its process has ended or its Airflow calls it finished, else when it has given no sign of life for
`MIGRATION_LOCK_GRACE_SECONDS` (default 900). A run that lost its lock writes nothing any more.
"""


with DAG(
    dag_id="mdw_full_migration",
    description="Everything from the legacy MDW database to Supabase, with proof",
    doc_md=MANUAL,
    schedule=None,
    catchup=False,
    params=form("full"),
    tags=["mdw", "migration"],
    render_template_as_native_obj=True,
):
    phases.migration()
