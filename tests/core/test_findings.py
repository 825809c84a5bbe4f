"""The registry of findings against the rules and SQL that use it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pyarrow as pa
import pytest

from include.core.findings import FINDINGS, FindingKind, kind_of
from include.core.spec import Batch

ROOT = Path(__file__).parent.parent.parent
REGISTRY_FILE = ROOT / "include" / "core" / "findings.py"


def strings(path: Path) -> set[str]:
    if path.suffix == ".sql":
        return set(re.findall(r"'([a-z_]+)'", path.read_text(encoding="utf-8")))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def used() -> set[str]:
    folders = [
        ROOT / "include" / "core",
        ROOT / "include" / "entities",
        ROOT / "include" / "sql",
        ROOT / "plugins",
    ]
    paths = [p for folder in folders for p in folder.rglob("*") if p.suffix in (".py", ".sql")]
    return set().union(*(strings(path) for path in paths if path != REGISTRY_FILE))


@pytest.mark.parametrize("code", FINDINGS)
def test_every_registered_code_is_used(code: str) -> None:
    assert code in used()


@pytest.mark.parametrize("kind", FINDINGS.values(), ids=lambda kind: kind.code)
def test_every_code_has_a_reason_and_a_remedy(kind: FindingKind) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert kind.reason.endswith(".")
    assert kind.how_to_fix.endswith(".")
    assert kind_of(kind.code) is kind


def test_codes_are_each_given_once() -> None:
    assert len({kind.reason for kind in FINDINGS.values()}) == len(FINDINGS)


def test_a_rule_cannot_use_an_unregistered_code() -> None:
    batch = Batch(pa.table({"legacy_id": ["1"]}))
    everywhere = pa.array([True])
    with pytest.raises(KeyError):
        batch.note(everywhere, "no_such_code", "name")
    with pytest.raises(KeyError):
        batch.reject(everywhere, "no_such_code", "name")
    assert batch.findings == batch.rejects == []
