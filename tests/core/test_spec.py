"""What a declaration refuses, and how a batch is read."""

from __future__ import annotations

import pyarrow as pa
import pytest

from include.core.rules import copy, refers
from include.core.spec import (
    Batch,
    Column,
    Embeddings,
    Entity,
    Expression,
    Kind,
    Merge,
    OnMissing,
    Reference,
    Source,
    Table,
    columns_of,
)
from include.embedding.documents import DocumentSpec
from include.embedding.sentences import DocumentColumn

FIRST = Table("a", "t", {"id": Kind.INTEGER, "name": Kind.TEXT}, optional={"late": Kind.DATE})
JOINED = Table("b", "j", {"id": Kind.INTEGER}, join="j.id = t.id", sql="(SELECT 1 AS x)", outputs=("x",))


def test_raw_columns_come_in_the_order_of_the_query() -> None:
    hidden = Table("c", "h", {"id": Kind.INTEGER})
    source = Source(tables=(FIRST, JOINED), expressions=(Expression("n", "(SELECT 1)", (hidden,)),))
    assert source.raw_columns == ("legacy_id", "t.id", "t.name", "t.late", "j.x", "n", "source_version")
    assert source.all_tables() == (FIRST, JOINED, hidden)
    assert columns_of(FIRST) == {"id": Kind.INTEGER, "name": Kind.TEXT, "late": Kind.DATE}


def test_only_the_order_of_reading_can_be_the_group() -> None:
    assert Source(tables=(FIRST,), partition_by="t.name", group_by="t.name").group_by == "t.name"
    with pytest.raises(ValueError, match="partition_by"):
        Source(tables=(FIRST,), group_by="t.name")


def test_parents_are_other_entities_each_once() -> None:
    entity = Entity(
        "cases",
        Source(tables=(FIRST,)),
        (
            refers("b", "profiles", "t.id", OnMissing.CLEAR),
            refers("a", "patients", "t.id", OnMissing.REJECT),
            refers("c", "profiles", "t.id", OnMissing.CLEAR),
            Column("d", copy("t.id"), Reference("cases", OnMissing.CLEAR)),
            Column("e", copy("t.name"), health=True),
        ),
    )
    assert entity.parents == ("patients", "profiles")
    assert list(entity.references) == ["b", "a", "c", "d"]
    assert entity.health_columns == {"e"}


def test_what_describes_a_row_is_filled_when_rows_are_merged_and_what_tells_about_it_is_not() -> None:
    columns = (
        Column("legacy_id", copy("t.id")),
        Column("name", copy("t.name")),
        Column("state", copy("t.name"), merge=Merge.SURVIVOR),
        Column("merged_into", copy("t.name")),
        Column("metadata", copy("t.name")),
        Column("updated_at", copy("t.name")),
    )
    entity = Entity("patients", Source(tables=(FIRST,)), columns, deduplicate=True)
    assert [name for name, rule in entity.merge_rules.items() if rule is Merge.FILL] == ["name"]
    assert Entity("cases", Source(tables=(FIRST,)), columns).merge_rules == {}


def test_a_document_that_reads_health_data_cannot_be_declared() -> None:
    document = DocumentSpec("cases", "notes", (DocumentColumn("t.name", "Called"),))
    with pytest.raises(ValueError, match=r"health data: t\.name"):
        Entity(
            "cases",
            Source(tables=(FIRST,)),
            (Column("name", copy("t.name"), health=True),),
            embeddings=Embeddings("case_embeddings", "case_id", document),
        )


def test_a_batch_reads_columns_of_any_number_of_chunks() -> None:
    column = pa.chunked_array([["1"], [], ["2", None]], pa.string())
    batch = Batch(pa.table({"legacy_id": column}))
    assert len(batch) == 3
    assert batch.text("legacy_id").to_pylist() == ["1", "2", None]
    empty = Batch(pa.table({"legacy_id": pa.chunked_array([], pa.string())}))
    assert (len(empty), empty.text("legacy_id")) == (0, pa.array([], pa.string()))
