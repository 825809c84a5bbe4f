"""The rows of an entity whose documents mean what a question means."""

from __future__ import annotations

from dataclasses import dataclass

from include.core.errors import MigrationError
from include.embedding.provider import EmbeddingProvider
from plugins.hooks.target import Target


@dataclass(frozen=True)
class Found:
    """A row that was found.

    Attributes:
        similarity: cosine, 1 for the same direction.
        legacy_id: of the row; None for one that the migration did not bring.
        id: in the target.
        text: its document; None where that is not kept, as it holds free text.
    """

    similarity: float
    legacy_id: str | None
    id: str
    text: str | None


def check_model(target: Target, entity: str, provider: EmbeddingProvider) -> None:
    """Refuse a search that could find nothing that means anything; nothing is sent before this.

    Raises:
        MigrationError: SEARCH_NOTHING_STORED or SEARCH_OTHER_MODEL.
    """
    stored = target.call("stored_models", entity=entity)
    if not stored:
        raise MigrationError("SEARCH_NOTHING_STORED", "No row has a vector.", entity=entity)
    models = [(kind["model"], kind["dimensions"]) for kind in stored]
    if (provider.model, provider.dimensions) not in models:
        raise MigrationError(
            "SEARCH_OTHER_MODEL",
            "They are of model "
            + ", ".join(f"{model} ({dimensions} dimensions)" for model, dimensions in models)
            + ".",
            entity=entity,
            here=f"{provider.name}, {provider.model} ({provider.dimensions} dimensions)",
        )


def nearest(
    target: Target, entity: str, provider: EmbeddingProvider, question: str, *, count: int, threshold: float
) -> list[Found]:
    """The nearest rows, most similar first. The question goes to the provider as it is.

    Args:
        count: most rows.
        threshold: least similarity, from -1 to 1.

    Raises:
        MigrationError: those of :func:`check_model`, of the provider (EMBEDDING_*) and of the target.
    """
    check_model(target, entity, provider)
    vector = provider.embed([question]).vectors[0]
    rows = target.call(
        "search",
        entity=entity,
        query=f"[{','.join(map(repr, vector.tolist()))}]",
        model=provider.model,
        count=count,
        threshold=threshold,
    )
    return [Found(**row) for row in rows]
