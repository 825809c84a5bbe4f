"""All entities against each other and against the target as PostgreSQL knows it once it is deployed."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from include.core.copytext import format_rows
from include.core.spec import Entity, OnMissing
from include.core.transform import transform
from include.embedding.sentences import Kind as Words
from include.entities import ENTITIES
from local.postgres import EmbeddedPostgres
from plugins.hooks.target_schema import deploy_schema
from tests.conftest import fresh_database
from tests.entities.tables import raw_table

DIMENSIONS = 8
# What the target's rows have beside what an entity makes.
OWN = {"id", "created_at", "updated_at", "deleted_at"}
# Declared in docs/target-schema.md, but the source has nothing for them.
WITHOUT_SOURCE = {
    "profiles": {"auth_user_id"},
    "patients": {"phone", "address", "insurance_info", "emergency_contact"},
    "cases": {"description", "priority"},
    # What became of the file is written by whoever copies it.
    "projects": {"storage_status", "checksum", "mime_type", "parent_project_id"},
    "instruction_states": {"notes"},
    "workflow_templates": {"description", "case_type", "active"},
}
HEALTH = re.compile(
    r"username|first_name|last_name|e?mail|date_of_birth|gender|medical|clinical|schemes|metadata"
)
each_entity = pytest.mark.parametrize("entity", ENTITIES.values(), ids=ENTITIES.keys())


@dataclass(frozen=True)
class TargetColumn:
    """A column of the deployed target."""

    type_name: str
    is_enum: bool
    not_null: bool
    references: str | None


Target = dict[str, dict[str, TargetColumn]]


@pytest.fixture(scope="module")
def deployed(server: EmbeddedPostgres, target_template: str) -> Iterator[psycopg.Connection]:
    with (
        fresh_database(server, template=target_template, owner="postgres") as name,
        psycopg.connect(server.dsn(name, role="postgres"), autocommit=True) as connection,
    ):
        deploy_schema(connection, DIMENSIONS)
        yield connection


@pytest.fixture(scope="module")
def target(deployed: psycopg.Connection) -> Target:
    rows = deployed.execute(
        """SELECT c.relname, a.attname, t.typname, t.typtype = 'e', a.attnotnull, f.confrelid::regclass::text
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_constraint f ON f.conrelid = c.oid AND f.contype = 'f' AND f.conkey = ARRAY[a.attnum]
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped"""
    )
    found: Target = {}
    for table, column, type_name, is_enum, not_null, references in rows:
        found.setdefault(table, {})[column] = TargetColumn(type_name, is_enum, not_null, references)
    return found


def test_entities_come_parents_first_under_their_own_names() -> None:
    seen: set[str] = set()
    for name, entity in ENTITIES.items():
        assert entity.name == name
        assert set(entity.parents) <= seen
        seen.add(name)


@each_entity
def test_every_reference_names_a_known_entity(entity: Entity) -> None:
    assert {reference.entity for reference in entity.references.values()} <= set(ENTITIES)


@each_entity
def test_columns_are_those_of_the_target(entity: Entity, target: Target) -> None:
    names = [column.name for column in entity.columns]
    assert len(set(names)) == len(names)
    assert set(names) <= set(target[entity.name]) - {"id", "deleted_at"}
    missing = set(target[entity.name]) - set(names) - OWN
    assert missing == WITHOUT_SOURCE.get(entity.name, set())


@each_entity
def test_enums_are_declared_exactly_where_the_target_has_them(entity: Entity, target: Target) -> None:
    declared = {column.name: column.enum for column in entity.columns}
    types = {
        name: target[entity.name][name].type_name if target[entity.name][name].is_enum else None
        for name in declared
    }
    assert declared == types


@each_entity
def test_references_are_exactly_the_foreign_keys(entity: Entity, target: Target) -> None:
    names = {column.name for column in entity.columns}
    foreign = {
        name: column.references
        for name, column in target[entity.name].items()
        if column.references and name in names
    }
    assert {name: reference.entity for name, reference in entity.references.items()} == foreign


@each_entity
def test_a_reference_that_may_be_cleared_may_be_null_and_a_required_one_may_not(
    entity: Entity, target: Target
) -> None:
    for name, reference in entity.references.items():
        nullable = not target[entity.name][name].not_null
        # merged_into is NULL for a row that was not merged, but never dangling.
        assert nullable is (reference.on_missing is OnMissing.CLEAR or name == "merged_into")


@each_entity
def test_the_first_column_is_the_legacy_id_and_metadata_is_there(entity: Entity, target: Target) -> None:
    assert re.fullmatch("legacy_[a-z_]+_id", entity.columns[0].name)
    assert target[entity.name][entity.columns[0].name].not_null
    assert entity.columns[-1].name == "metadata"


@each_entity
def test_health_columns_are_marked(entity: Entity) -> None:
    """Names of persons, e-mails, birth dates, gender, clinical text, and metadata that may quote them."""
    expected = {
        column.name for column in entity.columns if HEALTH.fullmatch(column.name) or "medical" in column.name
    }
    expected |= {"preferences"} & {column.name for column in entity.columns}
    expected |= {"name"} if entity.name == "projects" else set()
    assert entity.health_columns == expected


@each_entity
def test_documents_never_read_health_data(entity: Entity) -> None:
    """Whatever check_documents says: by bare name, of any entity."""
    if entity.embeddings is None:
        return
    document = entity.embeddings.document
    entities = {"t": entity.name} | {join.alias: join.entity for join in document.joins}
    for column in document.columns:
        assert column.name not in ENTITIES[entities[column.table]].health_columns
        assert not HEALTH.fullmatch(column.name)


def test_documents_can_be_read_and_their_vectors_have_a_table(
    deployed: psycopg.Connection, target: Target
) -> None:
    embedded = {name: e.embeddings for name, e in ENTITIES.items() if e.embeddings is not None}
    assert set(embedded) == {"cases", "patients", "projects", "workflow_template_tasks"}
    assert [name for name, embeddings in embedded.items() if not embeddings.default] == ["patients"]
    assert [name for name, embeddings in embedded.items() if embeddings.document.free_text] == ["cases"]
    for name, embeddings in embedded.items():
        for free_text in (False, True):
            query = embeddings.document.select_sql(free_text=free_text).encode()
            assert deployed.execute(query).fetchall() == []
        assert target[embeddings.table][embeddings.owner].references == name


TYPES_OF_KINDS = {
    Words.TEXT: {"text", "varchar"},
    Words.CODE: {"text", "varchar", "int2", "int4", "int8"},
    Words.CODES: {"_text", "_varchar"},
    Words.FLAG: {"bool"},
    Words.MONTH: {"timestamptz", "timestamp", "date"},
    Words.NUMBER_BAND: {"int2", "int4", "int8", "numeric"},
}


@each_entity
def test_documents_read_columns_by_their_types(entity: Entity, target: Target) -> None:
    if entity.embeddings is None:
        return
    document = entity.embeddings.document
    entities = {"t": entity.name} | {join.alias: join.entity for join in document.joins}
    for column in document.columns:
        found = target[entities[column.table]][column.name]
        if found.is_enum:
            assert column.kind is Words.CODE
        else:
            assert found.type_name in TYPES_OF_KINDS[column.kind]
    for text in document.free_text:
        assert target[entities[text.table]][text.name].type_name == ("jsonb" if text.member else "text")


def test_staged_cases_read_the_same_free_text_and_people_as_loaded_ones() -> None:
    """Clean rows as transformation writes them."""
    people = importlib.import_module("tests.entities.test_patients").RAW
    cases = [
        {**row, "t.patient_id": people[place % len(people)]["legacy_id"]}
        for place, row in enumerate(importlib.import_module("tests.entities.test_cases").RAW)
    ]
    assert ENTITIES["cases"].embeddings is not None
    document = ENTITIES["cases"].embeddings.document
    clean = transform(ENTITIES["cases"], raw_table(ENTITIES["cases"], cases)).clean
    patients = transform(ENTITIES["patients"], raw_table(ENTITIES["patients"], people)).clean
    profiles = pa.schema(
        {name: pa.string() for name in ("id", *document.columns_read()["profiles"])}
    ).empty_table()
    rows = document.staged_rows(clean, {"patients": patients, "profiles": profiles}, free_text=True)
    names = {row["id"]: row for row in patients.to_pylist()}
    for row, case in zip(rows.to_pylist(), clean.to_pylist(), strict=True):
        clinical, patient = json.loads(case["clinical"]), names.get(case["patient_id"], {})
        assert row["t_clinical_notes"] == clinical.get("notes")
        known = [patient.get(name) for name in ("first_name", "last_name", "email", "date_of_birth")]
        assert row["known"] == [name for name in known if name]
    assert any(row["known"] for row in rows.to_pylist())
    assert any(row["t_clinical_notes"] for row in rows.to_pylist())


@each_entity
def test_sources_are_told_apart_and_cut_by_an_integer(entity: Entity) -> None:
    source = entity.source
    aliases = [table.alias for table in source.tables]
    assert len(set(aliases)) == len(aliases)
    assert len(set(source.raw_columns)) == len(source.raw_columns)
    assert source.partition_by.startswith(f"{source.tables[0].alias}.")
    assert not source.tables[0].join
    assert all(table.join for table in source.tables[1:])


@each_entity
def test_groups_of_extraction_are_those_of_the_mission(entity: Entity) -> None:
    groups = {
        "projects": "phase_2a_projects",
        "instruction_states": "phase_2b_states",
        "state_analytics": "phase_2b_states",
        "workflow_templates": "phase_2c_templates",
        "workflow_template_tasks": "phase_2c_templates",
        "workflow_performance": "phase_2c_templates",
    }
    assert entity.group == groups.get(entity.name, "")
    assert entity.deduplicate is (entity.name == "patients")


@each_entity
def test_clean_rows_are_written_as_postgresql_prints_them(
    entity: Entity, deployed: psycopg.Connection
) -> None:
    """What goes in equals what comes back, so content hashes can be compared (include/core/jsontext.py)."""
    rows = importlib.import_module(f"tests.entities.test_{entity.name}").RAW
    if entity.name == "workflow_performance":
        rows = [{**row, "t.done_at": row["t.done_at"] and "2024-01-02 03:04:05+00"} for row in rows]
    clean = transform(entity, raw_table(entity, rows)).clean
    assert clean.num_rows
    names = [sql.Identifier(name) for name in clean.column_names[1:-1]]
    listed = sql.SQL(", ").join(names)
    with deployed.transaction(force_rollback=True), deployed.cursor() as cursor:
        cursor.execute("SET LOCAL TimeZone = 'UTC'")
        cursor.execute(
            sql.SQL(
                "CREATE TEMPORARY TABLE stage AS SELECT NULL::int AS place, {} FROM {} WITH NO DATA"
            ).format(listed, sql.Identifier("public", entity.name))
        )
        cursor.execute("CREATE TEMPORARY SEQUENCE places")
        cursor.execute("ALTER TABLE stage ALTER place SET DEFAULT nextval('places')")
        with cursor.copy(sql.SQL("COPY stage ({}) FROM STDIN WITH (FORMAT csv)").format(listed)) as copy:
            copy.write(format_rows(clean.drop(["legacy_id", "source_version"])))
        texts = sql.SQL(", ").join(sql.SQL("{}::text").format(name) for name in names)
        stored = cursor.execute(sql.SQL("SELECT {} FROM stage ORDER BY place").format(texts)).fetchall()
    sent = [tuple(row.values())[1:-1] for row in clean.to_pylist()]
    for row, back in zip(sent, stored, strict=True):
        booleans = {"t": "true", "f": "false"}
        same = {
            name: booleans.get(value or "", value)
            for name, value in zip(clean.column_names[1:-1], row, strict=True)
        }
        assert dict(zip(clean.column_names[1:-1], back, strict=True)) == same
