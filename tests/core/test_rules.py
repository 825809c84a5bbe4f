"""The vocabulary of column rules, one by one."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.core import rules
from include.core.ids import target_id
from include.core.jsontext import normalise
from include.core.mapping import CodeMap, mapping_version
from include.core.spec import Batch, OnMissing, Rule
from tests.core.examples import examples

Value = str | None
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


def batch_of(*values: Value, **more: list[Value]) -> Batch:
    columns = {
        "legacy_id": pa.array([str(n) for n in range(len(values))], pa.string()),
        "x": pa.array(values, pa.string()),
        **{name: pa.array(column, pa.string()) for name, column in more.items()},
    }
    return Batch(pa.table(columns))


def apply(rule: Rule, *values: Value, **more: list[Value]) -> list[Value]:
    made = rule(batch_of(*values, **more))
    assert isinstance(made, pa.Array)
    assert made.type == pa.string()
    return made.to_pylist()


def noted(rule: Rule, *values: Value) -> list[tuple[str, str, list[int]]]:
    batch = batch_of(*values)
    rule(batch)
    return [
        (code, column, [n for n, hit in enumerate(rows.to_pylist()) if hit])
        for rows, code, column in batch.findings
        if any(rows.to_pylist())
    ]


CODES = CodeMap("c", {"1": "one", "2": "two"}, None)
EVERY_RULE: dict[str, Rule] = {
    "copy": rules.copy("x"),
    "constant": rules.constant("a"),
    "nothing": rules.constant(None),
    "numbered": rules.numbered("P", "x", 6),
    "identifier": rules.identifier("cases", "legacy_id"),
    "coded": rules.coded("x", CODES, "c"),
    "coded without meanings": rules.coded("x", CodeMap("e", {}, "d"), "c"),
    "email": rules.email("x", "email"),
    "named": rules.named("x", "name"),
    "named with fallback": rules.named("x", "name", rules.joined("No. ", rules.copy("legacy_id"))),
    "joined": rules.joined("a", rules.copy("x")),
    "json_column": rules.json_column("x", "j"),
    "as_json": rules.as_json(rules.copy("x")),
    "json_text": rules.json_text("x"),
    "json_boolean": rules.json_boolean("x"),
    "raw_json": rules.raw_json("x"),
    "raw_changed": rules.raw_changed("x", rules.email("x", "email")),
    "json_object": rules.json_object({"k": rules.json_text("x")}),
    "metadata": rules.metadata({"r": rules.raw_json("x")}, x=rules.json_text("x")).rule,
}


@pytest.mark.parametrize("rule", EVERY_RULE.values(), ids=EVERY_RULE)
@pytest.mark.parametrize("values", [[], [None], [None, None, None], [""], ["", None], ["1", "a@b.ch", "{}"]])
def test_every_rule_gives_a_text_per_row(rule: Rule, values: list[Value]) -> None:
    assert len(apply(rule, *values)) == len(values)


@pytest.mark.parametrize("rule", EVERY_RULE.values(), ids=EVERY_RULE)
def test_every_rule_reads_slices_from_their_own_offset_and_chunks_in_order(rule: Rule) -> None:
    whole = batch_of("1", "a@b.ch", None, "", "{", '{"b": 1, "a": 2}').raw
    expected = rule(Batch(whole)).to_pylist()
    assert rule(Batch(whole.slice(2, 3))).to_pylist() == expected[2:5]
    pieces = pa.concat_tables([whole.slice(0, 2), whole.slice(2, 0), whole.slice(2)])
    assert rule(Batch(pieces)).to_pylist() == expected


@examples(100)
@given(st.lists(st.none() | TEXT))
def test_copies_are_exact_and_literals_carry_the_text(values: list[Value]) -> None:
    assert apply(rules.copy("x"), *values) == values
    literals = apply(rules.json_text("x"), *values)
    assert [None if text is None else json.loads(text) for text in literals] == values


def test_numbers_are_padded_but_never_cut() -> None:
    assert apply(rules.numbered("P", "x", 6), "1", "523000", "1234567", None) == [
        "P000001",
        "P523000",
        "P1234567",
        None,
    ]


def test_references_are_ids_and_say_what_happens_without_the_row() -> None:
    column = rules.refers("case_id", "cases", "x", OnMissing.CLEAR)
    assert apply(column.rule, "5", None) == [target_id("cases", "5"), None]
    assert column.reference is not None
    assert (column.reference.entity, column.reference.on_missing) == ("cases", OnMissing.CLEAR)


def test_codes_have_meanings_and_unmapped_ones_are_noted() -> None:
    values = ["1", "9", None, "2", "", "01"]
    assert apply(rules.coded("x", CODES, "c"), *values) == ["one", None, None, "two", None, None]
    assert noted(rules.coded("x", CODES, "c"), *values) == [("code_unmapped", "c", [1, 4, 5])]
    other = rules.coded("x", CodeMap("c", {"1": "one"}, "other"), "c")
    assert apply(other, "1", "9", None) == ["one", "other", None]
    assert noted(other, "1", "9", None) == [("code_unmapped", "c", [1])]
    nothing_known = rules.coded("x", CodeMap("c", {}, None), "c")
    assert apply(nothing_known, "11", None) == [None, None]
    assert noted(nothing_known, "11", None) == [("code_unmapped", "c", [0])]


ADDRESSES = {
    "a@b.ch": "a@b.ch",
    "  A.Person@Example.COM \n": "a.person@example.com",
    "o'neil+x@sub.example.org": "o'neil+x@sub.example.org",
    "jörg@exämple.de": "jörg@exämple.de",
    "": None,
    "   ": None,
    None: None,
}
MALFORMED = [
    "x",
    "@",
    "a@",
    "@b.ch",
    "a@b",
    "a b@c.ch",
    "a@b c.ch",
    "a@@b.ch",
    "a@b.",
    "a@b.ch, c@d.ch",
    "a@b.ch;",
]


def test_addresses_are_trimmed_and_lowered_and_empty_ones_are_null() -> None:
    rule = rules.email("x", "email")
    assert apply(rule, *ADDRESSES) == list(ADDRESSES.values())
    assert noted(rule, *ADDRESSES) == []


@pytest.mark.parametrize("text", [text for text in MALFORMED if not text.endswith(";")])
def test_what_is_no_address_is_null_and_noted(text: str) -> None:
    rule = rules.email("x", "email")
    assert apply(rule, text, "a@b.ch") == [None, "a@b.ch"]
    assert noted(rule, text, "a@b.ch") == [("email_malformed", "email", [0])]


@examples(200)
@given(st.lists(st.none() | TEXT | st.emails()))
def test_an_address_is_kept_or_noted_or_was_empty(values: list[Value]) -> None:
    rule = rules.email("x", "email")
    lost = {row for _, _, rows in noted(rule, *values) for row in rows}
    for row, (value, kept) in enumerate(zip(values, apply(rule, *values), strict=True)):
        if kept is not None:
            assert row not in lost
            assert kept.count("@") == 1
            assert kept.strip() == kept
        else:
            assert (row in lost) == bool((value or "").strip())


def test_names_stay_as_they_are_and_empty_ones_are_noted() -> None:
    values = ["花子", "", None, " Anna "]
    assert apply(rules.named("x", "n"), *values) == values
    assert noted(rules.named("x", "n"), *values) == [("name_empty", "n", [1, 2])]
    fallback = rules.named("x", "n", rules.joined("Untitled ", rules.copy("legacy_id")))
    assert apply(fallback, *values) == ["花子", "Untitled 1", "Untitled 2", " Anna "]


def test_joining_with_null_is_null() -> None:
    assert apply(rules.joined("a", rules.copy("x"), "b"), "1", None, "") == ["a1b", None, "ab"]


JSON_TEXTS = ['{"b":1,"a":[1.50]}', "{bad", "", None, "  ", "null", '"\\u0000"', "{bad"]


def test_malformed_json_is_null_and_noted_and_kept_raw() -> None:
    rule = rules.json_column("x", "schemes")
    assert apply(rule, *JSON_TEXTS) == ['{"a": [1.50], "b": 1}', None, None, None, None, None, None, None]
    assert noted(rule, *JSON_TEXTS) == [("json_malformed", "schemes", [1, 6, 7])]
    kept = apply(rules.raw_json("x"), *JSON_TEXTS)
    assert kept == [None, '"{bad"', None, None, None, None, json.dumps('"\\u0000"'), '"{bad"']


@examples(100)
@given(st.lists(TEXT | st.sampled_from(["{}", "[1]", "1", "{", "null"])))
def test_json_is_stored_or_kept_raw_but_never_lost(values: list[str]) -> None:
    stored, kept = apply(rules.json_column("x", "j"), *values), apply(rules.raw_json("x"), *values)
    for value, normal, raw in zip(values, stored, kept, strict=True):
        parsed = normalise(value)
        assert normal == (None if parsed == "null" else parsed)
        assert (raw is not None) == (parsed is None and value.strip() != "")
        assert raw is None or json.loads(raw) == value


def test_a_changed_text_is_kept_raw() -> None:
    rule = rules.raw_changed("x", rules.email("x", "email"))
    values = ["a@b.ch", "A@b.ch", "nonsense", "", None, " "]
    assert apply(rule, *values) == [None, '"A@b.ch"', '"nonsense"', None, None, '" "']
    assert noted(rule, *values) == []


def test_booleans_are_those_of_postgresql() -> None:
    assert apply(rules.json_boolean("x"), "t", "f", None) == ["true", "false", None]
    assert apply(lambda _: rules.boolean(pa.array([True, False, None])), "", "", "") == ["t", "f", None]


def test_objects_have_a_fixed_shape_or_only_what_is_known() -> None:
    members = {"bb": rules.json_text("x"), "a": rules.json_boolean("y")}
    values: list[Value] = ["one", None]
    more: dict[str, list[Value]] = {"y": [None, "t"]}
    assert apply(rules.json_object(members), *values, **more) == [
        '{"a": null, "bb": "one"}',
        '{"a": true, "bb": null}',
    ]
    assert apply(rules.json_object(members, keep_null=False), *values, **more) == [
        '{"bb": "one"}',
        '{"a": true}',
    ]


def test_metadata_keeps_a_place_free_for_merges() -> None:
    with pytest.raises(ValueError, match="merged"):
        rules.metadata(merged=rules.json_text("x"))


def test_metadata_holds_the_version_the_raw_codes_and_what_could_not_be_stored() -> None:
    column = rules.metadata({"j": rules.raw_json("x")}, code=rules.json_number("y"))
    assert (column.name, column.health) == ("metadata", True)
    version = json.dumps(mapping_version())
    assert apply(column.rule, "{bad", "{}", None, y=["7", None, None]) == [
        f'{{"raw": {{"j": "{{bad"}}, "code": 7, "mapping_version": {version}}}',
        f'{{"mapping_version": {version}}}',
        f'{{"mapping_version": {version}}}',
    ]


def test_timestamps_pass_untouched() -> None:
    text = str(datetime(2024, 2, 29, 23, 59, 59, 123456, UTC))
    assert apply(rules.copy("x"), text) == [text]
