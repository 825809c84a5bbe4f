"""What identifies somebody by its form alone: addresses, dates and long numbers in free text.

Every pattern looks at a character a bounded number of times, so that the time is linear in the text's length.
Tooth numbers (14, 36-37), measures (0.5 mm, 400 mg), percentages, wire sizes and ages stay: they are what the text is
about.
"""

from __future__ import annotations

import re
import unicodedata

NAME, DATE, NUMBER, EMAIL, URL = "[name]", "[date]", "[number]", "[e-mail]", "[url]"

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
_SIGNS = str.maketrans({**dict.fromkeys("’‘ʼ`´＇′‛", "'"), **dict.fromkeys("‐‑‒–−﹣－", "-")})
# Accents that no letter composes with are there to hide the letter.
_STACKED_ACCENTS = re.compile("[\u0300-\u036f]")
_UNCLEAN = re.compile(f"{_INVISIBLE.pattern}|{_STACKED_ACCENTS.pattern}|[{''.join(map(chr, _SIGNS))}]")


def cleaned(text: str) -> str:
    """The text in one form for what looks the same: NFKC, without invisible characters; one apostrophe, one hyphen."""
    if text.isascii() and text.isprintable() and "`" not in text:
        return text
    while _UNCLEAN.search(text) or not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text.translate(_SIGNS)))
        text = _STACKED_ACCENTS.sub("", text)
    return text


def without_patterns(text: str) -> str:
    """A cleaned text, its addresses, dates and long numbers replaced by placeholders."""
    small = text.lower()
    if "://" in small or "www" in small:
        text = _URL.sub(URL, text)
    if "@" in text or _SPELT_AT.search(small):
        text = _EMAIL.sub(EMAIL, text)
    if _HOST_END.search(small):
        text = _BARE_HOST.sub(URL, text)
    if not _A_DIGIT.search(text):
        return text
    text = _DAY_FIRST.sub(_text_date, text)
    if not _MONTHS.keys().isdisjoint(_LETTERS.findall(small)):
        text = _MONTH_FIRST.sub(_text_date, text)
    text = _NUMERIC_DATE.sub(_numeric_date, text)
    text = _BIRTHDAY.sub(_birthday, text)
    return _NUMBERS.sub(_numbers, text)


_LETTERS = re.compile(r"[^\W\d_]+")
_A_DIGIT = re.compile(r"\d")
_URL = re.compile(r"(?<!\w)(?:[a-z][a-z0-9+]{1,9}://|www\d?\.)[^\s\[\]<>\"]++", re.IGNORECASE)
_BARE_HOST = re.compile(
    r"(?<![\w.-])\w[\w-]*+(?:\.\w[\w-]*+)*?\.(?:com|org|net|info|eu|co\.uk)(?![\w-])(?:/[^\s\[\]<>\"]*+)?",
    re.IGNORECASE,
)
_HOST_END = re.compile(r"\.(?:com|org|net|info|eu|co\.uk)(?![\w-])")
_SPELT_AT = re.compile(r"[(\[{]\s?at\s?[)\]}]| at \w[\w-]*+(?: dot |\.)")
# Whatever hangs together with an @: addresses, handles of social networks; "name (at) host", "name at host dot com".
_EMAIL = re.compile(
    r"(?<![\w.%+'-])[\w.%+'-]*+(?:(?:@++\w[\w-]*+(?:\.\w[\w-]*+)*+)++|\s?@\s[^\W\d][\w-]*+(?:\.[^\W\d][\w-]*+)++)"
    r"|(?<![\w.%+'-])[\w.%+'-]++\s?[(\[{]\s?at\s?[)\]}]\s?\w[\w-]*+(?:(?:\s?[(\[{]\s?dot\s?[)\]}]\s?|\.)\w[\w-]*+)*+"
    r"|(?<![\w.%+'-])[\w.%+'-]++ at \w[\w-]*+(?: dot |\.)(?:com|org|net|de|fr|es|it|uk|ch|at)(?!\w)",
    re.IGNORECASE,
)

_MONTHS: dict[str, int] = {
    word: month
    for month, words in enumerate(
        (
            "january januar jänner janvier enero gennaio janeiro januari jan janv ene gen",
            "february februar feber février fevrier febrero febbraio fevereiro februari feb févr fevr fév fev febr",
            "march märz maerz marz mars marzo março maart mar mär mrz",
            "april avril abril aprile apr avr abr",
            "may mai mayo maggio maio mei mag",
            "june juni juin junio giugno junho jun giu",
            "july juli juillet julio luglio julho jul juil lug",
            "august août aout agosto augustus aug ago",
            "september septembre septiembre setiembre settembre setembro sep sept",
            "october oktober octobre octubre ottobre outubro oct okt ott",
            "november novembre noviembre novembro nov",
            "december dezember décembre decembre diciembre dicembre dezembro dec dez déc dic",
        ),
        start=1,
    )
    for word in words.split()
}
_MONTH = "(?:" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")(?!\w)\.?"
# A word as well as a month: a day beside it is not enough.
_AMBIGUOUS = frozenset(("may", "mar", "mars", "march", "mai", "gen", "mag", "jun", "ene", "ago", "mei"))
_DAY = r"\d{1,2}(?:st|nd|rd|th|er|[.ºª°])?"
_OF = r"(?:\s?[-/]\s?|\s{1,3}(?:of |de |di |del )?|(?<=[.]))"
_YEAR = r"(?:\s?[-/,]\s?|,?\s{1,3}(?:de |del )?)(?:'?\d{2}|\d{4})(?![\w])"
_DAY_FIRST = re.compile(
    rf"(?=\d)(?<!\w)(?P<day>{_DAY}){_OF}(?P<month>{_MONTH})(?P<year>{_YEAR})?", re.IGNORECASE
)
_MONTH_FIRST = re.compile(
    rf"(?<!\w)(?=[adefgjlmnos])(?P<month>{_MONTH})(?:\s?[-/]\s?|\s{{1,3}})(?:the )?"
    rf"(?:(?P<day>\d{{1,2}}(?:st|nd|rd|th)?(?!\w))(?P<year>{_YEAR})?"
    rf"|(?P<only>'?(?:de |of )?(?:19|20)\d{{2}}|'\d{{2}})(?!\w))",
    re.IGNORECASE,
)
_PLAUSIBLE_DAYS, _PLAUSIBLE_MONTHS = range(1, 32), range(1, 13)


def _text_date(match: re.Match[str]) -> str:
    word, day = match["month"], match["day"]
    if day and int("".join(filter(str.isdecimal, day))) not in _PLAUSIBLE_DAYS:
        return match[0]
    doubtful = word.rstrip(".").lower() in _AMBIGUOUS and word.islower()
    return match[0] if doubtful and not match["year"] and match.re is _MONTH_FIRST and day else DATE


_TIME = r"(?:(?:[T ]\d{1,2}:\d{2})(?::\d{2}(?:\.\d{1,9})?)?(?:Z|\s?[+-]\d{2}:?\d{2})?(?!\w))?"
_NUMERIC_DATE = re.compile(
    rf"(?=\d)(?:\d{{4}}\s?年\s?\d{{1,2}}\s?月(?:\s?\d{{1,2}}\s?日)?"
    rf"|(?<![\w])(?P<iso>\d{{4}}(?P<s>\s?[-./ ]\s?)(?P<im>\d{{1,2}})(?P=s)(?P<id>\d{{1,2}}))(?:(?!\w)|(?=T\d)){_TIME}"
    rf"|(?<![\w])(?P<a>\d{{1,2}})(?P<t>\s?[-./]\s?)(?P<b>\d{{1,2}}|[IVX]{{1,4}})(?:(?P=t)|\s?[-./]\s?)"
    rf"(?P<y>'?\d{{4}}|'?\d{{2}})(?!\w){_TIME}"
    rf"|(?<![\w/.-])(?P<my>\d{{1,2}})\s?[-./]\s?(?:19|20)\d{{2}}(?!\w)"
    rf"|(?<![\w/.-])(?:19|20)\d{{2}}[-./](?P<ym>\d{{1,2}})(?![\w/-]))"
)
_BIRTHDAY = re.compile(
    r"(?<!\w)(?P<lead>(?:am|vom|bis|zum|ab|seit|on|le|el|il|del|dal)\s)(?P<day>\d{1,2})\.\s?(?P<month>\d{1,2})\.(?!\w)"
)


def _numeric_date(match: re.Match[str]) -> str:
    return DATE if _is_date(match) else match[0]


def _birthday(match: re.Match[str]) -> str:
    return match["lead"] + DATE if _day_and_month(match["day"], match["month"]) else match[0]


def _is_date(match: re.Match[str]) -> bool:
    if match["iso"]:
        return _day_and_month(match["id"], match["im"])
    if match["a"]:
        roman = match["b"][0] in "IVX"
        teeth = match["t"].strip() == "-" and all(map(is_tooth, (match["a"], match["b"], match["y"])))
        return (
            int(match["a"]) in _PLAUSIBLE_DAYS
            if roman
            else not teeth and _day_and_month(match["a"], match["b"])
        )
    month = match["my"] or match["ym"]
    return not month or int(month) in _PLAUSIBLE_MONTHS


def _day_and_month(one: str, other: str) -> bool:
    low, high = sorted((int(one), int(other)))
    return low in _PLAUSIBLE_MONTHS and high in _PLAUSIBLE_DAYS


def is_tooth(number: str) -> bool:
    """Whether a number names a tooth in the FDI scheme (11 to 48, milk teeth 51 to 85)."""
    if not (len(number) == len("11") and number.isdecimal()):
        return False
    quadrant, place = int(number[0]), int(number[1])
    return 1 <= place <= 8 and 1 <= quadrant <= 8 and (quadrant <= 4 or place <= 5)  # noqa: PLR2004


# Groups of letters and digits, separated by blanks, hyphens, points, slashes and brackets.
_NUMBERS = re.compile(r"(?<!\w)(?P<lead>\+|\(\+?)?(?:[^\W\d]*+\d\w*+)(?:[ .()/-]{1,3}+\d\w*+)*+")
_CHUNK = re.compile(r"[^ ()]+")
_UNIT = re.compile(
    r"\s?(?:%|‰|°|(?:mm|cm|µm|μm|um|nm|m|ml|cl|dl|l|cc|mg|g|kg|µg|μg|mcg|n|ncm|cn|gf|mpa|mmhg|kvp?|ma|msv|mgy|min|minutes?"
    r"|minuten|sec|seconds?|sek|sekunden|s|h|hours?|stunden|hz|khz|w|ppm|rpm|iu|ie|i\.?e\.?|i\.?u\.?|degrees?|grad|days?"
    r"|tage?n?|weeks?|months?|jours|días)(?!\w))",
    re.IGNORECASE,
)
_GLUED_MEASURE = re.compile(
    r"\d{1,4}(?:[.]\d{1,3})?(?:mm|cm|µm|μm|um|nm|ml|mg|g|kg|µg|μg|mcg|n|ncm|cn|s|min|h|mpa)", re.IGNORECASE
)
_DECIMAL = re.compile(r"\d{1,2}\.\d{1,2}|0\.\d{1,4}")
_WIRE = re.compile(r"(?:0?\.)?\d{2,3}x(?:0?\.)?\d{1,3}(?:\.\d{1,3})?", re.IGNORECASE)
_CUE = re.compile(
    r"(?:tel|phone|fon|mobil|mobile|cell|fax|handy|téléphone|teléfono|móvil|call|rufnummer)[.:]?\s{0,2}$",
    re.IGNORECASE,
)
_SHORT, _PHONE, _PAIRS = 2, 7, 3
_LONGEST_MEASURE = 4
_CUE_LENGTH = 14


def _numbers(match: re.Match[str]) -> str:
    """One run of groups of digits: all of it when it reads like a telephone number, else the groups that are long."""
    run, start, end = match[0], match.start(), match.end()
    text = match.string
    digits = _digits(run)
    if digits <= _SHORT:
        return run
    chunks = [chunk for chunk in _CHUNK.finditer(run) if _A_DIGIT.search(chunk[0])]
    measured = _UNIT.match(text, end) is not None and _digits(chunks[-1][0]) <= _LONGEST_MEASURE
    if _is_phone(match, digits, chunks, measured):
        return NUMBER
    pieces, behind = [], 0
    for number, chunk in enumerate(chunks):
        kept = measured and number == len(chunks) - 1
        if not kept and _is_long(chunk[0], text, start + chunk.start()):
            pieces += [run[behind : chunk.start()], NUMBER]
            behind = chunk.end()
    return "".join([*pieces, run[behind:]])


def _is_phone(match: re.Match[str], digits: int, chunks: list[re.Match[str]], measured: bool) -> bool:
    text, start = match.string, match.start()
    if measured:
        digits -= _digits(chunks[-1][0])
        chunks = chunks[:-1]
        if not chunks:
            return False
    groups = [group for chunk in chunks for group in re.split(r"[./-]+", chunk[0])]
    if match["lead"] and "+" in match["lead"] and digits >= _PHONE:
        return True
    if digits > _PAIRS + 1 and _CUE.search(text, max(0, start - _CUE_LENGTH), start):
        return True
    if digits < _PHONE or any(_is_measure(chunk[0]) for chunk in chunks):
        return False
    pairs = all(len(group) == _SHORT for group in groups) and not all(map(is_tooth, groups))
    long = any(_digits(group) > _SHORT for group in groups) and len(groups) > 1
    return (pairs and len(groups) > _PAIRS) or long or groups[0].startswith("00")


def _is_measure(chunk: str) -> bool:
    return any(pattern.fullmatch(chunk) for pattern in (_DECIMAL, _GLUED_MEASURE, _WIRE))


def _is_long(chunk: str, text: str, start: int) -> bool:
    """Whether one group between blanks is more than a tooth, a measure or a small number."""
    digits = _digits(chunk)
    if digits <= _SHORT or _is_measure(chunk):
        return False
    before = text[max(0, start - 2) : start].strip()
    if before in ("0.", "0,", "."):
        return digits > _LONGEST_MEASURE  # the decimals of a number
    groups = re.split(r"[./-]+", chunk)
    if any(_digits(group) > _SHORT for group in groups):
        return True
    return (
        len(groups) >= _PAIRS
        and all(len(group) == _SHORT for group in groups)
        and not all(map(is_tooth, groups))
    )


def _digits(text: str) -> int:
    return sum(map(str.isdecimal, text))
