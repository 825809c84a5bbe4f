"""Turns names, e-mail addresses and dates into what is compared.

Names are compared on a key: NFKC, case-folded, spaces collapsed, punctuation dropped, accents folded for
Latin letters only, so that names in other scripts (docs/legacy-mdw.md section 1.2 has Japanese and Thai ones)
stay distinct. Looser keys bring together what is written differently: see :func:`loose_key`,
:func:`sound_key` and include/matching/nicknames.py.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import groupby

# Written where a name was not known; compared with the key, that is without punctuation.
PLACEHOLDER_NAMES = frozenset(
    """
    unknown, not known, unnamed, noname, no name, name, anonymous, anonym, n a, none, null, nil, undefined,
    dummy, tbd, tba, xx, first name, last name, surname, not given, not available, missing, unbekannt, inconnu,
    inconnue, desconocido, desconocida, sconosciuto, sconosciuta, onbekend, ukjent, okand, ukendt,
    不明, 名無し, 未定, ไม่ทราบ, ไม่ระบุ, неизвестно, غير معروف
    """.strip()
    .replace("\n    ", " ")
    .split(", ")
)
_FIRST_DATE, _END_OF_DATES = 0x19000000, 0x21000000
PLACEHOLDER_DATES = frozenset({0x19000101, 0x19010101, 0x18991230, 0x18991231})
_PLACEHOLDER_MAILBOXES = frozenset(
    """
    none, no, nomail, noemail, noreply, unknown, nobody, test, na, null, info, mail, email, example, user
    """.strip().split(", ")
)

# Latin letters that Unicode does not decompose into a base letter and an accent.
_LATIN_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h", "ŧ": "t"}
)
_WITHOUT_APOSTROPHES = str.maketrans("", "", "'’‘ʼ`´＇")
_LONGEST_REPEAT = 2  # three times the same letter is no name
_LONGEST = 80  # characters compared: nobody's name differs only beyond


@lru_cache(maxsize=65536)
def _is_latin(character: str) -> bool:
    return unicodedata.name(character, "").startswith("LATIN ")


def fold_latin_accents(text: str) -> str:
    """Drops the accents of Latin letters; marks of other scripts carry meaning and stay."""
    kept: list[str] = []
    after_latin = False
    for character in unicodedata.normalize("NFD", text):
        if unicodedata.combining(character):
            if after_latin:
                continue
        else:
            after_latin = _is_latin(character)
        kept.append(character)
    return unicodedata.normalize("NFC", "".join(kept)).translate(_LATIN_LETTERS)


def _plain(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    return character if category[0] in "LMN" else " "


_ASCII_PLAIN = str.maketrans(
    {chr(code): " " for code in range(128) if not chr(code).isalnum()} | {"'": "", "`": ""}
)


def _words(text: str) -> str:
    if text.isascii():
        return " ".join(text.lower().translate(_ASCII_PLAIN).split())
    # Apostrophes first: NFKC turns some of them into a space with an accent.
    composed = unicodedata.normalize("NFKC", text.translate(_WITHOUT_APOSTROPHES))
    folded = unicodedata.normalize("NFKC", composed.casefold())
    plain = "".join(_plain(character) for character in folded)
    return " ".join(fold_latin_accents(plain).split())


def name_key(name: str) -> str:
    """The comparison key of a name: lower-case words with single spaces; empty if it holds no letter or is a
    placeholder such as "unknown"."""
    key = _words(name)[:_LONGEST].rstrip()
    return "" if _is_placeholder(key) else key


def _is_placeholder(key: str) -> bool:
    if key in PLACEHOLDER_NAMES or not any(character.isalpha() for character in key):
        return True
    return len(key) > _LONGEST_REPEAT and len(set(key)) == 1


def value_key(value: str) -> str:
    """The comparison key of any other value: its words without spaces."""
    return _words(value).replace(" ", "")[:_LONGEST]


def email_key(email: str) -> str:
    """The comparison key of an e-mail address; empty for placeholders and for what is no address."""
    key = unicodedata.normalize("NFKC", email).strip().casefold()[:200]
    mailbox, at, host = key.rpartition("@")
    if not at or not mailbox or not host or mailbox.strip("0123456789.-_") in _PLACEHOLDER_MAILBOXES:
        return ""
    return key


def mailbox_key(address: str) -> str:
    """The letters and digits before the @ of an address key."""
    return _words(address.rpartition("@")[0]).replace(" ", "")


def birth_code(text: str) -> int:
    """An ISO date as eight decimal digits, four bits each (0x19850304); 0 for what is no birth date.

    Month and day may be impossible: a slip in them is still evidence.
    """
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return 0
    code = int(text.replace("-", ""), 16)
    return 0 if code in PLACEHOLDER_DATES or not _FIRST_DATE <= code < _END_OF_DATES else code


_LOOK_ALIKES = str.maketrans({"0": "o", "1": "l", "5": "s"})


def loose_key(key: str) -> str:
    """Equal for spellings of one name that transliteration brings about (ü/ue/u, ø/oe/o, å/aa/a, ß/ss/s, double
    letters), or misreading (rn/m, 0/o, 1/l, 5/s); spaces dropped."""
    joined = key.replace(" ", "").replace("ue", "u").replace("oe", "o").replace("ae", "a")
    joined = joined.translate(_LOOK_ALIKES).replace("rn", "m").replace("vv", "w")
    return "".join(letter for letter, _ in groupby(joined))


_SOUNDS = [
    (re.compile(pattern), sound)
    for pattern, sound in (
        ("^(mac|mc)", "mk"),
        ("^kn|^gn", "n"),
        ("^wr", "r"),
        ("^ps", "s"),
        ("^wh", "w"),
        ("ough|augh", "o"),
        ("sch|sh|ch(?=[aeiy])|tsch|cz|sz", "s"),
        ("ph|pf", "f"),
        ("th|dt|dh", "t"),
        ("ck|ch|kh|gh|qu?", "k"),
        ("c(?=[eiy])", "s"),
        ("c", "k"),
        ("x", "ks"),
        ("tz|ts|z", "s"),
        ("[vw]", "f"),
        ("d", "t"),
        ("b", "p"),
        ("g", "k"),
        ("j", "i"),
        ("m", "n"),
    )
]


def sound_key(key: str) -> str:
    """A rough phonetic key for Latin names, in the spirit of Soundex and the Cologne phonetics; other scripts
    keep their letters."""
    text = key.replace(" ", "")
    if not text.isascii():
        return text
    for pattern, sound in _SOUNDS:
        text = pattern.sub(sound, text)
    if not text:
        return ""
    head, rest = text[:1], text[1:]
    consonants = "".join(letter for letter in rest if letter not in "aeiouyh")
    head = "a" if head in "aeiouyh" else head
    return "".join(letter for letter, _ in groupby(head + consonants))
