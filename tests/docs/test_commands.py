"""Every command that a page shows is executed by a test, or it is said here why it cannot be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from local.environment import PROJECT

_FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(
    r"(?:make|python|airflow|supabase|docker|npx|pip|cp|set|export|curl|psql|\.venv/\S+|\$PROJECT/\S+) .+"
)
_TOUR = "tests/end_to_end/test_tour.py"

EXECUTED = {
    r"make (demo|ui|sql|run|retry|change|review|stop)\b": f"{_TOUR}::test_the_tour",
    r"make search TEXT=": f"{_TOUR}::test_the_tour",
    r"make night": f"{_TOUR}::test_the_readme",
    r"set -a; \. \./\.env; set \+a": f"{_TOUR}::test_the_readme",
    r"export (PROJECT|AIRFLOW_HOME|AIRFLOW__CORE__PLUGINS_FOLDER)=": f"{_TOUR}::test_the_readme",
    r"\$PROJECT/\.venv/bin/airflow ": f"{_TOUR}::test_the_readme",
    r"python -m local\.schema": f"{_TOUR}::test_the_readme",
    r"(python -m plugins\.review|psql|curl) ": "tests/hooks/test_review_command.py::test_every_command_works",
    r"python -m plugins\.search ": "tests/hooks/test_search_command.py",
    r"python -m plugins\.audit ": "tests/hooks/test_audit.py",
    r"\.venv/bin/python -m local\.docs": "tests/docs/test_docs.py::test_generated_pages_are_up_to_date",
    r"python -m benchmarks\.": "tests/benchmarks",
}
NOT_EXECUTED = {
    r"make test\b": "this is it",
    r"make clean": "it removes the packages that the tests run with",
    r"make setup": "the environment of the tests was made by it",
    r"cp \.env\.example|docker compose ": "no Docker engine where the tests run; tests/compose checks the file",
    r"supabase db push|npx supabase": "it starts containers; tests/local/test_schema.py applies the files",
    r"pip install --no-deps \./providers": "make setup does it with uv",
}


def shown() -> list[str]:
    """Commands in the code blocks of the pages."""
    pages = [
        PROJECT / "README.md",
        PROJECT / "benchmarks" / "README.md",
        *sorted((PROJECT / "docs").glob("*.md")),
    ]
    return sorted({command for page in pages for command in _commands(page)})


def _commands(page: Path) -> list[str]:
    blocks = [text for kind, text in _FENCED.findall(page.read_text()) if kind in ("", "sh", "console")]
    lines = [line.removeprefix("$ ").strip() for block in blocks for line in block.splitlines()]
    return [line.partition("  #")[0].strip() for line in lines if _COMMAND.match(line)]


@pytest.mark.parametrize("command", shown())
def test_a_command_is_executed_or_it_is_said_why_not(command: str) -> None:
    assert [way for way in (*EXECUTED, *NOT_EXECUTED) if re.match(way, command)], command


@pytest.mark.parametrize("place", sorted(set(EXECUTED.values())))
def test_the_tests_that_execute_them_exist(place: str) -> None:
    file, _, function = place.partition("::")
    assert (PROJECT / file).exists()
    assert not function or f"def {function}(" in (PROJECT / file).read_text()


@pytest.mark.parametrize("way", [*EXECUTED, *NOT_EXECUTED])
def test_no_way_is_left_over(way: str) -> None:
    pages = [*PROJECT.glob("*.md"), *PROJECT.glob("*/*.md")]
    assert any(re.search(way, page.read_text()) for page in pages)
