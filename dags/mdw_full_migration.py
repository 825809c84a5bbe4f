"""The full migration: everything, all phases."""

from __future__ import annotations

from airflow.sdk import DAG

from plugins import phases
from plugins.form import form, manual

MANUAL = """
### Full migration: legacy MDW → Supabase

Moves every chosen entity from the legacy database to the target and proves that nothing was lost. Running it
again is harmless: rows that did not change are not written.

**Before you start**

1. Connections `legacy_mdw` (a role with SELECT is enough) and one way into the target must work: `supabase_db`
   (PostgreSQL) or `supabase` (URL and service key; the schema is deployed beforehand by `python -m local.schema`
   and the Supabase CLI). Files go through `supabase` either way.
2. Trigger `mdw_preflight` with the same params: it asks everything in seconds and names what to mend.
3. Trigger this DAG as it is, which is a dry run: it predicts every count, and writes nothing to the business
   tables.
4. Read the report. Then trigger again with `dry_run` off.

**While it runs.** The run's tab *Migration* shows progress, fates of rows, checks, quarantine, duplicates to review
and the cost of embeddings. Mapped instances are labelled with entity and key range. Who is to be told of start,
end, failure and waiting reviews is set by `MIGRATION_NOTIFY_…` (Slack, e-mail); nobody is, by default.

**Approval.** `approval.numbers` counts what loading will do: rows new, known, rejected, merged and deleted. With
`require_approval`, or where merges or deletions are more than `approve_merged_above` or `approve_deleted_above`
allow, `approval.gate` then waits in *awaiting_input*, without a worker, for up to `MIGRATION_APPROVAL_DAYS` (7).
Open *Required Actions* of the run, and press *Approve* or *Reject*. Nothing is written before; a rejection ends
the run as failed, and the report says who rejected it. Meanwhile the run keeps the lock, so no other one starts. By
command, and under `airflow dags test`: docs/approval.md.

**When a task is red**

| Task | What happened | What stands |
|---|---|---|
| `preparation.*` | a parameter, a connection or a schema is not as needed | nothing was written |
| `extraction.*`, `transformation.*` | the source or a rule failed | no business table was written |
| `deduplication.*` | patients could not be compared | no business table was written |
| `approval.gate` | somebody rejected the run, or nobody answered | no business table was written |
| `loading.*` | one batch was rolled back whole | all other batches stand |
| `loading.phase_2a_files.*` | the place of the files or Supabase Storage failed | rows and what was copied stand |
| `ai_enhancement.*` | the provider failed, or `ai_budget` is reached | rows and stored vectors stand |
| `validation.*` | the target is not what the source demands | the report has sample keys of each failed check |
| `completion.close` | only the report or the record of success is missing | all is loaded and checked |

Which button:

1. Read the last lines of the red task's log: they say what to do. docs/runbook.md explains every code.
   `[RUN_STOPPED]` only says that another task failed first.
2. `preparation.*` red: repair, then *Trigger* a new run. Params are changed by a new run only.
3. From `extraction.*` on: repair, then press *Clear Dag Run* on the run's page and choose *Clear only failed
   tasks*. What failed, and what the failure kept from running, runs again; finished batches are not read, loaded or
   embedded again.
4. One batch alone: open its red mapped instance, press *Clear Task Instance*, leave *Downstream* chosen.
5. `approval.gate` red: to be asked again, *Clear Task Instance* with *Downstream*; what was approved is not asked
   twice.
6. `validation.*` red: once the cause is known, a run of `mdw_incremental_migration` with `repair` loads what
   differs again; `mdw_rollback` puts back what a run has written. After `[EMBEDDING_BUDGET]` trigger a run with a
   higher budget.

Never mark a load as success by hand: validation sees what is missing, and fails. A run whose code or mapping was
changed meanwhile refuses to go on, and so does one behind which another has loaded: trigger a new run, it does what
is missing. Tasks of a completed run may be cleared: they do nothing. `completion.close` writes the report of a run
that succeeded, `completion.report` that of every other one (but for refused parameters); their logs name the place.

**One run at a time.** Whoever starts a second one, of this or another DAG and from wherever, is told with
`[RUN_LOCKED]` which run holds the lock, who started it and since when. The lock of a dead run is taken over: at
once when its process has ended or its Airflow calls it finished, else when it has given no sign of life for
`MIGRATION_LOCK_GRACE_SECONDS` (default 900), or has waited for approval for too long.

**More.** Duplicates: docs/reviewing-duplicates.md. Embeddings, and the Batch API, whose tasks wait as *deferred*
for hours without a worker: docs/embeddings.md. What others wrote, `repair`, proof: docs/validation.md.

**Params** (default in brackets; unknown names and values beyond the limits are refused)

"""


with DAG(
    dag_id="mdw_full_migration",
    description="Everything from the legacy MDW database to Supabase, with proof",
    doc_md=MANUAL + manual("full"),
    schedule=None,
    catchup=False,
    params=form("full"),
    tags=["mdw", "migration"],
    render_template_as_native_obj=True,
):
    phases.migration()
