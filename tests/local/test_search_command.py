from __future__ import annotations

from pathlib import Path

import pytest

from local.environment import State
from local.search import main


def test_without_a_demo_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["large scan"], State(tmp_path / "none")) == 1
    assert capsys.readouterr().err == "There is no demo yet: make demo\n"
