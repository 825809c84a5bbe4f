"""The full migration: everything, all phases."""

from __future__ import annotations

import os

from airflow.sdk import DAG, Param, chain

from include.core.settings import params
from include.entities import ENTITIES
from plugins import phases

MANUAL = """
### Full migration: legacy MDW → Supabase

Moves every chosen entity from the legacy database to the target and proves that nothing was lost. Running it
again is harmless: rows that did not change are not written.

**Before you start.** Connections `legacy_mdw` (a role with SELECT is enough) and `supabase_db` must work. The
first run should be a dry run (the default): it predicts every count and writes nothing to the business tables.

**Params.** `dry_run`, `entities`, `enable_ai`, `batch_size`, `max_retries`, `max_rejected`, `max_deleted`,
`fail_fast`, `keep_staging`, `log_level`; the form describes each. Unknown keys are refused.

**When a task is red.**

* `preparation.*`: a parameter, a connection or a schema is not as needed; nothing was written. Read the last
  lines of its log, repair, trigger again.
* `extraction.*`, `transformation.*`: the source or a rule failed; nothing was written to the business tables.
  Repair, then *Clear* the task with *Downstream*: finished batches are not read again.
* `loading.*`: one batch was rolled back whole, all others stand. Repair, then *Clear* the task with
  *Downstream*: it goes on with its first unfinished batch.
* `ai_enhancement.*`: the embedding provider failed; loaded rows and stored vectors stand. Repair, then *Clear*
  it with *Downstream*: stored vectors are not paid for again.
* `validation.*`: the target is not what the source demands. Open the report: each failed check has sample keys.

`[RUN_STOPPED]` in a log only says that another task failed first. `completion.report` writes the report of every
run, failed or not (but for refused parameters); its log names the place. docs/runbook.md explains every code.
"""


def _form() -> dict[str, Param]:
    """The trigger form, from the same table that preparation checks against."""
    form = {}
    for param in params(ENTITIES, dry_run=True, environment=os.environ):
        limits = {"minimum": param.minimum, "maximum": param.maximum}
        schema = {key: value for key, value in limits.items() if value is not None}
        if param.kind == "array":
            schema |= {"items": {"enum": [*param.choices]}, "examples": [*param.choices]}
        elif param.choices:
            schema["enum"] = [*param.choices]
        form[param.name] = Param(
            param.default, type=param.kind, title=param.title, description=param.description, **schema
        )
    return form


with DAG(
    dag_id="mdw_full_migration",
    description="Everything from the legacy MDW database to Supabase, with proof",
    doc_md=MANUAL,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params=_form(),
    tags=["mdw", "migration"],
    render_template_as_native_obj=True,
):
    preparation, first, plans = phases.preparation()
    extraction, extracted = phases.extraction(plans)
    transformation, transformed = phases.transformation(extracted)
    loading = phases.loading(transformed)
    chain(
        preparation,
        extraction,
        transformation,
        phases.deduplication(transformed),
        loading,
        phases.ai_enhancement(plans, loading),
        phases.validation(),
        phases.completion(first),
    )
