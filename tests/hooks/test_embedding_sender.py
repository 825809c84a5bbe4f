"""The sender between a provider and a ledger that do what a test says, and what tasks share and leave behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.core import report_ai
from include.core.errors import MigrationError
from include.embedding.prices import FREE, Price
from include.embedding.provider import Answer
from plugins.hooks.answer_spool import AnswerSpool
from plugins.hooks.embedding_ledger import EmbeddingLedger, Turn
from plugins.hooks.embedding_sender import Embedded, Sender, Text
from plugins.hooks.openai_batches import OpenAIBatches
from plugins.hooks.staging import StagedFolder
from plugins.hooks.vectors import VectorStore
from plugins.operators.embed import BuildIndexOperator
from tests.embedding_server import POISON, EmbeddingServer, Fault, tokens_of
from tests.hooks.loading import case, patient
from tests.hooks.test_embed_operators import World, world  # noqa: F401 - a fixture


@dataclass
class Provider:
    """Refuses some texts, and does something else before it answers."""

    parallel: int = 1
    max_inputs: int = 2
    max_tokens_per_request: int = 1_000
    poison: str = "?"
    before: Callable[[Sequence[str]], None] = lambda _: None
    sent: list[list[str]] = field(default_factory=list)
    name: str = "openai"
    model: str = "m"
    dimensions: int = 4
    semantic: bool = True
    leaves: bool = True
    account: str = "a"
    max_tokens_per_input: int = 1_000
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    price: Price | None = FREE

    def count_tokens(self, text: str) -> int:
        return len(text)

    def embed(self, texts: Sequence[str]) -> Answer:
        self.sent.append(list(texts))
        self.before(texts)
        if self.poison in texts:
            raise MigrationError("EMBEDDING_REFUSED", "", status=400)
        return Answer(np.ones((len(texts), 4), np.float32), len(texts))


class Ledger(EmbeddingLedger):
    """Gives the turns it was told, then turns at once."""

    def __init__(self, *turns: Turn) -> None:
        self.turns = list(turns)
        self.settled: dict[str, str] = {}
        self._number = 0

    def reserve(self, texts: int, tokens: int) -> Turn:
        self._number += 1
        return self.turns.pop(0) if self.turns else Turn(f"r{self._number}", 0.0)

    def settle(self, request: str, outcome: str, **_: Any) -> None:
        self.settled[request] = outcome


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnswerSpool:
    monkeypatch.setenv("MIGRATION_STAGING_URI", f"file://{tmp_path / 'staging'}")
    return AnswerSpool("projects")


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the sender was to wait, which it does not."""
    taken: list[float] = []

    monkeypatch.setattr(Sender, "_wait", lambda _, seconds: taken.append(seconds))
    return taken


def texts(*words: str, size: int = 1) -> list[Text]:
    return [Text(f"h{word}", word, 1, size) for word in words]


def sender(provider: Provider, ledger: Ledger, spool: AnswerSpool, **values: Any) -> Sender:
    return Sender(provider, ledger, spool, **{"max_retries": 0, "may_go_on": lambda: None, **values})


def hashes(embedded: Iterator[Embedded]) -> list[str]:
    return [content_hash for done in embedded for content_hash in done.hashes]


class TestStopping:
    def test_a_request_that_waits_for_its_turn_is_not_sent_and_not_paid_for(self, spool: AnswerSpool) -> None:
        provider, ledger = Provider(), Ledger(Turn("r0", 30.0))
        sending = sender(provider, ledger, spool)
        threading.Timer(0.2, sending.stop).start()
        started = time.monotonic()
        with pytest.raises(MigrationError, match="RUN_STOPPED"):
            hashes(sending.send(texts("a")))
        assert time.monotonic() - started < 5
        assert provider.sent == []
        assert ledger.settled == {"r0": "unsent"}

    def test_the_search_for_a_poisonous_text_ends_too(self, spool: AnswerSpool) -> None:
        provider, ledger = Provider(max_inputs=8), Ledger()
        sending = sender(provider, ledger, spool)
        provider.before = lambda some: sending.stop() if len(some) == 4 else None
        with pytest.raises(MigrationError, match="RUN_STOPPED"):
            hashes(sending.send(texts(*"abcdefg?")))
        assert len(provider.sent[-1]) == 4

    def test_what_is_answered_meanwhile_is_handed_on(self, spool: AnswerSpool) -> None:
        asked = iter([None, None, MigrationError("RUN_LOST", "")])

        def may_go_on() -> None:
            error = next(asked)
            if error is not None:
                raise error

        found: list[str] = []
        sending = sender(Provider(), Ledger(), spool, may_go_on=may_go_on).send(texts(*"abcdef"))
        with pytest.raises(MigrationError, match="RUN_LOST"):
            found.extend(content_hash for done in sending for content_hash in done.hashes)
        assert found == ["ha", "hb", "hc", "hd"]


class TestTurns:
    def test_a_turn_behind_many_others_is_waited_for(self, spool: AnswerSpool, naps: list[float]) -> None:
        provider, ledger = Provider(), Ledger(Turn(None, 200.0), Turn(None, 90.0), Turn("r0", 30.0))
        assert hashes(sender(provider, ledger, spool).send(texts("a"))) == ["ha"]
        assert len(naps) == 3
        assert 100 < naps[0] <= 200
        assert naps[-1] == 30.0

    def test_a_long_pause_is_left_to_the_retry_policy(self, spool: AnswerSpool, naps: list[float]) -> None:
        provider, ledger = Provider(), Ledger(Turn(None, 200.0, paused=True))
        with pytest.raises(MigrationError) as busy:
            hashes(sender(provider, ledger, spool).send(texts("a")))
        assert busy.value.code == "EMBEDDING_BUSY"
        assert busy.value.facts["retry_after_seconds"] == 200.0
        assert (provider.sent, naps) == ([], [])


class TestRequests:
    def test_a_text_of_many_bytes_goes_alone(self, spool: AnswerSpool) -> None:
        provider = Provider(max_inputs=9)
        assert hashes(sender(provider, Ledger(), spool).send(texts("a", "b", size=1_001))) == ["ha", "hb"]
        assert provider.sent == [["a"], ["b"]]

    def test_requests_stay_in_flight_while_answers_are_stored(self, spool: AnswerSpool) -> None:
        provider = Provider(parallel=2, max_inputs=1)
        at_most = 0
        for done in sender(provider, Ledger(), spool).send(texts(*"abcdefghij")):
            assert done.hashes
            before, deadline = len(provider.sent), time.monotonic() + 0.3
            while time.monotonic() < deadline and len(provider.sent) == before:
                time.sleep(0.01)
            at_most = max(at_most, len(provider.sent) - before)
        assert at_most > 0


class TestSpool:
    def test_an_answer_that_another_task_drops_meanwhile_is_none_of_ours(
        self, spool: AnswerSpool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept = spool.keep(["h1"], np.ones((1, 4), np.float32))
        monkeypatch.setattr(StagedFolder, "names", lambda *_: ["gone", kept])
        assert [answer.hashes for answer in spool.wanted({"h1"})] == [["h1"]]
        spool.forget(lambda known: known)
        assert list(spool.wanted({"h1"})) == []

    def test_an_answer_for_two_shares_is_left_for_the_other(
        self,
        world: World,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        world.projects(*range(8))
        run = world.run()
        [share] = world.plan(run)
        store = VectorStore.store
        with monkeypatch.context() as patched:
            patched.setattr(VectorStore, "store", self.gone)
            with pytest.raises(MigrationError, match="TARGET_UNREACHABLE"):
                world.send(run, share)
        assert VectorStore.store is store
        answered = world.server.sent.total()
        # The next run's shares lie across the answers of four texts each.
        monkeypatch.setattr("plugins.operators.plan_embeddings._TEXTS_PER_SHARE", 3)
        world.embed(world.run("run-2"))
        assert answered >= 4
        assert len(world.vectors()) == 8
        assert set(world.server.sent.values()) == {1}
        assert list(spool_files(world)) == []

    @staticmethod
    def gone(*_: object) -> None:
        raise MigrationError("TARGET_UNREACHABLE", "")


def spool_files(world: World) -> Iterator[str]:  # noqa: F811
    yield from StagedFolder(AnswerSpool("projects")._folder._root).names("answers", "projects")


class TestPlans:
    def test_another_model_since_the_plan_is_refused(
        self,
        world: World,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        world.projects(*range(3))
        run = world.run()
        [share] = world.plan(run)
        monkeypatch.setenv("MIGRATION_EMBEDDING_MODEL", "text-embedding-ada-002")
        with pytest.raises(MigrationError) as refused:
            world.send(run, share)
        assert refused.value.code == "EMBEDDING_PLAN_OUTDATED"
        assert world.server.requests == []
        # Planned anew, it goes on.
        world.embed(run)
        assert len(world.vectors()) == 3

    def test_complete_is_what_was_planned(
        self,
        world: World,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        world.projects(*range(3))
        run = world.run()
        for share in world.plan(run):
            world.send(run, share)
        monkeypatch.setenv("MIGRATION_EMBEDDING_MODEL", "text-embedding-ada-002")
        BuildIndexOperator(task_id="ai_enhancement.index", entity="projects").step(run)
        world.target.tracking("run-2", scope="changes")
        [result] = world.embed(world.run("run-2"))
        assert result["sent"] == 3

    def test_planned_again_the_estimate_is_that_of_the_whole_run(self, world: World) -> None:  # noqa: F811
        world.projects(*range(6))
        run = world.run()
        world.embed(run)
        before = world.facts()["estimates"]["projects"]
        world.embed(run)
        assert world.facts()["estimates"]["projects"] == before
        assert before["texts"] == 6

    @pytest.mark.parametrize("account", ["local m", "openai other.example.com m"])
    def test_planned_again_with_another_provider_what_left_stays_told(
        self,
        world: World,  # noqa: F811
        account: str,
    ) -> None:
        world.projects(*range(6))
        run = world.run()
        world.embed(run)
        before = world.facts()["estimates"]["projects"]
        after = {**before, "account": account, "leaves": account.startswith("openai"), "texts": 0}
        EmbeddingLedger.record_estimate(world.target.api, "run-1", "projects", after)
        kept = world.target.image("migration.embedding_estimates")
        EmbeddingLedger.record_estimate(world.target.api, "run-1", "projects", after)
        assert world.target.image("migration.embedding_estimates") == kept
        told = report_ai.what_left({"embeddings": report_ai.embeddings(world.facts(), 5.0)})
        assert f"6 texts of projects to {before['account']}" in told
        assert told.count(account) == after["leaves"]

    def test_planned_again_each_row_is_counted_once(
        self,
        world: World,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("plugins.operators.plan_embeddings._TEXTS_PER_SHARE", 4)
        world.projects(*range(12))
        run = world.run()
        for share in world.plan(run)[:2]:
            world.send(run, share)
        counted = (
            "SELECT sum(extracted), sum(inserted + unchanged)"
            " FROM migration.batches WHERE phase = 'ai_enhancement'"
        )
        for _ in range(2):  # the second time nothing is left
            world.embed(run)
            assert world.target.all(counted) == [(12, 12)]

    def test_texts_of_many_tokens_are_more_jobs_of_the_batch_api(
        self,
        world: World,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("plugins.operators.plan_embeddings._TOKENS_PER_SHARE", 50)
        world.projects(*range(6))
        tokens = sum(tokens_of(world.text(key)) for key in range(6))
        assert len(world.plan(world.run("run-1", ai_batch_api=True))) == -(-tokens // 50)
        # Sent directly, more tasks would only wait for each other's turn.
        assert len(world.plan(world.run("run-2"))) == 1


class TestJobs:
    def test_what_could_not_be_submitted_costs_nothing(
        self,
        world: World,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        world.projects(*range(4))
        run = world.run(ai_batch_api=True)
        [share] = world.plan(run)

        def unreachable(*_: object) -> str:
            raise MigrationError("EMBEDDING_BUSY", "")

        monkeypatch.setattr(OpenAIBatches, "submit", unreachable)
        for _ in range(3):
            with pytest.raises(MigrationError, match="EMBEDDING_BUSY"):
                world.send(run, share)
        assert world.facts()["spent"] == "0"


class TestProgress:
    def test_it_never_passes_all(
        self,
        world: World,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr("include.core.progress.RHYTHM_SECONDS", 0)
        caplog.set_level("INFO")
        world.projects(*range(10))
        world.server.poison = {world.text(5): POISON}
        run = world.run(ai_batch_api=True)
        [share] = world.plan(run)
        world.send(run, share)
        lines = [record.getMessage() for record in caplog.records if " s left" in record.getMessage()]
        assert lines
        for line in lines:
            assert int(line.split("%")[0].split()[-1]) <= 100, line
            assert "about -" not in line, line


class TestTasks:
    def test_a_long_retry_after_leaves_the_worker_to_others(self, world: World) -> None:  # noqa: F811
        world.projects(*range(8))
        world.server.faults.append(Fault(429, {"Retry-After": "120"}, error={"code": "rate_limit_exceeded"}))
        run = world.run(max_retries=3)
        [share] = world.plan(run)
        for _ in range(2):  # the second time the target knows
            with pytest.raises(MigrationError) as busy:
                world.send(run, share)
            assert (busy.value.code, busy.value.transient) == ("EMBEDDING_BUSY", True)
            asked = busy.value.facts["retry_after_seconds"]
            assert isinstance(asked, float)
            assert 110 < asked <= 120
        assert len(world.server.embedding_requests) == 2
        assert len(world.vectors()) == 4, "what was answered stays"

    def test_a_run_that_lost_its_lock_sends_nothing_more(
        self,
        world: World,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        world.projects(*range(60))
        run = world.run()
        [share] = world.plan(run)
        items = EmbeddingServer.items

        def lose(server: EmbeddingServer, *request: Any) -> Any:
            world.target.connection.execute("DELETE FROM migration.run_lock")
            return items(server, *request)

        with monkeypatch.context() as patched:
            patched.setattr(EmbeddingServer, "items", lose)
            with pytest.raises(MigrationError, match="RUN_LOST"):
                world.send(run, share)
        assert len(world.server.embedding_requests) <= 4, "those in flight"
        assert world.vectors() == {}
        world.embed(world.run("run-2"))
        assert len(world.vectors()) == 60
        assert set(world.server.sent.values()) == {1}

    @pytest.mark.parametrize("target", ["rest"], indirect=True)
    def test_through_the_api_it_is_the_same(self, world: World) -> None:  # noqa: F811
        world.projects(*range(12))
        world.server.poison = {world.text(5): POISON}
        assert world.embed(world.run(load_via="rest")) == [{"rows": 11, "sent": 12, "refused": 1}]
        assert set(world.vectors()) == set(range(12)) - {5}
        assert world.embed(world.run("run-2", load_via="rest")) == [{"rows": 0, "sent": 0, "refused": 0}]

    def test_any_text_is_embedded_and_one_that_is_too_long_is_marked(self, world: World) -> None:  # noqa: F811
        titles = ["Ünïcödé 牙科 🦷 \u202e", "<|endoftext|>", "word " * 60_000, "🦷" * 20_000, "-" * 100_000]
        world.target.load("patients", [patient(1)], run="run-0")
        rows = [case(key, 1, title=title) for key, title in enumerate(titles)]
        world.target.load("cases", rows, run="run-0")
        world.embed(world.run(), "cases")
        marked = world.target.all(
            "SELECT left(v.content_text, 9), v.metadata ? 'shortened' FROM public.case_embeddings v"
        )
        expected = {"Ünï": False, "<|e": False, "wor": True, "🦷🦷🦷": True, "---": False}
        assert dict(marked) == {f"Order {beginning}": cut for beginning, cut in expected.items()}
        assert world.facts()["estimates"]["cases"]["tokens"] == world.server.tokens
