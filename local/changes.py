"""A day's work in the synthetic legacy database: something for an incremental run to find.

python -m local.changes        # make change
"""

from __future__ import annotations

import sys

import psycopg

from local.databases import LEGACY, demo_server
from local.environment import State
from local.postgres import ServerError

_DAY = {
    "users were renamed": b"""UPDATE auth_user SET last_name = last_name || '-Novak'
        WHERE id IN (SELECT id FROM auth_user ORDER BY random() LIMIT 5)""",
    "patients moved to another office": b"""UPDATE dispatch_patient
        SET office_id = (SELECT min(id) FROM dispatch_office)
        WHERE id IN (SELECT id FROM dispatch_patient ORDER BY random() LIMIT 5)""",
    "states were set, as now": b"""INSERT INTO dispatch_state (status, "on", changed_at, actor_id, instruction_id)
        SELECT status, NOT "on", now(), actor_id, instruction_id FROM dispatch_state ORDER BY random() LIMIT 8""",
    "states were deleted": b"""DELETE FROM dispatch_state
        WHERE id IN (SELECT id FROM dispatch_state ORDER BY random() LIMIT 3)""",
}


def change(dsn: str) -> list[str]:
    """Do it, in one transaction; returns what was done, line by line."""
    with psycopg.connect(dsn) as connection:
        return [f"{connection.execute(statement).rowcount} {what}" for what, statement in _DAY.items()]


def main(state: State | None = None) -> int:
    """In the demo's source, which must be there."""
    try:
        server = demo_server(state or State())
        sys.stdout.writelines(f"{LEGACY}: {line}\n" for line in change(server.dsn(LEGACY)))
    except (ServerError, psycopg.Error) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
