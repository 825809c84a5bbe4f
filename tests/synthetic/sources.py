"""Synthetic sources held whole, for tests."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from include.synthetic.generate import generate_tables
from include.synthetic.sizes import SourceSize

SEED = 1
Source = Mapping[str, pa.Table]


def make_source(size: SourceSize, seed: int = SEED, chunk_rows: int = 100_000) -> dict[str, pa.Table]:
    """All tables whole; only those that have rows."""
    made = {name: list(chunks) for name, chunks in generate_tables(size, seed, chunk_rows)}
    return {name: pa.concat_tables(chunks) for name, chunks in made.items() if chunks}
