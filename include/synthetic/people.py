"""auth_user, auth_group, auth_user_groups and dispatch_patient: names, addresses and their dirt."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.synthetic import proportions as p
from include.synthetic.columns import (
    MICROSECONDS_PER_DAY,
    NOW_STAMP,
    STAMP,
    Table,
    chosen,
    hex_texts,
    joined,
    nullable,
    patched,
    reference,
    rising_stamps,
    schema,
    stamps,
    zero_padded,
)
from include.synthetic.documents import json_column
from include.synthetic.draws import Bools, Draws, Ints, divided, free_ids, quota, quotas, shuffled
from include.synthetic.names import first_names, surnames
from include.synthetic.population import NO_DATE, EmailKind, Population, Relation, UserKind

# docs/legacy-mdw.md section 1.3; the ids of the groups after 11 are not known there.
GROUPS = {
    1: "Patient",
    2: "Medical",
    4: "Administrator",
    5: "Master",
    11: "Technician",
    3: "Billing",
    6: "Sales",
    7: "Support",
    8: "Export",
    9: "External",
}
_STAFF_GROUPS = (11, 11, 11, 4, 5, 7, 6, 3)
_EXTRA_GROUPS = (5, 4, 11, 6, 8, 9)

TEST_NAME = ("Test", "Patient")
_INTERNAL_DOMAIN = "mdw-internal.example"
_MAIL_HOSTS = ("mail.example", "post.example", "smile-dental.example", "ortho.example", "web.example")


# --- names ---


def _plain_ascii(text: str) -> str:
    kept = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return "".join(letter for letter in kept.lower() if letter.isalnum())


_NAME_DIRT: dict[str, Callable[[str, str], tuple[str, str]]] = {
    "empty first": lambda _first, last: ("", last),
    "empty last": lambda first, _last: (first, ""),
    "both empty": lambda _first, _last: ("", ""),
    "trailing space": lambda first, last: (first, last + " "),
    "leading space": lambda first, last: (" " + first, last),
    "double space": lambda first, last: (first + "  J.", last),
    "capitals": lambda first, last: (first.upper(), last.upper()),
    "quotes": lambda first, last: (f'{first} "Sunny"', last),
    "comma": lambda first, last: (first, last + ", Jr."),
    "tab": lambda first, last: (first, last + "\t"),
    "newline": lambda first, last: (first, last + "\n(see file)"),
    "backslash": lambda first, last: (first, last + "\\n"),
    "text NULL": lambda first, _last: (first, "NULL"),
    "text \\N": lambda first, _last: (first, "\\N"),
    "text n/a": lambda _first, last: ("n/a", last),
    "no-break space": lambda first, last: (first + "\u00a0", last),
    "decomposed accent": lambda first, last: (first, unicodedata.normalize("NFD", last + "é")),
    "emoji": lambda first, last: (first + " 😀", last),
    "test name": lambda _first, _last: TEST_NAME,
}
_DIRT_BY_NUMBER = [_NAME_DIRT[name] for name in p.NAME_DIRT_SHARES]


def _reaccented(text: str) -> str:
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    if bare != text and text.isascii() is False and bare.isascii():
        return bare
    accents = str.maketrans("aeiou", "áéíóú")
    return text[:1] + text[1:].translate(accents)


_FORMATS: tuple[Callable[[str], str], ...] = (
    str.upper,
    str.lower,
    _reaccented,
    lambda text: text + " ",
    lambda text: " " + text,
    lambda text: text[:1] + text[1:].swapcase(),
)


def reformatted(text: str, word: int) -> str:
    """The same name in other case, spacing or accents; always different from ``text``."""
    result = _FORMATS[word % len(_FORMATS)](text)
    return result if result != text else text + "  "


def misspelt(text: str, word: int) -> str:
    """A name with one slip: a letter lost, doubled, replaced or swapped with its neighbour; never equal."""
    place = 1 + word % max(len(text) - 2, 1)
    before, letter, after = text[:place], text[place : place + 1], text[place + 1 :]
    kind = (word >> 16) % 4
    if kind == 0:
        return before + after
    if kind == 1:
        return before + letter * 2 + after
    if kind == 2 and after and after[0] != letter:
        return before + after[0] + letter + after[1:]
    other = "aeiou"[(word >> 24) % 5] if letter in "aeiou" else "nrstl"[(word >> 24) % 5]
    return before + (other if other != letter else "m") + after


class People:
    """Texts about people for any stretch of rows."""

    def __init__(self, population: Population) -> None:
        self._population = population

    def names(self, users: Ints) -> tuple[pa.Array, pa.Array]:
        """First and last names, dirt and all, of users by index."""
        population = self._population
        first = first_names().names.take(pa.array(population.first_name[users]))
        last = surnames().names.take(pa.array(population.surname[users]))
        patient = population.user_patient[users]
        relation = np.where(patient >= 0, population.relation[np.maximum(patient, 0)], 0)
        changed = (relation >= Relation.FORMAT) & (relation <= Relation.SWAPPED)
        rows = np.flatnonzero(changed | (population.name_dirt[users] > 0))
        index = pa.array(rows)
        texts = zip(first.take(index).to_pylist(), last.take(index).to_pylist(), strict=True)
        pairs = [
            self._spoilt(
                one, other, int(population.name_dirt[users[row]]), int(relation[row]), int(users[row])
            )
            for (one, other), row in zip(texts, rows, strict=True)
        ]
        return (
            patched(first, rows, [one for one, _ in pairs]),
            patched(last, rows, [other for _, other in pairs]),
        )

    @staticmethod
    def _spoilt(first: str, last: str, dirt: int, relation: int, user: int) -> tuple[str, str]:
        if dirt:
            return _DIRT_BY_NUMBER[dirt - 1](first, last)
        word = user * 2_654_435_761  # spreads neighbouring rows over the kinds of change
        if relation == Relation.SWAPPED:
            return last, first
        if relation == Relation.TYPO:
            return first, misspelt(last, word >> 7)
        part = (word >> 9) % 3
        return (
            reformatted(first, word >> 11) if part != 0 else first,
            reformatted(last, word >> 11) if part != 1 else last,
        )

    def emails(self, users: Ints) -> pa.Array:
        """E-mail texts of users by index; mostly empty."""
        population = self._population
        kinds = population.email_kind[users]
        rows = np.flatnonzero(kinds)
        owners, forms = population.email_owner[users[rows]], population.email_form[users[rows]]
        first = first_names().names.take(pa.array(population.first_name[owners])).to_pylist()
        last = surnames().names.take(pa.array(population.surname[owners])).to_pylist()
        texts = [
            _address(EmailKind(kind), int(form), _plain_ascii(one), _plain_ascii(other), int(owner))
            for kind, form, one, other, owner in zip(kinds[rows], forms, first, last, owners, strict=True)
        ]
        return patched(pa.array(np.full(len(users), ""), pa.string()), rows, texts)


def _address(kind: EmailKind, form: int, first: str, last: str, owner: int) -> str:
    local = f"{first}.{last}{owner}" if first and last else f"user{owner}"
    host = _MAIL_HOSTS[owner % len(_MAIL_HOSTS)]
    forms = {
        EmailKind.PLAIN: (f"{local}@{host}",),
        EmailKind.INTERNAL: (f"test{owner}@{_INTERNAL_DOMAIN}",),
        EmailKind.SHARED: (f"frontdesk{owner}@{host}",),
        EmailKind.SIBLINGS: (f"family{owner}@{host}",),
        EmailKind.APOSTROPHE: (f"{first[:1] or 'x'}.o'{last or 'neil'}{owner}@{host}",),
        EmailKind.MALFORMED: (
            f"{local}@",
            f"{local}.{host}",
            f"{first} {local}@{host}",
            f"{local}@@{host}",
            f"{local}@{host}; second.{local}@{host}",
            f"@{host}",
            f"{local}@localhost..example",
            "none",
        ),
        EmailKind.ODD: (
            f" {local}@{host} ",
            f"{local.upper()}@{host.upper()}",
            f"{local}+dental@{host}",
            f"山田{owner}@{host}",
        ),
    }[kind]
    return forms[form % len(forms)]


# --- tables ---


def user_table(population: Population, people: People) -> Table:
    """auth_user (docs/legacy-mdw.md section 1.2)."""
    size = population.size
    inactive = _flag(population, "inactive", p.DOCTOR_INACTIVE_SHARE, p.PATIENT_INACTIVE_SHARE)
    never = _flag(population, "never in", p.DOCTOR_NEVER_IN_SHARE, p.PATIENT_NEVER_IN_SHARE)
    staff_flag, superuser = _staff_flags(population)

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        users = np.arange(start, stop)
        draws = population.draws("auth_user", start, stop - start)
        first, last = people.names(users)
        joined_at = rising_stamps(draws, size.users)
        last_login = joined_at + (draws.uniform("last login") * (NOW_STAMP - joined_at)).astype(np.int64)
        is_patient = population.kinds[users] == UserKind.PATIENT
        prefix = chosen(["p", "u"], (~is_patient).astype(np.int64))
        return {
            "id": pa.array(population.user_ids[users]),
            "password": _passwords(draws, never[users]),
            "last_login": stamps(last_login, never[users]),
            "is_superuser": pa.array(superuser[users]),
            "username": joined(prefix, zero_padded(users + 1, 7)),
            "first_name": first,
            "last_name": last,
            "email": people.emails(users),
            "is_staff": pa.array(staff_flag[users]),
            "is_active": pa.array(~inactive[users]),
            "date_joined": stamps(joined_at),
        }

    text = pa.string()
    columns = schema(
        id=pa.int32(),
        password=text,
        last_login=STAMP,
        is_superuser=pa.bool_(),
        username=text,
        first_name=text,
        last_name=text,
        email=text,
        is_staff=pa.bool_(),
        is_active=pa.bool_(),
        date_joined=STAMP,
    )
    return Table("auth_user", columns, size.users, rows)


def _flag(population: Population, name: str, doctor_share: float, patient_share: float) -> Bools:
    """True for a share of the doctors and another share of the patients."""
    flag = np.zeros(population.size.users, np.bool_)
    for members, share in ((population.doctors, doctor_share), (population.patient_user, patient_share)):
        flag[members] = divided(population.seed, name, len(members), [quota(len(members), share, 1)]) == 1
    return flag


def _staff_flags(population: Population) -> tuple[Bools, Bools]:
    """is_staff and is_superuser; superusers are staff, but not all staff has the flag."""
    users, seed = population.size.users, population.seed
    staff, superuser = np.zeros(users, np.bool_), np.zeros(users, np.bool_)
    others = np.flatnonzero(population.kinds != UserKind.PATIENT)
    flagged = quota(len(others), p.STAFF_FLAG_SHARE_OF_OTHERS, 1)
    staff[others] = divided(seed, "staff", len(others), [flagged]) == 1
    chosen_ones = shuffled(seed, "super", len(population.staff))[: quota(users, p.SUPERUSER_SHARE, 1)]
    superuser[population.staff[chosen_ones]] = True
    return staff | superuser, superuser


def _passwords(draws: Draws, unusable: Bools) -> pa.Array:
    """Shaped like Django's hashes, of no password at all; "!" is Django's mark for "cannot log in"."""
    digest = joined(
        "pbkdf2_sha256$260000$", hex_texts(draws.words("salt")), "$", hex_texts(draws.words("hash")), "="
    )
    return pc.if_else(pa.array(unusable), joined("!", hex_texts(draws.words("salt"))), digest)


def group_table(population: Population) -> Table:
    """auth_group (docs/legacy-mdw.md section 1.3)."""
    count = population.size.groups
    kept = sorted(list(GROUPS.items())[:count])

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        return {
            "id": pa.array([number for number, _ in kept[start:stop]], pa.int32()),
            "name": pa.array([name for _, name in kept[start:stop]], pa.string()),
        }

    return Table("auth_group", schema(id=pa.int32(), name=pa.string()), count, rows)


def user_group_table(population: Population) -> Table:
    """auth_user_groups: nearly everybody in one group, some in two (docs/legacy-mdw.md section 1.3)."""
    user, group = _memberships(population)

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        draws = population.draws("auth_user_groups", start, stop - start)
        row = np.arange(start, stop)
        return {
            "id": pa.array(row * 2 + 1 + draws.below("id", 2)),
            "user_id": reference(population.user_ids, user[start:stop]),
            "group_id": pa.array(group[start:stop]),
        }

    columns = schema(id=pa.int32(), user_id=pa.int32(), group_id=pa.int32())
    return Table("auth_user_groups", columns, len(user), rows)


def _memberships(population: Population) -> tuple[Ints, Ints]:
    size, seed = population.size, population.seed
    draws = population.draws("auth_user_groups", 0, size.users)
    allowed = np.array(sorted(list(GROUPS)[: size.groups]), dtype=np.int64)
    staff = np.array(_STAFF_GROUPS)[draws.below("staff group", len(_STAFF_GROUPS))]
    first = np.select(
        [population.kinds == UserKind.PATIENT, population.kinds == UserKind.DOCTOR], [1, 2], staff
    )
    second = np.array(_EXTRA_GROUPS)[draws.below("extra group", len(_EXTRA_GROUPS))]
    second = np.where(second == first, 2, second)
    groupless = divided(seed, "no group", size.users, [quota(size.users, p.NO_GROUP_SHARE, 1)]) == 1
    order = shuffled(seed, "second group", size.users)
    # Doctors and staff get second groups before patients do.
    order = order[np.argsort(population.kinds[order] == UserKind.PATIENT, kind="stable")]
    order = order[~groupless[order]]
    member = np.flatnonzero(~groupless)[: size.user_groups]
    extra = order[: max(size.user_groups - len(member), 0)]
    user, group = np.concatenate([member, extra]), np.concatenate([first[member], second[extra]])
    known = np.isin(group, allowed)
    sorting = np.lexsort((group[known], user[known]))
    return user[known][sorting], group[known][sorting]


def patient_table(population: Population) -> Table:
    """dispatch_patient (docs/legacy-mdw.md section 1.4)."""
    size, seed = population.size, population.seed
    archived, suspended = (
        divided(seed, name, size.patients, [quota(size.patients, share, p.FEW)]) == 1
        for name, share in (("archived", p.ARCHIVED_SHARE), ("suspended", p.SUSPENDED_SHARE))
    )
    no_update = divided(
        seed,
        "patient not updated",
        size.patients,
        [quota(size.patients, p.NULL_PATIENT_UPDATED_SHARE, p.FEW)],
    )
    plain = np.flatnonzero(~population.family.involved)
    far = plain[shuffled(seed, "far birth", len(plain))[: p.FAR_DATES]]
    birth = population.birth.astype(np.int64)
    birth[far] = far_days()[: len(far)]
    status_codes = list(p.PATIENT_STATUS_WEIGHTS)
    status = divided(
        seed,
        "patient status",
        size.patients,
        quotas(size.patients, list(p.PATIENT_STATUS_WEIGHTS.values())[1:], p.FEW),
    )
    free_users, free_offices = free_ids(population.user_ids), free_ids(population.office_ids)

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        patients = np.arange(start, stop)
        draws = population.draws("dispatch_patient", start, stop - start)
        user = population.patient_user[patients]
        first_user = int(user[0])
        users = int(user[-1]) - first_user + 1
        joined_at = rising_stamps(population.draws("auth_user", first_user, users), size.users)
        submitted = joined_at[user - first_user] + draws.below("first days", 30 * MICROSECONDS_PER_DAY)
        submitted = np.minimum(submitted, NOW_STAMP)
        updated = submitted + (draws.uniform("updated") * (NOW_STAMP - submitted)).astype(np.int64)
        sex = population.sex[patients]
        return {
            "id": pa.array(population.patient_ids[patients]),
            "user_id": reference(population.user_ids, user),
            "doctor_id": reference(
                population.user_ids,
                population.patient_doctor[patients],
                free_users[draws.below("no such doctor", len(free_users))],
            ),
            "office_id": reference(
                population.office_ids,
                population.patient_office[patients],
                free_offices[draws.below("no such office", len(free_offices))],
            ),
            "birthdate": nullable(birth[patients].astype(np.int32), birth[patients] == NO_DATE).cast(
                pa.date32()
            ),
            "sex": nullable(sex, sex < 0),
            "status": chosen(status_codes, status[patients].astype(np.int64)),
            "archived": pa.array(archived[patients]),
            "suspended": pa.array(suspended[patients]),
            "schemes": json_column(draws, "schemes"),
            "suffix": _suffixes(draws),
            "submitted_at": stamps(submitted, draws.chance("not submitted", p.NULL_PATIENT_SUBMITTED_SHARE)),
            "updated_at": stamps(updated, no_update[patients] == 1),
        }

    number = pa.int32()
    columns = schema(
        id=number,
        user_id=number,
        doctor_id=number,
        office_id=number,
        birthdate=pa.date32(),
        sex=number,
        status=number,
        archived=pa.bool_(),
        suspended=pa.bool_(),
        schemes=pa.string(),
        suffix=pa.string(),
        submitted_at=STAMP,
        updated_at=STAMP,
    )
    return Table("dispatch_patient", columns, size.patients, rows)


def far_days() -> Ints:
    """1 January 0999 and 31 December 9999, in days since 1970."""
    return np.array(["0999-01-01", "9999-12-31"], dtype="datetime64[D]").astype(np.int64)


_SUFFIX_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz"


def _suffixes(draws: Draws) -> pa.Array:
    """Two digits and two letters (``00BB``, ``51Bn``); empty or NULL for the rest."""
    letters = [one + other for one in _SUFFIX_LETTERS for other in _SUFFIX_LETTERS]
    text = joined(
        zero_padded(draws.below("suffix digits", 100), 2),
        chosen(letters, draws.below("suffix letters", len(letters))),
    )
    given = draws.uniform("suffix")
    text = pc.if_else(pa.array(given < p.SUFFIX_SHARE), text, pa.scalar(""))
    return nullable(text, given > (1 + p.SUFFIX_SHARE) / 2)
