"""``python -m plugins.search``: over both ways, with the provider of the stored vectors and with another."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pyarrow as pa
import pytest

from include.core.ids import target_id
from include.embedding.content_hash import content_hashes
from include.entities import ENTITIES
from plugins.hooks.embeddings import HashProvider
from plugins.hooks.vectors import VectorStore
from plugins.search.__main__ import main
from tests.hooks.loading import DIMENSIONS, Target, project

BOTH_WAYS = True
RUN = "run-1"
TEXTS = {1: "Refinement, large scan.", 2: "Retainer.", 3: None}
KNOWN = {key: text or "A note that is not kept." for key, text in TEXTS.items()}

Command = Callable[[str], tuple[int, str, str]]


def keep(target: Target, provider: HashProvider) -> None:
    """A vector for each text; the third one's text is not kept."""
    entity = ENTITIES["projects"]
    assert entity.embeddings is not None
    hashes = content_hashes(pa.array(KNOWN.values()), provider.model, provider.dimensions)
    documents = pa.table(
        {
            "id": [target_id("projects", str(key)) for key in TEXTS],
            "legacy_id": [str(key) for key in TEXTS],
            "hash": hashes,
            "text": pa.array(TEXTS.values(), pa.string()),
            "shortened": [False] * len(TEXTS),
        }
    )
    vectors = provider.embed(list(KNOWN.values())).vectors
    store = VectorStore(target.api, RUN, entity, entity.embeddings)
    assert store.store(documents, (hashes.to_pylist(), vectors), provider.model, provider.dimensions) == 3


@pytest.fixture
def search(target: Target, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command; its exit code, what it found and what else it said."""
    monkeypatch.setenv("MIGRATION_EMBEDDING_PROVIDER", "hash")
    monkeypatch.setenv("MIGRATION_EMBEDDING_DIMENSIONS", str(DIMENSIONS))

    def run(line: str) -> tuple[int, str, str]:
        code = main(["--load-via", target.api.way, *shlex.split(line)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def kept(target: Target) -> Target:
    target.load("projects", [project(key) for key in TEXTS], run=RUN)
    keep(target, HashProvider(DIMENSIONS))
    return target


def test_the_nearest_come_first_with_their_documents(kept: Target, search: Command) -> None:
    code, found, said = search(f"projects '{TEXTS[1]}' --threshold -1")
    lines = [line.split("\t") for line in found.splitlines()]
    assert code == 0
    assert lines[0] == ["1.0000", "1", TEXTS[1]]
    assert sorted(line[1] for line in lines) == ["1", "2", "3"]
    similarities = [float(line[0]) for line in lines]
    assert similarities == sorted(similarities, reverse=True)
    assert "mean nothing" in said


def test_a_document_that_is_not_kept_is_not_shown(kept: Target, search: Command) -> None:
    assert search(f"projects '{KNOWN[3]}' --count 1")[1] == (
        "1.0000\t3\t(its document is not kept: it holds free text)\n"
    )


def test_count_and_threshold(kept: Target, search: Command) -> None:
    assert len(search(f"projects '{TEXTS[1]}' --threshold -1 --count 2")[1].splitlines()) == 2
    assert len(search(f"projects '{TEXTS[1]}' --threshold 0.99")[1].splitlines()) == 1
    assert search("projects other --threshold 1")[1].startswith("Nothing is as similar")


def test_vectors_of_another_model_are_refused(
    kept: Target, search: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATION_EMBEDDING_DIMENSIONS", str(DIMENSIONS + 1))
    code, found, said = search("projects anything")
    assert (code, found) == (1, "")
    assert "SEARCH_OTHER_MODEL" in said
    assert f"sha256-unit-vectors ({DIMENSIONS} dimensions)" in said
    assert "MIGRATION_EMBEDDING_MODEL" in said


def test_without_vectors_there_is_nothing_to_search(search: Command) -> None:
    code, found, said = search("cases anything")
    assert (code, found) == (1, "")
    assert "SEARCH_NOTHING_STORED" in said


def test_the_question_is_in_no_message(search: Command) -> None:
    assert "unmistakable" not in "".join(map(str, search("projects unmistakable")))


@pytest.mark.parametrize(
    "line",
    [
        "practices x",
        "projects ' '",
        "projects x --count 0",
        "projects x --count 1001",
        "projects x --threshold 2",
    ],
)
def test_a_wrong_command_is_refused(search: Command, line: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        search(line)
