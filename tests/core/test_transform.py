"""A raw batch becomes clean rows, rejects and findings: every row has one place."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.core.ids import target_id
from include.core.rules import constant, copy, named
from include.core.spec import Batch, Column, Entity, Kind, Source, Table
from include.core.transform import FINDING_SCHEMA, REJECT_SCHEMA, Transformed, clean_schema, transform
from tests.core.examples import examples

SOURCE = Source(tables=(Table("dispatch_office", "t", {"id": Kind.INTEGER, "name": Kind.TEXT}),))


def _refusing(batch: Batch) -> pa.Array:
    batch.reject(pc.equal(batch.text("t.name"), "bad"), "value_refused", "size")
    batch.note(pc.equal(batch.text("t.name"), "bad"), "json_malformed", "size")
    batch.note(pc.equal(batch.text("t.name"), "odd"), "code_unmapped", "size")
    return pa.array(["1"] * len(batch), pa.string())


ENTITY = Entity(
    name="practices",
    source=SOURCE,
    columns=(
        Column("name", named("t.name", "name")),
        Column("size", _refusing),
        Column("kind", constant(None)),
    ),
)


def raw(*rows: tuple[str | None, str | None]) -> pa.Table:
    keys = pa.array([row[0] for row in rows], pa.string())
    names = pa.array([row[1] for row in rows], pa.string())
    versions = pa.array([f"v{key}" for key, _ in rows], pa.string())
    return pa.table({"legacy_id": keys, "t.id": keys, "t.name": names, "source_version": versions})


def rows(table: pa.Table) -> list[tuple[str | None, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def test_rows_are_named_and_typed_as_declared() -> None:
    result = transform(ENTITY, raw(("7", "A"), ("8", None)))
    assert result.clean.schema == clean_schema(ENTITY)
    assert rows(result.clean) == [
        ("7", target_id("practices", "7"), "A", "1", None, "v7"),
        ("8", target_id("practices", "8"), None, "1", None, "v8"),
    ]
    assert rows(result.findings) == [("8", "name_empty", "name")]
    assert rows(result.rejects) == []


def test_a_rejected_row_keeps_its_raw_content_and_leaves_no_finding() -> None:
    result = transform(ENTITY, raw(("7", "bad"), ("8", "odd")))
    assert result.clean.column("legacy_id").to_pylist() == ["8"]
    assert rows(result.findings) == [("8", "code_unmapped", "size")]
    [(legacy_id, code, column, payload)] = rows(result.rejects)
    assert (legacy_id, code, column) == ("7", "value_refused", "size")
    assert json.loads(payload or "") == {"legacy_id": "7", "t.id": "7", "t.name": "bad"}


def test_rows_without_a_key_and_repetitions_are_rejected() -> None:
    result = transform(ENTITY, raw(("7", "first"), (None, "A"), ("7", "second"), (None, "B"), ("7", "bad")))
    assert rows(result.clean.select(["legacy_id", "name"])) == [("7", "first")]
    found = [(row[0], row[1], json.loads(row[3] or "")["t.name"]) for row in rows(result.rejects)]
    assert sorted(found) == [
        ("", "key_missing", "A"),
        ("", "key_missing", "B"),
        ("7", "key_repeated", "bad"),
        ("7", "key_repeated", "second"),
    ]


@pytest.mark.parametrize(
    "empty",
    [raw(), raw(("7", "A")).slice(1), raw().schema.empty_table(), pa.table(raw().schema.empty_table())],
)
def test_a_batch_of_no_rows_gives_empty_tables_of_the_same_form(empty: pa.Table) -> None:
    result = transform(ENTITY, empty)
    assert (result.clean.num_rows, result.clean.schema) == (0, clean_schema(ENTITY))
    assert (result.rejects.num_rows, result.rejects.schema) == (0, REJECT_SCHEMA)
    assert (result.findings.num_rows, result.findings.schema) == (0, FINDING_SCHEMA)


ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-3, 5).map(str),
        st.sampled_from([None, "", "bad", "odd", "a"]) | st.text(max_size=3).filter(lambda t: "\0" not in t),
    ),
    max_size=25,
)


def as_sets(result: Transformed) -> tuple[list[tuple[str | None, ...]], ...]:
    return tuple(sorted(rows(t), key=repr) for t in (result.clean, result.rejects, result.findings))


@examples(150)
@given(ROWS, st.lists(st.integers(0, 25), max_size=4))
def test_every_row_is_clean_or_rejected_however_the_batch_is_chunked(
    batch: list[tuple[str | None, str | None]], cuts: list[int]
) -> None:
    whole = raw(*batch)
    result = transform(ENTITY, whole)
    assert result.clean.num_rows + result.rejects.num_rows == len(batch)
    kept = result.clean.column("legacy_id").to_pylist()
    assert len(set(kept)) == len(kept)
    assert None not in kept
    assert set(result.findings.column("legacy_id").to_pylist()) <= set(kept)
    for _, code, column, payload in rows(result.rejects):
        assert code in {"key_missing", "key_repeated", "value_refused"}
        assert column
        assert json.loads(payload or "").keys() == {"legacy_id", "t.id", "t.name"}
    edges = [0, *sorted(min(cut, len(batch)) for cut in cuts), len(batch)]
    pieces = [whole.slice(low, high - low) for low, high in itertools.pairwise(edges)]
    assert as_sets(transform(ENTITY, pa.concat_tables(pieces))) == as_sets(result)


def test_a_shape_makes_the_rows_that_are_migrated() -> None:
    def shape(table: pa.Table) -> pa.Table:
        return table.group_by("legacy_id", use_threads=False).aggregate([("t.name", "count")])

    entity = Entity(
        name="practices",
        source=replace(SOURCE, group_by="t.id"),
        shape=shape,
        columns=(Column("n", lambda batch: batch.raw.column("t.name_count").cast(pa.string()).chunk(0)),),
    )
    result = transform(entity, raw(("1", "a"), ("1", "b"), ("2", None)))
    assert rows(result.clean.select(["legacy_id", "n"])) == [("1", "2"), ("2", "0")]


def test_a_rule_that_fails_fails_the_batch() -> None:
    entity = Entity(name="cases", source=SOURCE, columns=(Column("x", copy("no such column")),))
    with pytest.raises(KeyError):
        transform(entity, raw(("1", "a")))
    with pytest.raises(ValueError, match="not a whole number"):
        transform(ENTITY, raw(("1.0", "a")))
