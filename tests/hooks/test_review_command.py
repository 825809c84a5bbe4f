"""``python -m plugins.review``, and every command that docs/reviewing-duplicates.md shows."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from include.core.ids import target_id
from local.environment import PROJECT, State, airflow_settings
from plugins.hooks.review import Review
from plugins.review.__main__ import main
from tests.hooks.loading import Target, case, patient

BOTH_WAYS = True
RUN = "run-1"
KEYS = (12, 15, 20, 31, 32)
PAGE = (PROJECT / "docs" / "reviewing-duplicates.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip()
    for block in re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture
def queue(target: Target) -> Target:
    """12-15 and 15-20 wait; 31 and 32 are merged into 20."""
    target.decide(RUN, {31: 20, 32: 20})
    people = [patient(key, first_name="Zoë", last_name=f"Name{key}") for key in KEYS]
    target.load("patients", people, run=RUN)
    target.load("cases", [case(1, 31), case(2, 20)], run=RUN)
    words = json.dumps({"fields": {"last_name": {"weight": 1, "words": "same surname"}}})
    target.connection.execute(
        "INSERT INTO migration.duplicate_pairs (entity, left_legacy_id, right_legacy_id, score, explanation, status)"
        " VALUES ('patients', '12', '15', 0.5, %s::jsonb, 'pending'),"
        " ('patients', '15', '20', 0.75, '{}', 'pending'), ('patients', '20', '31', 1, '{}', 'auto_merged')",
        [words],
    )
    target.connection.execute("DELETE FROM migration.run_lock")
    return target


@pytest.fixture
def review(
    queue: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[int, str]]:
    """Runs the command in a folder of its own; its exit code and what it said."""
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str]:
        code = main(["--load-via", queue.api.way, *shlex.split(line)])
        said = capsys.readouterr()
        assert "Zoë" not in said.out + said.err
        assert "Name1" not in said.out + said.err
        return code, said.out + said.err

    return run


Command = Callable[[str], tuple[int, str]]


def fill_in(path: Path, **values: str) -> None:
    """Fill the first line in, as a spreadsheet with European settings saves it."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0] |= values
    with path.open("w", encoding="cp1252", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=";")
        writer.writeheader()
        writer.writerows(rows)


def statuses(target: Target) -> dict[str, str]:
    query = "SELECT left_legacy_id || '-' || right_legacy_id, status FROM migration.duplicate_pairs"
    return dict(target.all(query))


def test_the_list_counts_and_shows_what_waits(review: Command) -> None:
    code, said = review("list")
    assert code == 0
    assert said.splitlines() == [
        "15\t20\t0.7500\tpending\t",
        "12\t15\t0.5000\tpending\tsame surname",
        *[line for line in said.splitlines()[2:] if "2 pending" in line and "1 auto merged" in line],
    ]
    assert review("list --status auto_merged")[1].startswith("20\t31\t1.0000")


def test_from_the_queue_to_a_file_and_back(queue: Target, review: Command, tmp_path: Path) -> None:
    assert review("export pairs.csv --with-names --by Eva")[1].startswith(
        "2 pairs written to pairs.csv. It holds"
    )
    assert "Zoë" in (tmp_path / "pairs.csv").read_text(encoding="utf-8-sig")
    fill_in(tmp_path / "pairs.csv", decision="Reject", reason="Vater & Sohn, größer")
    assert review("import pairs.csv --by Eva") == (
        0,
        "0 confirmed, 1 rejected, 0 reopened, 0 known already; the next run applies them; "
        "1 lines without a decision.\n",
    )
    assert statuses(queue) == {"12-15": "pending", "15-20": "rejected", "20-31": "auto_merged"}
    image = queue.image("migration.duplicate_pairs")
    assert "0 rejected, 0 reopened, 1 known already" in review("import pairs.csv --by Eva")[1]
    assert queue.image("migration.duplicate_pairs") == image


def test_a_file_without_names_has_none(review: Command, tmp_path: Path) -> None:
    assert review("export pairs.csv --delimiter semicolon") == (0, "2 pairs written to pairs.csv.\n")
    content = (tmp_path / "pairs.csv").read_text(encoding="utf-8-sig")
    assert "15;20;0.7500" in content
    assert "Zoë" not in content


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"decision": "perhaps", "reason": "why"}, "REVIEW_DECISION_INVALID"),
        ({"decision": "confirm"}, "REVIEW_DECISION_INVALID"),
        ({"decision": "confirm", "reason": "why", "left_id": "77"}, "REVIEW_PAIR_UNKNOWN"),
        ({"decision": "confirm", "reason": "why", "seen": "v0"}, "REVIEW_PAIR_CHANGED"),
    ],
)
def test_what_cannot_be_is_refused_by_line_and_nothing_is_kept(
    queue: Target, review: Command, tmp_path: Path, values: dict[str, str], code: str
) -> None:
    review("export pairs.csv")
    fill_in(tmp_path / "pairs.csv", **values)
    image = queue.image("migration.duplicate_pairs")
    exit_code, said = review("import pairs.csv --by Eva")
    assert exit_code == 1
    assert f"[{code}]" in said
    assert "line 2" in said
    assert "next:" in said
    assert queue.image("migration.duplicate_pairs") == image


def test_an_export_that_fails_leaves_no_file_and_one_that_is_there_stays(
    review: Command, tmp_path: Path
) -> None:
    assert "[REVIEW_ENTITY_UNKNOWN]" in review("--entity cases export pairs.csv")[1]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "pairs.csv").write_text("mine")
    code, said = review("export pairs.csv")
    assert (code, "[REVIEW_FILE_INVALID]" in said) == (1, True)
    assert (tmp_path / "pairs.csv").read_text() == "mine"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "import pairs.csv",
        "confirm 1 2 --by Eva",
        "export pairs.csv --with-names",
        "list --status unheard_of",
    ],
)
def test_a_wrong_command_is_told_from_a_refusal(
    review: Command, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        review(line)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_of_a_merge_that_is_none(review: Command) -> None:
    code, said = review("unmerge 12 --by Eva --reason twins")
    assert (code, "[NOT_MERGED]" in said) == (1, True)


def test_it_runs_as_a_module(queue: Target, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    ran = _python(["-m", "plugins.review", "--load-via", queue.api.way, "list"], environment, tmp_path)
    assert (ran.returncode, "2 pending" in ran.stdout) == (0, True), ran.stderr


_STORE = """
import os
from airflow.models.connection import Connection
from airflow.utils.db import initdb
from airflow.utils.session import create_session
initdb()
with create_session() as session:
    session.add(Connection(conn_id="supabase_db", uri=os.environ.pop("AIRFLOW_CONN_SUPABASE_DB")))
"""


def test_it_finds_the_connection_that_airflow_keeps(tmp_path: Path, target_dsn: str) -> None:
    settings = airflow_settings(State(tmp_path))
    environment = {**os.environ, **settings, "PYTHONPATH": str(PROJECT)}
    ran = _python(["-c", _STORE], {**environment, "AIRFLOW_CONN_SUPABASE_DB": target_dsn}, tmp_path)
    assert ran.returncode == 0, ran.stderr
    environment.pop("AIRFLOW_CONN_SUPABASE_DB")
    ran = _python(["-m", "plugins.review", "list"], environment, tmp_path)
    assert (ran.returncode, "0 pending" in ran.stdout) == (0, True), ran.stderr


class TestPage:
    def test_every_command_works(self, queue: Target, review: Command, tmp_path: Path) -> None:
        for command in COMMANDS:
            if command.startswith("python -m plugins.review "):
                code, said = review(command.removeprefix("python -m plugins.review "))
                assert code == 0, said
                if " export pairs.csv" in command:
                    fill_in(tmp_path / "pairs.csv", decision="confirm", reason="why")
            elif command.startswith("psql "):
                (_, _, _, query) = shlex.split(command)
                assert queue.all(query.replace("%", "%%")) != [], command
            elif queue.api.way == "rest":
                assert _curl(command) not in ([], None), command
        expected = "confirmed" if queue.api.way == "rest" else "rejected"
        assert statuses(queue)["12-15"] == expected
        assert queue.states("patients") == dict.fromkeys(map(str, KEYS), "live")
        assert queue.row("cases", 1)["patient_id"].__str__() == target_id("patients", "31")

    def test_it_shows_every_command_and_function(self) -> None:
        shown = "\n".join(COMMANDS)
        for word in ("list", "export", "import", "confirm", "reject", "reopen", "unmerge"):
            assert f"plugins.review {word} " in f"{shown} ".replace("\n", " \n")
        assert {command.split()[0] for command in COMMANDS} == {"python", "psql", "curl"}


def _python(
    arguments: list[str], environment: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(  # noqa: S603
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def _curl(command: str) -> Any:
    """The answer to a curl command, by the connection that the test has set."""
    from plugins.hooks.supabase_project import supabase_project  # noqa: PLC0415 - reads the connection

    project = supabase_project()
    filled = command.replace("$SUPABASE_URL", project.url).replace("$SUPABASE_SERVICE_ROLE_KEY", project.key)
    _, _, url, *options = shlex.split(filled)
    given = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ", 1) for name, value in given if name == "-H")
    (body,) = (value for name, value in given if name == "-d")
    answer = httpx.post(url, headers=headers, content=body, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_names_are_read_by_who_says_so(queue: Target, review: Command) -> None:
    review('export pairs.csv --with-names --by "Eva Example"')
    read = queue.all(
        "SELECT details ->> 'by', details ->> 'pairs' FROM migration.audit_log WHERE event = 'names read'"
    )
    assert read == [("Eva Example", "2")]
    assert Review(queue.api, "patients").counts()["pending"] == 2
