"""Preflight: everything that a migration relies on, asked before one is started."""

from __future__ import annotations

from airflow.sdk import DAG

from plugins.form import form, manual
from plugins.operators.preflight_checks import (
    AIChecksOperator,
    EstimateChecksOperator,
    SettingsChecksOperator,
    SourceChecksOperator,
    StorageChecksOperator,
    TargetChecksOperator,
    VerdictOperator,
)

MANUAL = """
### Preflight: is everything ready for a migration?

Asks the source, the target, the places of files and the embedding provider what a run relies on, in seconds.
Nothing is written but the report, and a probe where rows are staged: both databases are read in read-only
transactions, nothing is deployed, no run is opened, no lock is taken. It may run at any time, also beside a
migration.

**Before you start.** Nothing is needed. Give it the very params that the run is to have.

**How to read it.** The last lines of the log of `verdict` are a table: what passed, what could not be asked, what
warns, and at the end what failed, each with why and the exact fix. `preflight.json` in the report folder holds the
same for programs. docs/preflight.md lists every check.

* *pass*: as it should be. *skipped*: could not be asked, because something else failed or is switched off.
* *warn*: a run works; somebody should know.
* *fail*: a run would stop, or do harm. `verdict` is red then, with `[PREFLIGHT_FAILED]`.

**When `verdict` is red.** Mend what its last lines name, then *Trigger* again. When another task is red, the
machine failed, not a check: read its log, then *Clear Dag Run* with *Clear only failed tasks*. Its checks count as
failed.

The embedding provider is asked to embed the word *preflight*: with OpenAI that costs less than a millionth of a
dollar, and nothing where `ai_budget` is 0, for then it is not asked.

**Params**: those of `mdw_full_migration` (default in brackets). `dry_run` and the approval change nothing here.

"""


with DAG(
    dag_id="mdw_preflight",
    description="Is everything ready for a migration? Asks, and changes nothing",
    doc_md=MANUAL + manual("full"),
    schedule=None,
    catchup=False,
    params=form("full"),
    tags=["mdw", "migration"],
    render_template_as_native_obj=True,
):
    settings = SettingsChecksOperator(task_id="settings")
    areas = [
        SourceChecksOperator(task_id="source"),
        TargetChecksOperator(task_id="target"),
        StorageChecksOperator(task_id="storage"),
        AIChecksOperator(task_id="ai"),
    ]
    settings >> areas
    asked = [area.output for area in areas]
    estimate = EstimateChecksOperator(task_id="estimate", results=asked)
    VerdictOperator(task_id="verdict", results=[settings.output, *asked, estimate.output])
