"""Between transformation and load: merged rows and unstorable ones are told apart.

References are not resolved here but in the server (include/sql/migration/0002_merge.sql), which knows what is there.
"""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc

from include.core.transform import REJECT_SCHEMA

# No text of PostgreSQL holds this character, so no way into the target carries it.
_NUL, _NUL_SHOWN = "\0", "\N{SYMBOL FOR NULL}"


def split_merged(clean: pa.Table, merged_ids: pa.Array, *, only_merged: bool) -> pa.Table:
    """Rows of one loading pass: those that stay, or those that were merged into one of them.

    Survivors are loaded first, so that a merged row's reference to its survivor always resolves.

    Args:
        merged_ids: target ids of all merged rows.
    """
    is_merged = pc.is_in(clean.column("id").combine_chunks(), merged_ids)
    return clean.filter(is_merged if only_merged else pc.invert(is_merged))


def refuse_unstorable(clean: pa.Table, rejects: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Turn rows with a NUL character into rejects, as the target does with other values that it refuses.

    Returns:
        Clean rows and rejects (legacy_id, code, column, payload).
    """
    culprits: dict[int, str] = {}
    for name in clean.column_names:
        has_nul = pc.match_substring(clean.column(name), _NUL).fill_null(False)
        for place in pc.indices_nonzero(has_nul).to_pylist():
            culprits.setdefault(place, name)
    if not culprits:
        return clean, rejects
    refused = [
        {
            "legacy_id": row["legacy_id"],
            "code": "value_refused",
            "column": column,
            "payload": json.dumps(
                {name: value and value.replace(_NUL, _NUL_SHOWN) for name, value in row.items()}
            ),
        }
        for row, column in zip(clean.take(list(culprits)).to_pylist(), culprits.values(), strict=True)
    ]
    kept = pa.array([place not in culprits for place in range(clean.num_rows)])
    return clean.filter(kept), pa.concat_tables([rejects, pa.Table.from_pylist(refused, REJECT_SCHEMA)])
