"""Verifies the audit trail of the target: that nothing in it was changed or taken out since it was sealed.

    python -m plugins.audit verify [--head HASH]
    python -m plugins.audit seal

`verify` computes the chain of hashes anew; with the head that an earlier report or log names, it also finds an end
that was rewritten. `seal` seals what was recorded since the last run ended, and prints the new head. Ends with 0; with
1 where the trail is broken, or where the message says what to do; with 2 where the command itself is wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from include.core.errors import MigrationError
from plugins.hooks.target import Target, open_target

_MAX_RETRIES = 3
_HEAD = re.compile(r"[0-9a-f]{64}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        with open_target(options.load_via, max_retries=_MAX_RETRIES) as target:
            return _verify(target, options.head) if options.command == "verify" else _seal(target)
    except MigrationError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _verify(target: Target, head: str | None) -> int:
    found = target.call("verify_audit", head=head)
    for broken in found["broken"]:
        sys.stderr.write(_described(broken))
    verdict = "BROKEN" if found["broken"] else "unbroken"
    sys.stdout.write(
        f"{verdict}: {found['entries']:,} entries, {found['sealed']:,} sealed, {found['unsealed']:,} not yet;"
        f" head {found['head'] or 'none'}\n"
    )
    return 1 if found["broken"] else 0


def _described(broken: Mapping[str, Any]) -> str:
    where = "" if broken["seal"] is None else f"seal {broken['seal']}, entry {broken['entry']}: "
    return f"{where}{broken['why']}\n"


def _seal(target: Target) -> int:
    sealed = target.call("seal_audit")
    sys.stdout.write(f"{sealed['sealed']:,} entries are sealed; head {sealed['head'] or 'none'}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m plugins.audit", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="compute the chain anew")
    verify.add_argument("--head", type=_head, help="the head that an earlier report or log names")
    seal = commands.add_parser("seal", help="seal what is not sealed yet")
    for command in (verify, seal):
        command.add_argument(
            "--load-via", choices=("auto", "postgres", "rest"), default="auto", help="way to the target"
        )
    return parser


def _head(text: str) -> str:
    if not _HEAD.fullmatch(text):
        raise argparse.ArgumentTypeError("64 hexadecimal digits, as the report names them")
    return text


if __name__ == "__main__":
    # Outside a task Airflow looks for connections in its own database only for its own commands.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    sys.exit(main())
