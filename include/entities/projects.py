"""dispatch_project (+ dispatch_plan as the route to the order) → projects (docs/legacy-mdw.md 1.10, 1.11).

A project with several plans belongs to the order of its original plan, else of the one with the lowest
number; all its plans are kept in metadata. A project without plan has no owner at all.
"""

import pyarrow as pa
import pyarrow.compute as pc

from include.core.mapping import code_map
from include.core.rules import (
    coded,
    constant,
    copy,
    joined,
    json_number,
    json_raw,
    metadata,
    named,
    refers,
)
from include.core.spec import Batch, Column, Embeddings, Entity, Expression, Kind, OnMissing, Source, Table
from include.embedding.documents import DocumentSpec, Join
from include.embedding.sentences import DocumentColumn
from include.embedding.sentences import Kind as Words

_PLAN_ORDER = "{pl.original} DESC NULLS LAST, {pl.number}, pl.id"


def _version(batch: Batch) -> pa.Array:
    """The number of the plan that owns the project; a project without plan is noted."""
    batch.note(pc.is_null(batch.text("pl.instruction_id")), "owner_missing", "case_id")
    return batch.text("pl.number")


ENTITY = Entity(
    name="projects",
    group="phase_2a_projects",
    source=Source(
        tables=(
            Table(
                "dispatch_project",
                "t",
                columns={
                    "id": Kind.INTEGER,
                    "uid": (Kind.UUID, Kind.TEXT),
                    "name": Kind.TEXT,
                    "size": Kind.INTEGER,
                    "type": Kind.INTEGER,
                    "status": Kind.INTEGER,
                    "creator_id": Kind.INTEGER,
                    "created_at": Kind.TIMESTAMP,
                    "public": Kind.BOOLEAN,
                },
            ),
            Table(
                "dispatch_plan",
                "pl",
                columns={"id": Kind.INTEGER, "project_id": Kind.INTEGER, "instruction_id": Kind.INTEGER},
                optional={"number": Kind.INTEGER, "original": Kind.BOOLEAN},
                sql="(SELECT DISTINCT ON (pl.project_id) pl.id, pl.project_id, pl.instruction_id,"
                " {pl.number} AS number, {pl.original} AS original"
                f" FROM dispatch_plan pl ORDER BY pl.project_id, {_PLAN_ORDER})",
                join="pl.project_id = t.id",
            ),
            Table(
                "dispatch_instruction",
                "i",
                columns={"id": Kind.INTEGER, "patient_id": Kind.INTEGER},
                join="i.id = pl.instruction_id",
            ),
            Table(
                "dispatch_patient",
                "p",
                columns={"id": Kind.INTEGER, "office_id": Kind.INTEGER},
                outputs=("office_id",),
                join="p.id = i.patient_id",
            ),
        ),
        expressions=(
            Expression(
                "plans",
                "(SELECT json_agg(json_build_object('id', a.id, 'instruction_id', a.instruction_id,"
                " 'number', {a.number}, 'name', {a.name}, 'original', {a.original}, 'notes', {a.notes})"
                " ORDER BY a.id)::jsonb FROM dispatch_plan a WHERE a.project_id = t.id)",
                (
                    Table(
                        "dispatch_plan",
                        "a",
                        columns={"id": Kind.INTEGER},
                        optional={
                            "number": Kind.INTEGER,
                            "name": Kind.TEXT,
                            "original": Kind.BOOLEAN,
                            "notes": Kind.TEXT,
                        },
                    ),
                ),
            ),
        ),
    ),
    columns=(
        Column("legacy_project_id", copy("t.id")),
        Column("legacy_uid", copy("t.uid")),
        refers("case_id", "cases", "pl.instruction_id", OnMissing.CLEAR),
        refers("practice_id", "practices", "p.office_id", OnMissing.CLEAR),
        refers("creator_id", "profiles", "t.creator_id", OnMissing.CLEAR),
        # Free text that people typed: it may be a patient's name.
        Column("name", named("t.name", "name", joined("Untitled project ", copy("t.id"))), health=True),
        Column(
            "project_type",
            coded("t.type", code_map("project_type"), "project_type"),
            enum="project_type_enum",
        ),
        Column("type_code", copy("t.type")),
        Column("status", coded("t.status", code_map("project_status"), "status"), enum="project_status_enum"),
        Column("status_code", copy("t.status")),
        Column("file_size", copy("t.size")),
        Column("storage_bucket", constant("projects")),
        # The object's key. Its state, checksum and type are not the row's: copying the file writes them.
        Column("storage_path", joined(copy("t.id"), "/", copy("t.uid"))),
        Column("is_public", copy("t.public")),
        Column("version", _version),
        Column("created_at", copy("t.created_at")),
        metadata(
            plans=json_raw("plans"),
            creator_id=json_number("t.creator_id"),
            instruction_id=json_number("pl.instruction_id"),
            office_id=json_number("p.office_id"),
        ),
    ),
    embeddings=Embeddings(
        table="project_embeddings",
        owner="project_id",
        document=DocumentSpec(
            entity="projects",
            content_type="treatment_plan",
            joins=(Join("c", "cases", "case_id"),),
            columns=(
                DocumentColumn("t.project_type", "Project of type"),
                DocumentColumn("t.status", "Status"),
                DocumentColumn(
                    "t.file_size",
                    "Size",
                    Words.NUMBER_BAND,
                    bands=(1, 10, 50, 200),
                    unit="MB",
                    unit_size=1e6,
                    band_names=("very small", "small", "medium", "large", "very large"),
                ),
                DocumentColumn("t.created_at", "Created in", Words.MONTH),
                DocumentColumn("c.case_type", "Case type"),
                DocumentColumn("c.current_state", "Case state"),
            ),
        ),
    ),
)
