"""Rolling a run back: the target becomes what it was before."""

from __future__ import annotations

from airflow.sdk import DAG

from plugins.operators.rollback import RollBackOperator, form

MANUAL = """
### Roll back a run: the target becomes what it was before

Rows that the run added are removed, rows that it changed or marked as deleted get their former values, its merges are
undone, its vectors dropped, and the tracking of rows is what it was: as if the run had not been. All of it in one
transaction, or nothing. Also for a run that failed or was killed half-way. Only the target is written; the legacy
database is not needed.

**Before you start.** Know the run's id: its report shows it, and `SELECT run_id, type, status, started_at FROM
migration.runs WHERE NOT dry_run ORDER BY started_at DESC`. No migration may be under way, and none starts in between;
the lock of a run that is dead is taken over. A large run takes about as long as loading it did.

**Params.** `run_id`: the run. `decided_by` and `reason`: kept with it; both are shown in Airflow, so the reason names
no patient. `with_later_runs`: runs that wrote behind it go as well, for they built on it. `overwrite_foreign`: rows
that somebody else has changed since are put back, too; columns that the run did not change keep what others wrote in
any case. `load_via`: as in `mdw_full_migration`.

**What stays.** Files in Storage; the next run finds them there. What people decided about pairs of duplicates. What was
paid for embeddings. Reports, the ledger and the audit trail of the run, which is marked `rolled_back`: it cannot be
cleared and taken up again.

**What follows.** Nothing has to be run. The next migration does what the run had done, unless the source, the mapping
or the code was corrected meanwhile; pause `mdw_incremental_migration` until it is.

**How far back.** The last 10 runs that wrote (`MIGRATION_ROLLBACK_RUNS`) can be rolled back. What they replaced is
kept in `migration.journal`; it is **health data**.

**When the task is red.** Nothing was written. Its last lines say what to do.

* `ROLLBACK_BLOCKED`: later runs have written, or rows of others refer to what would go. It names them.
* `ROLLBACK_FOREIGN_WRITES`: somebody else has changed rows since. It names entities and numbers.
* `ROLLBACK_IMPOSSIBLE`: people have undone merges since, or the run is too old.
* `ROLLBACK_RUN_UNKNOWN`: a mistyped id, or a dry run.
* `RUN_LOCKED`: the named migration is under way. Wait for its end, then press *Clear Task Instance*.
* `PARAM_INVALID`, `PARAM_UNKNOWN`: *Trigger* again with what the message asks for.
* `TARGET_SCHEMA_MISSING`: the target was deployed by another version; a run of the full migration brings it up to date.
"""


with DAG(
    dag_id="mdw_rollback",
    description="Undo what a migration run has written",
    doc_md=MANUAL,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params=form(),
    tags=["mdw", "rollback"],
    render_template_as_native_obj=True,
):
    RollBackOperator(task_id="roll_back")
