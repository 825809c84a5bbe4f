"""Between transformation and load: merged rows are told apart, then the content is hashed.

References are not resolved here but in the server (include/sql/migration/0002_merge.sql), which knows what is
there; the hash is over what the source says, so that it stays the same whatever becomes of a parent.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from include.core.fingerprint import content_hashes
from include.core.spec import VERSION


def split_merged(clean: pa.Table, merged_ids: pa.Array, *, only_merged: bool) -> pa.Table:
    """Rows of one loading pass: those that stay, or those that were merged into one of them.

    Survivors are loaded first, so that a merged row's reference to its survivor always resolves.

    Args:
        merged_ids: target ids of all merged rows.
    """
    is_merged = pc.is_in(clean.column("id").combine_chunks(), merged_ids)
    return clean.filter(is_merged if only_merged else pc.invert(is_merged))


def with_hashes(clean: pa.Table) -> pa.Table:
    """Append ``content_hash`` over every column that is stored."""
    columns = [clean.column(name).combine_chunks() for name in clean.column_names if name != VERSION]
    return clean.append_column("content_hash", content_hashes(columns))
