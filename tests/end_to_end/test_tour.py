"""docs/tour.md, command by command, in a copy of the project: what a new user does in the first ten minutes.

Blocks marked `console` hold commands (`$ …`) and what they print; `fails` where the last one ends with an error, `ui`
where it goes on until it is stopped. Lines are compared in their order, any may stand between them, and any number is
as good as another: a smaller source is migrated here.
"""

# ruff: noqa: S603, S607 - the page says what is run

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from local.databases import legacy_dsn, target_dsn
from local.environment import PROJECT, connection_variable
from local.postgres import EmbeddedPostgres

_BLOCK = re.compile(r"^```console ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d[\d,.]*")
_LEFT_OUT = "…"
_SECONDS = 1200
_START_SECONDS = 180
# The smallest source with pairs that wait for a person.
_PATIENTS = "120"


@dataclass(frozen=True)
class Block:
    """Commands of the page and what they print."""

    kind: str
    commands: tuple[str, ...]
    printed: tuple[str, ...]


def blocks() -> list[Block]:
    """Those of the page, in their order."""
    found = []
    for kind, text in _BLOCK.findall((PROJECT / "docs" / "tour.md").read_text()):
        lines = text.splitlines()
        commands = tuple(line[2:] for line in lines if line.startswith("$ "))
        printed = tuple(line.strip() for line in lines if not line.startswith("$ ") and line != _LEFT_OUT)
        found.append(Block(kind, commands, printed))
    return found


def missing(printed: str, expected: tuple[str, ...]) -> list[str]:
    """The expected lines that do not follow each other in what was printed."""
    rest = iter([_NUMBER.sub("0", line) for line in printed.splitlines()])
    return [line for line in expected if not any(_NUMBER.sub("0", line) in other for other in rest)]


def commands(heading: str) -> str:
    """The first block of code below a heading of the README."""
    section = (PROJECT / "README.md").read_text().partition(f"\n{heading}\n")[2]
    return section.partition("\n```\n")[2].partition("\n```\n")[0]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project's files with this environment's packages; servers that it starts are stopped."""
    folder = tmp_path_factory.mktemp("tour") / "project"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (PROJECT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            # With its times: make would install the packages anew behind newer lock files.
            shutil.copy2(PROJECT / name, folder / name)
    (folder / ".venv").symlink_to(PROJECT / ".venv")
    yield folder
    subprocess.run(["make", "stop"], cwd=folder, env=environment(), check=True, capture_output=True)


def environment() -> dict[str, str]:
    """A user's shell, with a source of a size for tests and a port that nobody else has.

    Without what the `make` that runs the tests tells those below it: its ARGS would be theirs.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW", "MIGRATION_", "PYTHON", "MAKE", "MFLAGS", "ARGS"))
    }
    return {**kept, "ROWS": _PATIENTS, "PORT": "0"}


def run(block: Block, folder: Path) -> str:
    """What the commands print; all but a last one that is to fail must succeed."""
    script = "\n".join(["set -o pipefail", *(f"{command} || exit $?" for command in block.commands)])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert (done.returncode != 0) == (block.kind == "fails"), done.stdout[-6000:]
    return done.stdout


def serve(block: Block, folder: Path) -> str:
    """Starts the pages, which stay; what they print until they are there."""
    log = folder / "ui.log"
    (command,) = block.commands
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=folder, env=environment(), stdout=output, stderr=output
        )
    deadline = time.monotonic() + _START_SECONDS
    while missing(log.read_text(), block.printed[-1:]):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    return log.read_text()


def test_the_tour(copy: Path) -> None:
    for block in blocks():
        printed = serve(block, copy) if block.kind == "ui" else run(block, copy)
        assert missing(printed, block.printed) == [], f"{block.commands}\n{printed[-6000:]}"


def test_the_readme(copy: Path, tmp_path: Path) -> None:
    """Its commands over the databases that the tour left, as if they were somebody's own."""
    night = run(Block("", ("make night",), ()), copy)
    assert "REAL RUN completed" in night
    (copy / ".env").write_text(settings(copy))
    (copy / ".env").chmod(0o600)
    dry = commands("## Your own databases")
    for shown, real in (("/path/to/this/folder", copy), ("/path/to/airflow", tmp_path)):
        dry = dry.replace(shown, str(real))
    done = run(Block("", (dry.replace("\n", " || exit $?\n"),), ()), copy)
    assert "DRY RUN completed" in done
    schema = commands("## With the URL and the service key alone").splitlines()[0]
    run(Block("", (f"PATH=.venv/bin:$PATH {schema}",), ()), copy)
    assert len(list((copy / "supabase" / "migrations").glob("*.sql"))) > 1


def settings(copy: Path) -> str:
    """The example of the settings, filled in with the databases of the demo."""
    server = EmbeddedPostgres(copy / ".state" / "postgres")
    source = psycopg.conninfo.conninfo_to_dict(legacy_dsn(server))
    given = {
        "LEGACY_DB_HOST": source["host"],
        "LEGACY_DB_PORT": source["port"],
        "LEGACY_DB_NAME": source["dbname"],
        "LEGACY_DB_USER": source["user"],
        "LEGACY_DB_PASSWORD": source["password"],
        "LEGACY_DB_SSL": "false",
        "MIGRATION_EMBEDDING_PROVIDER": "hash",
    }
    text = (copy / ".env.example").read_text()
    for name, value in given.items():
        text, replaced = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        assert replaced == 1, name
    return f"{text}\nAIRFLOW_CONN_SUPABASE_DB='{connection_variable(target_dsn(server))}'\n"


def test_the_page_shows_every_step() -> None:
    """A block that the pattern does not know would never run."""
    text = (PROJECT / "docs" / "tour.md").read_text()
    assert len(blocks()) == text.count("```console")
    assert {block.kind for block in blocks()} == {"", "fails", "ui"}
    assert all(block.commands for block in blocks())
