"""dispatch_office and dispatch_office_doctors (docs/legacy-mdw.md sections 1.5 and 1.6)."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa

from include.synthetic import proportions as p
from include.synthetic.columns import (
    Table,
    chosen,
    hex_texts,
    joined,
    nullable,
    patched,
    schema,
    zero_padded,
)
from include.synthetic.draws import Draws, Ints, divided, quota, shuffled
from include.synthetic.names import surnames
from include.synthetic.population import Population

_KINDS = ("Orthodontics", "Dental Care", "Dental Clinic", "Smiles", "Family Dentistry", "Aligner Studio")
_STREETS = (
    "Main Street",
    "Oak Avenue",
    "2nd St.",
    "Sukhumvit Rd",
    "MG Road",
    "桜通り",
    "Rue de l'Église",
    "Highway 9",
)
_CITIES: dict[str | None, tuple[tuple[str, str], ...]] = {
    "USA": (("Springfield", "IL"), ("Austin", "TX"), ("San José", "CA"), ("New York", "NY")),
    "India": (("Mumbai", "MH"), ("Pune", "Maharashtra"), ("Chennai", "TN")),
    "Japan": (("東京", "東京都"), ("Osaka", "Osaka"), ("Kyōto", "")),
    "Thailand": (("Bangkok", ""), ("เชียงใหม่", "เชียงใหม่")),
}
_OTHER_CITIES = (("Capital", ""), ("Port City", "North"))
_ODD_NAMES = (
    'The "Smile" Factory',
    "Smith & Sons, D.D.S., P.C.",
    "O'Neil Dental",
    " Leading Space Dental",
    "Trailing Space Dental ",
    "Tab\tDental",
    "Two\nLines Dental",
    "Back\\slash Dental",
    "スマイル矯正歯科",
    "คลินิกทันตกรรม ยิ้มสวย",
    "Zahnärzte Groß & Söhne",
    "🦷 Tooth Town",
    "NULL",
    "",
)


def office_table(population: Population) -> Table:
    """Offices, valid or not, in all countries."""
    size, seed = population.size, population.seed
    countries = list(p.COUNTRY_ROWS)
    valid = divided(seed, "office valid", size.offices, [quota(size.offices, p.VALID_OFFICE_SHARE)]) == 1
    odd = np.sort(
        shuffled(seed, "odd office", size.offices)[: quota(size.offices, p.ODD_OFFICE_NAME_SHARE, p.FEW)]
    )

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        draws = population.draws("dispatch_office", start, stop - start)
        country = population.office_country[start:stop].astype(np.int64)
        cities = [_CITIES.get(countries[number], _OTHER_CITIES) for number in country]
        place = [
            options[word % len(options)]
            for options, word in zip(cities, draws.below("city", 60), strict=True)
        ]
        is_usa = country == countries.index("USA")
        return {
            "id": pa.array(population.office_ids[start:stop]),
            "name": _names(draws, odd, start, stop),
            "address": nullable(
                joined(
                    pa.array(1 + draws.below("house", 9_999)).cast(pa.string()),
                    chosen(_STREETS, draws.below("street", len(_STREETS))),
                    separator=" ",
                ),
                draws.chance("no address", 0.02),
            ),
            "apt": chosen(("", "", "Suite 200", "#3", None), draws.below("apt", 5), pa.string()),
            "city": pa.array([city for city, _ in place], pa.string()),
            "state": pa.array([state or None for _, state in place], pa.string()),
            "zip": nullable(zero_padded(draws.below("zip", 100_000), 5), draws.chance("no zip", 0.05)),
            "country": chosen(countries, country, pa.string()),
            "phone": _phones(draws),
            "tax_rate": chosen(_TAX_RATES, np.where(is_usa, draws.below("tax", len(_TAX_RATES)), 0), _RATE),
            "valid": pa.array(valid[start:stop]),
            "sq_customer_id": nullable(
                joined("CUST", hex_texts(draws.words("customer"))), draws.chance("no customer", 0.5)
            ),
            "emails": pa.array(draws.chance("emails", 0.8)),
        }

    text = pa.string()
    columns = schema(
        id=pa.int32(),
        name=text,
        address=text,
        apt=text,
        city=text,
        state=text,
        zip=text,
        country=text,
        phone=text,
        tax_rate=_RATE,
        valid=pa.bool_(),
        sq_customer_id=text,
        emails=pa.bool_(),
    )
    return Table("dispatch_office", columns, size.offices, rows)


_RATE = pa.decimal128(7, 4)
# Rates are fractions, but some offices have a percentage in the field.
_TAX_RATES = tuple(Decimal(rate) for rate in ("0.0000", "0.0625", "0.0825", "0.0887", "8.2500"))


def _names(draws: Draws, odd: Ints, start: int, stop: int) -> pa.Array:
    pool = surnames()
    # Group 0 of the pool are western names: an office's sign is in Latin letters unless it is an odd one.
    owner = pool.names.take(pa.array(draws.skewed("owner", int(pool.sizes[0]))))
    plain = joined(owner, chosen(_KINDS, draws.below("kind", len(_KINDS))), separator=" ")
    here = np.flatnonzero((odd >= start) & (odd < stop))
    named = patched(plain, odd[here] - start, [_ODD_NAMES[number % len(_ODD_NAMES)] for number in here])
    return nullable(named, draws.chance("no name", 0.003))


def _phones(draws: Draws) -> pa.Array:
    digits = zero_padded(draws.below("phone", 10_000_000), 7)
    prefix = chosen(("+1 555 ", "(555) ", "555-", "+81-3-", "+66 2 "), draws.below("phone prefix", 5))
    return nullable(joined(prefix, digits), draws.chance("no phone", 0.15))


def office_doctor_table(population: Population) -> Table:
    """Distinct pairs of office and doctor."""
    size = population.size
    doctors = population.doctors
    pairs = _distinct_pairs(population, size.office_doctors, size.offices, len(doctors))

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        draws = population.draws("dispatch_office_doctors", start, stop - start)
        office, doctor = np.divmod(pairs[start:stop], len(doctors))
        return {
            "id": pa.array(np.arange(start, stop) * 2 + 1 + draws.below("id", 2)),
            "office_id": pa.array(population.office_ids[office]),
            "user_id": pa.array(population.user_ids[doctors[doctor]]),
        }

    columns = schema(id=pa.int32(), office_id=pa.int32(), user_id=pa.int32())
    return Table("dispatch_office_doctors", columns, len(pairs), rows)


def _distinct_pairs(population: Population, count: int, offices: int, doctors: int) -> Ints:
    # Many more than needed, so that enough are left once repeated ones are gone.
    draws = population.draws("office and doctor", 0, 5 * count + 50)
    pairs = draws.skewed("office", offices) * doctors + draws.below("doctor", doctors)
    _, first = np.unique(pairs, return_index=True)
    distinct: Ints = pairs[np.sort(first)][:count]
    return distinct
