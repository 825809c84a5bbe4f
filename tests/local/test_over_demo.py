from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from local import changes, over_demo, runs, sql
from local.environment import State


@pytest.mark.parametrize(
    "command",
    [
        lambda state: over_demo.main(["plugins.search", "projects", "large scan"], state),
        lambda state: sql.main(["supabase", "SELECT 1"], state),
        changes.main,
    ],
    ids=["search", "sql", "change"],
)
def test_without_a_demo_it_says_what_to_do(
    command: Callable[[State], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(State(tmp_path / "none")) == 1
    assert capsys.readouterr().err == "There is no demo yet: make demo\n"


def test_without_pages_there_is_nobody_to_start_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.main(["retry"], State(tmp_path / "none")) == 1
    assert "make ui" in capsys.readouterr().out
