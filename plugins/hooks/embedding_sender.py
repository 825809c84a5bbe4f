"""Sends texts to the embedding provider: paced, within the budget, several requests at once, each answer kept at once.

What is answered is on disk (the spool) before anything else happens, and in the target before it leaves the spool.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from include.core.errors import MigrationError
from include.embedding.batching import plan_batches
from include.embedding.isolation import embed_isolating
from include.embedding.provider import EmbeddingProvider, EmbeddingRefusal, Vectors
from plugins.hooks.answer_spool import AnswerSpool
from plugins.hooks.embedding_ledger import EmbeddingLedger

_FIRST_DELAY_SECONDS = 0.5
# Longer waits are the retry policy's: it holds no worker meanwhile.
_LONGEST_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.5
# An answer that cannot be read may have been garbled on its way: asked for once more before it is looked into.
_ASKED_AGAIN = 1
_LOST = ("EMBEDDING_BUSY", "EMBEDDING_WRONG_ANSWER")


@dataclass(frozen=True)
class Text:
    """A text to be embedded.

    Attributes:
        hash: its content hash.
        tokens: as the provider counts them, or an estimate on the safe side.
        size: what it takes of a request's limit (tokens.request_size).
    """

    hash: str
    text: str
    tokens: int
    size: int


@dataclass
class Embedded:
    """What became of the texts of one request, or of the parts it was split into.

    Attributes:
        vectors: float32, a row for each hash.
        refused: content hash to the code of the refusal.
        spooled: names of the answers in the spool.
    """

    hashes: list[str] = field(default_factory=list)
    vectors: list[Vectors] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    spooled: list[str] = field(default_factory=list)
    requests: int = 0
    tokens: int = 0

    @property
    def matrix(self) -> Vectors:
        """All vectors, in the order of the hashes."""
        return np.concatenate(self.vectors)


class Sender:
    """Sends the texts of one task; not to be used by two threads.

    Args:
        ledger: on a connection of its own: the sender's threads take turns with it.
        spool: where answers wait until the target has them.
        max_retries: how often a request is repeated after a transient failure.
        may_go_on: asked before each request; raises when the run is to stop.
    """

    def __init__(
        self,
        provider: EmbeddingProvider,
        ledger: EmbeddingLedger,
        spool: AnswerSpool,
        *,
        max_retries: int,
        may_go_on: Callable[[], None],
    ) -> None:
        self._provider = provider
        self._ledger = ledger
        self._spool = spool
        self._max_retries = max_retries
        self._may_go_on = may_go_on
        self._turn = threading.Lock()
        self._stopped = threading.Event()
        # Whether the provider has taken any text yet: until then a refusal may not be the text's fault.
        self._proven = False

    def send(self, texts: Sequence[Text]) -> Iterator[Embedded]:
        """Embed the texts, each once; yields what became of them, request by request, in no order.

        Answers that arrived before a failure are yielded before it is raised.

        Raises:
            MigrationError: EMBEDDING_…, TARGET_…, RUN_….
        """
        most = self._provider.max_tokens_per_request
        # A text that is short by its tokens and long by its bytes goes alone.
        sizes = [min(text.size, most) for text in texts]
        batches = deque(plan_batches(sizes, self._provider.max_inputs, most))
        flying: set[Future[Embedded]] = set()
        landed: set[Future[Embedded]] = set()
        failure: BaseException | None = None
        with ThreadPoolExecutor(self._provider.parallel) as pool:
            try:
                while batches or flying or landed:
                    while failure is None and batches and len(flying) < self._provider.parallel:
                        failure = self._objection()
                        if failure is None:
                            some = [texts[place] for place in batches.popleft()]
                            flying.add(pool.submit(self._embed, some))
                    if failure is not None:
                        self._stopped.set()
                        batches.clear()
                    # Handed on while the next ones are on their way.
                    yield from (future.result() for future in landed if future.exception() is None)
                    landed, flying = wait(flying, _POLL_SECONDS, FIRST_COMPLETED)
                    failure = failure or next(filter(None, (future.exception() for future in landed)), None)
            finally:
                self._stopped.set()
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """Send nothing more: the task is being killed. What is in flight is kept when it arrives."""
        self._stopped.set()

    def _objection(self) -> BaseException | None:
        """Why nothing more may be sent, where that is so."""
        if self._stopped.is_set():
            return MigrationError("RUN_STOPPED", "The task is being stopped.")
        try:
            self._may_go_on()
        except MigrationError as error:
            return error
        return None

    def _embed(self, texts: list[Text]) -> Embedded:
        """One request; where a text of it is refused, those that are not."""
        done = Embedded()
        by_text = {text.text: text for text in texts}

        def send(some: Sequence[str]) -> Vectors:
            # The control text of the isolation is none of ours.
            known = [
                by_text.get(text) or Text("", text, self._provider.count_tokens(text), 0) for text in some
            ]
            return self._request(known, done)

        result = embed_isolating([text.text for text in texts], send, proven=self._proven)
        done.refused = {texts[place].hash: code for place, code in result.refused.items()}
        return done

    def _request(self, texts: Sequence[Text], done: Embedded) -> Vectors:
        """One request, repeated after transient failures; its answer is kept before anybody hears of it."""
        for attempt in count(1):
            request = self._reserved(texts)
            try:
                answer = self._provider.embed([text.text for text in texts])
            except MigrationError as error:
                pause = self._refused(request, error)
                wrong = error.code == "EMBEDDING_WRONG_ANSWER"
                most = min(_ASKED_AGAIN, self._max_retries) if wrong else self._max_retries
                delay = max(pause, _FIRST_DELAY_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1))  # noqa: S311
                if not error.transient or attempt > most or delay > _LONGEST_WAIT_SECONDS:
                    raise
                self._wait(delay)
                continue
            tokens = answer.tokens if answer.tokens is not None else sum(text.tokens for text in texts)
            hashes = [text.hash for text in texts]
            if "" not in hashes:
                done.spooled.append(self._spool.keep(hashes, answer.vectors))
                done.hashes += hashes
                done.vectors.append(answer.vectors)
            done.requests += 1
            done.tokens += tokens
            self._proven = True
            with self._turn:
                self._ledger.settle(request, "answered", tokens=tokens, limits=answer.limits)
            return answer.vectors
        raise AssertionError("unreachable")

    def _reserved(self, texts: Sequence[Text]) -> str:
        """Wait for the request's turn among all that use the account; returns its id in the ledger."""
        while True:
            with self._turn:
                turn = self._ledger.reserve(len(texts), sum(text.tokens for text in texts))
            if turn.request is not None:
                self._wait_or_give_back(turn.request, turn.wait_seconds)
                return turn.request
            if turn.paused:
                raise MigrationError(
                    "EMBEDDING_BUSY",
                    "The provider asked for a pause.",
                    retry_after_seconds=round(turn.wait_seconds, 1),
                )
            # Others are before it, which is nobody's failure: asked again when a turn can be had.
            behind = turn.wait_seconds - _LONGEST_WAIT_SECONDS
            self._wait(max(behind, 1.0) * random.uniform(0.9, 1.1))  # noqa: S311

    def _wait_or_give_back(self, request: str, seconds: float) -> None:
        """Wait for a reserved request's turn; where it is not sent after all, it costs nothing."""
        try:
            self._wait(seconds)
        except MigrationError:
            with self._turn:
                self._ledger.settle(request, "unsent")
            raise

    def _refused(self, request: str, error: MigrationError) -> float:
        """Settle a request that got no vectors; returns how long the provider wants to be left alone."""
        asked = error.facts.get("retry_after_seconds", 0)
        pause = float(asked) if isinstance(asked, int | float) else 0.0
        # Without a status nobody knows whether it was computed, and is billed.
        lost = error.code in _LOST and "status" not in error.facts
        said = error if isinstance(error, EmbeddingRefusal) else EmbeddingRefusal(error)
        with self._turn:
            self._ledger.settle(
                request, "lost" if lost else "refused", tokens=said.tokens, limits=said.limits, pause=pause
            )
        return pause

    def _wait(self, seconds: float) -> None:
        """Sleep, unless nothing more is to be sent."""
        if self._stopped.wait(seconds):
            raise MigrationError(
                "RUN_STOPPED", "Another request of this task failed, or it is being stopped."
            )
