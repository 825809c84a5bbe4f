"""Free text loses who it is about and keeps what it is about."""

from __future__ import annotations

import gc
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.embedding.redaction import CLINICAL_TERMS, VERSION, Redactor
from tests.embedding import notes

NAMES = notes.names()
REDACTOR = Redactor(NAMES)
OWN = ["Anna Lena", "von Müller-Schmidt", "anna.mueller@example.com", "2024-03-01", "amueller85"]
MOST_LOST = 0.02


def redacted(text: str, own: list[str] | None = None) -> str:
    result = REDACTOR.redact([text], [OWN if own is None else own])[0]
    assert result is not None
    return result


@pytest.fixture(scope="module")
def corpus() -> list[tuple[notes.Note, str]]:
    planted = notes.notes(4_000)
    texts = REDACTOR.redact([note.text for note in planted], [note.own for note in planted])
    return [(note, text or "") for note, text in zip(planted, texts, strict=True)]


def test_no_identifier_that_the_database_knows_leaks(corpus: list[tuple[notes.Note, str]]) -> None:
    kinds = Counter(note.kind for note, _ in corpus)
    assert min(kinds[kind] for kind in ("own", "other", "signed")) > 300
    leaks = [(note.text, leaked) for note, text in corpus if (leaked := notes.words(text) - note.stays)]
    assert leaks == []


def test_what_a_note_is_about_stays(corpus: list[tuple[notes.Note, str]]) -> None:
    lost = sum(((note.stays - notes.words(text)) for note, text in corpus), Counter())
    words = sum((note.stays for note, _ in corpus), Counter())
    terms = {term.lower() for term in CLINICAL_TERMS}
    lost_terms = sum(number for word, number in lost.items() if word.lower() in terms)
    known_terms = sum(number for word, number in words.items() if word.lower() in terms)
    assert lost_terms <= MOST_LOST * known_terms
    assert lost.total() <= MOST_LOST * words.total()


def test_the_corpus_would_notice_a_leak_and_a_loss() -> None:
    note = next(note for note in notes.notes(50) if note.kind == "own")
    assert notes.words(note.text) - note.stays
    assert note.stays - notes.words("[name]")


def test_twice_is_once(corpus: list[tuple[notes.Note, str]]) -> None:
    texts = [text for _, text in corpus]
    assert REDACTOR.redact(texts, [note.own for note, _ in corpus]) == texts


@pytest.mark.parametrize(
    "spelling",
    [
        "Anna", "ANNA", "anna", "Anna's", "Annas", "Anna`s", "Аnnа", "An\u200bna",
        "An\u00adna", "Ａｎｎａ", "𝐀nna", "A n n a", "A\u0338nna", "An\x00na", "Müller", "Muller",
        "Mueller", "MÜLLER", "Mu\u0308ller", "Müllers", "Muller’s", "annamueller",
        "MuellerAnna", "Annalena", "Anna-Lena", "Anna_Mueller85", "AMuller", "Mül-\nler",
        "Müller-Schmidt", "amueller85", "A. Müller", "Müller A.", "Müller, A.", "Müller, Anna",
        "A Müller", "l'Anna", "@anna.mueller", "Müllersche", "anna.mueller@example.com",
        "Anna.Mueller (at) example.com", "anna.mueller at example dot com", "@annam",
    ],
)  # fmt: skip
def test_own_names_in_every_spelling(spelling: str) -> None:
    text = redacted(f"Saw {spelling} for a crown on 14.")
    assert notes.words(text) == Counter(["Saw", "for", "a", "crown", "on", "14"]), text


@pytest.mark.parametrize(
    "day", [*notes.dates("2024-03-01"), "01.03.", "01/03", "1er mars 2024", "2024年3月1日", "1.III.2024"]
)
def test_days_in_every_notation(day: str) -> None:
    assert redacted(f"Crown on 14, {day}, fits") in (
        "Crown on 14, [date], fits",
        "Crown on 14, [number], fits",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tel +49 171 234 56 78.", "Tel [number]."),
        ("06 12 34 56 78", "[number]"),
        ("(030) 123 4567 rang", "[number] rang"),
        ("MRN AB12345, file 00-123-45", "MRN [number], file [number]"),
        ("see https://x.example/p?id=7 and www.example.de", "see [url] and [url]"),
        ("IBAN DE89 3704 0044 0532 0130 00", "IBAN [number]"),
    ],
)
def test_long_numbers_and_addresses(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Crown 14, bridge 36-37, teeth 14, 15, 16 and 11-12-13, 55/65.",
        "IPR 0.5 mm, 0,125 mm, 20%, 100 %, 400 mg, 250mg, 35 Ncm, 120°.",
        "Wire 0.016x0.022, .018 slot, 19x25; class II; shade A3.5; 1/3 apical.",
        "Probing 3-2-3 4-2-3 in 2-3 months, aged 34, pain @ 36, it may 2 teeth.",
        "Line one\nline two\ttabbed.",
        "上顎前歯に叢生あり",
    ],
)
def test_teeth_and_measures_stay(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Crown placed a crown.", "Dr. [name] placed a crown."),
        ("Seen by Gold; gold inlay.", "Seen by [name]; gold inlay."),
        ("Emma Crown needs a Crown.", "[name] needs a [name]."),
        ("Frau Stark: starke Schmerzen, Zahn stark gelockert.", "Frau [name]: starke Schmerzen, Zahn stark gelockert."),
        ("Krone gelockert, Herr Krone kommt.", "Krone gelockert, Herr [name] kommt."),
        ("J. Stone and the stone model", "[name] and the stone model"),
        ("Emmas Krone ist fest", "[name] Krone ist fest"),
        ("emma crown came, bridge ok", "[name] came, bridge ok"),
        ("Will review. Will called.", "Will review. [name] called."),
        ("Mrs Unheardof agreed", "Mrs [name] agreed"),
        ("Crown 14 and Bridge 16", "Crown 14 and Bridge 16"),
        ("CROWN PREP 14", "CROWN PREP 14"),
    ],
)  # fmt: skip
def test_names_that_are_words_go_where_somebody_is_meant(text: str, expected: str) -> None:
    assert redacted(text, []) == expected


def test_names_in_scripts_without_spaces() -> None:
    redactor = Redactor(["山田", "太郎", "สมชาย"])
    assert redactor.redact(["山田太郎様の前歯、สมชายมา"], [[]]) == ["[name]様の前歯、[name]มา"]
    assert Redactor([]).redact(["山田様"], [["山田", "太郎"]]) == ["[name]様"]


def test_what_stays_by_design() -> None:
    """The limits, so that a change of them is noticed."""
    assert redacted("Ulrike brought her; smiht too", []) == "Ulrike brought her; smiht too"
    assert redacted("Crown attended nothing", []) == "[name] attended nothing"
    assert redacted("Crown was late", []) == "Crown was late"


def test_null_and_lengths() -> None:
    assert REDACTOR.redact([None, ""], [[], OWN]) == [None, ""]
    with pytest.raises(ValueError, match="zip"):
        REDACTOR.redact(["a"], [])


def test_own_words_that_name_nobody_stay() -> None:
    own = ["An de la Cruz", "info@example.com", "May"]
    assert redacted("pain de la dent, info an may", own) == "pain de la dent, info an may"
    assert redacted("Then May and An came", own) == "Then [name] and [name] came"


def test_a_version_names_rules_and_terms() -> None:
    rules, _, terms = VERSION.partition("-")
    assert rules.isdecimal()
    assert len(terms) == 12


_PIECES = st.sampled_from(
    [
        "Anna", "Müller", "Crown", "crown", "Stark", "Krone", "Dr.", "J.", "[name]", "[date]",
        "2024-03-01", "1.3.2024", "14", "36-37", "+49 171", "mm", "12", "345", "Mai", "@",
        "a@b.de", "at", "Will", "Li", "山田", "\u200b", "ü", "\u0301", ". ", ", ", "-", "\n",
        "'s", "s", " ", " ", " ", "/", "(", ")", "www.", "://", "March", "by", "A", "é", "Ａ",
        "Аnnа", "[", "]", "_", "0.", "%", "tel",
    ]
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(st.lists(_PIECES, max_size=25).map("".join))
def test_redacting_again_changes_nothing(text: str) -> None:
    once = redacted(text)
    assert redacted(once) == once


@settings(deadline=None)
@given(st.text(st.characters(), max_size=200), st.lists(st.text(st.characters(), max_size=30), max_size=4))
def test_any_text_is_taken(text: str, own: list[str]) -> None:
    once = REDACTOR.redact([text], [own])
    assert REDACTOR.redact(once, [own]) == once


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "1 ",
        "12-",
        "1.1.",
        "+1",
        "a.",
        "a-",
        "A ",
        "a@",
        "J. ",
        "Dr. ",
        "Crown ",
        "山",
        "ü",
        "(",
        "March ",
        "\u0301",
    ],
)
def test_a_long_text_takes_time_in_proportion(piece: str) -> None:
    """Never longer than by its length: four times the text, not sixteen times the time."""

    def seconds(characters: int) -> float:
        text = piece * (characters // len(piece))
        gc.collect()  # what other tests left is not to be looked through meanwhile
        began = time.process_time()
        redacted(text)
        return time.process_time() - began

    short, long = (min(seconds(characters) for _ in range(3)) for characters in (50_000, 200_000))
    assert long < 8 * short + 0.2
