"""`make stop`: end a running demo or UI and the database server."""

from __future__ import annotations

import sys

from local.environment import State
from local.postgres import EmbeddedPostgres, ServerError
from local.processes import BusyError, interrupt_running


def main() -> int:
    """Command line without arguments."""
    state = State()
    try:
        interrupt_running(state)
        EmbeddedPostgres(state.postgres).stop()
    except (BusyError, ServerError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
