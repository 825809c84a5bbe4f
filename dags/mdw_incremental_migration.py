"""The incremental migration: what changed since, every night until cut-over."""

from __future__ import annotations

from airflow.sdk import DAG

from plugins import phases
from plugins.form import form, manual
from plugins.schedule import schedule

MANUAL = """
### Incremental migration: what changed in the legacy MDW → Supabase

Runs every night until cut-over. It leaves the target as a fresh full migration of the same source would, and
writes only what changed: inserted, updated and deleted rows, however the source was written to, the rows
derived from them, and those that refer to them. A night without changes writes nothing.

**How it knows.** Every loaded row remembers the version of the source row it came from, and what it was
transformed by. Preparation compares all versions; rows that differ, wait in quarantine or were made by other
rules are read again. A row's version is stored together with the row, so a run that breaks off leaves exactly
the rest to the next one. No timestamp and no date of a schedule plays a part: scheduled, manual and
`airflow dags test` runs are the same. The source needs a role with SELECT, nothing is created or locked there.

**Before you start.** A full migration must have been completed (`dry_run` off, all entities); else the run stops
with `NO_FULL_RUN`, or loads everything with `allow_initial_full`. The schedule is the environment variable
`MIGRATION_SCHEDULE` (cron, UTC; default `0 2 * * *`; `none` for manual runs only). Missed nights are not caught
up one by one: one run sees all changes. Unpause the DAG to start the schedule.

**Nobody is there at night.** `require_approval` is off, but a night that would merge or delete much waits for a
person all the same (`approve_merged_above`, `approve_deleted_above`): open *Required Actions* of the run,
*Approve* or *Reject*. With both at 1 no night ever waits. `MIGRATION_NOTIFY_…` says who is told.

**What the report may say on top.** *The source was restored or failed over*: stored versions are worth nothing
then, so everything was compared. *A session holds the horizon back*: a transaction has been open for long in
the source; what it writes is seen by the first run after its commit, and lost by none.

**When a task is red.** The same as in `mdw_full_migration`: see its manual. Two codes are likelier here:

* `TOO_MANY_DELETED` in `preparation.plan.*`: more of an entity's rows are gone than `max_deleted` allows (5 %, and
  more than 50). Nothing was written. Look into the source; if it is right, trigger once with a higher share.
* `RUN_LOCKED` in `preparation.deploy_target`: another run, full or incremental, is under way or waits for approval.
  The message names it.

For all others: read the last lines of the log, repair, then *Clear Dag Run* with *Clear only failed tasks*; or let
the next night do what is missing.

**Params** (default in brackets). `redrive` retries the rows in quarantine and nothing else; every other run retries
them too, and rows that only waited for a parent need no retry of their own.

"""

with DAG(
    dag_id="mdw_incremental_migration",
    description="What changed in the legacy MDW database since the last run, nightly",
    doc_md=MANUAL + manual("incremental"),
    schedule=schedule("MIGRATION_SCHEDULE", "0 2 * * *"),
    catchup=False,
    params=form("incremental"),
    tags=["mdw", "migration"],
    render_template_as_native_obj=True,
):
    phases.migration()
