"""dispatch_state → instruction_states (docs/legacy-mdw.md section 1.12).

A row is the setting or unsetting of a flag on an order. What 11 and 12 mean nobody knows, so the raw code
is always kept and its name is configuration (``legacy_<code>`` until then).
"""

import pyarrow as pa
import pyarrow.compute as pc

from include.core.mapping import code_map
from include.core.rules import coded, constant, copy, json_number, metadata, refers
from include.core.spec import Batch, Column, Entity, Kind, OnMissing, Rule, Source, Table

STATE_COLUMNS = {
    "id": Kind.INTEGER,
    "status": Kind.INTEGER,
    "on": Kind.BOOLEAN,
    "changed_at": Kind.TIMESTAMP,
    "actor_id": Kind.INTEGER,
    "instruction_id": Kind.INTEGER,
}


def state_name(source: str, column: str) -> Rule:
    """The configured name of a state code, else ``legacy_<code>``."""
    named = coded(source, code_map("state_name"), column)

    def rule(batch: Batch) -> pa.Array:
        return pc.coalesce(named(batch), pc.binary_join_element_wise("legacy_", batch.text(source), ""))

    return rule


ENTITY = Entity(
    name="instruction_states",
    group="phase_2b_states",
    source=Source(tables=(Table("dispatch_state", "t", columns=STATE_COLUMNS),)),
    columns=(
        Column("legacy_state_id", copy("t.id")),
        refers("case_id", "cases", "t.instruction_id", OnMissing.REJECT),
        Column("legacy_instruction_id", copy("t.instruction_id")),
        Column("instruction_type", constant("legacy_instruction")),
        Column("status_code", copy("t.status")),
        Column("status_name", state_name("t.status", "status_name")),
        Column("is_active", copy("t.on")),
        refers("changed_by", "profiles", "t.actor_id", OnMissing.CLEAR),
        Column("changed_at", copy("t.changed_at")),
        metadata(actor_id=json_number("t.actor_id")),
    ),
)
