"""Mapping configuration: what legacy codes mean, as data (include/mappings/codes.toml).

Sources contradict each other about most codes (docs/legacy-mdw.md), so every meaning is configuration with
a default and carries how sure it is; ``MIGRATION_MAPPING_FILE`` names a file whose tables override ours.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from include.core.errors import MigrationError

_INCLUDE = Path(__file__).parent.parent
# Core files that have no part in what a row becomes.
_NO_RULES = {
    *("approval.py", "coverage.py", "drift.py", "errors.py", "fingerprint.py", "messages.py", "notes.py"),
    *("preflight.py", "progress.py", "run_estimate.py", "run_progress.py", "samples.py", "settings.py"),
    *("report.py", "report_ai.py", "report_chart.py", "report_estimate.py", "report_html.py"),
    *("report_samples.py", "report_tables.py", "report_text.py", "tracking.py"),
}
_SHIPPED = _INCLUDE / "mappings" / "codes.toml"


@dataclass(frozen=True)
class CodeMap:
    """Meanings of one kind of legacy code: raw text to value; ``default`` for codes without a meaning."""

    name: str
    meanings: Mapping[str, str]
    default: str | None


def code_map(name: str) -> CodeMap:
    """A table of the configuration whose entries are codes.

    Raises:
        KeyError: there is no such table.
    """
    table = configuration()[name]
    meanings = {code: entry["value"] for code, entry in table["codes"].items() if "value" in entry}
    return CodeMap(name, meanings, table.get("default"))


def setting(table: str, key: str) -> Any:
    """A single setting of the configuration."""
    return configuration()[table][key]


@cache
def configuration() -> dict[str, Any]:
    """The shipped configuration with the override's tables laid over it.

    Raises:
        MigrationError: PARAM_INVALID, the override cannot be read or names an unknown table.
    """
    shipped: dict[str, Any] = tomllib.loads(_SHIPPED.read_text(encoding="utf-8"))
    override = os.environ.get("MIGRATION_MAPPING_FILE")
    return {**shipped, **_read_override(Path(override), shipped)} if override else shipped


@cache
def mapping_version() -> str:
    """Version of the effective configuration: the declared one and a digest of the content."""
    content = json.dumps(configuration(), sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{configuration()['version']}-{digest}"


@cache
def rules_version() -> str:
    """A digest of the code that says how rows are read and transformed: the entities and the core."""
    digest = hashlib.sha256()
    for folder in ("core", "entities"):
        for path in sorted((_INCLUDE / folder).glob("*.py")):
            if path.name not in _NO_RULES:
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _read_override(path: Path, shipped: Mapping[str, Any]) -> dict[str, Any]:
    try:
        override = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # TOML errors and bytes that are no UTF-8 are ValueErrors
        raise MigrationError(
            "PARAM_INVALID",
            f"MIGRATION_MAPPING_FILE cannot be read ({type(error).__name__}: {error}).",
            file=path,
        ) from None
    unknown = sorted(set(override) - set(shipped))
    if unknown:
        raise MigrationError(
            "PARAM_INVALID", f"Unknown tables {unknown}; known are {sorted(shipped)}.", file=path
        )
    shapeless = sorted(name for name in override if not _same_shape(override[name], shipped[name]))
    if shapeless:
        raise MigrationError(
            "PARAM_INVALID", f"Tables {shapeless} are not built like those in {_SHIPPED.name}.", file=path
        )
    return override


def _same_shape(table: Any, shipped: Any) -> bool:
    """A table of codes stays one, and another table keeps its keys: a missing one would only fail later."""
    if not isinstance(shipped, dict):
        return isinstance(table, type(shipped))
    if not isinstance(table, dict):
        return False
    if "codes" not in shipped:
        return set(table) == set(shipped)
    codes = table.get("codes")
    return isinstance(codes, dict) and all(isinstance(entry, dict) for entry in codes.values())
