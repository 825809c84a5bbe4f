"""Removes from free text who it is about: what the database knows of people, and what identifies by its form.

Three things go, each replaced by a placeholder that says what it was:

* The identifiers of the people a row is about, wherever they stand: each word of their names in any spelling of
  accents (Müller, Mueller, Muller), with endings (Anna's, Müllers), initials (J. Smith), glued together with other
  words (annamueller85), in look-alike letters; a word that holds such a name of four letters and more goes whole,
  unless it is a term. Small words of two or three letters (An, May) go where they have a capital.
* Names of anybody in the database, as whole words. A name that is also a term (Crown, Brücke, Stark), or has two
  letters, goes only where the text gives a sign that somebody is meant: a title or an initial before it, a name beside
  it, 's behind it, a verb of people behind it, or a capital within a sentence that the term does not have.
* Addresses, dates and long numbers (include/embedding/identifying_patterns.py), and the word behind a title.

What stays by design: names that the database does not know, unless a title precedes them; misspelt names; a name of
somebody else that is also a term and stands without any such sign.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import permutations
from pathlib import Path

from include.embedding.identifying_patterns import DATE, EMAIL, NAME, NUMBER, URL, cleaned, without_patterns
from include.matching.normalise import fold_latin_accents

_RULES = "1"


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LIST = Path(__file__).with_name("clinical_terms.txt").read_text(encoding="utf-8")
_SECTIONS = [
    [word for line in section.splitlines() if not line.startswith("#") for word in line.split()]
    for section in _LIST.split("# Small words")
]

CLINICAL_TERMS = frozenset(word for section in _SECTIONS for word in section)
"""Clinical and ordinary words, spelt as within a sentence (include/embedding/clinical_terms.txt)."""

VERSION = f"{_RULES}-{hashlib.sha256(_LIST.encode()).hexdigest()[:12]}"
"""Changes whenever the rules or the terms do: a text redacted by another version may read differently."""

_TITLES = _set("""
    dr drs dra doc doctor doktor docteur prof professor mr mrs ms miss mister mx sir madam dame frau herr herrn hr fr
    fräulein mme mlle madame monsieur mademoiselle m sr sra srta señor señora señorita don doña sig sigra signor signora
    signore dott dottor dottore dottoressa dottssa ing mag med dent
    """)
_VERBS_OF_PEOPLE = _set("""
    said says asked asks called calls came comes attended attends reports reported wants wanted wishes requests
    requested complains complained phoned rang visited returned agreed agrees declined cancelled lives works sagt
    sagte berichtet fragt fragte wünscht kam kommt meldet rief möchte klagt dit demande souhaite consulte vient dice
    pide quiere acude refiere chiede vuole riferisce diz pede
    """)
_AGENTS = _set("by chez")
_PARTICLES = _set("de la le les du des da das do dos di del della van von der den ter ten el al bin ibn y e")
_GENERIC_MAILBOXES = _set("info mail email office praxis practice contact kontakt admin dental reception")

_PLACEHOLDERS = frozenset({NAME, DATE, NUMBER, EMAIL, URL})
_TOKEN = re.compile(r"(\w+(?:'\w+)*|\[(?:name|date|number|e-mail|url)\])")
_NAME_TOKEN = re.compile(r"[\w'-]+")
_LETTERS = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-zß-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])")
_SPACED = re.compile(r"(?<!\w)(?:[^\W\d_][ .-]){3,}[^\W\d_](?!\w)")
_SENTENCE_END = re.compile(r"[.!?:\n\r•…]|\s[-*]\s")
_DAY = re.compile(r"(?=\d)(?<![\w.,/-])(\d{1,2})[./-]\s?(\d{1,2})(\.?)(?![\w/-])")
_ISO_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_EXPANDED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
_DIGRAPH = re.compile("ae|oe|ue|aa")
# Letters of other scripts that look like Latin ones; capitals first become small.
_LOOK_ALIKES = str.maketrans("авеѕіјкмнорстхуһӏԁԛԝαβεζηικμνορτυχγ", "abesijkmhopctxyhldqwabezhikmnoptuxy")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
)

_SHORTEST_INSIDE, _SHORTEST_AT_THE_EDGE = 5, 4
_SHORT = 2
_SHORT_CODE = 3
_CACHED_WORDS = 200_000
_LETTER_WORDS = "AI"


class _Fate(IntEnum):
    STAYS = 0
    DOUBTFUL = 1
    GOES = 2


@dataclass(frozen=True, slots=True)
class _Word:
    """What is known of a word of a text, whatever stands beside it."""

    key: str
    forms: tuple[str, ...]
    joined: str
    fate: _Fate
    term: bool
    noun: bool
    title: bool
    genitive: bool


@dataclass(frozen=True, slots=True)
class _Own:
    forms: frozenset[str]
    small: frozenset[str]
    inside: tuple[str, ...]
    unspaced: tuple[str, ...]
    bare: tuple[str, ...]
    """Forms of which every other one holds one."""
    days: frozenset[tuple[int, int]]


class Redactor:
    """Removes identifiers from free text; safe to share between threads, and the same for the same names.

    Args:
        names: words of the names of everybody in the database.
        terms: words that are no names, as :data:`CLINICAL_TERMS`; a capital says that they are written with one.
    """

    def __init__(self, names: Collection[str], terms: Collection[str] = CLINICAL_TERMS) -> None:
        self._terms = {form for term in terms for form in _spellings(term)}
        self._nouns = {form for term in terms if term[:1].isupper() for form in _spellings(term)}
        self._names: set[str] = set()
        self._unspaced: set[str] = set()
        for name in map(cleaned, names):
            self._unspaced.update(_unspaced_words(name))
            for word in _name_words(name):
                self._names.update(_spellings(word))
        self._lengths = sorted({len(name) for name in self._unspaced}, reverse=True)
        self._words: dict[str, _Word] = {}

    def redact(self, texts: Sequence[str | None], own: Sequence[Sequence[str]]) -> list[str | None]:
        """Each text without identifiers, in one form of Unicode (NFKC).

        Args:
            texts: free texts; None stays None.
            own: for each text the names, e-mail addresses, user names and ISO dates of the people it is about.

        Raises:
            ValueError: ``own`` is not as long as ``texts``.
        """
        return [
            None if text is None else self._redact(text, _own(tuple(known)))
            for text, known in zip(texts, own, strict=True)
        ]

    def _redact(self, text: str, own: _Own) -> str:
        text = without_patterns(cleaned(text))
        if own.days:
            text = _DAY.sub(lambda match: _without_birthday(match, own.days), text)
        if not text.isascii():
            text = self._without_unspaced(text, own)
        text = _SPACED.sub(lambda match: self._spaced(match, own), text)
        pieces = _TOKEN.split(text)
        known, look_up = self._words.get, self._word
        words = [known(token) or look_up(token) for token in pieces[1::2]]
        return _Sentence(text, pieces, words, own, self._names).redacted()

    def _without_unspaced(self, text: str, own: _Own) -> str:
        """Names in scripts that put no space between words."""
        for name in own.unspaced:
            text = text.replace(name, NAME)
        if not self._lengths:
            return text
        return _UNSPACED.sub(lambda match: self._known_within(match[0]), text)

    def _known_within(self, run: str) -> str:
        pieces: list[str] = []
        place = 0
        while place < len(run):
            length = next((n for n in self._lengths if run[place : place + n] in self._unspaced), 0)
            pieces.append(NAME if length else run[place])
            place += length or 1
        return "".join(pieces)

    def _spaced(self, match: re.Match[str], own: _Own) -> str:
        """S p a c e d letters, when they spell a name."""
        word = self._word("".join(_LETTERS.findall(match[0])))
        return NAME if word.fate is _Fate.GOES or own.forms.intersection(word.forms) else match[0]

    def _word(self, token: str) -> _Word:
        word = self._words.get(token)
        if word is None:
            if len(self._words) >= _CACHED_WORDS:
                self._words.clear()
            word = self._words[token] = self._look_up(token)
        return word

    def _look_up(self, token: str) -> _Word:
        if token in _PLACEHOLDERS:
            return _Word("", (), "", _Fate.STAYS, term=False, noun=False, title=False, genitive=False)
        spellings = _spellings(token)
        forms = (
            *spellings,
            *(form[:-1] for form in spellings if form.endswith("s") and len(form) > _SHORT),
        )
        term = spellings[0] in self._terms or any(form in self._terms for form in forms)
        known = any(form in self._names for form in forms)
        parts = _parts(token)
        part_forms = [form for part in parts for form in _spellings(part)]
        if not known and len(parts) > 1:
            known = any(
                len(form) >= _SHORTEST_AT_THE_EDGE and form in self._names and form not in self._terms
                for form in part_forms
            )
            term = term and not known
        fate = _Fate.STAYS
        if known:
            doubtful = term or len(spellings[0]) <= _SHORT
            fate = _Fate.DOUBTFUL if doubtful else _Fate.GOES
        every = tuple(dict.fromkeys([*forms, *part_forms]))
        return _Word(
            spellings[0],
            every,
            " ".join(every),
            fate,
            term=term,
            noun=any(form in self._nouns for form in forms),
            title=spellings[0] in _TITLES,
            genitive=token.endswith("s") and known and not any(form in self._names for form in spellings),
        )


class _Sentence:
    """One text and the fate of its words."""

    def __init__(
        self, text: str, pieces: list[str], words: list[_Word], own: _Own, names: Collection[str]
    ) -> None:
        self._text = text
        self._tokens = pieces[1::2]
        # What stands before each token, and behind the last one.
        self._between = pieces[::2]
        self._words = words
        self._own = own
        self._names = names
        self._fates = [word.fate for word in words]

    def redacted(self) -> str:
        if self._own.bare:
            self._find_own()
        if "-" in self._text:
            self._find_broken_words()
        titled = [place + 1 for place, word in enumerate(self._words[:-1]) if word.title]
        if titled or any(self._fates):
            # Where everything is small, or everything large, a capital says nothing.
            self._no_case = self._text.islower() or self._text.isupper()
            self._settle_doubts(titled)
            self._take_initials()
        return (
            self._replaced()
            if any(fate is _Fate.GOES for fate in self._fates) or NAME in self._text
            else self._text
        )

    def _find_own(self) -> None:
        own = self._own
        keys = " ".join([word.joined for word in self._words])
        if not any(form in keys for form in own.bare):
            return
        for place, word in enumerate(self._words):
            if self._fates[place] is _Fate.GOES:
                continue
            if not own.forms.isdisjoint(word.forms):
                self._fates[place] = _Fate.GOES
            elif not own.small.isdisjoint(word.forms):
                self._fates[place] = _Fate.GOES if self._tokens[place][0].isupper() else _Fate.DOUBTFUL
            elif own.inside and not word.term and _holds(word.key, own.inside):
                self._fates[place] = _Fate.GOES

    def _find_broken_words(self) -> None:
        """Names cut by a hyphen, as at the end of a line."""
        for place, between in enumerate(self._between[1:-1], start=1):
            if not between.startswith("-") or between.strip() != "-":
                continue
            left, right = self._words[place - 1], self._words[place]
            joined = left.key + right.key
            known = (
                joined in self._names and len(joined) >= _SHORTEST_INSIDE and not (left.term and right.term)
            )
            if left.key and right.key and (known or joined in self._own.forms):
                self._fates[place - 1] = self._fates[place] = _Fate.GOES

    def _settle_doubts(self, titled: list[int]) -> None:
        for place in titled:
            if self._behind_a_title(place) and (self._fates[place] or self._reads_like_a_name(place)):
                self._fates[place] = _Fate.GOES
        doubtful = [place for place, fate in enumerate(self._fates) if fate is _Fate.DOUBTFUL]
        if not doubtful:
            return
        for place in doubtful:
            signs = (self._behind_an_initial, self._behind_an_agent, self._acts, self._capital_within)
            if any(sign(place) for sign in signs):
                self._fates[place] = _Fate.GOES
        self._spread(doubtful, -1)
        self._spread(doubtful[::-1], +1)
        self._spread(doubtful, -1)

    def _spread(self, doubtful: Sequence[int], beside: int) -> None:
        """A doubtful word beside a name is a part of it."""
        for place in doubtful:
            neighbour = place + beside
            if not 0 <= neighbour < len(self._tokens) or self._fates[neighbour] is not _Fate.GOES:
                continue
            if beside < 0 and self._words[neighbour].genitive:
                continue
            joints = (" ", "-") if beside < 0 else (" ", "-", ", ")
            if self._between[max(place, neighbour)] in joints and (
                self._no_case or self._tokens[place][0].isupper()
            ):
                self._fates[place] = _Fate.GOES

    def _behind_a_title(self, place: int) -> bool:
        return self._between[place] in (" ", ". ", ".", "  ")

    def _reads_like_a_name(self, place: int) -> bool:
        token, word, title = self._tokens[place], self._words[place], self._words[place - 1]
        if word.term or word.title or len(word.key) <= _SHORT or len(title.key) == 1:
            return False
        return token[0].isupper() and not self._no_case and token.isalpha()

    def _behind_an_initial(self, place: int) -> bool:
        if not place or self._between[place] not in (". ", "."):
            return False
        before = self._tokens[place - 1]
        return len(before) == 1 and before.isalpha() and self._tokens[place][0].isupper()

    def _behind_an_agent(self, place: int) -> bool:
        """Seen by Gold: these words stand before people, not before nouns of a language that gives them capitals."""
        if not place or self._between[place] != " " or not self._tokens[place][0].isupper():
            return False
        return self._words[place - 1].key in _AGENTS

    def _acts(self, place: int) -> bool:
        """Somebody who does or owns something: Crown called, Bridge's mother."""
        text = self._tokens[place]
        if not (text[0].isupper() or self._no_case):
            return False
        if text.endswith(("'s", "'S")):
            return True
        behind = place + 1
        return (
            behind < len(self._tokens)
            and self._between[behind] == " "
            and self._tokens[behind].lower() in _VERBS_OF_PEOPLE
        )

    def _capital_within(self, place: int) -> bool:
        """A capital that the term does not have, within a sentence, and not in a heading or before a tooth."""
        token = self._tokens[place]
        if self._no_case or self._words[place].noun or not token[0].isupper() or not place:
            return False
        if token.isupper() and len(token) > 1:
            return False
        if _SENTENCE_END.search(self._between[place]):
            return False
        return not any(map(self._reads_like_a_term, (place - 1, place + 1)))

    def _reads_like_a_term(self, place: int) -> bool:
        if place == len(self._tokens):
            return False
        token, word, fate = self._tokens[place], self._words[place], self._fates[place]
        if token.isdecimal():
            return True
        first_of_all = place == 0 or bool(_SENTENCE_END.search(self._between[place]))
        return fate is _Fate.STAYS and word.term and token[0].isupper() and not first_of_all

    def _take_initials(self) -> None:
        """Initials before and behind a name go with it."""
        for place, token in enumerate(self._tokens):
            if len(token) != 1 or not token.isalpha() or self._fates[place] is _Fate.GOES:
                continue
            if self._begins_a_name(place) or self._ends_a_name(place):
                self._fates[place] = _Fate.GOES

    def _begins_a_name(self, place: int) -> bool:
        behind = place + 1
        if behind == len(self._tokens) or self._fates[behind] is not _Fate.GOES:
            return False
        letter, separator = self._tokens[place], self._between[behind]
        return separator in (".", ". ") or (
            separator == " " and letter.isupper() and self._is_initial(letter)
        )

    def _ends_a_name(self, place: int) -> bool:
        if not place or self._fates[place - 1] is not _Fate.GOES or self._between[place] not in (" ", ", "):
            return False
        token = self._tokens[place]
        last = self._between[place + 1][:1] in (".", "", ",", ")")
        return token.isupper() and (last or self._is_initial(token))

    def _is_initial(self, letter: str) -> bool:
        return letter not in _LETTER_WORDS or any(form[0] == letter.lower() for form in self._own.bare)

    def _replaced(self) -> str:
        """The text with one placeholder for names that stand together."""
        pieces: list[str] = []
        for between, token, fate in zip(self._between, self._tokens, self._fates, strict=False):
            if fate is not _Fate.GOES and token != NAME:
                pieces += (between, token)
            elif not (pieces and pieces[-1] == NAME and self._joins(between)):
                pieces += (between, NAME)
        return "".join([*pieces, self._between[-1]])

    @staticmethod
    def _joins(between: str) -> bool:
        return len(between) <= _SHORT and "\n" not in between and not between.strip(" .-_")


@lru_cache(maxsize=65_536)
def _own(known: tuple[str, ...]) -> _Own:
    """What to look for in the texts about some people."""
    words: list[str] = []
    days: set[tuple[int, int]] = set()
    unspaced: set[str] = set()
    for identifier in map(cleaned, known):
        date = _ISO_DATE.match(identifier)
        if date:
            days |= {(int(date[2]), int(date[3])), (int(date[3]), int(date[2]))}
            continue
        mailbox, at, _ = identifier.partition("@")
        found = list(_name_words(mailbox))
        words += [word for word in found if not (at and _is_generic(word))]
        unspaced.update(_unspaced_words(identifier))
    forms = {form for word in words for form in _spellings(word)}
    small = {form for form in forms & _SMALL_WORDS if len(form) <= _SHORT_CODE}
    forms -= small
    # What is glued to a longer name is found by that one.
    short = sorted(form for form in {*forms, *small} if len(form) < _SHORTEST_AT_THE_EDGE)
    glued = {left + right for left, right in permutations(short, 2)}
    glued |= {form[0] + other for form in forms for other in short}
    inside = tuple(form for form in forms if len(form) >= _SHORTEST_AT_THE_EDGE)
    return _Own(
        frozenset(forms | {form for form in glued if len(form) > _SHORT_CODE}),
        frozenset(small),
        inside,
        tuple(sorted(unspaced, key=len, reverse=True)),
        tuple({*forms, *small}),
        frozenset(days),
    )


def _is_generic(word: str) -> bool:
    key = _spellings(word)[0]
    return len(key) <= _SHORT or key in _GENERIC_MAILBOXES or key in _TERM_FORMS


def _without_birthday(match: re.Match[str], days: Collection[tuple[int, int]]) -> str:
    """A birthday without its year, in the notations that are no fraction (01/03, 01.03, 1.3.)."""
    first, second, end = match[1], match[2], match[3]
    date = len(first) == len(second) == _SHORT or end == "."
    return DATE if date and (int(first), int(second)) in days else match[0]


def _holds(key: str, names: tuple[str, ...]) -> bool:
    return any(
        name in key and (len(name) >= _SHORTEST_INSIDE or key.startswith(name) or key.endswith(name))
        for name in names
    )


def _name_words(name: str) -> Iterator[str]:
    """The words of a name, whole and by their parts; no particles, no initials."""
    for token in _NAME_TOKEN.findall(name):
        for word in {token, token.replace("-", ""), *token.split("-"), *_parts(token)}:
            stripped = word.strip("_'")
            if len(stripped) > 1 and stripped.lower() not in _PARTICLES and not stripped.isdecimal():
                yield stripped


def _unspaced_words(name: str) -> list[str]:
    return [word for word in _UNSPACED.findall(name) if len(word) >= _SHORT]


def _parts(token: str) -> list[str]:
    """The runs of letters in a word, cut where a small letter meets a capital."""
    if token.isalpha() and (token.islower() or token[1:].islower()):
        return [token]
    return [part for letters in _LETTERS.findall(token) for part in _CAMEL.split(letters)]


@lru_cache(maxsize=_CACHED_WORDS)
def _spellings(word: str) -> tuple[str, ...]:
    """The keys under which a word is known: without accents and apostrophes first, then ü as ue, ue as u, and letters
    of other scripts as those they look like."""
    small = word.casefold().replace("'", "")
    if small.isascii():
        keys = [small]
    else:
        key = fold_latin_accents(small)
        keys = [key, fold_latin_accents(small.translate(_EXPANDED)), key.translate(_LOOK_ALIKES)]
    keys += [_DIGRAPH.sub(lambda pair: pair[0][0], key) for key in keys if len(key) >= _SHORTEST_AT_THE_EDGE]
    return tuple(dict.fromkeys(keys))


_SMALL_WORDS = frozenset(form for word in _SECTIONS[1] for form in _spellings(word))
_TERM_FORMS = frozenset(form for word in CLINICAL_TERMS for form in _spellings(word))
