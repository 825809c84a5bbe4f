"""dispatch_state → state_analytics: how long an order stayed in a state before the next row.

The row before is the previous one of the same order by (changed_at, id), wherever batches are cut. A row is
a bottleneck when it lasted longer than the 95th percentile of its transition, given 20 observations.
"""

import pyarrow as pa
import pyarrow.compute as pc

from include.core.rules import copy, json_boolean, json_number, metadata, refers
from include.core.spec import Batch, Column, Entity, Expression, OnMissing, Source, Table
from include.entities.instruction_states import STATE_COLUMNS, state_name

_ON = 'b."on"'
_OBSERVATIONS = 20
_PERCENTILE = 0.95

# The 95th percentile of every transition with enough observations.
_SLOW = f"""(SELECT x.from_status, x.status AS to_status,
  percentile_cont({_PERCENTILE}) WITHIN GROUP (ORDER BY x.minutes) AS slow_minutes
FROM (SELECT s.status, lag(s.status) OVER w AS from_status,
        EXTRACT(EPOCH FROM s.changed_at - lag(s.changed_at) OVER w) / 60 AS minutes
      FROM dispatch_state s WINDOW w AS (PARTITION BY s.instruction_id ORDER BY s.changed_at, s.id)) x
WHERE x.from_status IS NOT NULL GROUP BY x.from_status, x.status HAVING count(*) >= {_OBSERVATIONS})"""


def _before(value: str) -> str:
    """A value of the previous row of the same order."""
    return (
        f"SELECT {value} FROM dispatch_state b WHERE b.instruction_id = t.instruction_id"
        " AND (b.changed_at, b.id) < (t.changed_at, t.id) ORDER BY b.changed_at DESC, b.id DESC LIMIT 1"
    )


_MINUTES = _before("EXTRACT(EPOCH FROM t.changed_at - b.changed_at) / 60")


def _minutes(batch: Batch) -> pa.Array:
    """Whole minutes since the row before."""
    minutes = pc.floor(pc.cast(batch.text("minutes"), pa.float64()))
    return pc.cast(pc.cast(minutes, pa.int64()), pa.string())


ENTITY = Entity(
    name="state_analytics",
    group="phase_2b_states",
    source=Source(
        tables=(
            Table("dispatch_state", "t", columns=STATE_COLUMNS),
            Table(
                "dispatch_state",
                "q",
                columns={},
                sql=_SLOW,
                join=f"q.from_status = ({_before('b.status')}) AND q.to_status = t.status",
            ),
        ),
        expressions=(
            Expression("from_status", f"({_before('b.status')})"),
            Expression("from_on", f"({_before(_ON)})"),
            Expression("minutes", f"({_MINUTES})"),
            # Not the percentile itself: any new state moves it, and all rows would count as changed.
            Expression("is_slow", f"coalesce(({_MINUTES}) > q.slow_minutes, false)"),
        ),
    ),
    columns=(
        Column("legacy_state_id", copy("t.id")),
        refers("case_id", "cases", "t.instruction_id", OnMissing.REJECT),
        refers("instruction_state_id", "instruction_states", "t.id", OnMissing.REJECT),
        Column("from_state", state_name("from_status", "from_state")),
        Column("to_state", state_name("t.status", "to_state")),
        Column("duration_minutes", _minutes),
        refers("actor_id", "profiles", "t.actor_id", OnMissing.CLEAR),
        Column("bottleneck_detected", copy("is_slow")),
        metadata(
            actor_id=json_number("t.actor_id"),
            status=json_number("t.status"),
            on=json_boolean("t.on"),
            from_status=json_number("from_status"),
            from_on=json_boolean("from_on"),
        ),
    ),
)
