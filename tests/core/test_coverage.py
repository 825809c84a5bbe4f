"""What a report says was proved, and what was not looked at."""

from __future__ import annotations

from typing import Any

from include.core.coverage import levels, not_covered


def check(level: int, severity: str = "fail", *, passed: bool = True) -> dict[str, Any]:
    return {"level": level, "severity": severity, "passed": passed}


def run(scope: str = "everything", **settings: Any) -> dict[str, Any]:
    defaults = {"entities": [], "enable_ai": True, "ai_entities": ["cases"], "verify_files": "all"}
    return {"scope": scope, "parameters": {**defaults, **settings}}


def left_out(found: dict[str, Any]) -> str:
    return "\n".join(not_covered(found, ["practices", "patients", "cases"], ["patients", "cases"]))


def test_every_level_says_how_many_of_how_many() -> None:
    found = levels([check(1), check(3, passed=False), check(3), check(4, "warn", passed=False)])
    assert [(level["name"], level["passed"], level["checks"]) for level in found] == [
        ("counts", 1, 1),
        ("key sets", 0, 0),
        ("content", 1, 2),
        ("integrity", 0, 1),
        ("samples", 0, 0),
    ]
    assert [(level["failed"], level["warned"]) for level in found][2:4] == [(1, 0), (0, 1)]


def test_what_was_not_chosen_is_named() -> None:
    assert "not chosen: practices, patients." in left_out(run(entities=["cases"]))
    assert "Embeddings of patients: not asked for." in left_out(run())
    assert "Embeddings of patients, cases: not asked for." in left_out(run(enable_ai=False))
    assert "earlier runs copied" in left_out(run(verify_files="copied"))
    assert "Bytes" not in left_out(run())


def test_a_part_of_the_rows_is_no_proof_of_all() -> None:
    assert "not transformed anew" in left_out(run(scope="changes"))
    assert "not transformed anew" not in left_out(run())
