"""The vocabulary of column rules. Each function here makes a :data:`~include.core.spec.Rule`."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from include.core import jsontext
from include.core.ids import target_ids
from include.core.mapping import CodeMap, mapping_version
from include.core.spec import Batch, Column, Merge, OnMissing, Reference, Rule

# Deliberately loose: real addresses have apostrophes and plus signs that a strict pattern refuses
# (docs/legacy-mdw.md section 1.2); what is no address at all has no @, a space, or no dot in the domain.
_EMAIL = r"^[^@\s]+@[^@\s]+\.[^@\s.]+$"


def copy(source: str) -> Rule:
    """The raw text as it is: both sides are PostgreSQL, so its text form is exact."""
    return lambda batch: batch.text(source)


def constant(text: str | None) -> Rule:
    """The same value in every row."""
    return lambda batch: pa.array([text] * len(batch), pa.string())


def numbered(prefix: str, source: str, width: int) -> Rule:
    """``P`` + zero-padded legacy id."""
    return lambda batch: pc.binary_join_element_wise(
        prefix, pc.utf8_lpad(batch.text(source), width, padding="0"), ""
    )


def boolean(values: pa.Array) -> pa.Array:
    """PostgreSQL's text of a boolean array."""
    return pc.if_else(values, "t", "f")


def identifier(entity: str, source: str) -> Rule:
    """The target id of the row of ``entity`` whose legacy id is in the raw column."""
    return lambda batch: target_ids(entity, batch.text(source))


def refers(name: str, entity: str, source: str, on_missing: OnMissing, merge: Merge = Merge.FILL) -> Column:
    """A foreign-key column."""
    return Column(name, identifier(entity, source), Reference(entity, on_missing), merge=merge)


def coded(source: str, codes: CodeMap, column: str) -> Rule:
    """The meaning of a legacy code; an unmapped code gives the map's default and a finding."""

    def rule(batch: Batch) -> pa.Array:
        raw = batch.text(source)
        found = pc.index_in(raw, pa.array(list(codes.meanings), pa.string()))
        meanings = pa.array(list(codes.meanings.values()), pa.string()).take(found)
        unmapped = pc.and_(pc.is_null(meanings), pc.is_valid(raw))
        batch.note(unmapped, "code_unmapped", column)
        return pc.if_else(unmapped, pa.scalar(codes.default, pa.string()), meanings)

    return rule


def email(source: str, column: str) -> Rule:
    """The address trimmed and in lower case; empty → NULL; malformed → NULL and a finding."""

    def rule(batch: Batch) -> pa.Array:
        trimmed = pc.utf8_trim_whitespace(batch.text(source))
        valid = pc.match_substring_regex(trimmed, _EMAIL)
        malformed = pc.fill_null(pc.and_(pc.invert(valid), pc.not_equal(trimmed, "")), False)
        batch.note(malformed, "email_malformed", column)
        return pc.if_else(valid, pc.utf8_lower(trimmed), pa.scalar(None, pa.string()))

    return rule


def named(source: str, column: str, fallback: Rule | None = None) -> Rule:
    """A name as it is; an empty one is a finding, and takes ``fallback`` where the target says so."""

    def rule(batch: Batch) -> pa.Array:
        names = batch.text(source)
        empty = pc.fill_null(pc.equal(names, ""), True)
        batch.note(empty, "name_empty", column)
        return names if fallback is None else pc.if_else(empty, fallback(batch), names)

    return rule


def joined(*parts: str | Rule) -> Rule:
    """Texts and rules put together; NULL when one part is NULL."""

    def rule(batch: Batch) -> pa.Array:
        pieces = [part if isinstance(part, str) else part(batch) for part in parts]
        return pc.binary_join_element_wise(*pieces, "")

    return rule


def json_column(source: str, column: str) -> Rule:
    """JSON kept as text in the source; empty → NULL; malformed → NULL and a finding (see raw_json).

    JSON's own ``null`` says as little as NULL, and is stored as such: PostgreSQL's functions that make rows of JSON
    cannot tell them apart.
    """

    def rule(batch: Batch) -> pa.Array:
        texts = batch.text(source)
        values = batch.json(source)
        batch.note(_malformed(texts, values), "json_malformed", column)
        return pc.if_else(pc.equal(values, "null"), pa.scalar(None, pa.string()), values)

    return rule


def _malformed(texts: pa.Array, values: pa.Array) -> pa.Array:
    filled = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(texts), ""), False)
    return pc.and_(filled, pc.is_null(values))


# --- members of JSON objects: rules giving JSON literals ---


def as_json(rule: Rule) -> Rule:
    """A text rule as a JSON string literal."""
    return lambda batch: jsontext.encode_text(rule(batch))


def json_text(source: str) -> Rule:
    """A text as a JSON string literal."""
    return lambda batch: jsontext.encode_text(batch.text(source))


def json_number(source: str) -> Rule:
    """A number: PostgreSQL prints finite numbers as JSON does."""
    return lambda batch: batch.text(source)


def json_boolean(source: str) -> Rule:
    """A boolean."""
    return lambda batch: jsontext.encode_boolean(batch.text(source))


def json_raw(source: str) -> Rule:
    """JSON that the source itself built; its expression ends in ``::jsonb``, so it is in jsonb's text form."""
    return copy(source)


def raw_json(source: str) -> Rule:
    """The text of a malformed JSON value, as a string literal; NULL where it could be parsed."""

    def rule(batch: Batch) -> pa.Array:
        texts = batch.text(source)
        malformed = _malformed(texts, batch.json(source))
        return pc.if_else(malformed, jsontext.encode_text(texts), pa.scalar(None, pa.string()))

    return rule


def raw_changed(source: str, rule: Rule) -> Rule:
    """The raw text, as a string literal, where ``rule`` made something else of it (NULL and '' aside)."""

    def changed(batch: Batch) -> pa.Array:
        texts = batch.text(source)
        made = rule(Batch(batch.raw))  # a batch of its own: its findings were noted by the column itself
        same = pc.or_(pc.fill_null(pc.equal(texts, made), False), pc.fill_null(pc.equal(texts, ""), True))
        return pc.if_else(same, pa.scalar(None, pa.string()), jsontext.encode_text(texts))

    return changed


def json_object(members: Mapping[str, Rule], *, keep_null: bool = True) -> Rule:
    """A JSON object; its members are rules that give JSON literals."""
    return lambda batch: jsontext.build_object(
        {key: rule(batch) for key, rule in members.items()}, keep_null=keep_null
    )


def metadata(raw: Mapping[str, Rule] | None = None, **members: Rule) -> Column:
    """The metadata column: the mapping's version, raw codes, and under ``raw`` what could not be stored.

    Raises:
        ValueError: a member is called ``merged``, where survivors keep what came from merged rows.
    """
    if "merged" in members:
        raise ValueError("metadata.merged belongs to merges")
    version = as_json(constant(mapping_version()))
    every: dict[str, Rule] = {"mapping_version": version, **members}
    if raw:
        every["raw"] = _null_if_empty(json_object(raw, keep_null=False))
    return Column("metadata", json_object(every, keep_null=False), health=True)


def _null_if_empty(rule: Rule) -> Rule:
    def filled(batch: Batch) -> pa.Array:
        objects = rule(batch)
        return pc.if_else(pc.equal(objects, "{}"), pa.scalar(None, pa.string()), objects)

    return filled
