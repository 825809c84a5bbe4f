"""dispatch_instruction → cases (docs/legacy-mdw.md sections 1.8, 1.9): one case per legacy order.

Practice and practitioner are reached through the patient; a jaw is upper or lower by the column of the
order that names it.
"""

from include.core.mapping import code_map
from include.core.rules import (
    coded,
    copy,
    json_boolean,
    json_column,
    json_number,
    json_object,
    json_raw,
    json_text,
    metadata,
    numbered,
    raw_json,
    refers,
)
from include.core.spec import Column, Embeddings, Entity, Expression, Kind, OnMissing, Rule, Source, Table
from include.embedding.documents import DocumentSpec, FreeText, Person
from include.embedding.sentences import DocumentColumn
from include.embedding.sentences import Kind as Words

_JAW_COLUMNS = {
    "id": Kind.INTEGER,
    "bond_teeth": Kind.TEXT,
    "extract_teeth": Kind.TEXT,
    "reason": Kind.INTEGER,
    "product_id": Kind.INTEGER,
    "labial": Kind.BOOLEAN,
}


def _jaw(side: str, alias: str) -> tuple[Expression, Rule]:
    """One jaw as the JSON object the source builds of it."""
    members = ", ".join(f"'{name}', {alias}.{name}" for name in _JAW_COLUMNS)
    jaw = Expression(
        f"{side}_jaw",
        f"(SELECT json_build_object({members})::jsonb FROM dispatch_jaw {alias}"
        f" WHERE {alias}.id = t.{side}_jaw_id)",
        (Table("dispatch_jaw", alias, _JAW_COLUMNS),),
    )
    return jaw, json_raw(jaw.name)


_PATIENT = Person(
    "patients",
    "patient_id",
    ("first_name", "last_name", "email", "date_of_birth"),
    merged_by="merged_into",
)

_UPPER, _upper = _jaw("upper", "ju")
_LOWER, _lower = _jaw("lower", "jl")

ENTITY = Entity(
    name="cases",
    source=Source(
        tables=(
            Table(
                "dispatch_instruction",
                "t",
                columns={
                    "id": Kind.INTEGER,
                    "patient_id": Kind.INTEGER,
                    "course_id": Kind.INTEGER,
                    "order": Kind.INTEGER,
                    "model": Kind.INTEGER,
                    "scanner": Kind.INTEGER,
                    "scanner_notes": Kind.TEXT,
                    "upper_jaw_id": Kind.INTEGER,
                    "lower_jaw_id": Kind.INTEGER,
                    "notes": Kind.TEXT,
                    "conditions": Kind.TEXT,
                    "complaint": Kind.TEXT,
                    "objective": Kind.TEXT,
                    "exports": Kind.TEXT,
                    "price": Kind.NUMERIC,
                    "status": Kind.INTEGER,
                    "cbct": Kind.BOOLEAN,
                    "accept_extraction": Kind.BOOLEAN,
                    "comprehensive": Kind.BOOLEAN,
                    "deleted": Kind.BOOLEAN,
                    "suffix": Kind.TEXT,
                    "submitted_at": Kind.TIMESTAMP,
                    "updated_at": Kind.TIMESTAMP,
                },
            ),
            Table(
                "dispatch_patient",
                "p",
                columns={"id": Kind.INTEGER, "office_id": Kind.INTEGER, "doctor_id": Kind.INTEGER},
                outputs=("office_id", "doctor_id"),
                join="p.id = t.patient_id",
            ),
            Table(
                "dispatch_course",
                "c",
                columns={"id": Kind.INTEGER, "name": Kind.TEXT},
                outputs=("name",),
                join="c.id = t.course_id",
            ),
        ),
        expressions=(_UPPER, _LOWER),
    ),
    columns=(
        Column("legacy_instruction_id", copy("t.id")),
        refers("patient_id", "patients", "t.patient_id", OnMissing.REJECT),
        refers("practice_id", "practices", "p.office_id", OnMissing.CLEAR),
        refers("assigned_practitioner_id", "profiles", "p.doctor_id", OnMissing.CLEAR),
        Column("case_number", numbered("C", "t.id", 6)),
        Column("title", copy("c.name")),
        Column("case_type", coded("t.course_id", code_map("case_type"), "case_type"), enum="case_type_enum"),
        Column(
            "current_state",
            coded("t.status", code_map("case_state"), "current_state"),
            enum="case_state_enum",
        ),
        Column("sequence", copy("t.order")),
        Column("price", copy("t.price")),
        Column(
            "clinical",
            json_object(
                {
                    "notes": json_text("t.notes"),
                    "conditions": json_text("t.conditions"),
                    "complaint": json_text("t.complaint"),
                    "objective": json_text("t.objective"),
                    "model": json_number("t.model"),
                    "scanner": json_number("t.scanner"),
                    "scanner_notes": json_text("t.scanner_notes"),
                    "cbct": json_boolean("t.cbct"),
                    "comprehensive": json_boolean("t.comprehensive"),
                    "accept_extraction": json_boolean("t.accept_extraction"),
                    "jaws": json_object({"upper": _upper, "lower": _lower}),
                }
            ),
            health=True,
        ),
        Column("suffix", copy("t.suffix")),
        Column("is_deleted", copy("t.deleted")),
        Column("submitted_at", copy("t.submitted_at")),
        Column("updated_at", copy("t.updated_at")),
        metadata(
            raw={"exports": raw_json("t.exports")},
            exports=json_column("t.exports", "metadata.exports"),
            patient_id=json_number("t.patient_id"),
            course_id=json_number("t.course_id"),
            status=json_number("t.status"),
            upper_jaw_id=json_number("t.upper_jaw_id"),
            lower_jaw_id=json_number("t.lower_jaw_id"),
            office_id=json_number("p.office_id"),
            doctor_id=json_number("p.doctor_id"),
        ),
    ),
    embeddings=Embeddings(
        table="case_embeddings",
        owner="case_id",
        document=DocumentSpec(
            entity="cases",
            content_type="case_summary",
            columns=(
                DocumentColumn("t.title", "Order", Words.TEXT),
                DocumentColumn("t.case_type", "Case type"),
                DocumentColumn("t.current_state", "State"),
                DocumentColumn(
                    "t.sequence", "Order of this patient", Words.NUMBER_BAND, bands=(2, 3, 5), unit=""
                ),
                DocumentColumn("t.submitted_at", "Submitted in", Words.MONTH),
                DocumentColumn("t.is_deleted", "Deleted", Words.FLAG),
            ),
            free_text=(
                FreeText("t.clinical", "Notes:", "notes"),
                FreeText("t.clinical", "Conditions:", "conditions"),
                FreeText("t.clinical", "Complaint:", "complaint"),
                FreeText("t.clinical", "Objective:", "objective"),
            ),
            people=(
                _PATIENT,
                # Their account. Its names and e-mail are those above.
                Person("profiles", "profile_id", ("username",), of=_PATIENT),
                Person(
                    "profiles",
                    "assigned_practitioner_id",
                    ("first_name", "last_name", "email", "username"),
                ),
            ),
        ),
    ),
)
