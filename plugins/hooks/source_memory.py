"""Which source the stored row versions came from, as the runs of the target remember it."""

from __future__ import annotations

from typing import Any

import psycopg

from plugins.hooks.source_identity import SourceIdentity

# The last complete run compared every row, so what was seen before it no longer matters.
_SINCE_THE_LAST_COMPLETE_RUN = """SELECT r.source_identity FROM migration.runs r
WHERE NOT r.dry_run AND r.source_identity IS NOT NULL AND r.started_at >= coalesce(
  (SELECT c.started_at FROM migration.watermarks w JOIN migration.runs c USING (run_id) WHERE w.name = 'source'),
  '-infinity')
ORDER BY r.started_at, r.run_id"""


def recall_identities(connection: psycopg.Connection[tuple[Any, ...]]) -> list[SourceIdentity]:
    """What the last complete run and all later ones took the source for, oldest first.

    Failed runs count, since they have stored row versions too: a source set back to a state between the last
    complete run and a failed one would otherwise look like a later state of the former. Dry runs store none.
    """
    rows = connection.execute(_SINCE_THE_LAST_COMPLETE_RUN).fetchall()
    return [SourceIdentity.from_json(identity) for (identity,) in rows]
