"""Invented people with known truth: which records are the same person, at any size, the same for the same seed.

* ``german``: German names and birth dates; every tenth record is a copy of another with one or two slips.
* ``legacy``: what a dental workflow database holds, families included, with many kinds of errors in all records.
* ``synthetic``: the same manner at any size, with names enough for millions.

Families are what makes matching people hard: twins, brothers and sisters on one e-mail address, spouses, and a
parent and child with one name are different people although their records agree in much.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.names import Vocabulary, vocabulary
from benchmarks.slips import (
    Slip,
    cut_off,
    initial,
    misheard,
    misread,
    other_form,
    plain_letters,
    shouted,
    typo,
    wrong_key,
)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Texts = NDArray[np.object_]
Days = NDArray[np.datetime64]

_DAY = np.timedelta64(1, "D")
_NOBODY = -1


@dataclass(frozen=True)
class LabelledPeople:
    """Records and their truth.

    ``table`` has text columns only, ``legacy_id`` first; ``person`` numbers the person behind each row.
    """

    table: pa.Table
    person: Ints

    @property
    def true_pairs(self) -> int:
        """How many pairs of records are the same person."""
        sizes = np.bincount(self.person)
        return int((sizes * (sizes - 1) // 2).sum())


class Relation(IntEnum):
    """What a person is to another of the same household."""

    SPOUSE = 0
    SIBLING = 1
    TWIN = 2
    CHILD = 3
    NAMESAKE = 4
    """A parent or child with the same first name."""


@dataclass(frozen=True)
class Plan:
    """What kind of people to make; shares are of all records, or of all people where it says so."""

    country: str
    rows: int
    copies: float
    copied_again: float
    """Share of the copies whose original may have another copy."""
    surnames: int
    first_names: int
    errors: Mapping[str, float]
    """How often each kind of error occurs in a record, by its name in ``ERRORS``."""
    slips_per_copy: tuple[float, ...] = ()
    """Instead of errors in all records: the shares of copies with 1, 2, … errors; originals are right."""
    relatives: float = 0.0
    """Share of the people who are a relative of another one."""
    relations: tuple[float, ...] = (0.325, 0.40, 0.03, 0.22, 0.025)
    only_names: bool = False
    """No sex, e-mail, office, doctor and suffix."""


@dataclass(frozen=True)
class Records:
    """One value per record in each array: texts without a value are empty, dates without one are NaT."""

    person: Ints
    head: Ints
    """The person whose household it is, ``_NOBODY`` for people without one."""
    female: Bools
    first: Texts
    last: Texts
    born: Days
    gender: Texts
    email: Texts
    suffix: Texts
    office: Ints
    doctor: Ints

    def take(self, rows: Ints) -> Records:
        """The records at the given positions."""
        return Records(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Chance:
    """Two streams of random numbers, one for arrays and one for single values (which NumPy is slow at)."""

    arrays: np.random.Generator
    single: random.Random

    @classmethod
    def of(cls, seed: int) -> Chance:
        """Streams that depend on the seed only."""
        return cls(np.random.default_rng(seed), random.Random(seed))  # noqa: S311 - invented people, no secrets


def generate(plan: Plan, seed: int) -> LabelledPeople:
    """Makes the planned people; the same plan and seed give the same table."""
    chance = Chance.of(seed)
    words = vocabulary(plan.country, plan.surnames, plan.first_names)
    people = _population(plan, words, chance)
    records = _with_copies(people, plan, words, chance)
    _damage(records, plan, len(people.person), words, chance)
    order = chance.arrays.permutation(len(records.person))
    return _labelled(records.take(order), plan, chance)


# People and their families


def _population(plan: Plan, words: Vocabulary, chance: Chance) -> Records:
    count = plan.rows - round(plan.rows * plan.copies)
    relatives = round(count * plan.relatives)
    strangers = _strangers(count - relatives, plan, words, chance)
    if not relatives:
        return strangers
    family = _relatives(strangers, relatives, plan, words, chance)
    strangers.head[np.unique(family.head)] = np.unique(family.head)
    return Records(
        **{
            field.name: np.concatenate([getattr(strangers, field.name), getattr(family, field.name)])
            for field in fields(Records)
        }
    )


def _strangers(count: int, plan: Plan, words: Vocabulary, chance: Chance) -> Records:
    rng = chance.arrays
    female = rng.random(count) < 0.52  # noqa: PLR2004 - slightly more women than men
    first = _first_names(female, words, rng)
    last = words.surnames.texts[words.surnames.draw(rng, count)]
    born = np.datetime64("1930-01-01") + (rng.beta(2.2, 1.4, count) * 32_500).astype(np.int64) * _DAY
    offices = max(plan.rows // 60, 1)
    office = np.minimum((rng.random(count) ** 2 * offices).astype(np.int64), offices - 1)
    return Records(
        person=np.arange(count),
        head=np.full(count, _NOBODY),
        female=female,
        first=first,
        last=last,
        born=born,
        gender=np.where(female, "female", "male").astype(object),
        email=_emails(first, last, born, words, chance),
        suffix=_suffixes(count, rng),
        office=office,
        doctor=office * 5 + rng.integers(0, 4, count),
    )


def _first_names(female: Bools, words: Vocabulary, rng: np.random.Generator) -> Texts:
    count = len(female)
    women, men = words.women.texts[words.women.draw(rng, count)], words.men.texts[words.men.draw(rng, count)]
    return np.where(female, women, men)


def _relatives(strangers: Records, count: int, plan: Plan, words: Vocabulary, chance: Chance) -> Records:
    rng = chance.arrays
    relation = rng.choice(len(plan.relations), count, p=plan.relations)
    # Half of the strangers have no relatives, so that the other half has families of some size.
    head = rng.integers(0, max(len(strangers.person) // 2, 1), count)
    household = strangers.take(head)
    is_spouse, is_twin, is_namesake = (
        relation == kind for kind in (Relation.SPOUSE, Relation.TWIN, Relation.NAMESAKE)
    )
    female = np.where(is_spouse, ~household.female, rng.random(count) < 0.5)  # noqa: PLR2004
    female = np.where(is_namesake, household.female, female)
    first = _first_names(female, words, rng)
    alike = is_twin & (female == household.female) & (rng.random(count) < 0.2)  # noqa: PLR2004
    # Nobody calls two children the same.
    alike |= first == household.first
    first = np.where(alike, _alike(household.first, household.female, words), first)
    first = np.where(is_namesake, household.first, first)
    born = _born_relative(household.born, relation, rng)
    own_name = is_spouse & (rng.random(count) < 0.2)  # noqa: PLR2004
    last = np.where(own_name, words.surnames.texts[words.surnames.draw(rng, count)], household.last)
    elsewhere = rng.random(count) < 0.1  # noqa: PLR2004
    shares_email = (household.email != "") & (rng.random(count) < 0.5)  # noqa: PLR2004
    return replace(
        household,
        person=len(strangers.person) + np.arange(count),
        head=head,
        female=female,
        first=first,
        last=last,
        born=born,
        gender=np.where(female, "female", "male").astype(object),
        email=np.where(shares_email, household.email, _emails(first, last, born, words, chance)),
        suffix=_suffixes(count, rng),
        office=np.where(elsewhere, rng.permutation(household.office), household.office),
        doctor=np.where(elsewhere, rng.permutation(household.doctor), household.doctor),
    )


def _alike(first: Texts, female: Bools, words: Vocabulary) -> Texts:
    following: list[dict[str, str]] = [
        dict(zip(names.texts.tolist(), names.texts[names.alike()].tolist(), strict=True))
        for names in (words.men, words.women)
    ]
    pairs = zip(first.tolist(), female.tolist(), strict=True)
    return np.array([following[is_female][name] for name, is_female in pairs], dtype=object)


def _born_relative(born: Days, relation: Ints, rng: np.random.Generator) -> Days:
    count = len(born)
    sign = rng.choice([-1, 1], count)
    generation = rng.integers(19 * 365, 40 * 365, count) * np.where(born < np.datetime64("1985-01-01"), 1, -1)
    days = np.select(
        [relation == Relation.SPOUSE, relation == Relation.SIBLING, relation == Relation.TWIN],
        [rng.normal(0, 1500, count).astype(np.int64), sign * rng.integers(330, 2600, count), 0],
        default=generation,
    )
    return born + days * _DAY


def _emails(first: Texts, last: Texts, born: Days, words: Vocabulary, chance: Chance) -> Texts:
    """An address for some 13 in 100; most are made of the name, and a few are nobody's own."""
    rng, single = chance.arrays, chance.single
    emails = np.full(len(first), "", dtype=object)
    for row in np.flatnonzero(rng.random(len(first)) < 0.13).tolist():  # noqa: PLR2004
        emails[row] = _email(str(first[row]), str(last[row]), str(born[row])[2:4], words, single)
    return emails


def _email(first: str, last: str, year: str, words: Vocabulary, single: random.Random) -> str:
    name = (plain_letters(part, single).lower().replace(" ", "") for part in (first, last))
    given, family = name
    kind = single.random()
    if kind < 0.02:  # noqa: PLR2004
        return single.choice(("none@example.org", "noemail@example.com", "info@dental.example"))
    local = single.choice(
        (f"{given}.{family}", f"{given[:1]}{family}", f"{given}{year}", f"{family}{single.randint(1, 99)}")
        if kind < 0.7  # noqa: PLR2004
        else (
            f"{single.choice(words.surnames.texts[:2000])}{single.randint(1, 9999)}".lower(),
            f"{single.choice(words.surnames.texts[:999])}.{single.choice(words.women.texts[:99])}".lower(),
        )
    )
    return f"{local}@{single.choice(('mail', 'post', 'web', 'inbox', 'home'))}.example"


def _suffixes(count: int, rng: np.random.Generator) -> Texts:
    digits, letters = rng.integers(0, 100, count), rng.integers(0, 26 * 26, count)
    codes = [f"{d:02d}{chr(65 + a // 26)}{chr(65 + a % 26)}" for d, a in zip(digits, letters, strict=True)]
    return np.where(rng.random(count) < 0.6, np.array(codes, dtype=object), "")  # noqa: PLR2004


# Copies and errors


def _with_copies(people: Records, plan: Plan, words: Vocabulary, chance: Chance) -> Records:
    """The people, then the further records that some of them have."""
    rng = chance.arrays
    copies = plan.rows - len(people.person)
    again = round(copies * plan.copied_again)
    drawn = rng.permutation(len(people.person))[: copies - again]
    originals = np.concatenate([drawn, rng.choice(drawn, again)])
    copied = people.take(originals)
    moved = rng.random(copies) < 0.25  # noqa: PLR2004
    fresh = _emails(copied.first, copied.last, copied.born, words, chance)
    without = rng.random(copies) < 0.35  # noqa: PLR2004
    copied = replace(
        copied,
        email=np.where(without | (copied.email == ""), fresh, copied.email),
        suffix=np.where(rng.random(copies) < 0.5, _suffixes(copies, rng), copied.suffix),  # noqa: PLR2004
        office=np.where(moved, rng.permutation(copied.office), copied.office),
        doctor=np.where(moved, rng.permutation(copied.doctor), copied.doctor),
    )
    return Records(
        **{
            field.name: np.concatenate([getattr(people, field.name), getattr(copied, field.name)])
            for field in fields(Records)
        }
    )


Error = Callable[[Records, Ints, Vocabulary, Chance], None]
"""Changes the records at the given rows in place."""


def _slipped(column: str, slip: Slip, records: Records, rows: Ints, _: Vocabulary, chance: Chance) -> None:
    values: Texts = getattr(records, column)
    values[rows] = [slip(text, chance.single) for text in values[rows].tolist()]


def _emptied(column: str, records: Records, rows: Ints, _: Vocabulary, __: Chance) -> None:
    values = getattr(records, column)
    values[rows] = np.datetime64("NaT") if column == "born" else ""


def _swapped_names(records: Records, rows: Ints, _: Vocabulary, __: Chance) -> None:
    records.first[rows], records.last[rows] = records.last[rows], records.first[rows]


def _married(records: Records, rows: Ints, words: Vocabulary, chance: Chance) -> None:
    """A new surname, for women; a fifth of them keep the old one before it."""
    rows = rows[records.female[rows]]
    new = words.surnames.texts[words.surnames.draw(chance.arrays, len(rows))]
    both = chance.arrays.random(len(rows)) < 0.2  # noqa: PLR2004
    records.last[rows] = np.where(both, records.last[rows] + "-" + new, new)


def _second_name(records: Records, rows: Ints, words: Vocabulary, chance: Chance) -> None:
    """A middle name in the field of the first one."""
    female = records.female[rows]
    records.first[rows] = records.first[rows] + " " + _first_names(female, words, chance.arrays)


def _day_month_swapped(records: Records, rows: Ints, _: Vocabulary, __: Chance) -> None:
    year, month, day = _parts(records.born[rows])
    records.born[rows] = np.where(day <= 12, _date(year, day, month), records.born[rows])  # noqa: PLR2004


def _year_off(records: Records, rows: Ints, _: Vocabulary, chance: Chance) -> None:
    year, month, day = _parts(records.born[rows])
    by = chance.arrays.choice([-10, -2, -1, -1, 1, 1, 2, 10], len(rows))
    records.born[rows] = _date(year + by, month, day)


def _digit_off(records: Records, rows: Ints, _: Vocabulary, chance: Chance) -> None:
    """A wrong day or, less often, a wrong month."""
    year, month, day = _parts(records.born[rows])
    wrong_day = chance.arrays.random(len(rows)) < 0.6  # noqa: PLR2004
    other_day = (day - 1 + chance.arrays.choice([1, 2, 3, 7, 10, 18, 20, 27], len(rows))) % 28 + 1
    other_month = (month - 1 + chance.arrays.choice([1, 1, 2, 3, 10, 11], len(rows))) % 12 + 1
    records.born[rows] = _date(
        year, np.where(wrong_day, month, other_month), np.where(wrong_day, other_day, day)
    )


def _placeholder_date(records: Records, rows: Ints, _: Vocabulary, chance: Chance) -> None:
    days = np.array(["1900-01-01", "1970-01-01", "2000-01-01"], dtype="datetime64[D]")
    records.born[rows] = chance.arrays.choice(days, len(rows))


def _of_a_relative(column: str, records: Records, rows: Ints, _: Vocabulary, __: Chance) -> None:
    """The value of another one in the household, taken from its head's record."""
    rows = rows[records.head[rows] != _NOBODY]
    values = getattr(records, column)
    # People are numbered by the rows of their first records.
    values[rows] = values[records.head[rows]]


def _gender_other(records: Records, rows: Ints, _: Vocabulary, __: Chance) -> None:
    records.gender[rows] = "other"


def _gender_wrong(records: Records, rows: Ints, _: Vocabulary, __: Chance) -> None:
    records.gender[rows] = np.where(records.gender[rows] == "male", "female", "male")


def _parts(born: Days) -> tuple[Ints, Ints, Ints]:
    """Year, month and day; whatever for NaT, which stays NaT below."""
    years, months = born.astype("datetime64[Y]"), born.astype("datetime64[M]")
    month = (months - years.astype("datetime64[M]")).astype(np.int64)
    day = (born - months.astype("datetime64[D]")).astype(np.int64)
    return years.astype(np.int64) + 1970, month + 1, day + 1


def _date(year: Ints, month: Ints, day: Ints) -> Days:
    """The day; one that the month lacks is counted on into the next month."""
    months = (year - 1970).astype("datetime64[Y]").astype("datetime64[M]") + (month - 1).astype(
        "timedelta64[M]"
    )
    days: Days = months.astype("datetime64[D]") + (day - 1) * _DAY
    return days


_NAMES, _TEXTS = ("first", "last"), ("first", "last", "email")
_TEXT_SLIPS: dict[str, tuple[Slip, tuple[str, ...]]] = {
    "typo": (typo, _TEXTS),
    "wrong key": (wrong_key, _TEXTS),
    "misread": (misread, _TEXTS),
    "misheard": (misheard, _TEXTS),
    "other form": (other_form, ("first",)),
    "initial": (initial, ("first",)),
    "cut off": (cut_off, _NAMES),
    "shouted": (shouted, _NAMES),
    "plain letters": (plain_letters, _NAMES),
}
ERRORS: dict[str, Error] = {
    "married": _married,
    "second name": _second_name,
    **{
        f"{name} in {column}": partial(_slipped, column, slip)
        for name, (slip, columns) in _TEXT_SLIPS.items()
        for column in columns
    },
    "relative's birth date": partial(_of_a_relative, "born"),
    "relative's first name": partial(_of_a_relative, "first"),
    "day and month swapped": _day_month_swapped,
    "year off": _year_off,
    "digit off": _digit_off,
    "names swapped": _swapped_names,
    "placeholder date": _placeholder_date,
    "other gender": _gender_other,
    "wrong gender": _gender_wrong,
    **{f"no {column}": partial(_emptied, column) for column in ("first", "last", "born", "gender", "email")},
}
"""Every kind of error, in the order in which they befall a record."""


def _damage(records: Records, plan: Plan, originals: int, words: Vocabulary, chance: Chance) -> None:
    for name, rows in _victims(records, plan, originals, chance.arrays).items():
        alive = rows[~np.isnat(records.born[rows])] if name in _OF_DATES else rows
        ERRORS[name](records, alive, words, chance)


_OF_DATES = ("day and month swapped", "year off", "digit off")


def _victims(records: Records, plan: Plan, originals: int, rng: np.random.Generator) -> dict[str, Ints]:
    """The rows that each kind of error befalls."""
    names = [name for name in ERRORS if name in plan.errors]
    if not plan.slips_per_copy:
        count = len(records.person)
        return {name: np.flatnonzero(rng.random(count) < plan.errors[name]) for name in names}
    copies = originals + np.arange(len(records.person) - originals)
    slips = 1 + rng.choice(len(plan.slips_per_copy), len(copies), p=plan.slips_per_copy)
    weights = np.array([plan.errors[name] for name in names])
    victims = np.repeat(copies, slips)
    kinds = rng.choice(len(names), len(victims), p=weights / weights.sum())
    return {name: np.unique(victims[kinds == number]) for number, name in enumerate(names)}


# The table


def _labelled(records: Records, plan: Plan, chance: Chance) -> LabelledPeople:
    rng, count = chance.arrays, len(records.person)
    # Rising ids with gaps, as a database with deletions has them.
    ids = np.cumsum(rng.integers(1, 9, count))
    seconds = rng.integers(0, 8 * 365 * 86_400, count)
    updated = np.datetime64("2017-01-01T00:00:00") + seconds.astype("timedelta64[s]")
    stamps = np.char.add(np.char.replace(np.datetime_as_string(updated, unit="s"), "T", " "), "+00")
    born = np.datetime_as_string(records.born, unit="D").astype(object)
    columns = {
        "legacy_id": pa.array(ids).cast(pa.string()),
        "first_name": _text(records.first),
        "last_name": _text(records.last),
        "date_of_birth": pa.array(born, pa.string(), mask=np.isnat(records.born)),
    }
    if not plan.only_names:
        columns |= {
            "gender": _text(records.gender),
            "email": _text(records.email),
            "suffix": _text(records.suffix),
            "practice_id": pa.array(records.office).cast(pa.string()),
            "primary_doctor_id": pa.array(records.doctor).cast(pa.string()),
        }
    return LabelledPeople(pa.table(columns | {"updated_at": pa.array(stamps, pa.string())}), records.person)


def _text(values: Texts) -> pa.Array:
    return pa.array(values, pa.string(), mask=values == "")


# The plans

_SPELLING = {
    "typo in first": 0.014,
    "typo in last": 0.014,
    "wrong key in first": 0.006,
    "wrong key in last": 0.006,
    "misread in first": 0.004,
    "misread in last": 0.004,
    "misheard in first": 0.008,
    "misheard in last": 0.008,
}
_LEGACY_ERRORS = _SPELLING | {
    "other form in first": 0.04,
    "initial in first": 0.004,
    "cut off in last": 0.003,
    "shouted in first": 0.04,
    "shouted in last": 0.05,
    "second name": 0.006,
    "married": 0.015,
    "names swapped": 0.005,
    "no first": 0.002,
    "no last": 0.001,
    "no born": 0.03,
    "day and month swapped": 0.006,
    "year off": 0.006,
    "digit off": 0.010,
    "placeholder date": 0.004,
    "relative's birth date": 0.004,
    "relative's first name": 0.002,
    "typo in email": 0.02,
    "no email": 0.05,
    "no gender": 0.08,
    "other gender": 0.02,
    "wrong gender": 0.004,
}
_GERMAN_ERRORS = {
    **{name: 10 * share for name, share in _SPELLING.items()},
    "digit off": 0.20,
    "year off": 0.10,
    "day and month swapped": 0.03,
    "plain letters in first": 0.02,
    "plain letters in last": 0.03,
    "no first": 0.01,
}


def german(rows: int = 10_000, seed: int = 1) -> LabelledPeople:
    """German names and birth dates; a tenth are copies with one error, or two in two of five copies."""
    slips = (0.6, 0.4)
    plan = Plan("german", rows, 0.10, 0.0, 1_000, 160, _GERMAN_ERRORS, slips_per_copy=slips, only_names=True)
    return generate(plan, seed)


def legacy(rows: int = 8_500, seed: int = 2) -> LabelledPeople:
    """Patients of a dental workflow database, a third of them with relatives in it, errors in all records."""
    plan = Plan("english", rows, 0.12, 0.2, 12_000, 1_500, _LEGACY_ERRORS, relatives=0.33)
    return generate(plan, seed)


def synthetic(rows: int, seed: int = 3) -> LabelledPeople:
    """Like :func:`legacy`, with more different names and twice the errors, for measuring at scale."""
    errors = {name: 2 * share for name, share in _LEGACY_ERRORS.items()}
    plan = Plan("english", rows, 0.12, 0.2, 100_000, 3_000, errors, relatives=0.33)
    return generate(plan, seed)
