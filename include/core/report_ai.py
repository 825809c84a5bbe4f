"""The part of a report about embeddings: what was expected, what was sent, and what of it left this system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

COLUMNS = (
    "entity",
    "model",
    "documents",
    "estimated_texts",
    "texts",
    "estimated_tokens",
    "tokens",
    "estimated_cost",
    "cost",
    "refused",
)
_COMPUTED = ("answered", "lost", "reserved")


def embeddings(facts: Mapping[str, Any], budget: float | None) -> dict[str, Any]:
    """Expected and actual embeddings of a run.

    Args:
        facts: ``estimates`` by entity (what its plan recorded), ``requests`` by entity and state, ``refused`` rows by
            entity and code, ``spent``: see plugins/hooks/embedding_ledger.py. Empty where nothing is known.
        budget: the run's ai_budget.
    """
    estimates, refused = facts.get("estimates", {}), facts.get("refused", [])
    requests: dict[str, list[Mapping[str, Any]]] = {name: [] for name in estimates}
    for request in facts.get("requests", []):
        requests.setdefault(request["entity"], []).append(request)
    return {
        "entities": [
            _entity(
                name,
                estimates.get(name, {}),
                [request for request in made if request["state"] in _COMPUTED],
                sum(row["rows"] for row in refused if row["entity"] == name),
            )
            for name, made in requests.items()
        ],
        "spent": str(facts.get("spent", "0")),
        "budget": budget,
        "left": list(
            filter(None, (_left(name, estimates.get(name, {}), made) for name, made in requests.items()))
        ),
    }


def _entity(
    name: str, estimate: Mapping[str, Any], requests: Sequence[Mapping[str, Any]], refused: int
) -> dict[str, Any]:
    return {
        "entity": name,
        "provider": estimate.get("provider"),
        "model": estimate.get("model"),
        "documents": estimate.get("documents"),
        **{f"estimated_{what}": estimate.get(what) for what in ("texts", "tokens", "cost")},
        "requests": sum(request["requests"] for request in requests),
        "texts": sum(request["texts"] for request in requests),
        "tokens": sum(request["billed_tokens"] for request in requests),
        "cost": str(sum((Decimal(request["cost"] or 0) for request in requests), Decimal(0))),
        "refused": refused,
    }


def _left(name: str, estimate: Mapping[str, Any], requests: Sequence[Mapping[str, Any]]) -> str:
    """What left this system, to whom, and what it was made of."""
    if not estimate.get("leaves"):
        return ""
    # An account is named after its provider; a run may have gone on with one that keeps texts here.
    to_it = [request for request in requests if estimate["account"].startswith(request["provider"])]
    texts = _texts_sent(estimate, to_it)
    if not texts:
        return ""
    columns = ", ".join(estimate["columns"])
    return f"{texts:,} texts of {name} to {estimate['account']}, made of {columns}"


def _texts_sent(estimate: Mapping[str, Any], requests: Sequence[Mapping[str, Any]]) -> int:
    """Each text once: those that were refused left as well, and by several requests where they were repeated."""
    sums: Counter[str] = Counter()
    for request in requests:
        sums[request["state"]] += request["texts"]
    sent = sums.total() - sums["unsent"]
    return max(sums["answered"], min(sent, estimate.get("texts") or sent))


def what_left(report: Mapping[str, Any]) -> str:
    """One line, also where nothing did."""
    return f"What left this system: {'; '.join(report['embeddings']['left']) or 'nothing'}."


def spent(report: Mapping[str, Any]) -> str:
    """Money against estimate and budget; empty where no embedding was planned."""
    part = report["embeddings"]
    if not part["entities"]:
        return ""
    estimate = sum((Decimal(entity["estimated_cost"] or 0) for entity in part["entities"]), Decimal(0))
    return (
        f"Embeddings: {Decimal(part['spent']):.6f} US dollars spent, {estimate:.6f} estimated,"
        f" ai_budget {part['budget']:g}."
    )
