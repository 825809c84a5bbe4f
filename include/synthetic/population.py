"""Who is in the synthetic source: the few numbers per person that everything else is derived from.

These arrays are the only per-row state that is held for a whole table; texts and stamps are made chunk by
chunk. Indexes (``user``, ``patient``, ``office``) count from 0 in the order of the ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from include.synthetic import proportions as p
from include.synthetic.draws import Bools, Draws, Ints, divided, quota, quotas, shuffled, spread_ids
from include.synthetic.names import LATIN, first_names, surnames
from include.synthetic.sizes import SourceSize

NONE = -1  # index of "no row" (NULL)
DANGLING = -2  # index of "a row that does not exist"
NO_DATE = np.iinfo(np.int32).min

_USER_ID_STRIDE = 3
_OFFICE_ID_STRIDE = 2
# Days since 1970: births from 1945 to 2016.
_FIRST_BIRTH, _LAST_BIRTH = -9_131, 16_801
_DAYS_PER_YEAR = 365


class UserKind(IntEnum):
    """What a user is in the practice; the order is that of :func:`divided`'s numbers."""

    PATIENT = 0
    DOCTOR = 1
    STAFF = 2


class Relation(IntEnum):
    """How a patient row is related to an earlier one: another row of the person, or somebody alike."""

    NONE = 0
    EXACT = 1
    FORMAT = 2
    TYPO = 3
    SWAPPED = 4
    NO_BIRTHDATE = 5
    TWIN = 6
    PARENT_CHILD = 7
    SIBLING = 8

    @property
    def kind(self) -> str:
        """The name of the kind in the truth tables and in ``proportions``."""
        return _KINDS[self]

    @property
    def same_person(self) -> bool:
        """Whether both rows are one person."""
        return Relation.NONE < self < Relation.TWIN


_KINDS = dict(
    zip(Relation, ["none", *p.DUPLICATE_KIND_SHARES, *p.LOOKALIKE_SHARES], strict=True),
)


class EmailKind(IntEnum):
    """What stands in a user's e-mail column."""

    EMPTY = 0
    PLAIN = 1
    INTERNAL = 2
    MALFORMED = 3
    SHARED = 4
    APOSTROPHE = 5
    ODD = 6
    SIBLINGS = 7


@dataclass(frozen=True)
class Family:
    """The related patients: ``base[i]`` is the patient row whose person row ``i`` repeats (or resembles)."""

    base: Ints
    relation: NDArray[np.int8]
    involved: Bools


class Population:
    """Users, patients and offices of one synthetic source, as numbers."""

    def __init__(self, size: SourceSize, seed: int) -> None:
        self.size = size
        self.seed = seed

    def draws(self, table: str, start: int, count: int) -> Draws:
        """The random values of a stretch of rows of ``table``."""
        return Draws(self.seed, table, start, count)

    def _users(self) -> Draws:
        return self.draws("auth_user", 0, self.size.users)

    def _patients(self) -> Draws:
        return self.draws("dispatch_patient", 0, self.size.patients)

    @cached_property
    def user_ids(self) -> Ints:
        """auth_user.id by user index."""
        return spread_ids(self._users(), _USER_ID_STRIDE)

    @cached_property
    def patient_ids(self) -> Ints:
        """dispatch_patient.id by patient index."""
        return spread_ids(self._patients(), p.PATIENT_ID_STRIDE)

    @cached_property
    def office_ids(self) -> Ints:
        """dispatch_office.id by office index."""
        return spread_ids(self.draws("dispatch_office", 0, self.size.offices), _OFFICE_ID_STRIDE)

    @cached_property
    def kinds(self) -> NDArray[np.int8]:
        """:class:`UserKind` by user index."""
        others = self.size.users - self.size.patients
        doctors = min(max(round(others * p.DOCTOR_SHARE_OF_OTHERS), 1), others - 1)
        return divided(self.seed, "user kind", self.size.users, [doctors, others - doctors])

    @cached_property
    def patient_user(self) -> Ints:
        """User index by patient index."""
        return np.flatnonzero(self.kinds == UserKind.PATIENT)

    @cached_property
    def user_patient(self) -> Ints:
        """Patient index by user index, NONE for other users."""
        result = np.full(self.size.users, NONE, dtype=np.int64)
        result[self.patient_user] = np.arange(self.size.patients)
        return result

    @cached_property
    def doctors(self) -> Ints:
        """User indexes of all doctors."""
        return np.flatnonzero(self.kinds == UserKind.DOCTOR)

    @cached_property
    def staff(self) -> Ints:
        """User indexes of everybody who is neither patient nor doctor."""
        return np.flatnonzero(self.kinds == UserKind.STAFF)

    @cached_property
    def office_country(self) -> NDArray[np.int8]:
        """Index into ``proportions.COUNTRY_ROWS`` by office index; each country occurs."""
        rows = list(p.COUNTRY_ROWS.values())
        first, *others = [quota(self.size.offices, count / sum(rows), 1) for count in rows]
        del first  # the commonest country takes what the others leave
        return divided(self.seed, "office country", self.size.offices, others)

    @cached_property
    def family(self) -> Family:
        """Duplicates and look-alikes among the patients."""
        return _families(self)

    @cached_property
    def patient_office(self) -> Ints:
        """Office index by patient index, NONE or DANGLING where there is none."""
        draws, size = self._patients(), self.size
        office = draws.skewed("office", size.offices)
        office = office[self.family.base]
        elsewhere = self._is_duplicate & draws.chance("other office", p.DUPLICATE_OTHER_OFFICE_SHARE)
        office[elsewhere] = draws.below("other office index", size.offices)[elsewhere]
        return self._with_gaps(office, "office", p.NULL_OFFICE_SHARE, p.DANGLING_OFFICE_SHARE)

    @cached_property
    def patient_doctor(self) -> Ints:
        """User index of the doctor by patient index, NONE or DANGLING where there is none."""
        treating = self.doctors[shuffled(self.seed, "treating", len(self.doctors))]
        treating = treating[: max(round(len(treating) * p.DOCTOR_WITH_PATIENT_SHARE), 1)]
        # A patient's doctor follows from the office, with a few doctors per office.
        choice = self._patients().below("doctor", 3) + 3 * np.maximum(self.patient_office, 0)
        doctor = treating[choice[self.family.base] % len(treating)]
        return self._with_gaps(doctor, "doctor", p.NULL_DOCTOR_SHARE, p.DANGLING_DOCTOR_SHARE)

    def _with_gaps(self, values: Ints, name: str, null_share: float, dangling_share: float) -> Ints:
        nulls, dangling = quotas(self.size.patients, [null_share, dangling_share], p.FEW)
        gap = divided(self.seed, f"patient {name} gaps", self.size.patients, [nulls, dangling])
        values = values.copy()
        values[(gap == 1) & ~self.family.involved] = NONE
        values[(gap == 2) & ~self.family.involved] = DANGLING
        return values

    @cached_property
    def relation(self) -> NDArray[np.int8]:
        """:class:`Relation` by patient index.

        A slip of the pen is made in Latin letters only: where the name has none, the row differs in its
        format instead.
        """
        latin = np.isin(self.culture[self.patient_user], [int(culture) for culture in LATIN])
        relation = self.family.relation
        return np.where((relation == Relation.TYPO) & ~latin, Relation.FORMAT, relation).astype(np.int8)

    @property
    def _is_duplicate(self) -> Bools:
        relation = self.family.relation
        return (relation > Relation.NONE) & (relation < Relation.TWIN)

    @cached_property
    def culture(self) -> NDArray[np.int8]:
        """:class:`Culture` by user index; a patient's follows the country of the office."""
        draws = self._users()
        result = draws.pick("culture", _CULTURE_WEIGHTS[_OTHER_COUNTRY]).astype(np.int8)
        office = np.maximum(self._patients().skewed("office", self.size.offices)[self.family.base], 0)
        country = np.minimum(self.office_country[office], _OTHER_COUNTRY)
        patients = self._patients()
        for number, weights in enumerate(_CULTURE_WEIGHTS):
            here = country == number
            result[self.patient_user[here]] = patients.pick("culture", weights)[here]
        result[self.patient_user] = result[self.patient_user][self.family.base]
        return result

    @cached_property
    def female(self) -> Bools:
        """Whether a user's first name is a woman's; a person's other rows agree."""
        female = self._users().chance("female", 0.55)
        own = female[self.patient_user]
        same = self._is_duplicate | (self.family.relation == Relation.PARENT_CHILD)
        female[self.patient_user] = np.where(same, own[self.family.base], own)
        return female

    @cached_property
    def surname(self) -> Ints:
        """Index into ``surnames().names`` by user index."""
        pool, culture = surnames(), self.culture
        code = pool.offsets[culture] + self._users().skewed("surname", pool.sizes[culture])
        code[self.patient_user] = code[self.patient_user][self.family.base]
        return self._with_repeated_doctors(code)

    @cached_property
    def first_name(self) -> Ints:
        """Index into ``first_names().names`` by user index."""
        pool = first_names()
        group = self.culture.astype(np.int64) * 2 + self.female
        place = self._users().skewed("first name", pool.sizes[group])
        code = pool.offsets[group] + place
        relation, base = self.family.relation, self.family.base
        own, users = code[self.patient_user], self.patient_user
        same = self._is_duplicate | (relation == Relation.PARENT_CHILD)
        # Twins and siblings bear different names: where the draw gave the same, the next of the pool.
        clash = (relation >= Relation.TWIN) & ~same & (own == own[base])
        next_own = pool.offsets[group[users]] + (place[users] + 1) % pool.sizes[group[users]]
        code[users] = np.where(same, own[base], np.where(clash, next_own, own))
        return self._with_repeated_doctors(code)

    def _with_repeated_doctors(self, code: Ints) -> Ints:
        """Gives some doctors the name of another one (docs/legacy-mdw.md section 1.2)."""
        per_name = p.DOCTOR_NAME_ROWS_PER_NAME
        excess = quota(len(self.doctors), p.DOCTOR_NAME_EXCESS, 1)
        rows = min(excess * per_name // (per_name - 1), len(self.doctors))
        alike = self.doctors[shuffled(self.seed, "doctors alike", len(self.doctors))[:rows]]
        code[alike] = code[alike[np.arange(rows) // per_name * per_name]]
        return code

    @cached_property
    def name_dirt(self) -> NDArray[np.int8]:
        """Which of ``proportions.NAME_DIRT_SHARES`` spoils the name, counted from 1; 0 for clean names.

        Rows of the truth tables stay clean, so that their kind says all about how they differ.
        """
        clean = np.ones(self.size.users, dtype=np.bool_)
        clean[self.patient_user] = ~self.family.involved
        candidates = np.flatnonzero(clean)
        sizes = quotas(len(candidates), list(p.NAME_DIRT_SHARES.values()), p.FEW)
        result = np.zeros(self.size.users, dtype=np.int8)
        result[candidates] = divided(self.seed, "name dirt", len(candidates), sizes)
        return result

    @cached_property
    def birth(self) -> NDArray[np.int32]:
        """Birth date by patient index, in days since 1970; NO_DATE for NULL. Far dates come on top."""
        draws, family = self._patients(), self.family
        own = _FIRST_BIRTH + draws.below("birth", _LAST_BIRTH - _FIRST_BIRTH)
        birth = own[family.base]
        younger = draws.below("generation", 20 * _DAYS_PER_YEAR) + 20 * _DAYS_PER_YEAR + 10
        shift = np.zeros_like(birth)
        child = family.relation == Relation.PARENT_CHILD
        shift[child] = younger[child]
        sibling = family.relation == Relation.SIBLING
        shift[sibling] = (2 * _DAYS_PER_YEAR + draws.below("age gap", 4 * _DAYS_PER_YEAR))[sibling]
        # Younger if that is still in the past, else older.
        birth += np.where(birth + shift > _LAST_BIRTH, -shift, shift)
        missing = divided(
            self.seed,
            "no birth",
            self.size.patients,
            [quota(self.size.patients, p.NULL_BIRTHDATE_SHARE, p.FEW)],
        )
        unknown = (missing == 1) & ~family.involved | (family.relation == Relation.NO_BIRTHDATE)
        return np.where(unknown, NO_DATE, birth).astype(np.int32)

    @cached_property
    def sex(self) -> NDArray[np.int8]:
        """dispatch_patient.sex by patient index: 1, 2, 0, or NONE for NULL."""
        size, family = self.size, self.family
        sizes = quotas(size.patients, [p.NULL_SEX_SHARE, p.ZERO_SEX_SHARE], p.FEW)
        gap = divided(self.seed, "sex gaps", size.patients, sizes)
        gap[family.involved] = 0
        vague = self._is_duplicate & (family.relation != Relation.EXACT)
        gap[vague & self._patients().chance("vague sex", p.DUPLICATE_NULL_SEX_SHARE)] = 1
        known = np.where(self.female[self.patient_user], 2, 1)
        return np.select([gap == 1, gap == 2], [NONE, 0], known).astype(np.int8)

    @cached_property
    def email_kind(self) -> NDArray[np.int8]:
        """:class:`EmailKind` by user index."""
        return _email_kinds(self)

    @cached_property
    def email_form(self) -> NDArray[np.int32]:
        """Which form of its kind a malformed or odd address has, by user index: counted, so that all occur."""
        form = np.zeros(self.size.users, dtype=np.int32)
        for kind in (EmailKind.MALFORMED, EmailKind.ODD):
            rows = np.flatnonzero(self.email_kind == kind)
            form[rows] = np.arange(len(rows))
        return form

    @cached_property
    def email_owner(self) -> Ints:
        """User index whose address a user has: another one's for siblings, duplicates and shared ones."""
        owner = np.arange(self.size.users)
        related = np.flatnonzero(self.family.relation > Relation.NONE)
        user, base = self.patient_user[related], self.patient_user[self.family.base[related]]
        same_kind = (self.email_kind[user] == self.email_kind[base]) & (
            self._is_duplicate[related] | (self.email_kind[user] == EmailKind.SIBLINGS)
        )
        owner[user[same_kind]] = base[same_kind]
        shared = np.flatnonzero(self.email_kind == EmailKind.SHARED)
        addresses = max(round(len(shared) / (p.SHARED_EMAIL_ROWS_PER_ADDRESS + 1)), 1)
        owner[shared] = shared[np.arange(len(shared)) % addresses]
        return owner


_OTHER_COUNTRY = 4
# By country of the office (USA, India, Japan, Thailand, any other), the weights of the cultures.
_CULTURE_WEIGHTS = (
    (0.92, 0.04, 0.02, 0.0, 0.02, 0.0),
    (0.05, 0.95, 0.0, 0.0, 0.0, 0.0),
    (0.05, 0.0, 0.45, 0.5, 0.0, 0.0),
    (0.06, 0.0, 0.0, 0.0, 0.44, 0.5),
    (0.75, 0.09, 0.05, 0.05, 0.03, 0.03),
)


def _families(population: Population) -> Family:
    count, seed = population.size.patients, population.seed
    duplicates = quotas(
        count, [p.DUPLICATE_SHARE * share for share in p.DUPLICATE_KIND_SHARES.values()], p.FEW
    )
    lookalikes = quotas(count, list(p.LOOKALIKE_SHARES.values()), p.FEW)
    relations = np.repeat(np.arange(1, len(Relation)), duplicates + lookalikes).astype(np.int8)
    triples = quota(sum(duplicates), p.DUPLICATE_TRIPLE_SHARE, 1)
    # Each pair takes two rows at random, the earlier one as the original; a triple takes a third.
    rows = shuffled(seed, "families", count)
    pairs = np.sort(rows[: 2 * len(relations)].reshape(-1, 2), axis=1)
    base = np.arange(count)
    relation = np.zeros(count, dtype=np.int8)
    base[pairs[:, 1]] = pairs[:, 0]
    relation[pairs[:, 1]] = relations
    third = rows[2 * len(relations) :][:triples]
    again = np.arange(len(third)) * sum(duplicates) // max(len(third), 1)
    base[third] = pairs[again, 0]
    relation[third] = relations[again]
    involved = relation > 0
    involved[pairs[:, 0]] = True
    return Family(base, relation, involved)


def _email_kinds(population: Population) -> NDArray[np.int8]:
    users = population.size.users
    result = np.zeros(users, dtype=np.int8)
    sibling = np.flatnonzero(population.family.relation == Relation.SIBLING)
    for rows in (sibling, population.family.base[sibling]):
        result[population.patient_user[rows]] = EmailKind.SIBLINGS
    excess = quota(users, p.SHARED_EMAIL_EXCESS, p.FEW)
    addresses = max(round(excess / p.SHARED_EMAIL_ROWS_PER_ADDRESS), 1)
    sharing = shuffled(population.seed, "shared e-mail", len(population.doctors))[: excess + addresses]
    result[population.doctors[sharing]] = EmailKind.SHARED
    queues = _EmailQueues(population, result)
    for kind, share, others in (
        (EmailKind.MALFORMED, p.MALFORMED_EMAIL_SHARE, 0.6),
        (EmailKind.APOSTROPHE, p.APOSTROPHE_EMAIL_SHARE, 0.6),
        (EmailKind.ODD, p.ODD_EMAIL_SHARE, 0.6),
        (EmailKind.INTERNAL, p.INTERNAL_EMAIL_SHARE, 0.5),
    ):
        queues.give(kind, quota(users, share, p.FEW), others)
    filled = users - quota(users, p.EMPTY_EMAIL_SHARE)
    queues.give(EmailKind.PLAIN, max(filled - int(np.count_nonzero(result)), 0), 0.85)
    return result


class _EmailQueues:
    """Hands e-mail kinds to users who have none yet: patients in one queue, all others in another."""

    def __init__(self, population: Population, kinds: NDArray[np.int8]) -> None:
        self._kinds = kinds
        order = shuffled(population.seed, "e-mail", population.size.users)
        free = order[kinds[order] == EmailKind.EMPTY]
        of_patient = population.kinds[free] == UserKind.PATIENT
        self._patients = free[of_patient]
        self._others = free[~of_patient]

    def give(self, kind: EmailKind, count: int, others: float) -> None:
        """Gives ``kind`` to ``count`` users, the share ``others`` of them doctors and staff if they last."""
        from_others = min(round(count * others), len(self._others))
        from_patients = min(count - from_others, len(self._patients))
        self._kinds[self._others[:from_others]] = kind
        self._kinds[self._patients[:from_patients]] = kind
        self._others = self._others[from_others:]
        self._patients = self._patients[from_patients:]
