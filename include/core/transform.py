"""Hop 2: a raw batch becomes clean rows, rejects and findings. Pure and vectorised."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from include.core import jsontext
from include.core.ids import target_ids
from include.core.spec import VERSION, Batch, Entity

REJECT_SCHEMA = pa.schema({name: pa.string() for name in ("legacy_id", "code", "column", "payload")})
FINDING_SCHEMA = pa.schema({name: pa.string() for name in ("legacy_id", "code", "column")})


@dataclass(frozen=True)
class Transformed:
    """The result for one batch; ``len(clean) + len(rejects)`` is the number of rows to be migrated.

    Attributes:
        clean: ``legacy_id``, ``id``, the entity's columns and ``source_version``, all as PostgreSQL text.
        rejects: legacy_id, code, column, payload (the raw row as JSON; restricted).
        findings: legacy_id, code, column; of clean rows only.
    """

    clean: pa.Table
    rejects: pa.Table
    findings: pa.Table


def clean_schema(entity: Entity) -> pa.Schema:
    """Columns of an entity's clean rows."""
    names = ("legacy_id", "id", *(column.name for column in entity.columns), VERSION)
    return pa.schema({name: pa.string() for name in names})


def transform(entity: Entity, raw: pa.Table) -> Transformed:
    """Apply the entity's rules to a raw batch.

    Args:
        raw: string columns as named by ``entity.source.raw_columns``.
    """
    versions, raw = raw.column(VERSION).combine_chunks(), raw.drop_columns([VERSION])
    batch = Batch(raw if entity.shape is None else entity.shape(raw))
    _reject_bad_keys(batch)
    arrays = {column.name: column.rule(batch) for column in entity.columns}
    rejected = _any([rows for rows, _, _ in batch.rejects], len(batch))
    keep = pc.invert(rejected)
    legacy_id = pc.if_else(keep, batch.legacy_id, pa.scalar(None, pa.string()))
    version = _put_together(entity, raw, versions, batch.legacy_id) if entity.shape else versions
    clean = pa.table(
        [batch.legacy_id, target_ids(entity.name, legacy_id), *arrays.values(), version],
        schema=clean_schema(entity),
    )
    return Transformed(clean.filter(keep), _rejects(batch), _findings(batch, keep))


def _put_together(entity: Entity, raw: pa.Table, versions: pa.Array, legacy_id: pa.Array) -> pa.Array:
    """Versions of rows made of a group of raw rows, as the source computes them (``select_versions``)."""
    groups = raw.column(entity.source.partition_by).to_pylist()
    parts: defaultdict[str | None, list[str]] = defaultdict(list)
    for group, version in zip(groups, versions.to_pylist(), strict=True):
        parts[group].append(version or "")
    digests = {
        group: hashlib.md5("".join(some).encode(), usedforsecurity=False).hexdigest()
        for group, some in parts.items()
    }
    group_of = dict(zip(raw.column("legacy_id").to_pylist(), groups, strict=True))
    return pa.array([digests[group_of[key]] for key in legacy_id.to_pylist()], pa.string())


def _reject_bad_keys(batch: Batch) -> None:
    """A row without a key, or with a key seen before in the batch, cannot be told from others."""
    batch.reject(pc.is_null(batch.legacy_id), "key_missing", "legacy_id")
    first = pc.index_in(batch.legacy_id, pc.unique(batch.legacy_id))
    if len(batch) and len(pc.unique(first)) < len(batch):
        batch.reject(_repeats(batch.legacy_id), "key_repeated", "legacy_id")


def _repeats(keys: pa.Array) -> pa.Array:
    return pa.array(keys.to_pandas().duplicated(keep="first"), pa.bool_())


def _any(masks: Sequence[pa.Array], length: int) -> pa.Array:
    result = pa.array([False] * length, pa.bool_())
    for mask in masks:
        result = pc.or_(result, pc.fill_null(mask, False))
    return result


def _rejects(batch: Batch) -> pa.Table:
    """One reject per row: its first reason."""
    tables = []
    open_rows = pa.array([True] * len(batch), pa.bool_())
    for mask, code, column in batch.rejects:
        rows = pc.and_(pc.fill_null(mask, False), open_rows)
        open_rows = pc.and_(open_rows, pc.invert(rows))
        legacy_id = pc.fill_null(batch.legacy_id.filter(rows), "")
        if len(legacy_id):
            payload = _payload(batch.raw.filter(rows))
            tables.append(_labelled(legacy_id, code, column).append_column("payload", payload))
    return pa.concat_tables(tables) if tables else REJECT_SCHEMA.empty_table()


def _findings(batch: Batch, keep: pa.Array) -> pa.Table:
    tables = [
        _labelled(batch.legacy_id.filter(pc.and_(pc.fill_null(mask, False), keep)), code, column)
        for mask, code, column in batch.findings
    ]
    return pa.concat_tables(tables) if tables else FINDING_SCHEMA.empty_table()


def _labelled(legacy_id: pa.Array, code: str, column: str) -> pa.Table:
    size = len(legacy_id)
    return pa.table(
        [legacy_id, pa.array([code] * size, pa.string()), pa.array([column] * size, pa.string())],
        schema=FINDING_SCHEMA,
    )


def _payload(rows: pa.Table) -> pa.Array:
    """Raw rows as JSON objects of texts, so that a rejected row can be seen whole."""
    members = {name: jsontext.encode_text(rows.column(name).combine_chunks()) for name in rows.column_names}
    return jsontext.build_object(members, keep_null=True)
