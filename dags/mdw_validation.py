"""Validation on its own: is the target still what the source demands?"""

from __future__ import annotations

from airflow.sdk import DAG

from plugins import phases
from plugins.form import form, manual
from plugins.schedule import schedule

MANUAL = """
### Validation: is the target still what the source demands?

Reads the source again, transforms every row anew and compares the target with it, in five levels. Nothing is
written but the results. Run it whenever you want to know: before cut-over, behind a restore, when somebody says
that something is missing. The validation phase of every migration runs the same checks.

| Level | Task | Compares |
|---|---|---|
| 1 counts | `validation.counts` | rows of the target with the rows that were loaded; documents with vectors |
| 2 key sets | `validation.key_sets` | every key of the source with the fates of rows |
| 3 content | `validation.content` | every row by fingerprint; where a bucket differs, row by row and column by column |
| 4 integrity | `validation.integrity` | references, merges, uniques, enums, own rules; row security, grants, schema |
| | | as deployed; the ledger with the audit trail |
| | `validation.embeddings`, `validation.files` | vectors with the texts of today; files in Storage byte by byte |
| 5 samples | `validation.samples` | random rows side by side, masked, in the report |

**Before you start.** A full migration was completed. No migration may be under way, and none starts meanwhile: it
would be told `[RUN_LOCKED]`. The time it takes is about that of reading the source once.

`MIGRATION_VALIDATION_SCHEDULE` (cron, UTC; default: none) schedules it.

**What it may find.** Rows of the source that changed since the last migration are no fault: they are counted as
`content_changed_since`, `keys_arrived` and `keys_left`, as warnings. `content` are rows that differ though nobody
else wrote them; `foreign_writes` rows that somebody else changed in the target. `migration.differences` lists every
row and column, without values.

**When a task is red.** Nothing was changed in the target.

* `validation.*`: open the report (or the run's tab *Migration*); each failed check has sample keys. To load what
  differs again and nothing else, *Trigger* `mdw_incremental_migration` with `repair`; with `foreign_writes` =
  overwrite also what somebody else changed. A check that could not look (its log says so): *Clear Task Instance*,
  with *Downstream*.
* `preparation.*`: the last lines of its log say what to do; nothing was compared. Repair, then *Trigger* again.
* `completion.close`: everything was compared; only the report is missing. *Clear Task Instance*.

**Params** (default in brackets). All files are read here, unless `verify_files` says otherwise.

"""


with DAG(
    dag_id="mdw_validation",
    description="Compare the target with the legacy MDW database; nothing is written",
    doc_md=MANUAL + manual("validation"),
    schedule=schedule("MIGRATION_VALIDATION_SCHEDULE"),
    catchup=False,
    params=form("validation"),
    tags=["mdw", "validation"],
    render_template_as_native_obj=True,
):
    phases.validation_alone()
