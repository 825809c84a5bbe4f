"""dispatch_patient ⋈ auth_user → patients (docs/legacy-mdw.md section 1.4).

Names and e-mail come from auth_user; the source has no phone, address, insurance, emergency contact or
history, so those columns stay NULL. Archived patients load like all others.

Merging: what describes the person is filled from the merged rows where the survivor lacks it. What the source
counts, links or decides per row stays the survivor's: keys and numbers, the account (profile_id: two accounts do
not become one), status, archived and suspended (a duplicate that was put away does not put the survivor away),
and the dates of the row.
"""

from include.core.mapping import code_map
from include.core.rules import (
    coded,
    constant,
    copy,
    email,
    json_column,
    json_number,
    json_text,
    metadata,
    named,
    numbered,
    raw_changed,
    raw_json,
    refers,
)
from include.core.spec import Column, Embeddings, Entity, Kind, Merge, OnMissing, Reference, Source, Table
from include.embedding.documents import DocumentSpec
from include.embedding.sentences import DocumentColumn
from include.embedding.sentences import Kind as Words

_EMAIL = email("u.email", "email")

ENTITY = Entity(
    name="patients",
    source=Source(
        tables=(
            Table(
                "dispatch_patient",
                "t",
                columns={
                    "id": Kind.INTEGER,
                    "user_id": Kind.INTEGER,
                    "doctor_id": Kind.INTEGER,
                    "office_id": Kind.INTEGER,
                    "birthdate": Kind.DATE,
                    "sex": (Kind.INTEGER, Kind.TEXT),
                    "status": Kind.INTEGER,
                    "archived": Kind.BOOLEAN,
                    "suspended": Kind.BOOLEAN,
                    "schemes": Kind.TEXT,
                    "suffix": Kind.TEXT,
                    "submitted_at": Kind.TIMESTAMP,
                    "updated_at": (Kind.TIMESTAMP, Kind.DATE),
                },
                optional={"price": Kind.NUMERIC},
            ),
            Table(
                "auth_user",
                "u",
                columns={
                    "id": Kind.INTEGER,
                    "first_name": Kind.TEXT,
                    "last_name": Kind.TEXT,
                    "email": Kind.TEXT,
                },
                outputs=("first_name", "last_name", "email"),
                join="u.id = t.user_id",
            ),
        ),
    ),
    columns=(
        Column("legacy_patient_id", copy("t.id")),
        refers("profile_id", "profiles", "t.user_id", OnMissing.CLEAR, Merge.SURVIVOR),
        refers("practice_id", "practices", "t.office_id", OnMissing.CLEAR),
        refers("primary_doctor_id", "profiles", "t.doctor_id", OnMissing.CLEAR),
        Column("patient_number", numbered("P", "t.id", 6), merge=Merge.SURVIVOR),
        Column("first_name", named("u.first_name", "first_name"), health=True),
        Column("last_name", named("u.last_name", "last_name"), health=True),
        Column("email", _EMAIL, health=True),
        Column("date_of_birth", copy("t.birthdate"), health=True),
        Column("gender", coded("t.sex", code_map("gender"), "gender"), enum="gender_type", health=True),
        Column("medical_history", constant("{}"), health=True),
        Column("preferences", constant("{}"), health=True),
        Column("suffix", copy("t.suffix")),
        Column("status_code", copy("t.status"), merge=Merge.SURVIVOR),
        Column("archived", copy("t.archived"), merge=Merge.SURVIVOR),
        Column("suspended", copy("t.suspended"), merge=Merge.SURVIVOR),
        Column("schemes", json_column("t.schemes", "schemes"), health=True),
        Column("submitted_at", copy("t.submitted_at"), merge=Merge.SURVIVOR),
        Column("updated_at", copy("t.updated_at")),
        Column("merged_into", constant(None), Reference("patients", OnMissing.REJECT)),
        metadata(
            raw={"email": raw_changed("u.email", _EMAIL), "schemes": raw_json("t.schemes")},
            user_id=json_number("t.user_id"),
            doctor_id=json_number("t.doctor_id"),
            office_id=json_number("t.office_id"),
            sex=json_text("t.sex"),
            price=json_text("t.price"),
        ),
    ),
    deduplicate=True,
    embeddings=Embeddings(
        table="patient_embeddings",
        owner="patient_id",
        # What may be told of a patient says little; who wants it asks for it.
        default=False,
        document=DocumentSpec(
            entity="patients",
            content_type="notes",
            columns=(
                DocumentColumn("t.status_code", "Patient with status"),
                DocumentColumn("t.submitted_at", "Submitted in", Words.MONTH),
                DocumentColumn("t.archived", "Archived", Words.FLAG),
                DocumentColumn("t.suspended", "Suspended", Words.FLAG),
            ),
        ),
    ),
)
