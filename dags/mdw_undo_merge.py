"""Undoing merges: rows that turned out to be no duplicates."""

from __future__ import annotations

from airflow.sdk import DAG

from plugins.operators.undo_merge import UndoMergeOperator, form

MANUAL = """
### Undo merges: two people that were taken for one

Parts merged patients from their survivor, as if they had never been merged: the row is live again, its cases and
whatever else refers to it come back, the survivor gives back what it was filled with, and its other merged rows stay.
The row is rejected as a duplicate of every row it was merged with, so that no later run merges it with one of them
again. Only the target is written; the legacy database is not needed.

**Before you start.** Find the legacy ids of the merged rows, not of their survivor. For a patient in the target:
`SELECT legacy_id FROM migration.id_map WHERE survivor_id = '<id of the survivor>'`. Two rows that wait in the review
queue are not merged: reject the pair there. No migration may be under way, and none starts in between.

**Params.** `entity`: what was merged. `legacy_ids`: the merged rows, one a line. `decided_by` and `reason`: kept beside
the rejected pairs; both are shown in Airflow, so the reason names no patient. `load_via`: as in `mdw_full_migration`.

**What follows.** Nothing has to be run. The next migration embeds the documents anew that changed. To merge the rows
again, confirm the pair in the review queue; the next migration does it.

**When the task is red.** Nothing was written: of several rows all are parted or none. Its last lines say what to do.

* `NOT_MERGED`: the named row is no merged one: the survivor itself, parted before, or a mistyped id.
* `RUN_LOCKED`: the named migration is under way. Wait for its end, then press *Clear Task Instance*.
* `PARAM_INVALID`, `PARAM_UNKNOWN`: *Trigger* again with what the message asks for.
* `TARGET_SCHEMA_MISSING`: the target was deployed by another version; a run of the full migration brings it up to date.
"""


with DAG(
    dag_id="mdw_undo_merge",
    description="Part patients that were merged by mistake",
    doc_md=MANUAL,
    schedule=None,
    catchup=False,
    params=form(),
    tags=["mdw", "review"],
    render_template_as_native_obj=True,
):
    UndoMergeOperator(task_id="undo_merge")
