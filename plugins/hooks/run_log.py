"""The log of a run as JSON, one object a line: a file of everything, and one of the errors alone.

All tasks of a run append to the same two files, also from processes side by side: each line is one write to a file
opened for appending, which a local file system does not tear. What is written is what the code passes; of an exception
that is not the migration's own, type and place alone, for its text may quote a row.
"""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import ObjectStoragePath

from include.core.errors import MigrationError
from plugins.hooks.staging import default_root, run_folder

EVERYTHING, ERRORS = "log.jsonl", "errors.jsonl"
_LOG = logging.getLogger("mdw_migration")
# Whose lines belong to the run, each with all below it.
_LOGGERS = ("mdw_migration", "plugins", "include")
_PROJECT = Path(__file__).parent.parent.parent


def log_root() -> ObjectStoragePath:
    """Where runs leave their logs: a local folder, for no object store can append; raises PARAM_INVALID."""
    folder = os.environ.get("MIGRATION_LOG_DIR")
    if folder and not (folder.isprintable() and Path(folder).is_absolute()):
        raise MigrationError("PARAM_INVALID", "MIGRATION_LOG_DIR must be the absolute path of a folder.")
    return ObjectStoragePath(f"file://{folder}" if folder else default_root("logs"))


def log_folder(run_id: str) -> Path:
    """Where a run's two files are."""
    return Path(log_root().path) / run_folder(run_id)


def recorded_errors(run_id: str) -> list[dict[str, Any]]:
    """The lines of a run's errors, oldest first: ``task``, ``code``, ``detail``, ``where``, ``next_step`` …"""
    file = log_folder(run_id) / ERRORS
    return (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    )


@contextmanager
def run_log(run_id: str, **facts: object) -> Iterator[None]:
    """Within the block, what is logged is also written to the run's files.

    Args:
        facts: of every line: dag, task, map_index, attempt, phase.
    """
    handler = _RunLog(log_folder(run_id), {"run": run_id, **facts})
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def error_facts(error: BaseException) -> dict[str, object]:
    """What may be written of an exception.

    Returns:
        Of a registered one code, category, what it says and its facts; of others the type, the place that raised it,
        the place in this project it came through, and the SQLSTATE where there is one.
    """
    if isinstance(error, MigrationError):
        return {
            "code": error.code,
            "category": str(error.kind.category),
            "transient": error.transient,
            "retry_safe": error.kind.retry_safe,
            "next_step": error.kind.next_step,
            "detail": error.detail,
            "where": {name: _plain(value) for name, value in error.facts.items()},
        }
    return {"error": f"{type(error).__module__}.{type(error).__qualname__}", **place_of(error)}


def place_of(error: BaseException) -> dict[str, object]:
    """Where an exception comes from: ``place`` in this project, ``raised_in`` in a library, ``sqlstate``."""
    facts: dict[str, object] = {}
    frames = traceback.extract_tb(error.__traceback__)
    mine = [
        frame for frame in frames if Path(frame.filename).is_relative_to(_PROJECT) and not _installed(frame)
    ]
    if mine:
        inner = mine[-1]
        facts["place"] = f"{Path(inner.filename).relative_to(_PROJECT)}:{inner.lineno} ({inner.name})"
    if frames and (not mine or frames[-1] is not mine[-1]):
        facts["raised_in"] = f"{Path(*Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno}"
    if isinstance(state := getattr(error, "sqlstate", None), str):
        facts["sqlstate"] = state
    return facts


def _installed(frame: traceback.FrameSummary) -> bool:
    return "site-packages" in Path(frame.filename).parts


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


class _Line(logging.Formatter):
    """A record as a line of JSON.

    Args:
        facts: of every line.
    """

    def __init__(self, facts: Mapping[str, object]) -> None:
        super().__init__()
        self._facts = facts

    def format(self, record: logging.LogRecord) -> str:
        """Fields of the line, those of the record (``extra={"facts": …}``), and of an exception what is harmless."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            **self._facts,
            "message": self._message(record),
            **getattr(record, "facts", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line |= error_facts(record.exc_info[1])
        return json.dumps(
            {name: value for name, value in line.items() if value is not None}, default=_type_name
        )

    @staticmethod
    def _message(record: logging.LogRecord) -> str:
        """As it reads; an exception among its arguments as its type, unless it is the migration's own."""
        if not isinstance(record.args, tuple):
            return record.getMessage()
        harmless = tuple(_type_name(a) if _foreign(a) else a for a in record.args)
        return str(record.msg) % harmless if harmless else str(record.msg)


def _foreign(value: object) -> bool:
    return isinstance(value, BaseException) and not isinstance(value, MigrationError)


def _type_name(value: object) -> str:
    return type(value).__name__


class _RunLog(logging.Handler):
    """Appends records to the files of a run. One that cannot be written to is given up with one warning."""

    def __init__(self, folder: Path, facts: Mapping[str, object]) -> None:
        super().__init__()
        self.setFormatter(_Line(facts))
        self._folder = folder
        self._files: dict[str, int] = {}
        self._given_up = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, an error to both files."""
        if self._given_up:
            return
        line = self.format(record).encode() + b"\n"
        try:
            for name in (EVERYTHING, ERRORS) if record.levelno >= logging.ERROR else (EVERYTHING,):
                self._append(name, line)
        except OSError as error:
            self._given_up = True
            _LOG.warning(
                "The run's JSON log cannot be written any more: %s (errno %s)", _type_name(error), error.errno
            )

    def _append(self, name: str, line: bytes) -> None:
        if name not in self._files:
            self._folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._files[name] = os.open(self._folder / name, flags, 0o640)
        written = os.write(self._files[name], line)
        if written < len(line):
            raise OSError(None, "a line was cut short")

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}
        super().close()
