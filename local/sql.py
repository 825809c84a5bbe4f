"""`make sql`: a statement in one of the demo's databases, as its superuser.

    python -m local.sql legacy_mdw|supabase "SELECT …"

Several people work in a legacy database; this is how the tour plays one of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import psycopg

from local.databases import LEGACY, TARGET, demo_server
from local.environment import State
from local.postgres import ServerError


def main(arguments: Sequence[str] | None = None, state: State | None = None) -> int:
    """Prints the rows, one a line, and what the server says of the statement; returns 1 where it refuses."""
    parser = argparse.ArgumentParser("python -m local.sql")
    parser.add_argument("database", choices=(LEGACY, TARGET))
    parser.add_argument("statement")
    options = parser.parse_args(arguments)
    try:
        server = demo_server(state or State())
        with psycopg.connect(server.dsn(options.database)) as connection:
            cursor = connection.execute(options.statement.encode())
            for row in cursor if cursor.description else ():
                sys.stdout.write("\t".join("" if value is None else str(value) for value in row) + "\n")
            sys.stdout.write(f"{cursor.statusmessage}\n")
    except (ServerError, psycopg.Error) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
