"""Level 5: rows chosen by chance, read again and set beside those of the target, masked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from include.core.tracking import Check
from include.entities import ENTITIES
from local.postgres import EmbeddedPostgres
from plugins.hooks.legacy_mdw import LegacyMdwHook
from plugins.hooks.samples import Samples
from plugins.hooks.target import open_target
from tests.conftest import Serving
from tests.hooks.test_comparison import Checked, checked, migrated

__all__ = ["checked", "migrated"]  # fixtures

RUN = "run"
EVERY = 1_000


def take(entity: str, rows: int = EVERY, run: str = RUN, way: str = "postgres") -> dict[str, Check]:
    with LegacyMdwHook().snapshot() as source, open_target(way) as target:
        return {check.name: check for check in Samples(target, run).take(ENTITIES[entity], source, rows)}


def stored(run: str = RUN) -> list[dict[str, Any]]:
    with open_target("postgres") as target:
        return Samples(target, run).stored()


def keys(run: str = RUN) -> list[str]:
    return sorted(row["legacy_id"] for row in stored(run))


def test_rows_as_they_were_loaded_are_equal_in_every_column(checked: Checked) -> None:
    """Merged rows, survivors that were filled and rows led to survivors among them."""
    for name, entity in ENTITIES.items():
        found = take(name)
        assert set(found) == {"samples"}, name
        assert (found["samples"].passed, found["samples"].level) == (True, 5), name
        rows = [row for row in stored() if row["entity"] == name]
        (known,) = checked.target.execute(
            "SELECT count(*) FROM migration.id_map WHERE entity = %s AND state IN ('live', 'merged')", [name]
        ).fetchone() or (0,)
        assert len(rows) == known > 0, name
        assert {row["outcome"] for row in rows} == {"equal"}, name
        wanted = [column.name for column in entity.columns if column.name != "merged_into"]
        assert all([column["name"] for column in row["columns"]] == wanted for row in rows), name


def test_a_repeat_takes_the_same_rows_and_another_run_others(checked: Checked) -> None:
    take("cases", 5)
    first = keys()
    take("cases", 5)
    assert keys() == first
    take("cases", 5, run="another")
    assert len(first) == len(keys("another")) == 5
    assert keys("another") != first


CORRUPTIONS = {
    "a letter": (
        "patients",
        "UPDATE public.patients SET last_name = 'Zweifelstein' WHERE legacy_patient_id = %s",
        "last_name",
        "another value",
    ),
    "NULL": (
        "patients",
        "UPDATE public.patients SET last_name = NULL WHERE legacy_patient_id = %s",
        "last_name",
        "NULL on one side",
    ),
    "a space": (
        "patients",
        "UPDATE public.patients SET last_name = last_name || ' ' WHERE legacy_patient_id = %s",
        "last_name",
        "white space",
    ),
    "a reference": (
        "cases",
        "UPDATE public.cases SET patient_id = (SELECT p.id FROM public.patients p"
        " WHERE p.id <> cases.patient_id AND p.merged_into IS NULL LIMIT 1) WHERE legacy_instruction_id = %s",
        "patient_id",
        "another value",
    ),
    "a member of JSON": (
        "cases",
        "UPDATE public.cases SET metadata = metadata - (SELECT min(k) FROM jsonb_object_keys(metadata) k)"
        " WHERE legacy_instruction_id = %s",
        "metadata",
        "another value",
    ),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_what_differs_is_named_and_nothing_is_quoted(checked: Checked, kind: str) -> None:
    entity, statement, column, how = CORRUPTIONS[kind]
    (key,) = checked.target.execute(
        "SELECT min(m.legacy_id::bigint) FROM migration.id_map m WHERE m.entity = %s AND m.state = 'live'"
        " AND m.legacy_id::bigint > 9",
        [entity],
    ).fetchone() or (0,)
    checked.spoil(statement, key)
    check = take(entity)["samples"]
    assert (check.passed, check.found, check.sample_keys, check.severity) == (False, "1", (str(key),), "fail")
    first, *others = stored()
    assert (first["legacy_id"], first["outcome"]) == (str(key), "differs")
    assert {each["name"]: each["how"] for each in first["columns"] if each["how"]} == {column: how}
    assert {row["outcome"] for row in others} == {"equal"}


def test_no_name_is_kept(checked: Checked) -> None:
    take("patients")
    take("profiles")
    kept = json.dumps(stored())
    names = checked.target.execute(
        "SELECT DISTINCT n FROM public.patients p CROSS JOIN unnest(ARRAY[p.first_name, p.last_name, p.email,"
        " p.date_of_birth::text]) n WHERE length(n) > 5"
    ).fetchall()
    assert len(names) > 50
    assert [name for (name,) in names if name in kept] == []


def test_a_row_that_is_gone_from_the_target_differs(checked: Checked) -> None:
    ((key,),) = checked.target.execute(
        "DELETE FROM public.practice_members WHERE legacy_office_doctor_id ="
        " (SELECT min(legacy_office_doctor_id) FROM public.practice_members) RETURNING legacy_office_doctor_id::text"
    ).fetchall()
    assert take("practice_members")["samples"].sample_keys == (key,)


def test_rows_that_changed_in_the_source_since_are_not_compared(checked: Checked) -> None:
    checked.source.execute("UPDATE dispatch_office SET name = 'Zweifelstein' WHERE id = 1")
    checked.source.execute(
        "DELETE FROM dispatch_office_doctors WHERE id = (SELECT min(id) FROM dispatch_office_doctors)"
    )
    checked.source.execute("UPDATE dispatch_office_doctors SET office_id = office_id")
    assert take("practices")["samples"].passed
    outcomes = {row["legacy_id"]: row["outcome"] for row in stored() if row["outcome"] != "equal"}
    assert outcomes == {"1": "changed"}
    found = take("practice_members")
    assert found["samples"].passed
    warned = found["samples_compared"]
    assert (warned.passed, warned.severity, warned.found) == (False, "warn", "0")
    outcomes_of_links = {row["outcome"] for row in stored() if row["entity"] == "practice_members"}
    assert outcomes_of_links == {"changed", "gone"}


def test_the_other_way_in_gives_the_same(
    checked: Checked, serving: Serving, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    take("cases", 20)
    expected = stored()
    with serving(server.dsn(checked.target.info.dbname)) as api:
        connection = {"conn_type": "supabase", "host": api.url, "password": api.keys.secret}
        monkeypatch.setenv("AIRFLOW_CONN_SUPABASE", json.dumps(connection))
        assert take("cases", 20, way="rest")["samples"].passed
    assert stored() == expected
