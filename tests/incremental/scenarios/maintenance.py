"""What administrators do to the source: rows move, freeze or are rewritten, their content stays."""

from __future__ import annotations

from tests.incremental.scenarios import Steps, arrives, scenario
from tests.incremental.source import Office, Patient
from tests.incremental.world import World


def _update(key: int, suffix: str) -> str:
    Patient.objects.filter(pk=key).update(suffix=suffix)
    return f"SELECT suffix FROM public.patients WHERE legacy_patient_id = {key}"


@scenario
def vacuum_freeze_around_an_update(world: World) -> Steps:
    world.source_sql("VACUUM (FREEZE)")
    query = _update(25, "vac1")
    world.source_sql("VACUUM (FREEZE)")
    yield arrives(query, ("vac1",))


@scenario
def vacuum_full_around_an_update(world: World) -> Steps:
    world.source_sql("VACUUM FULL")
    query = _update(26, "vac2")
    world.source_sql("VACUUM FULL", "VACUUM (FREEZE, FULL)")
    yield arrives(query, ("vac2",))


@scenario
def vacuum_between_nights(world: World) -> Steps:
    """A row changed, was seen, was frozen, and changes again."""
    yield arrives(_update(27, "one"), ("one",), compared=False)
    world.source_sql("VACUUM (FREEZE)", "VACUUM FULL", "ANALYZE")
    yield arrives(_update(27, "two"), ("two",))


@scenario
def cluster_and_reindex(world: World) -> Steps:
    query = _update(28, "clus")
    world.source_sql("CLUSTER dispatch_patient USING dispatch_patient_pkey", "REINDEX TABLE dispatch_state")
    yield arrives(query, ("clus",))


@scenario
def table_rewritten_by_a_schema_change(world: World) -> Steps:
    """All rows were written by another transaction; no value changed but one."""
    world.source_sql(
        "ALTER TABLE dispatch_office ALTER COLUMN name TYPE varchar(300)",
        "ALTER TABLE dispatch_office ADD COLUMN note text NOT NULL DEFAULT md5(random()::text)",
    )
    Office.objects.filter(pk=2).update(zip="0150")
    yield arrives("SELECT address ->> 'zip' FROM public.practices WHERE legacy_office_id = 2", ("0150",))


@scenario
def optional_column_appears(world: World) -> Steps:
    """dispatch_patient.price exists in older sources only; values of a new column are values of rows."""
    world.source_sql(
        "ALTER TABLE dispatch_patient ADD COLUMN price numeric(10, 2) DEFAULT 12.50",
    )
    yield arrives(
        "SELECT DISTINCT metadata ->> 'price' FROM public.patients WHERE deleted_at IS NULL", ("12.50",)
    )
