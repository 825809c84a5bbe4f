"""What happens to a text on its way into a database: slips of fingers, ears, eyes and scanners, one at a time."""

from __future__ import annotations

import random
from collections.abc import Callable

Slip = Callable[[str, random.Random], str]
"""Makes one error. Short texts, and texts without a place for this error, come back as they are."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(left, right) for left, _, right in (pair.partition("=") for pair in text.split())]


_LOOKS_LIKE = _pairs("rn=m m=rn cl=d d=cl l=i i=l o=0 e=c c=e u=v vv=w h=b n=h g=q s=5 b=6 t=f")
_SOUNDS_LIKE = _pairs(
    """
    ph=f f=ph ck=k k=ck c=k th=t t=th ie=y y=ie i=y ei=ai ai=ei ey=ay tz=z z=s s=z dt=t v=w w=v ss=s
    s=ss ll=l l=ll nn=n n=nn mm=m tt=t t=tt rr=r oo=u ou=u ee=ea ea=ee ar=er er=ar er=or gh=g kn=n
    j=g sch=sh ä=e ö=oe ü=ue ß=ss
    """
)
_SHORT = _pairs(
    """
    William=Bill William=Will Robert=Bob Robert=Rob Richard=Rick James=Jim James=Jamie John=Jack
    Michael=Mike Joseph=Joe Thomas=Tom Charles=Charlie Christopher=Chris Daniel=Dan Matthew=Matt
    Anthony=Tony Edward=Ted Edward=Ed Alexander=Alex Benjamin=Ben Samuel=Sam Andrew=Andy
    Nicholas=Nick Jonathan=Jon Joshua=Josh David=Dave Steven=Steve Patrick=Pat Timothy=Tim
    Kenneth=Ken Gregory=Greg Zachary=Zach Nathaniel=Nate Jacob=Jake Henry=Harry Theodore=Theo
    Elizabeth=Liz Elizabeth=Beth Katherine=Kate Katherine=Kathy Margaret=Maggie Margaret=Peggy
    Jennifer=Jen Patricia=Pat Barbara=Barb Susan=Sue Jessica=Jess Deborah=Debbie Rebecca=Becky
    Samantha=Sam Victoria=Vicky Abigail=Abby Charlotte=Lottie Amelia=Amy Eleanor=Ellie
    Isabella=Bella Stephanie=Steph Kimberly=Kim Christine=Chris Madeline=Maddie Alexandra=Alex
    Gabriella=Gabby Natalie=Nat Hans=Johannes Karl=Carl Heinz=Heinrich Fritz=Friedrich
    Klaus=Nikolaus Sepp=Josef Maximilian=Max Sebastian=Basti Stefan=Steffen Günter=Günther
    Thorsten=Torsten Gertrud=Trude Elisabeth=Lisa Elisabeth=Elise Margarete=Grete Katharina=Käthe
    Ursula=Uschi Susanne=Susi Gabriele=Gabi Angelika=Geli Brigitte=Gitte Stefanie=Steffi
    Christina=Tina Johanna=Hanna
    """
)


def _other_forms() -> dict[str, list[str]]:
    forms: dict[str, list[str]] = {}
    for full, short in _SHORT:
        forms.setdefault(full, []).append(short)
        forms.setdefault(short, []).append(full)
    return forms


def _neighbours() -> dict[str, str]:
    """The keys around each letter of an English keyboard."""
    around: dict[str, str] = {}
    for row, keys in enumerate(_KEYBOARD):
        for column, key in enumerate(keys):
            rows = _KEYBOARD[max(row - 1, 0) : row + 2]
            near = "".join(line[max(column - 1, 0) : column + 2] for line in rows)
            around[key] = near.replace(key, "")
    return around


_FORMS, _NEAR = _other_forms(), _neighbours()


def typo(text: str, rng: random.Random) -> str:
    """One letter left out, put in, replaced, or swapped with the next."""
    if len(text) < 2:  # noqa: PLR2004
        return text
    place, kind = rng.randrange(len(text)), rng.randrange(4)
    letter = rng.choice(_LETTERS)
    if kind == 0:
        return text[:place] + text[place + 1 :]
    if kind == 1:
        return text[:place] + letter + text[place:]
    if kind == 2:  # noqa: PLR2004
        return text[:place] + letter + text[place + 1 :]
    place = min(place, len(text) - 2)
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def wrong_key(text: str, rng: random.Random) -> str:
    """One letter replaced by a neighbour on the keyboard."""
    places = [place for place, letter in enumerate(text.lower()) if letter in _NEAR]
    if not places:
        return text
    place = rng.choice(places)
    return text[:place] + rng.choice(_NEAR[text[place].lower()]) + text[place + 1 :]


def misread(text: str, rng: random.Random) -> str:
    """One letter taken for another that looks like it, as when paper is scanned."""
    return _replaced(text, rng, _LOOKS_LIKE)


def misheard(text: str, rng: random.Random) -> str:
    """One sound spelt in another way."""
    return _replaced(text, rng, _SOUNDS_LIKE)


def _replaced(text: str, rng: random.Random, rules: list[tuple[str, str]]) -> str:
    lower = text.lower()
    fitting = [(old, new) for old, new in rules if old in lower]
    if not fitting:
        return text
    old, new = rng.choice(fitting)
    place = lower.rindex(old)
    changed = text[:place] + new + text[place + len(old) :]
    return changed.capitalize() if text.istitle() else changed


def other_form(text: str, rng: random.Random) -> str:
    """The short form of a first name, or the full one."""
    return rng.choice(_FORMS[text]) if text in _FORMS else text


def initial(text: str, _: random.Random) -> str:
    """The first letter only."""
    return text[:1]


def cut_off(text: str, rng: random.Random) -> str:
    """The beginning only, at least four letters."""
    return text[: rng.randint(4, 7)]


def shouted(text: str, _: random.Random) -> str:
    """All letters large."""
    return text.upper()


def plain_letters(text: str, _: random.Random) -> str:
    """Without the letters that an English keyboard lacks, written out as in German."""
    for letter, plain in zip("äöüß", ("ae", "oe", "ue", "ss"), strict=True):
        text = text.replace(letter, plain).replace(letter.upper(), plain.capitalize())
    return text
