"""Documents as they are sent to a provider: written, cut to what it takes, and named by the hash of their content."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from include.embedding.batching import cut_texts
from include.embedding.content_hash import content_hashes
from include.embedding.documents import DocumentSpec, TextRedactor
from include.embedding.provider import EmbeddingProvider

RENDERED = pa.schema(
    [
        ("id", pa.string()),
        ("legacy_id", pa.string()),
        ("hash", pa.string()),
        ("text", pa.string()),
        ("shortened", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Rendered:
    """Documents of some rows.

    Attributes:
        documents: columns of :data:`RENDERED`; ``shortened`` says whether the text was cut.
        without: rows of which there is nothing to tell, as they came.
    """

    documents: pa.Table
    without: pa.Table


def rendered(
    document: DocumentSpec, rows: pa.Table, provider: EmbeddingProvider, redactor: TextRedactor | None
) -> Rendered:
    """Write the documents of rows.

    Args:
        rows: id, legacy_id, and what the document reads.
        redactor: where the rows have free text.
    """
    texts = document.render(rows, redactor)
    told, texts_told = rows.filter(pc.is_valid(texts)), texts.drop_null()
    cut = cut_texts(texts_told.to_pylist(), provider.max_tokens_per_input, provider.count_tokens)
    shortened = set(cut.shortened)
    kept = pa.array(cut.texts, pa.string())
    columns = [
        told.column("id"),
        told.column("legacy_id"),
        content_hashes(kept, provider.model, provider.dimensions),
        kept,
        pa.array([place in shortened for place in range(len(kept))], pa.bool_()),
    ]
    return Rendered(pa.table(columns, schema=RENDERED), rows.filter(pc.is_null(texts)))
