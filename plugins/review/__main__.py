"""Reviews pairs of rows that may be the same thing, and undoes merges, over the target's connection in Airflow.

    python -m plugins.review list
    python -m plugins.review export pairs.csv [--with-names --by NAME] [--status pending --status asked_again]
    python -m plugins.review import pairs.csv --by NAME
    python -m plugins.review confirm|reject|reopen LEFT RIGHT --by NAME --reason TEXT
    python -m plugins.review unmerge LEGACY_ID --by NAME --reason TEXT

LEFT, RIGHT and LEGACY_ID are legacy ids. Names of patients are written where --with-names asks for them, and nowhere
else. Ends with 0; with 1 where the message says what to do; with 2 where the command itself is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from include.core.errors import MigrationError
from plugins.hooks.merging import unmerge
from plugins.hooks.review import CONFIRMED, REJECTED, STATUSES, WITHDRAWN, Decision, Pair, Review
from plugins.hooks.target import Target, open_target
from plugins.review import sheet

_ENTITY = "patients"
_DECISIONS = {"confirm": CONFIRMED, "reject": REJECTED, "reopen": WITHDRAWN}
_MAX_RETRIES = 3
_LISTED = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "export" and options.with_names and not options.by:
        parser.error("--with-names needs --by: the target keeps who read names")
    try:
        with open_target(options.load_via, max_retries=_MAX_RETRIES) as target:
            said = _COMMANDS[options.command](target, options)
    except MigrationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{said}\n")
    return 0


def _list(target: Target, options: argparse.Namespace) -> str:
    review = Review(target, options.entity)
    pairs = sorted(review.queue(options.status or ()), key=lambda pair: -(pair.score or 0))
    more = [f"… and {len(pairs) - _LISTED} more: export them"] if len(pairs) > _LISTED else []
    counts = ", ".join(f"{number} {_spelt(status)}" for status, number in review.counts().items())
    return "\n".join([*map(_line, pairs[:_LISTED]), *more, counts])


def _export(target: Target, options: argparse.Namespace) -> str:
    review = Review(target, options.entity)
    with sheet.created(options.file) as file:
        pairs = review.queue(options.status or (), names_for=options.by if options.with_names else None)
        delimiter = sheet.DELIMITERS[options.delimiter]
        number = sheet.write(file, pairs, with_names=options.with_names, delimiter=delimiter)
    warning = " It holds names: keep it like a patient file." if options.with_names else ""
    return f"{number} pairs written to {options.file}.{warning}"


def _import(target: Target, options: argparse.Namespace) -> str:
    filled = sheet.read(options.file, options.by)
    counts = Review(target, options.entity).decide(filled.decisions)
    return f"{_said(counts)}; {filled.undecided} lines without a decision."


def _decide(target: Target, options: argparse.Namespace) -> str:
    decision = Decision(
        options.left,
        options.right,
        _DECISIONS[options.command],
        options.by,
        options.reason,
        f"pair {options.left} and {options.right}",
    )
    return f"{_said(Review(target, options.entity).decide([decision]))}."


def _unmerge(target: Target, options: argparse.Namespace) -> str:
    undone = unmerge(target, options.entity, options.legacy_id, options.by, options.reason)
    return (
        f"{options.entity} {options.legacy_id} is a row of its own again, beside {undone.survivor}; {undone.children} "
        f"rows refer to it again, {undone.rejected} pairs are rejected."
    )


_COMMANDS = {
    "list": _list,
    "export": _export,
    "import": _import,
    **dict.fromkeys(_DECISIONS, _decide),
    "unmerge": _unmerge,
}


def _said(counts: Mapping[str, int]) -> str:
    said = f"{counts['confirmed']} confirmed, {counts['rejected']} rejected, {counts['pending']} reopened"
    return f"{said}, {counts['unchanged']} known already; the next run applies them"


def _line(pair: Pair) -> str:
    score = "   -  " if pair.score is None else f"{pair.score:.4f}"
    again = " (asked again)" if pair.asked_again_at else ""
    return (
        f"{pair.left_id}\t{pair.right_id}\t{score}\t{pair.status}{again}\t{sheet.in_words(pair.explanation)}"
    )


def _spelt(status: str) -> str:
    return status.replace("_", " ")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m plugins.review", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--entity", default=_ENTITY, help=f"whose rows (default: {_ENTITY})")
    parser.add_argument(
        "--load-via", choices=("auto", "postgres", "rest"), default="auto", help="way to the target"
    )
    commands = parser.add_subparsers(dest="command", required=True)

    _statuses(commands.add_parser("list", help="count pairs and list the likeliest, without names"))
    export = commands.add_parser("export", help="write the queue to a new file, to be filled in")
    export.add_argument("file", type=Path)
    export.add_argument("--with-names", action="store_true", help="with both rows side by side")
    export.add_argument("--by", default="", help="who reads the names")
    export.add_argument("--delimiter", choices=tuple(sheet.DELIMITERS), default="comma")
    _statuses(export)
    filled = commands.add_parser("import", help="keep the decisions of a filled-in file, all or none")
    filled.add_argument("file", type=Path)
    filled.add_argument("--by", required=True, help="who decided")
    for word in _DECISIONS:
        _signed(commands.add_parser(word, help=f"{word} one pair"), "left", "right")
    _signed(commands.add_parser("unmerge", help="undo the merge of one row"), "legacy_id")
    return parser


def _statuses(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--status",
        action="append",
        choices=STATUSES,
        help="may be repeated (default: pending and asked_again)",
    )


def _signed(parser: argparse.ArgumentParser, *ids: str) -> None:
    for name in ids:
        parser.add_argument(name)
    parser.add_argument("--by", required=True, help="who decided")
    parser.add_argument("--reason", required=True)


if __name__ == "__main__":
    # Outside a task Airflow looks for connections in its own database only for its own commands.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    sys.exit(main())
