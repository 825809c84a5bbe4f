"""The registry of run notes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from include.core.notes import NOTES, Note, NoteKind


def facts_of(kind: NoteKind, value: Any) -> dict[str, Any]:
    return dict.fromkeys(kind.facts, value)


@pytest.mark.parametrize("kind", NOTES.values(), ids=lambda kind: kind.code)
def test_every_kind_says_something_whatever_is_known(kind: NoteKind) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert kind.severity in ("info", "warn")
    assert kind.subject in ("", *kind.facts)
    for value, shown in ((1_234_567, r"1,?234,?567"), (None, "unknown")):
        text = Note(kind.code, facts_of(kind, value)).text
        assert text.endswith(".")
        assert "{" not in text
        assert len(re.findall(shown, text)) == len(kind.facts)


def test_kinds_are_each_given_once() -> None:
    assert len({kind.template for kind in NOTES.values()}) == len(NOTES)


def test_a_note_takes_exactly_its_facts() -> None:
    with pytest.raises(KeyError):
        Note("something_else", {})
    for facts in ({}, {"reason": "a", "name": "b"}, {"name": "b"}):
        with pytest.raises(ValueError, match=r"takes \['reason'\]"):
            Note("source_restored", facts)


def test_braces_in_a_fact_are_only_text() -> None:
    assert "{reason} {0} {" in Note("source_restored", {"reason": "{reason} {0} {"}).text


def test_the_subject_tells_notes_of_a_kind_apart() -> None:
    assert Note("initial_full", {}).subject == ""
    assert Note("without_row_versions", {"table": "a_view"}).subject == "a_view"
