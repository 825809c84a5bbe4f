"""Finds rows by the meaning of their documents, in the target of the connections in Airflow.

    python -m plugins.search projects "large scan for a refinement that was shipped" [--count 5] [--threshold 0.3]

Prints similarity, legacy id and document of each row. The question goes to the embedding provider as it is: no names in
it. Ends with 0; with 1 where the message says what to do; with 2 where the command itself is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from include.core.errors import MigrationError
from include.embedding.provider import EmbeddingProvider
from include.entities import ENTITIES
from plugins.hooks.embeddings import choose_provider
from plugins.hooks.target import open_target
from plugins.search.nearest import Found, nearest

_MAX_RETRIES = 3
_MOST = 1_000
_NOT_KEPT = "(its document is not kept: it holds free text)"
_SEARCHABLE = tuple(name for name, entity in ENTITIES.items() if entity.embeddings is not None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        provider = choose_provider()
        with open_target(options.load_via, max_retries=_MAX_RETRIES) as target:
            found = nearest(
                target,
                options.entity,
                provider,
                options.question,
                count=options.count,
                threshold=options.threshold,
            )
    except MigrationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stderr.write(_note(provider))
    sys.stdout.write(_said(found))
    return 0


def _said(found: Sequence[Found]) -> str:
    if not found:
        return "Nothing is as similar as that; a lower --threshold finds more.\n"
    return "".join(
        f"{row.similarity:.4f}\t{row.legacy_id or row.id}\t{row.text or _NOT_KEPT}\n" for row in found
    )


def _note(provider: EmbeddingProvider) -> str:
    note = f"The question went to {provider.account}.\n" if provider.leaves else ""
    if not provider.semantic:
        note += f"Vectors of provider {provider.name} mean nothing: a document is similar to its very text alone.\n"
    return note


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m plugins.search",
        description=(__doc__ or "").partition("\n")[0],
        epilog="The question goes to the embedding provider as it is: no names in it.",
    )
    parser.add_argument("entity", choices=_SEARCHABLE, help="what to search")
    parser.add_argument("question", type=_question, help="what the rows should be about, in any words")
    parser.add_argument("--count", type=_count, default=10, help=f"most rows (default 10, at most {_MOST})")
    parser.add_argument(
        "--threshold", type=_threshold, default=0.0, help="least similarity, -1 to 1 (default 0)"
    )
    parser.add_argument(
        "--load-via", choices=("auto", "postgres", "rest"), default="auto", help="way to the target"
    )
    return parser


def _question(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("ask for something")
    return text


def _count(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= _MOST):
        raise argparse.ArgumentTypeError(f"a whole number from 1 to {_MOST}")
    return int(text)


def _threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 2.0
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError("a number from -1 to 1")
    return value


if __name__ == "__main__":
    # Outside a task Airflow looks for connections in its own database only for its own commands.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    sys.exit(main())
