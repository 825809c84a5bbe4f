"""`make search`: finds rows of the demo's target by meaning.

python -m local.search "large scan that was shipped" [--entity projects] [--count 5]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

from local.databases import legacy_dsn, target_dsn
from local.environment import State, airflow_environment
from local.postgres import EmbeddedPostgres, ServerError


def main(arguments: Sequence[str] | None = None, state: State | None = None) -> int:
    """Run `python -m plugins.search` over the demo's target; returns its exit code."""
    options = _parser().parse_args(arguments)
    state = state or State()
    if not state.postgres.exists():
        sys.stderr.write("There is no demo yet: make demo\n")
        return 1
    server = EmbeddedPostgres(state.postgres)
    try:
        server.start()
    except ServerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    environment = airflow_environment(state, legacy_dsn=legacy_dsn(server), target_dsn=target_dsn(server))
    command = [
        sys.executable,
        "-m",
        "plugins.search",
        options.entity,
        options.question,
        "--count",
        options.count,
    ]
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - no shell, no path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m local.search")
    parser.add_argument("question", help="what the rows should be about, in any words")
    parser.add_argument("--entity", default="projects", help="what to search (default projects)")
    parser.add_argument("--count", default="5", help="most rows (default 5)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
