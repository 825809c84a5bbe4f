"""Runs a command of the migration over the databases of the demo: `make search`, `make review`.

python -m local.over_demo plugins.search projects "large scan that was shipped" --count 5
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from local.databases import demo_server, legacy_dsn, target_dsn
from local.environment import State, airflow_environment
from local.postgres import ServerError


def main(arguments: Sequence[str] | None = None, state: State | None = None) -> int:
    """Runs a module with its arguments, with the demo's connections; returns its exit code."""
    command = sys.argv[1:] if arguments is None else arguments
    state = state or State()
    try:
        server = demo_server(state)
    except ServerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    environment = airflow_environment(state, legacy_dsn=legacy_dsn(server), target_dsn=target_dsn(server))
    return subprocess.run([sys.executable, "-m", *command], env=environment, check=False).returncode  # noqa: S603 - no shell


if __name__ == "__main__":
    sys.exit(main())
