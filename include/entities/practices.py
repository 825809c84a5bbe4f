"""dispatch_office → practices (docs/legacy-mdw.md section 1.5): every office, valid or not."""

from include.core.mapping import code_map
from include.core.rules import (
    as_json,
    coded,
    constant,
    copy,
    json_boolean,
    json_number,
    json_object,
    json_text,
    metadata,
    named,
)
from include.core.spec import Column, Entity, Kind, Source, Table

ENTITY = Entity(
    name="practices",
    source=Source(
        tables=(
            Table(
                "dispatch_office",
                "t",
                columns={
                    "id": Kind.INTEGER,
                    "name": Kind.TEXT,
                    "address": Kind.TEXT,
                    "apt": Kind.TEXT,
                    "city": Kind.TEXT,
                    "state": Kind.TEXT,
                    "zip": Kind.TEXT,
                    "country": Kind.TEXT,
                    "phone": Kind.TEXT,
                    "tax_rate": Kind.NUMERIC,
                    "valid": Kind.BOOLEAN,
                    "sq_customer_id": Kind.TEXT,
                    "emails": Kind.BOOLEAN,
                },
                optional={"doctor_id": Kind.INTEGER},
            ),
        ),
    ),
    columns=(
        Column("legacy_office_id", copy("t.id")),
        Column("name", named("t.name", "name")),
        Column(
            "address",
            json_object(
                {
                    "line1": json_text("t.address"),
                    "apt": json_text("t.apt"),
                    "city": json_text("t.city"),
                    "state": json_text("t.state"),
                    "zip": json_text("t.zip"),
                    "country": json_text("t.country"),
                    "country_iso": as_json(coded("t.country", code_map("country"), "address.country_iso")),
                }
            ),
        ),
        Column("phone", copy("t.phone")),
        Column("tax_rate", copy("t.tax_rate")),
        Column("square_customer_id", copy("t.sq_customer_id")),
        Column("email_notifications", copy("t.emails")),
        Column("is_active", copy("t.valid")),
        Column("settings", constant("{}")),
        metadata(doctor_id=json_number("t.doctor_id"), emails=json_boolean("t.emails")),
    ),
)
