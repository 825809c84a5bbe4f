"""dispatch_office_doctors → practice_members (docs/legacy-mdw.md section 1.6)."""

import pyarrow as pa
import pyarrow.compute as pc

from include.core.rules import copy, metadata, refers
from include.core.spec import Batch, Column, Entity, Expression, Kind, OnMissing, Source, Table


def _role(batch: Batch) -> pa.Array:
    """The table links offices with doctors; the same link twice is refused here, for it is unique in the target."""
    batch.reject(pc.not_equal(batch.text("first_id"), batch.text("t.id")), "link_repeated", "profile_id")
    return pa.array(["doctor"] * len(batch), pa.string())


ENTITY = Entity(
    name="practice_members",
    source=Source(
        tables=(
            Table(
                "dispatch_office_doctors",
                "t",
                columns={"id": Kind.INTEGER, "office_id": Kind.INTEGER, "user_id": Kind.INTEGER},
            ),
        ),
        expressions=(
            Expression(
                "first_id",
                "(SELECT min(o.id) FROM dispatch_office_doctors o"
                " WHERE o.office_id = t.office_id AND o.user_id = t.user_id)",
            ),
        ),
    ),
    columns=(
        Column("legacy_office_doctor_id", copy("t.id")),
        refers("practice_id", "practices", "t.office_id", OnMissing.REJECT),
        refers("profile_id", "profiles", "t.user_id", OnMissing.REJECT),
        Column("role", _role, enum="practice_role"),
        metadata(),
    ),
)
