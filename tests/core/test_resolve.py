"""References follow merges; a merged row points at its survivor; contents are hashed afterwards."""

from __future__ import annotations

import pyarrow as pa

from include.core.ids import target_id
from include.core.resolve import SURVIVOR_SCHEMA, follow_survivors, split_merged, with_hashes
from include.core.rules import copy, refers
from include.core.spec import Column, Entity, Kind, OnMissing, Reference, Source, Table

SOURCE = Source(tables=(Table("dispatch_instruction", "t", {"id": Kind.INTEGER}),))
CASES = Entity(
    name="cases",
    source=SOURCE,
    columns=(
        refers("patient_id", "patients", "t.patient_id", OnMissing.REJECT),
        refers("practice_id", "practices", "t.office_id", OnMissing.CLEAR),
    ),
)
PATIENTS = Entity(
    name="patients",
    source=SOURCE,
    columns=(
        Column("name", copy("t.name")),
        Column("merged_into", copy("x"), Reference("patients", OnMissing.REJECT)),
    ),
)


def patient(key: int) -> str:
    return target_id("patients", str(key))


def survivors(*pairs: tuple[str, str]) -> pa.Table:
    return pa.table([pa.array([p[i] for p in pairs], pa.string()) for i in (0, 1)], schema=SURVIVOR_SCHEMA)


def cases(*patients: str | None) -> pa.Table:
    return pa.table(
        {
            "legacy_id": pa.array([str(n) for n in range(len(patients))], pa.string()),
            "patient_id": pa.array(patients, pa.string()),
            "practice_id": pa.array([patient(2)] * len(patients), pa.string()),
        }
    )


def test_a_reference_to_a_merged_row_names_its_survivor_and_others_stay() -> None:
    clean = cases(patient(1), patient(2), None, patient(3), "no id at all")
    resolved = follow_survivors(CASES, clean, {"patients": survivors(("2", "1"), ("3", "1"))})
    assert resolved.column("patient_id").to_pylist() == [
        patient(1),
        patient(1),
        None,
        patient(1),
        "no id at all",
    ]
    assert resolved.drop(["patient_id"]).equals(clean.drop(["patient_id"]))


def test_without_merges_nothing_changes() -> None:
    clean = cases(patient(1), None)
    for merged in ({}, {"patients": survivors()}, {"profiles": survivors(("1", "2"))}):
        assert follow_survivors(CASES, clean, merged).equals(clean)


def test_no_rows_and_many_chunks_are_resolved() -> None:
    merged = {"patients": survivors(("2", "1"))}
    assert follow_survivors(CASES, cases(), merged).num_rows == 0
    chunked = pa.concat_tables([cases(patient(2)), cases(), cases(None, patient(2))])
    found = follow_survivors(CASES, chunked, merged).column("patient_id").to_pylist()
    assert found == [patient(1), None, patient(1)]


def test_an_entity_does_not_follow_its_own_merges() -> None:
    clean = pa.table({"legacy_id": ["1"], "name": ["a"], "merged_into": pa.array([patient(2)])})
    assert follow_survivors(PATIENTS, clean, {"patients": survivors(("2", "1"))}).equals(clean)


def test_the_two_passes_split_the_rows_and_mark_the_merged() -> None:
    clean = pa.table(
        {
            "legacy_id": ["1", "2", "3"],
            "name": ["a", "b", "c"],
            "merged_into": pa.array([None] * 3, pa.string()),
        }
    )
    merged = survivors(("3", "1"), ("9", "1"))
    stay = split_merged(PATIENTS, clean, merged, only_merged=False)
    gone = split_merged(PATIENTS, clean, merged, only_merged=True)
    assert stay.equals(clean.slice(0, 2))
    assert gone.to_pylist() == [{"legacy_id": "3", "name": "c", "merged_into": patient(1)}]
    assert gone.column_names == clean.column_names


def test_without_merged_rows_the_second_pass_is_empty() -> None:
    clean = pa.table({"legacy_id": ["1"], "name": ["a"], "merged_into": pa.array([None], pa.string())})
    assert split_merged(PATIENTS, clean, survivors(), only_merged=False).equals(clean)
    assert split_merged(PATIENTS, clean, survivors(), only_merged=True).num_rows == 0
    assert split_merged(PATIENTS, clean.slice(1), survivors(("1", "2")), only_merged=True).num_rows == 0


def test_the_hash_covers_every_column() -> None:
    plain = pa.table({"legacy_id": ["1"], "a": ["x"], "b": pa.array([None], pa.string())})
    hashed = with_hashes(plain)
    assert hashed.column_names == [*plain.column_names, "content_hash"]
    hashes = {hashed.column("content_hash")[0].as_py()}
    for name, value in (("legacy_id", "2"), ("a", "y"), ("b", "")):
        changed = plain.set_column(plain.column_names.index(name), name, pa.array([value]))
        hashes.add(with_hashes(changed).column("content_hash")[0].as_py())
    assert len(hashes) == 4
    assert with_hashes(plain.slice(1)).num_rows == 0
