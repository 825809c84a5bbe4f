"""The queue as a file that people fill in with a spreadsheet, and what they filled in.

Values of the target are data, never formulas: what a spreadsheet would compute gets an apostrophe before it.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.core.errors import MigrationError
from plugins.hooks.review import CONFIRMED, REJECTED, SHOWN, WITHDRAWN, Decision, Pair

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t"}
FILLED_IN = ("decision", "reason")
"""Columns that are empty at first, for a person to fill in."""
WORDS = {
    **dict.fromkeys(("confirm", "confirmed"), CONFIRMED),
    **dict.fromkeys(("reject", "rejected"), REJECTED),
    **dict.fromkeys(("reopen", "pending"), WITHDRAWN),
}
"""What a person may write as a decision, in any case."""
_IDS = ("left_id", "right_id")
_FACTS = (*_IDS, "score", "explanation", "status", "asked_again_at", "decided_by", "decided_at")
# What people once wrote may name somebody.
_NAMES = (*(f"{side}_{column}" for column in SHOWN for side in ("left", "right")), "decision_reason")
_SEEN = "seen"
_NEEDED = (*_IDS, *FILLED_IN)
# Also in full width, as Asian keyboards have them.
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")


@dataclass(frozen=True)
class Filled:
    """What came back.

    Attributes:
        decisions: of the lines with a decision.
        undecided: number of lines without one.
    """

    decisions: Sequence[Decision]
    undecided: int


@contextmanager
def created(path: Path) -> Iterator[io.TextIOWrapper]:
    """A new file for its owner alone, gone again where the block fails.

    Raises:
        MigrationError: REVIEW_FILE_INVALID, also where there is one by that name: decisions may stand in it.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise _unusable(path, "It exists already: give another name, or move it away.") from None
    except OSError as error:
        raise _unusable(path, f"It cannot be created: {error.strerror}.") from None
    try:
        # With a mark by which spreadsheets know the encoding.
        with os.fdopen(descriptor, "w", encoding="utf-8-sig", newline="") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write(file: io.TextIOBase, pairs: Iterable[Pair], *, with_names: bool, delimiter: str) -> int:
    """Write pairs, the likeliest first; returns how many.

    Args:
        with_names: give the values of both rows side by side, and what people wrote.
        delimiter: a character of :data:`DELIMITERS`.
    """
    columns = (*_FACTS, *(_NAMES if with_names else ()), *FILLED_IN, _SEEN)
    sheet = csv.writer(file, delimiter=delimiter)
    sheet.writerow(columns)
    ordered = sorted(pairs, key=lambda pair: (-(pair.score or 0), len(pair.left_id), pair.left_id))
    for pair in ordered:
        cells = _cells(pair)
        sheet.writerow([_defused(cells.get(column)) for column in columns])
    return len(ordered)


def read(path: Path, decided_by: str) -> Filled:
    """Read a file that :func:`write` made and a person filled in, in whatever dialect the spreadsheet saved it.

    Raises:
        MigrationError: REVIEW_FILE_INVALID with the lines concerned. What a decision says is for the target to check.
    """
    try:
        rows = _rows(_text(path.read_bytes()))
    except OSError as error:
        raise _unusable(path, f"It cannot be read: {error.strerror}.") from None
    except (csv.Error, UnicodeError):
        raise _unusable(path, "It is not text as a spreadsheet saves it: save it as CSV (UTF-8).") from None
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    _check_columns(path, header)
    crooked = [str(number) for number, cells in rows[1:] if any(cells[len(header) :])]
    if crooked:
        raise _unusable(
            path, f"More cells than the first line has columns, on line {', '.join(crooked[:10])}."
        )
    filled = [(number, _named(header, cells)) for number, cells in rows[1:] if any(cells)]
    decisions = [_decision(number, cells, decided_by) for number, cells in filled if cells["decision"]]
    return Filled(decisions, len(filled) - len(decisions))


def in_words(explanation: Mapping[str, Any]) -> str:
    """What speaks for and against a pair, the weightiest first, and why no run merges it by itself."""
    told = [field for field in explanation.get("fields", {}).values() if field["weight"]]
    told.sort(key=lambda field: -abs(field["weight"]))
    vetoes = [f"not merged by itself: {veto.replace('_', ' ')}" for veto in explanation.get("vetoes", ())]
    return "; ".join([*(field["words"] for field in told), *vetoes])


def _cells(pair: Pair) -> dict[str, str | None]:
    facts = {name: getattr(pair, name) for name in (*_FACTS, _SEEN, "decision_reason")}
    sides = (("left", pair.left or {}), ("right", pair.right or {}))
    values = {f"{side}_{name}": value for side, row in sides for name, value in row.items()}
    score = None if pair.score is None else f"{pair.score:.4f}"
    return {**facts, **values, "score": score, "explanation": in_words(pair.explanation)}


def _defused(value: str | None) -> str:
    text = value or ""
    guarded = f"'{text}" if _FORMULA.match(text) else text
    # A line of the file for each pair, as errors number them.
    return " ".join(guarded.splitlines())


def _as_meant(cell: str) -> str:
    text = cell.strip()
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def _text(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")  # what Excel saves in Europe as plain CSV


def _rows(text: str) -> list[tuple[int, list[str]]]:
    """Every row with the number of the line it begins on."""
    if "\0" in text:
        raise csv.Error("no text")
    first = text.partition("\n")[0]
    delimiter = max(DELIMITERS.values(), key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, line = [], 1
    for cells in reader:
        rows.append((line, cells))
        line = reader.line_num + 1
    return rows


def _check_columns(path: Path, header: Sequence[str]) -> None:
    known = {*_FACTS, *_NAMES, *FILLED_IN, _SEEN}
    missing = [column for column in _NEEDED if column not in header]
    # Not quoted: where the first line is missing, a row of people stands in its place.
    unknown = [str(place) for place, column in enumerate(header, 1) if column and column not in known]
    twice = sorted({column for column in known if header.count(column) > 1})
    problems = [
        f"{words} {', '.join(found)}"
        for words, found in (
            ("missing columns", missing),
            ("columns of unknown name at place", unknown),
            ("columns that stand there twice", twice),
        )
        if found
    ]
    if problems:
        raise _unusable(path, f"On line 1: {'; '.join(problems)}. It needs {', '.join(_NEEDED)}.")


def _named(header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    # A spreadsheet leaves empty cells at the end out.
    padded = [*cells, *[""] * (len(header) - len(cells))]
    return {column: _as_meant(cell) for column, cell in zip(header, padded, strict=False)}


def _decision(number: int, cells: Mapping[str, str], decided_by: str) -> Decision:
    word = cells["decision"].lower()
    return Decision(
        cells["left_id"],
        cells["right_id"],
        WORDS.get(word, word),
        decided_by,
        cells["reason"],
        f"line {number}",
        cells.get(_SEEN) or None,
    )


def _unusable(path: Path, detail: str) -> MigrationError:
    return MigrationError("REVIEW_FILE_INVALID", detail, file=path.name)
