"""A day's work in the synthetic legacy database: something for an incremental run to find."""

from __future__ import annotations

import psycopg

# What is done, and the statement; rows are chosen at random.
_DAY = (
    (
        "users were renamed",
        "UPDATE auth_user SET last_name = last_name || '-Novak' WHERE id IN {5 auth_user}",
    ),
    (
        "patients moved to another office",
        "UPDATE dispatch_patient SET office_id = (SELECT min(id) FROM dispatch_office)"
        " WHERE id IN {5 dispatch_patient}",
    ),
    (
        "states were set, as now",
        'INSERT INTO dispatch_state (status, "on", changed_at, actor_id, instruction_id)'
        ' SELECT status, NOT "on", now(), actor_id, instruction_id FROM dispatch_state'
        " WHERE id IN {8 dispatch_state}",
    ),
    ("states were deleted", "DELETE FROM dispatch_state WHERE id IN {3 dispatch_state}"),
)


def change(dsn: str) -> list[str]:
    """Do it, in one transaction; returns what was done, line by line."""
    done = []
    with psycopg.connect(dsn) as connection:
        for what, statement in _DAY:
            before, chosen = statement.split("{")
            number, table = chosen.rstrip("}").split()
            query = f"{before}(SELECT id FROM {table} ORDER BY random() LIMIT {number})"  # noqa: S608 - constants
            done.append(f"{connection.execute(query.encode()).rowcount} {what}")
    return done
