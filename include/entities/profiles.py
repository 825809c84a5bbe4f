"""auth_user + auth_user_groups → profiles (docs/legacy-mdw.md sections 1.2, 1.3): every user, active or not."""

import pyarrow as pa
import pyarrow.compute as pc

from include.core.mapping import setting
from include.core.rules import (
    constant,
    copy,
    email,
    json_boolean,
    json_raw,
    metadata,
    named,
    raw_changed,
)
from include.core.spec import Batch, Column, Entity, Expression, Kind, Source, Table


def _role(batch: Batch) -> pa.Array:
    """The first line of the configured precedence that holds, over all groups of the user."""
    held = {
        "superuser": pc.equal(batch.text("t.is_superuser"), "t"),
        "staff": pc.equal(batch.text("t.is_staff"), "t"),
        "patient": pc.equal(batch.text("has_patient"), "t"),
    }
    groups = pc.binary_join_element_wise(",", pc.fill_null(batch.text("group_list"), ""), ",", "")
    role = constant(setting("role", "fallback"))(batch)
    for line in reversed(setting("role", "precedence")):
        in_group = line["when"] == "group"
        holds = pc.match_substring(groups, f",{line['group']},") if in_group else held[line["when"]]
        role = pc.if_else(pc.fill_null(holds, False), pa.scalar(line["role"]), role)
    return role


_EMAIL = email("t.email", "email")

ENTITY = Entity(
    name="profiles",
    source=Source(
        tables=(
            Table(
                "auth_user",
                "t",
                columns={
                    "id": Kind.INTEGER,
                    "username": Kind.TEXT,
                    "first_name": Kind.TEXT,
                    "last_name": Kind.TEXT,
                    "email": Kind.TEXT,
                    "is_superuser": Kind.BOOLEAN,
                    "is_staff": Kind.BOOLEAN,
                    "is_active": Kind.BOOLEAN,
                    "last_login": Kind.TIMESTAMP,
                    "date_joined": Kind.TIMESTAMP,
                },
            ),
        ),
        expressions=(
            Expression(
                "group_list",
                "(SELECT string_agg(g.group_id::text, ',' ORDER BY g.group_id)"
                " FROM auth_user_groups g WHERE g.user_id = t.id)",
                (Table("auth_user_groups", "g", {"user_id": Kind.INTEGER, "group_id": Kind.INTEGER}),),
            ),
            Expression(
                "groups",
                "(SELECT json_agg(m.group_id ORDER BY m.group_id)::jsonb"
                " FROM auth_user_groups m WHERE m.user_id = t.id)",
            ),
            Expression(
                "has_patient",
                "EXISTS (SELECT 1 FROM dispatch_patient p WHERE p.user_id = t.id)",
                (Table("dispatch_patient", "p", {"user_id": Kind.INTEGER}),),
            ),
        ),
    ),
    columns=(
        Column("legacy_user_id", copy("t.id")),
        Column("username", copy("t.username"), health=True),
        Column("first_name", named("t.first_name", "first_name"), health=True),
        Column("last_name", named("t.last_name", "last_name"), health=True),
        Column("email", _EMAIL, health=True),
        Column("role", _role, enum="user_role"),
        Column("is_active", copy("t.is_active")),
        Column("last_login_at", copy("t.last_login")),
        Column("created_at", copy("t.date_joined")),
        metadata(
            raw={"email": raw_changed("t.email", _EMAIL)},
            groups=json_raw("groups"),
            is_staff=json_boolean("t.is_staff"),
            is_superuser=json_boolean("t.is_superuser"),
        ),
    ),
)
