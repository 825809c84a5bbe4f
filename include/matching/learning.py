"""Learns a model of a population without labels.

Expectation maximisation over candidate pairs (Winkler 1988) with three classes: one person, one family,
strangers. What strangers agree in by chance is not learnt by it but counted: from value frequencies and from
pairs drawn at random. Shipped priors, as pseudo-counts, carry small tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from include.matching.blocking import blocking_keys, candidate_pairs, too_common, usable_keys
from include.matching.comparison import Compared, compare_codes, resolve
from include.matching.frequencies import ValueCounts, count_values
from include.matching.levels import BirthLevel, OrderLevel, SexLevel, TextLevel, levels_of
from include.matching.model import FieldWeights, MatchModel
from include.matching.people import People, without_placeholders
from include.matching.priors import (
    EXPECTED_DUPLICATES,
    EXPECTED_FAMILIES,
    FEWEST_PEOPLE,
    MOST_DUPLICATES,
    PSEUDO_PAIRS,
    SHIPPED,
)
from include.matching.rarity import Rarity
from include.matching.scoring import Scorer, join_scored, posterior, rarity_exponents
from include.matching.settings import MatchSettings
from include.matching.texts import BoolArray, CodeArray, FloatArray, HashArray, IntArray, pair_codes

_OWN = ("first_name", "last_name", "name_order", "date_of_birth", "gender", "email")

_ROUNDS, _ROUNDS_OF_PRIORS = 25, 4
_STABLE = 1e-3  # change of the prior at which learning ends
_STRENGTH = 60.0  # pairs that the shipped shares of levels count for
_LOWEST = 1e-5  # score below which a candidate teaches nothing
_PEOPLE_PER_SHARE = 40_000  # of larger populations a share of the candidates is learnt from
_RANDOM_PAIRS = 300_000
_SEED = 20_240_601

# A birth date is a placeholder if so many times more differently named people have it than its year lets expect.
_CROWDED_DATE = 8
_CROWDED_TIMES = 6.0

# A column says nothing new beside another one if so many strangers who agree there agree here too.
_ENOUGH = 20
_MOSTLY = 0.5


def learn_model(people: People, settings: MatchSettings) -> MatchModel:
    """Learns from people as read (include.matching.people.encode)."""
    placeholders = find_placeholders(people, settings.crowded)
    people = without_placeholders(people, placeholders)
    counts = _count(people)
    model = MatchModel(
        people=len(people),
        evidence=settings.evidence,
        prior_match=_prior(EXPECTED_DUPLICATES, len(people)),
        prior_family=_prior(EXPECTED_FAMILIES, len(people)),
        weights={field: SHIPPED.get(field, SHIPPED["suffix"]) for field in (*_OWN, *settings.evidence)},
        counts=counts,
        common=too_common(blocking_keys(people)),
        placeholders=placeholders,
        implied={},
    )
    if len(people) > 1:
        model = replace(model, weights=_by_chance(people, model), implied=_implied(people))
        model = _maximise(people, model)
    return model


def find_placeholders(people: People, crowded: int) -> dict[str, HashArray]:
    """Values far more people have than can be: birth dates, and e-mail addresses of offices."""
    name = pair_codes(people.names.hash[people.first], people.names.hash[people.last])
    dates, bearers = _bearers(people.birth.astype(np.uint64), name)
    years, position = np.unique(dates >> np.uint64(16), return_inverse=True)
    of_year = np.bincount(position.reshape(-1), weights=bearers, minlength=len(years))[position.reshape(-1)]
    expected = (of_year - bearers) / 365
    frequent = (bearers >= _CROWDED_DATE) & (bearers > _CROWDED_TIMES * expected) & (dates > 0)
    mails, owners = _bearers(people.email.texts.hash[people.email.code], name)
    return {"date_of_birth": dates[frequent], "email": mails[(owners > crowded) & (mails > 0)]}


def _bearers(values: HashArray, names: IntArray) -> tuple[HashArray, IntArray]:
    """Distinct values, sorted, and how many differently named people have each."""
    order = np.lexsort((names, values))
    value, name = values[order], names[order]
    new = np.append(True, (value[1:] != value[:-1]) | (name[1:] != name[:-1]))[: len(value)]
    distinct, bearers = np.unique(value[new], return_counts=True)
    return distinct, bearers.astype(np.int64)


def _count(people: People) -> dict[str, ValueCounts]:
    """Counts values of people rather than of rows: rows with one value and one birth date count once."""
    dates, position = np.unique(np.append(0, people.birth), return_inverse=True)
    date_code = position.reshape(-1)[1:].astype(np.int32)
    surname = people.names.loose[people.last]
    texts = {
        "first_name": (people.names, people.first),
        "last_name": (people.names, people.last),
        "email": (people.email.texts, people.email.code),
        **{field: (column.texts, column.code) for field, column in people.evidence.items()},
    }
    counts = {
        field: count_values(vocabulary.hash, _once(code, people.birth.astype(np.uint64)))
        for field, (vocabulary, code) in texts.items()
    }
    counts["date_of_birth"] = count_values(dates.astype(np.uint64), _once(date_code, surname))
    return counts


def _once(codes: CodeArray, other: HashArray) -> CodeArray:
    """Sets all but one of the rows with the same code and the same other value, if there is one, to 0."""
    order = np.lexsort((other, codes))
    code, second = codes[order], other[order]
    repeated = np.append(False, (code[1:] == code[:-1]) & (second[1:] == second[:-1]) & (second[1:] > 0))
    once = codes.copy()
    once[order[repeated[: len(order)]]] = 0
    return once


def _prior(expected: float, size: int) -> float:
    """The share of all pairs if every person has ``expected`` partners."""
    return expected / max(size, FEWEST_PEOPLE)


def _by_chance(people: People, model: MatchModel) -> dict[str, FieldWeights]:
    """Replaces what strangers agree in by what pairs drawn at random agree in."""
    generator = np.random.default_rng(_SEED)
    left, right = generator.integers(0, len(people), (2, min(_RANDOM_PAIRS, 4 * len(people) ** 2)))
    left, right = left[left != right], right[left != right]
    rarity = Rarity.of(people, model.counts)
    pairs = resolve(people, rarity, {}, compare_codes(people, rarity, left, right))
    weights = {}
    for field, shipped in model.weights.items():
        level = pairs.level[field]
        chance = _chance(field, pairs, shipped.unrelated)
        if field == "gender":
            chance = _sex_by_chance(people, level, shipped.unrelated)
        weights[field] = replace(shipped, unrelated=chance)
    return weights


def _chance(field: str, pairs: Compared, shipped: FloatArray) -> FloatArray:
    """How often strangers agree at each level, weighed so that rarity may be added: the mean over random pairs of
    2^-rarity's inverse makes the likelihood ratios of a level average to one."""
    level = pairs.level[field]
    if levels_of(field) is OrderLevel:
        return shipped
    exponent = rarity_exponents(field)[level]
    mass = np.exp2(exponent * pairs.rarity[field])
    there = int((level > 0).sum())
    sums = np.bincount(level, weights=mass, minlength=len(shipped))
    chance: FloatArray = (sums + PSEUDO_PAIRS * shipped) / (there + PSEUDO_PAIRS)
    chance[0] = 1.0
    exact = rarity_exponents(field) == 1.0
    chance[exact] = 1.0  # the rarity itself is the probability
    return chance


def _sex_by_chance(people: People, level: IntArray, shipped: FloatArray) -> FloatArray:
    """Sexes of strangers, those with one first name apart (people next to each other in the order of names)."""
    order = np.argsort(people.first, kind="stable")
    one, other = order[:-1], order[1:]
    same = (people.first[one] == people.first[other]) & (people.first[one] > 0)
    same &= (people.birth[one] != people.birth[other]) & (people.gender[one] > 0) & (people.gender[other] > 0)
    equal = (people.gender[one] == people.gender[other])[same]
    chance = shipped.copy()
    for low, high, agreeing, size in (
        (SexLevel.DIFFERENT_WITH_ONE_NAME, SexLevel.EQUAL_WITH_ONE_NAME, equal.sum(), len(equal)),
        (
            SexLevel.DIFFERENT_WITH_OTHER_NAME,
            SexLevel.EQUAL_WITH_OTHER_NAME,
            (level == SexLevel.EQUAL_WITH_OTHER_NAME).sum(),
            (np.isin(level, (SexLevel.EQUAL_WITH_OTHER_NAME, SexLevel.DIFFERENT_WITH_OTHER_NAME))).sum(),
        ),
    ):
        chance[high] = (agreeing + PSEUDO_PAIRS * shipped[high]) / (size + PSEUDO_PAIRS)
        chance[low] = 1 - chance[high]
    return chance


def _implied(people: People) -> dict[str, tuple[str, ...]]:
    """Further columns that mostly agree anyway where a finer one agrees (a doctor has one office)."""
    finer = sorted(people.evidence, key=lambda name: -len(people.evidence[name].texts))
    implied: dict[str, tuple[str, ...]] = {}
    for place, column in enumerate(finer):
        givers = tuple(giver for giver in finer[:place] if _implies(people, giver, column))
        if givers:
            implied[column] = givers
    return implied


def _implies(people: People, giver: str, column: str) -> bool:
    given, code = people.evidence[giver].code, people.evidence[column].code
    known = np.flatnonzero((given > 0) & (code > 0))
    order = known[np.lexsort((known, given[known]))]
    one, other = order[:-1], order[1:]
    strangers = (given[one] == given[other]) & (people.last[one] != people.last[other])
    strangers &= people.first[one] != people.first[other]
    agree = code[one[strangers]] == code[other[strangers]]
    return len(agree) > _ENOUGH and float(agree.mean()) > _MOSTLY


@dataclass(frozen=True)
class _Sample:
    """Candidate pairs to learn from, each counting ``times`` times."""

    pairs: Compared
    rarity: Rarity
    women: IntArray
    allowed: BoolArray
    times: float


def _maximise(people: People, model: MatchModel) -> MatchModel:
    shares = max(1, round(len(people) / _PEOPLE_PER_SHARE))
    scorer = Scorer(people, model)
    keys = usable_keys(people, model.common)
    parts = [scorer.compare_from(left, right, _LOWEST) for left, right in candidate_pairs(keys, (0, shares))]
    if not parts:
        return model
    pairs = join_scored(parts).pairs
    sample = _Sample(
        pairs=pairs,
        rarity=scorer.rarity,
        women=scorer.women(pairs),
        allowed=_two_agree(pairs),
        times=float(shares),
    )
    for _ in range(_ROUNDS):
        before = model.prior_match
        model = _round(people, model, sample)
        if abs(model.prior_match - before) < _STABLE * before:
            break
    for _ in range(_ROUNDS_OF_PRIORS):
        one, kin = _posterior(people, model, sample, np.ones(len(pairs), dtype=np.bool_))
        model = _with_priors(people, model, sample, one, kin)
    return model


def _two_agree(pairs: Compared) -> BoolArray:
    """A match that teaches must agree in two of first name, surname and birth date."""
    agree = (pairs.level["first_name"] >= TextLevel.NICKNAME).astype(np.int8)
    agree += pairs.level["last_name"] >= TextLevel.NEAR
    agree += pairs.level["date_of_birth"] >= BirthLevel.ONE_SLIP
    return agree > 1


def _round(people: People, model: MatchModel, sample: _Sample) -> MatchModel:
    one, kin = _posterior(people, model, sample, sample.allowed)
    weights = {field: _reweighed(field, old, sample, one, kin) for field, old in model.weights.items()}
    return _with_priors(people, replace(model, weights=_capped(weights)), sample, one, kin)


def _posterior(
    people: People, model: MatchModel, sample: _Sample, allowed: BoolArray
) -> tuple[FloatArray, FloatArray]:
    evidence = Scorer(people, model, sample.rarity).evidence(sample.pairs)
    match = np.log2(model.prior_match) + sum(evidence.match.values())
    family = np.log2(model.prior_family) + sum(evidence.family.values())
    return posterior(np.where(allowed, match, -1e3), family)


def _with_priors(
    people: People, model: MatchModel, sample: _Sample, one: FloatArray, kin: FloatArray
) -> MatchModel:
    size = max(len(people), FEWEST_PEOPLE)
    pseudo = FEWEST_PEOPLE / 2
    matches = min(sample.times * float(one.sum()), MOST_DUPLICATES * size / 2)
    match = (matches + pseudo * EXPECTED_DUPLICATES) / (size**2 / 2)
    family = (sample.times * float(kin.sum()) + pseudo * EXPECTED_FAMILIES) / (size**2 / 2)
    # Families hide in the frequencies of their surnames, so that fewer are found than there are.
    return replace(model, prior_match=match, prior_family=max(family, _prior(EXPECTED_FAMILIES, size)))


def _capped(weights: dict[str, FieldWeights]) -> dict[str, FieldWeights]:
    """Bounds how often copies of one record have a wholly different first name or birth date.

    Nothing in a pair of twins, or of strangers with one name, says that they are two people; taken for matches
    they would teach that such differences are usual. A wrong entry strikes any field, and surnames change besides:
    so these differences are taken for half as usual as wholly different surnames.
    """
    other = weights["last_name"].match[0, TextLevel.DIFFERENT] / 2
    capped = dict(weights)
    for field, level in (("first_name", TextLevel.DIFFERENT), ("date_of_birth", BirthLevel.DIFFERENT)):
        match = weights[field].match.copy()
        bound = np.minimum(match[:, level], other)
        match[:, 1:] *= ((1 - bound) / (1 - match[:, level]))[:, None]
        match[:, level] = bound
        capped[field] = replace(weights[field], match=match)
    return capped


def _reweighed(
    field: str, old: FieldWeights, sample: _Sample, one: FloatArray, kin: FloatArray
) -> FieldWeights:
    level = sample.pairs.level[field]
    shipped = SHIPPED.get(field, SHIPPED["suffix"])
    match = old.match.copy()
    for sex in (0, 1):
        seen = np.bincount(level, weights=np.where(sample.women == sex, one, 0.0), minlength=match.shape[1])
        if field != "last_name":
            seen = np.bincount(level, weights=one, minlength=match.shape[1])
        match[sex] = _shares(field, seen, shipped.match[sex])
    family = old.family
    if field not in _OWN or field == "email":
        # What families are like in names and birth dates is known; whether they share an office is not.
        family = _shares(field, np.bincount(level, weights=kin, minlength=match.shape[1]), shipped.family)
    return replace(old, match=match, family=family)


def _shares(field: str, seen: npt.NDArray[Any], shipped: FloatArray) -> FloatArray:
    """Shares of the levels, pseudo-counts included; MISSING is no level."""
    kind = levels_of(field)
    groups = [list(range(len(shipped)))[1:]]
    shares = np.ones(len(shipped))
    if kind is OrderLevel:
        groups = [[0, 1]]
    elif kind is SexLevel:
        groups = [[1, 2], [3, 4]]
    for group in groups:
        counts = seen[group] + _STRENGTH * shipped[group]
        shares[group] = counts / counts.sum()
    return shares
