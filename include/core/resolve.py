"""Between transformation and load: references follow merges, then the content is hashed."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from include.core.fingerprint import content_hashes
from include.core.ids import target_ids
from include.core.spec import Entity

SURVIVOR_SCHEMA = pa.schema({"legacy_id": pa.string(), "survivor_id": pa.string()})


def follow_survivors(entity: Entity, clean: pa.Table, survivors: dict[str, pa.Table]) -> pa.Table:
    """Point references at survivors instead of the rows merged into them.

    Args:
        survivors: referenced entity to its merged rows: legacy_id, survivor_id (legacy ids).
    """
    for column, reference in entity.references.items():
        merged = survivors.get(reference.entity)
        if merged is not None and merged.num_rows and reference.entity != entity.name:
            clean = _replaced(clean, column, reference.entity, merged)
    return clean


def _replaced(clean: pa.Table, column: str, parent: str, merged: pa.Table) -> pa.Table:
    old = target_ids(parent, merged.column("legacy_id").combine_chunks())
    new = target_ids(parent, merged.column("survivor_id").combine_chunks())
    values = clean.column(column).combine_chunks()
    found = pc.index_in(values, old)
    resolved = pc.if_else(pc.is_valid(found), new.take(found), values)
    return clean.set_column(clean.column_names.index(column), column, resolved)


def split_merged(entity: Entity, clean: pa.Table, merged: pa.Table, *, only_merged: bool) -> pa.Table:
    """Rows of one loading pass: those that stay, or those that were merged (with ``merged_into`` set).

    Survivors are loaded first, so that a merged row's reference to its survivor always resolves.
    """
    legacy_id = clean.column("legacy_id").combine_chunks()
    found = pc.index_in(legacy_id, merged.column("legacy_id").combine_chunks())
    is_merged = pc.is_valid(found)
    if not only_merged:
        return clean.filter(pc.invert(is_merged))
    survivor = target_ids(entity.name, merged.column("survivor_id").combine_chunks()).take(found)
    marked = clean.set_column(clean.column_names.index("merged_into"), "merged_into", survivor)
    return marked.filter(is_merged)


def with_hashes(clean: pa.Table) -> pa.Table:
    """Append ``content_hash`` over every column that is stored."""
    columns = [clean.column(name).combine_chunks() for name in clean.column_names]
    return clean.append_column("content_hash", content_hashes(columns))
