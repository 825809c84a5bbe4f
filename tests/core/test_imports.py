"""include/ can be imported without Airflow, a database driver or a network (docs/architecture.md, section 1)."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "include").rglob("*.py"))
LIBRARIES = {"numpy", "pandas", "pyarrow", "rapidfuzz", "tiktoken", "jinja2", "include"}
# Of the standard library, what reaches beyond the process.
OUTSIDE = {"socket", "ssl", "http", "urllib", "ftplib", "smtplib", "subprocess", "sqlite3", "asyncio"}
BANNED = ("airflow", "psycopg", "openai", "requests", "httpx", "supabase", "plugins", "dags", "local")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are always `from include.…`"
            yield node.module or ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_allowed_libraries_are_imported(path: Path) -> None:
    allowed = (LIBRARIES | sys.stdlib_module_names) - OUTSIDE
    assert {name.partition(".")[0] for name in imported(path)} <= allowed


@pytest.mark.parametrize("path", sorted((ROOT / "include" / "core").glob("*.py")), ids=lambda path: path.stem)
def test_the_core_knows_no_entity(path: Path) -> None:
    assert not [name for name in imported(path) if name.startswith(("include.entities", "include.synthetic"))]


def test_importing_every_module_loads_nothing_forbidden() -> None:
    """What a library drags in counts too."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.name != "__init__.py"
    ]
    code = (
        f"import importlib, json, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        f"print(json.dumps(sorted(set({BANNED!r}) & {{m.partition('.')[0] for m in sys.modules}})))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    assert json.loads(ran.stdout) == []


@pytest.mark.parametrize("name", BANNED)
def test_the_linter_refuses_the_import_too(name: str) -> None:
    """The nested configuration applies and still holds the project's other rules."""
    code = f'"""A module."""\n\nimport {name}\n\nprint({name})\n'
    command = [sys.executable, "-m", "ruff", "check", "--output-format=json", "--no-cache"]
    ran = subprocess.run(  # noqa: S603
        [*command, "--stdin-filename", "include/core/example.py", "-"],
        cwd=ROOT,
        input=code,
        capture_output=True,
        text=True,
        check=False,
    )
    assert {problem["code"] for problem in json.loads(ran.stdout)} == {"TID251", "T201"}
