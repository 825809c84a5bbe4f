"""The part of a report about embeddings: what was expected, what was sent, and what of it left this system."""

from __future__ import annotations

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
    estimates, requests = facts.get("estimates", {}), facts.get("requests", [])
    refused = facts.get("refused", [])
    names = list(dict.fromkeys([*estimates, *(request["entity"] for request in requests)]))
    entities = [
        _entity(
            name,
            estimates.get(name, {}),
            [request for request in requests if request["entity"] == name and request["state"] in _COMPUTED],
            sum(row["rows"] for row in refused if row["entity"] == name),
        )
        for name in names
    ]
    return {
        "entities": entities,
        "spent": str(facts.get("spent", "0")),
        "budget": budget,
        "left": [line for entity in entities if (line := _left(entity, estimates.get(entity["entity"], {})))],
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
        # What the provider did not say is what was reserved.
        "tokens": sum(request["billed_tokens"] or request["tokens"] for request in requests),
        "cost": str(sum((Decimal(request["cost"] or 0) for request in requests), Decimal(0))),
        "refused": refused,
    }


def _left(entity: Mapping[str, Any], estimate: Mapping[str, Any]) -> str:
    """What left this system, to whom, and what it was made of."""
    if not estimate.get("leaves") or not entity["texts"]:
        return ""
    columns = ", ".join(estimate["columns"])
    return f"{entity['texts']:,} texts of {entity['entity']} to {estimate['account']}, made of {columns}"


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
