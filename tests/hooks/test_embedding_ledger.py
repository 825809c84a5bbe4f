"""Requests that are reserved and settled: limits and budget hold for all workers together."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from include.core.errors import MigrationError
from include.embedding.prices import Price
from include.embedding.provider import Answer, RateLimits
from plugins.hooks.embedding_ledger import EmbeddingLedger, Turn
from plugins.hooks.target import Target as Api
from tests.hooks.loading import Target, project

BOTH_WAYS = True
RUN = "run-1"
# US dollars per million tokens: a token is a cent.
PRICE = Decimal(10_000)


@dataclass(frozen=True)
class Provider:
    """What the ledger asks of one; it is never sent anything."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    account: str = "openai api.openai.com m"
    name: str = "openai"
    model: str = "m"
    dimensions: int = 8
    semantic: bool = True
    leaves: bool = True
    max_inputs: int = 10
    max_tokens_per_request: int = 10_000
    max_tokens_per_input: int = 100
    parallel: int = 4
    price: Price | None = None

    def count_tokens(self, text: str) -> int:
        raise NotImplementedError

    def embed(self, texts: Sequence[str]) -> Answer:
        raise NotImplementedError


def ledger(
    api: Api,
    provider: Provider | None = None,
    *,
    run: str = RUN,
    entity: str = "projects",
    price: Decimal | None = PRICE,
    budget: Decimal | None = None,
    paced: bool = True,
) -> EmbeddingLedger:
    return EmbeddingLedger(api, run, entity, provider or Provider(), price=price, budget=budget, paced=paced)


@pytest.fixture
def opened(target: Target) -> Target:
    """A target with a run that holds the lock."""
    target.tracking(RUN)
    return target


def waits(book: EmbeddingLedger, *tokens: int) -> list[float]:
    return [book.reserve(1, some).wait_seconds for some in tokens]


def reserved(turn: Turn) -> str:
    assert turn.request is not None
    return turn.request


def near(*seconds: float) -> Any:
    """Time goes on between two calls."""
    return pytest.approx(seconds, abs=0.4)


class TestLimits:
    def test_without_limits_nobody_waits(self, opened: Target) -> None:
        assert waits(ledger(opened.api), *[100_000] * 5) == [0] * 5

    def test_tokens_fill_a_second_and_then_wait(self, opened: Target) -> None:
        book = ledger(opened.api, Provider(tokens_per_minute=600))
        assert waits(book, 10, 40, 100, 5) == near(0, 1, 5, 14.5)

    def test_requests_do_too(self, opened: Target) -> None:
        book = ledger(opened.api, Provider(requests_per_minute=12, tokens_per_minute=600_000))
        assert waits(book, 10, 10, 10) == near(0, 5, 10)

    def test_all_entities_and_runs_share_an_account(self, opened: Target) -> None:
        provider = Provider(tokens_per_minute=600)
        assert waits(ledger(opened.api, provider), 100) == near(0)
        assert waits(ledger(opened.api, provider, entity="cases"), 10) == near(10)
        other = Provider(tokens_per_minute=600, account="another")
        assert waits(ledger(opened.api, other), 10) == near(0)
        opened.tracking("run-2")
        assert waits(ledger(opened.api, provider, run="run-2"), 10) == near(11)

    def test_more_than_a_minute_ahead_nothing_is_reserved(self, opened: Target) -> None:
        book = ledger(opened.api, Provider(tokens_per_minute=60), budget=Decimal(1_000))
        first = book.reserve(1, 90)
        before = [
            opened.image(f"migration.embedding_{table}") for table in ("accounts", "requests", "spending")
        ]
        turn = book.reserve(1, 1)
        assert (turn.request, turn.paused) == (None, False)
        assert turn.wait_seconds == pytest.approx(89.5, abs=1)
        after = [
            opened.image(f"migration.embedding_{table}") for table in ("accounts", "requests", "spending")
        ]
        assert (first.wait_seconds, after) == (0, before)

    def test_what_the_provider_says_counts_more(self, opened: Target) -> None:
        book = ledger(opened.api, Provider(tokens_per_minute=60))
        said = RateLimits(tokens_per_minute=600, remaining_tokens=590)
        book.settle(reserved(book.reserve(1, 1)), "answered", tokens=1, limits=said)
        assert waits(book, 100, 50) == near(1, 11)
        # Nothing more is said: what was said last holds.
        book.settle(reserved(book.reserve(1, 1)), "answered", tokens=1)
        assert opened.all(
            "SELECT requests_per_minute, tokens_per_minute FROM migration.embedding_accounts"
        ) == [(None, 600)]

    @pytest.mark.parametrize(
        ("said", "seconds"),
        [
            (RateLimits(tokens_per_minute=600, remaining_tokens=20, tokens_reset_seconds=58), 3.0),
            (RateLimits(tokens_per_minute=600, remaining_tokens=20, tokens_reset_seconds=2), 2.0),
            (RateLimits(tokens_per_minute=600, remaining_tokens=50, tokens_reset_seconds=55), 0.0),
            (RateLimits(requests_per_minute=10, remaining_requests=0, requests_reset_seconds=60), 6.0),
            (RateLimits(remaining_requests=0, requests_reset_seconds=4), 4.0),
            (RateLimits(remaining_requests=0), 0.0),
        ],
    )  # fmt: skip
    def test_an_account_that_is_used_up_is_left_alone(
        self, opened: Target, said: RateLimits, seconds: float
    ) -> None:
        """Until it has filled up for another request of the size, or is reset, if that is sooner."""
        book = ledger(opened.api)
        book.settle(reserved(book.reserve(1, 50)), "answered", tokens=50, limits=said)
        opened.connection.execute(
            "UPDATE migration.embedding_accounts SET requests_per_minute = NULL, tokens_per_minute = NULL"
            " WHERE account IS NOT NULL"
        )
        assert waits(book, 50) == near(seconds)

    def test_a_pause_is_for_all(self, opened: Target) -> None:
        book = ledger(opened.api, Provider(tokens_per_minute=600_000))
        first, second = (reserved(book.reserve(1, 10)) for _ in range(2))
        book.settle(first, "refused", pause=7.0)
        book.settle(second, "refused", pause=2.0)
        assert waits(ledger(opened.api, entity="cases"), 10) == near(7)

    def test_a_pause_of_more_than_a_minute_is_told_from_a_long_line(self, opened: Target) -> None:
        book = ledger(opened.api)
        book.settle(reserved(book.reserve(1, 10)), "refused", pause=120.0)
        turn = ledger(opened.api, entity="cases").reserve(1, 10)
        assert (turn.request, turn.paused) == (None, True)
        assert turn.wait_seconds == pytest.approx(120, abs=2)

    def test_jobs_of_the_batch_api_wait_for_nothing(self, opened: Target) -> None:
        provider = Provider(tokens_per_minute=60)
        assert waits(ledger(opened.api, provider), 60) == near(0)
        assert waits(ledger(opened.api, provider, paced=False), 10_000, 10_000) == [0, 0]
        assert waits(ledger(opened.api, provider), 1) == near(60)

    def test_who_dies_only_wastes_its_turn(self, opened: Target) -> None:
        book = ledger(opened.api, Provider(tokens_per_minute=600))
        waits(book, 10)
        assert waits(book, 10) == near(1)

    def test_asked_for_again_it_is_the_same_request(self, opened: Target) -> None:
        """As the client of the API does, whose answer got lost."""
        asked: dict[str, Any] = {
            "request": str(uuid.uuid4()), "run": RUN, "entity": "projects", "account": "a", "provider": "p",
            "model": "m", "texts": 1, "tokens": 10, "price": "1", "budget": None, "requests_per_minute": None,
            "tokens_per_minute": 60,
        }  # fmt: skip
        first, again = (opened.api.call("reserve_embedding", **asked) for _ in range(2))
        assert (first["request"], again["request"]) == (asked["request"], asked["request"])
        assert (first["wait_seconds"], again["wait_seconds"]) == (0, 0)
        assert opened.all("SELECT count(*), sum(tokens) FROM migration.embedding_requests") == [(1, 10)]


def test_workers_together_stay_within_the_limit(opened: Target) -> None:
    """6,000 tokens a minute are 100 a second: in no time have more been sent than in it and a burst of one second."""
    provider, begun, seconds = Provider(tokens_per_minute=6_000), time.monotonic(), 3.0
    sent: list[float] = []

    def work() -> None:
        with opened.api.another() as own:
            book = ledger(own, provider)
            while time.monotonic() - begun < seconds:
                turn = book.reserve(5, 50)
                time.sleep(turn.wait_seconds)
                sent.append(time.monotonic() - begun)
                book.settle(reserved(turn), "answered", tokens=50)

    with ThreadPoolExecutor(4) as pool:
        for worker in [pool.submit(work) for _ in range(4)]:
            worker.result()
    sent.sort()
    # A turn is told a little late, never early.
    for number, moment in enumerate(sent):
        assert 50 * (number + 1) <= 100 * (moment + 1) + 1
    used = [moment for moment in sent if moment <= seconds]
    assert 50 * len(used) >= 0.95 * 100 * seconds


class TestBudget:
    def spent(self, target: Target) -> Decimal:
        (row,) = target.all(
            "SELECT coalesce(sum(cost), 0), coalesce((SELECT sum(spent) FROM migration.embedding_spending), 0)"
            " FROM migration.embedding_requests"
        )
        assert row[0] == row[1]
        return Decimal(row[0])

    def test_the_request_that_would_exceed_it_is_refused(self, opened: Target) -> None:
        book = ledger(opened.api, budget=Decimal("1.00"))
        for tokens in (60, 40):
            book.reserve(1, tokens)
        before = [
            opened.image(f"migration.embedding_{table}") for table in ("accounts", "requests", "spending")
        ]
        with pytest.raises(MigrationError) as caught:
            book.reserve(1, 1)
        assert caught.value.code == "EMBEDDING_BUDGET"
        assert "1.000000 of 1.00 US dollars" in str(caught.value)
        after = [
            opened.image(f"migration.embedding_{table}") for table in ("accounts", "requests", "spending")
        ]
        assert after == before
        assert self.spent(opened) == 1

    def test_what_was_billed_counts(self, opened: Target) -> None:
        book = ledger(opened.api, budget=Decimal(1))
        answered, refused, lost = (reserved(book.reserve(1, tokens)) for tokens in (50, 30, 20))
        with pytest.raises(MigrationError):
            book.reserve(1, 1)
        book.settle(answered, "answered", tokens=45)
        assert self.spent(opened) == Decimal("0.95")
        book.settle(refused, "refused")
        assert self.spent(opened) == Decimal("0.65")
        book.settle(lost, "lost")
        assert self.spent(opened) == Decimal("0.65")
        waits(book, 35)
        with pytest.raises(MigrationError):
            book.reserve(1, 1)

    def test_what_was_not_sent_costs_nothing(self, opened: Target) -> None:
        book = ledger(opened.api, budget=Decimal(1))
        book.settle(reserved(book.reserve(1, 90)), "unsent")
        assert self.spent(opened) == 0
        assert book.reserve(1, 90).request is not None

    def test_it_is_settled_once(self, opened: Target) -> None:
        book = ledger(opened.api)
        request = reserved(book.reserve(1, 50))
        book.settle(request, "answered", tokens=40)
        book.settle(request, "lost")
        book.settle(request, "refused", pause=9.0)
        book.settle(str(uuid.uuid4()), "answered", tokens=40)
        assert self.spent(opened) == Decimal("0.4")
        assert opened.all("SELECT state, billed_tokens FROM migration.embedding_requests") == [
            ("answered", 40)
        ]
        assert waits(book, 1) == [0]

    def test_a_run_has_its_own(self, opened: Target) -> None:
        ledger(opened.api, budget=Decimal(1)).reserve(1, 100)
        with pytest.raises(MigrationError):
            ledger(opened.api, entity="cases", budget=Decimal(1)).reserve(1, 1)
        opened.tracking("run-2")
        assert waits(ledger(opened.api, run="run-2", budget=Decimal(1)), 100) == [0]

    def test_without_a_price_there_is_no_budget(self, opened: Target) -> None:
        with pytest.raises(MigrationError) as caught:
            ledger(opened.api, price=None, budget=Decimal(1)).reserve(1, 1)
        assert caught.value.code == "EMBEDDING_PRICE_UNKNOWN"
        assert waits(ledger(opened.api, price=None), 1) == [0]
        assert waits(ledger(opened.api, price=Decimal(0), budget=Decimal(0)), 1) == [0]

    def test_workers_together_do_not_exceed_it(self, opened: Target) -> None:
        """Eight at once for a hundred requests, of which the budget allows thirty, and three are given back."""
        stopped, given_back, start = [], threading.Semaphore(3), threading.Barrier(8)

        def work() -> None:
            with opened.api.another() as own:
                book = ledger(own, budget=Decimal(3))
                start.wait()
                for _ in range(12):
                    try:
                        request = reserved(book.reserve(1, 10))
                    except MigrationError as error:
                        stopped.append(error.code)
                        return
                    if given_back.acquire(blocking=False):
                        book.settle(request, "refused")
                    else:
                        book.settle(request, "answered", tokens=10)

        with ThreadPoolExecutor(8) as pool:
            for worker in [pool.submit(work) for _ in range(8)]:
                worker.result()
        assert stopped == ["EMBEDDING_BUDGET"] * 8
        assert self.spent(opened) == 3
        assert opened.all(
            "SELECT state, count(*) FROM migration.embedding_requests GROUP BY 1 ORDER BY 1"
        ) == [
            ("answered", 30),
            ("refused", 3),
        ]


class TestRun:
    def test_without_the_lock_nothing_is_reserved_or_recorded(self, opened: Target) -> None:
        book = ledger(opened.api)
        request = reserved(book.reserve(1, 10))
        opened.connection.execute("DELETE FROM migration.run_lock")
        for write in (
            lambda: book.reserve(1, 10),
            lambda: book.record_job({"share": "s000"}),
            lambda: EmbeddingLedger.record_estimate(opened.api, RUN, "projects", {"texts": 1}),
        ):
            with pytest.raises(MigrationError) as caught:
                write()
            assert caught.value.code == "RUN_LOST"
        # It is billed all the same.
        book.settle(request, "answered", tokens=9)
        assert opened.all("SELECT state, billed_tokens FROM migration.embedding_requests") == [
            ("answered", 9)
        ]

    def test_jobs_are_kept_by_share(self, opened: Target) -> None:
        book = ledger(opened.api)
        assert book.jobs() == []
        first = {
            "share": "s000",
            "job": "batch_1",
            "request": None,
            "state": "submitted",
            "submitted_at": 1.5,
        }
        for job in ({**first, "share": "s001"}, first):
            book.record_job(job)
        before = opened.image("migration.embedding_jobs")
        book.record_job(first)
        assert opened.image("migration.embedding_jobs") == before
        book.record_job({**first, "state": "collected"})
        assert book.jobs() == [{**first, "state": "collected"}, {**first, "share": "s001"}]
        assert ledger(opened.api, entity="cases").jobs() == []
        opened.tracking("run-2")
        assert ledger(opened.api, run="run-2").jobs() == []

    def test_facts_for_the_report(self, opened: Target) -> None:
        opened.load("projects", [project(1)], run=RUN)
        nothing = {"estimates": {}, "requests": [], "refused": [], "spent": "0"}
        assert EmbeddingLedger.facts(opened.api, RUN) == nothing
        for texts in (3, 4):
            EmbeddingLedger.record_estimate(opened.api, RUN, "projects", {"texts": texts, "cost": "0.5"})
        book = ledger(opened.api)
        requests = [reserved(book.reserve(2, tokens)) for tokens in (20, 30, 40, 5)]
        book.settle(requests[0], "answered", tokens=19)
        book.settle(requests[1], "answered", tokens=30)
        book.settle(requests[2], "refused")
        assert EmbeddingLedger.facts(opened.api, RUN) == {
            "estimates": {"projects": {"texts": 4, "cost": "0.5"}},
            "requests": [
                self.facts("answered", requests=2, texts=4, tokens=50, billed_tokens=49, cost="0.49"),
                self.facts("refused", requests=1, texts=2, tokens=40, billed_tokens=0, cost="0"),
                self.facts("reserved", requests=1, texts=2, tokens=5, billed_tokens=5, cost="0.05"),
            ],
            "refused": [],
            "spent": "0.54",
        }

    def facts(self, state: str, **sums: int | str | None) -> dict[str, Any]:
        return {"entity": "projects", "provider": "openai", "model": "m", "state": state, **sums}
