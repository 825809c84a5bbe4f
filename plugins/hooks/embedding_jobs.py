"""Jobs of OpenAI's Batch API: submitted once, waited for, collected once, whatever comes in between."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from include.core.errors import MigrationError
from include.embedding.provider import EmbeddingProvider, Vectors
from plugins.hooks.answer_spool import AnswerSpool
from plugins.hooks.embedding_ledger import EmbeddingLedger, Outcome
from plugins.hooks.embedding_sender import Text
from plugins.hooks.openai_batches import JobState, OpenAIBatches
from plugins.hooks.openai_provider import OpenAIProvider

_SHORTEST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 15.0, 300.0
# Of the time already waited: a job of hours is not asked for every few seconds.
_SHARE_OF_AGE = 0.1
_ANSWERS_AT_ONCE = 500
# The provider's code for a job that it takes when others are done.
_LATER = "token_limit_exceeded"


@dataclass(frozen=True)
class Waiting:
    """A job that is not done.

    Attributes:
        seconds: until it is worth asking again.
    """

    seconds: float
    told: str


def batches_of(provider: EmbeddingProvider) -> OpenAIBatches:
    """The Batch API of a provider.

    Raises:
        MigrationError: EMBEDDING_BATCH_UNSUPPORTED.
    """
    if not isinstance(provider, OpenAIProvider):
        raise MigrationError("EMBEDDING_BATCH_UNSUPPORTED", "", provider=provider.name)
    return OpenAIBatches(provider)


def _failed(state: JobState) -> MigrationError:
    return MigrationError(
        "EMBEDDING_BATCH_FAILED", f"The job is {state.status}.", provider_code=state.code or "none"
    )


class EmbeddingJobs:
    """The job of one share.

    A job is known by its texts, so that one that a killed task or an earlier run has submitted is found again.

    Args:
        ledger: with the price of the Batch API; budget and costs are those of the run.
    """

    def __init__(self, batches: OpenAIBatches, ledger: EmbeddingLedger, share: str) -> None:
        self._batches = batches
        self._ledger = ledger
        self._share = share

    def submit_or_wait(self, texts: Mapping[str, Text]) -> Waiting | None:
        """See to it that a job embeds the texts; None: there is nothing to wait for.

        Raises:
            MigrationError: EMBEDDING_BUDGET, EMBEDDING_BATCH_FAILED, EMBEDDING_BATCH_UNSUPPORTED and others of the
                provider.
        """
        jobs = self._jobs()
        if not texts or any(job["state"] == "collected" for job in jobs):
            return None
        job = self._open(jobs) or self._submitted(texts)
        state = self._batches.state(job["job"])
        if state.status == "failed":
            later = state.code == _LATER
            self._close(job, "postponed" if later else "failed", "refused", tokens=0)
            self._batches.forget(job["job"])
            if later:
                return Waiting(
                    _LONGEST_WAIT_SECONDS, "too many texts wait at the Batch API, so the job is put off"
                )
            raise _failed(state)
        return self._waiting(job, state) if state.status == "waiting" else None

    @property
    def answered(self) -> bool:
        """Whether there is a job that was waited for and not collected."""
        return self._open(self._jobs()) is not None

    def collect(
        self, spool: AnswerSpool, texts: Mapping[str, Text]
    ) -> Iterator[tuple[list[str], Vectors, str]]:
        """Vectors as they are read, in parts, each in the spool before it is yielded: hashes, vectors, its name there.

        What the job refused or did not answer is left over. A job that expired is followed by one for the rest.

        Raises:
            MigrationError: EMBEDDING_BATCH_FAILED, behind the last answer, where somebody cancelled the job.
        """
        job = self._open(self._jobs())
        if job is None:
            return
        state = self._batches.state(job["job"])
        hashes, vectors = list[str](), list[Vectors]()
        for content_hash, answer in self._batches.collect(job["job"]):
            if isinstance(answer, str) or content_hash not in texts:
                continue
            hashes.append(content_hash)
            vectors.append(answer)
            if len(hashes) == _ANSWERS_AT_ONCE:
                yield self._spooled(spool, hashes, vectors)
                hashes, vectors = [], []
        if hashes:
            yield self._spooled(spool, hashes, vectors)
        self._close(job, "collected" if state.status == "done" else state.status, "answered", state.tokens)
        self._batches.forget(job["job"])
        if state.status == "cancelled":
            raise _failed(state)

    def _jobs(self) -> list[dict[str, Any]]:
        """The share's jobs as the target knows them."""
        return [job for job in self._ledger.jobs() if job["share"] == self._share]

    @staticmethod
    def _open(jobs: list[dict[str, Any]]) -> dict[str, Any] | None:
        return next((job for job in jobs if job["state"] == "submitted"), None)

    def _submitted(self, texts: Mapping[str, Text]) -> dict[str, Any]:
        """A job that nobody recorded is found by its labels; else there is none yet."""
        digest = hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:32]
        labels = {"entity": self._ledger.entity, "texts": digest}
        tokens = sum(text.tokens for text in texts.values())
        # Jobs are not paced, so there is always a turn.
        request = str(self._ledger.reserve(len(texts), tokens).request)
        try:
            number = self._batches.find(labels) or self._batches.submit(
                {content_hash: text.text for content_hash, text in texts.items()}, labels
            )
        except MigrationError:
            # If there is a job after all, whoever finds it reserves what it costs.
            self._ledger.settle(request, "refused")
            raise
        job = {
            "share": self._share,
            "job": number,
            "request": request,
            "state": "submitted",
            "texts": len(texts),
            "submitted_at": time.time(),
        }
        self._ledger.record_job(job)
        return job

    def _close(self, job: Mapping[str, Any], state: str, outcome: Outcome, tokens: int | None) -> None:
        self._ledger.settle(job["request"], outcome, tokens=tokens)
        self._ledger.record_job({**job, "state": state})

    def _waiting(self, job: Mapping[str, Any], state: JobState) -> Waiting:
        age = time.time() - job["submitted_at"]
        seconds = min(_LONGEST_WAIT_SECONDS, max(_SHORTEST_WAIT_SECONDS, age * _SHARE_OF_AGE))
        told = (
            f"the Batch API has answered {state.done:,} of {job['texts']:,} texts after {age / 60:,.0f} min"
        )
        return Waiting(seconds, told)

    @staticmethod
    def _spooled(
        spool: AnswerSpool, hashes: list[str], vectors: list[Vectors]
    ) -> tuple[list[str], Vectors, str]:
        matrix = np.stack(vectors)
        return hashes, matrix, spool.keep(hashes, matrix)
