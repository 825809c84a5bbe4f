"""The ledger of embedding requests, in the target: whose turn it is, what the budget allows, what was spent."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

from include.embedding.provider import EmbeddingProvider, RateLimits
from plugins.hooks.target import Target

Outcome = Literal["answered", "refused", "lost", "unsent"]
"""Lost: no answer came, so it counts as if it had been billed. Unsent: it never left."""


@dataclass(frozen=True)
class Turn:
    """When a request may be sent.

    Attributes:
        request: its id in the ledger; None: its turn is more than a minute away, and nothing was reserved.
        wait_seconds: from now.
        paused: whether the provider asked for so long a pause, beside the requests that are before this one.
    """

    request: str | None
    wait_seconds: float
    paused: bool = False


class EmbeddingLedger:
    """Requests for one entity in one run; all who use the provider's account share its limits.

    Args:
        price: US dollars per million tokens; None: not known.
        budget: US dollars that the run may spend, all its tasks together; None: any amount.
        paced: whether the account's limits apply. Jobs of the Batch API have limits of their own.
    """

    def __init__(
        self,
        target: Target,
        run_id: str,
        entity: str,
        provider: EmbeddingProvider,
        *,
        price: Decimal | None,
        budget: Decimal | None,
        paced: bool = True,
    ) -> None:
        self.entity = entity
        self._target = target
        self._run_id = run_id
        self._provider = provider
        self._price = price
        self._budget = budget
        self._paced = paced

    def reserve(self, texts: int, tokens: int) -> Turn:
        """Reserve a request: its place in line, and its cost of the budget.

        Args:
            tokens: of all texts, or an estimate on the safe side.

        Raises:
            MigrationError: EMBEDDING_BUDGET, EMBEDDING_PRICE_UNKNOWN, RUN_LOST.
        """
        provider = self._provider
        answer = self._target.call(
            "reserve_embedding",
            request=str(uuid.uuid4()),
            run=self._run_id,
            entity=self.entity,
            account=provider.account if self._paced else f"{provider.account} unpaced",
            provider=provider.name,
            model=provider.model,
            texts=texts,
            tokens=tokens,
            price=_text(self._price),
            budget=_text(self._budget),
            requests_per_minute=provider.requests_per_minute if self._paced else None,
            tokens_per_minute=provider.tokens_per_minute if self._paced else None,
        )
        return Turn(answer["request"], float(answer["wait_seconds"]), answer["paused"])

    def settle(
        self,
        request: str,
        outcome: Outcome,
        *,
        tokens: int | None = None,
        limits: RateLimits | None = None,
        pause: float = 0.0,
    ) -> None:
        """Say what became of a reserved request; a second time changes nothing.

        Args:
            tokens: billed by the provider; None: as many as were reserved, and none where it was refused or unsent.
            limits: what the response said of the account's limits: they hold for all from now on.
            pause: seconds during which nobody may use the account.
        """
        self._target.call(
            "settle_embedding",
            request=request,
            state=outcome,
            tokens=tokens,
            limits=None if limits is None else asdict(limits),
            pause_seconds=pause,
        )

    def jobs(self) -> list[dict[str, Any]]:
        """Jobs of the Batch API as they were recorded, in the order of their shares."""
        return list(self._target.call("embedding_jobs", run=self._run_id, entity=self.entity))

    def record_job(self, job: Mapping[str, Any]) -> None:
        """Record what is known of the job of a share, instead of what was known before.

        Args:
            job: ``share`` and anything else that is JSON; no texts.

        Raises:
            MigrationError: RUN_LOST.
        """
        self._target.call(
            "record_embedding_job", run=self._run_id, entity=self.entity, share=job["share"], job=dict(job)
        )

    @staticmethod
    def record_estimate(target: Target, run_id: str, entity: str, estimate: Mapping[str, Any]) -> None:
        """Keep what embedding an entity is going to take (JSON; no texts), for the report.

        Raises:
            MigrationError: RUN_LOST.
        """
        target.call("record_embedding_estimate", run=run_id, entity=entity, estimate=dict(estimate))

    @staticmethod
    def facts(target: Target, run_id: str) -> dict[str, Any]:
        """What a run expected and did.

        ``estimates`` by entity; ``requests``: a list of entity, provider, model, state, and the sums of requests,
        texts, tokens, billed_tokens (those reserved where the provider did not say) and cost; ``refused``: a list of
        entity, code, rows; ``spent``. Money is text, in US dollars.
        """
        return dict(target.call("embedding_facts", run=run_id))


def _text(money: Decimal | None) -> str | None:
    return None if money is None else f"{money:f}"
