"""dispatch_course, dispatch_product, dispatch_jaw and dispatch_instruction (docs/legacy-mdw.md 1.8, 1.9)."""

from __future__ import annotations

from decimal import Decimal
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.synthetic import proportions as p
from include.synthetic.columns import (
    MICROSECONDS_PER_DAY,
    NOW_STAMP,
    STAMP,
    Table,
    bit_strings,
    chosen,
    joined,
    nullable,
    patched,
    reference,
    rising_stamps,
    schema,
    stamps,
)
from include.synthetic.documents import clinical_texts, json_column
from include.synthetic.draws import Bools, Draws, Ints, divided, free_ids, quota, quotas, shuffled, spread_ids
from include.synthetic.people import People, far_days
from include.synthetic.population import DANGLING, NONE, Population

COURSES = {1: "Main", 2: "Refinement", 3: "Replacement", 4: "Any", 7: "Invoice", 8: "Merchandise"}
PRODUCTS = (
    ("Clear aligners", 1),
    ("Lingual brackets", 1),
    ("Labial brackets", 1),
    ("Retainer", 1),
    ("Refinement aligners", 2),
    ("Replacement bracket", 3),
    ("Replacement aligner", 3),
    ("Indirect bonding tray", 4),
    ("Planning fee", 7),
    ('T-shirt, size "M"', 8),
)
_ORDER_ID_STRIDE = 2
_JAW_ID_STRIDE = 2
_TEETH_PATTERNS = 1 << 16
_MALFORMED_TEETH = ("", "11111111111111", "11111111 1111111", "1111x11111111111", "NULL")
_MEAN_DAYS_IN_WORK = 21  # docs/legacy-mdw.md section 1.8: mean 20.95


class Orders:
    """Which patient each order belongs to, and which jaws it uses."""

    def __init__(self, population: Population) -> None:
        self.population = population
        self.count = population.size.instructions
        self.seed = population.seed

    def draws(self, start: int, count: int) -> Draws:
        """The random values of a stretch of orders."""
        return self.population.draws("dispatch_instruction", start, count)

    @cached_property
    def ids(self) -> Ints:
        """dispatch_instruction.id by order index."""
        return spread_ids(self.draws(0, self.count), _ORDER_ID_STRIDE)

    @cached_property
    def patient(self) -> Ints:
        """Patient index by order index; DANGLING for about one in a hundred."""
        patients = self.population.size.patients
        draws = self.draws(0, self.count)
        # An order comes some time after its patient: most soon, a few years later.
        newest = np.arange(self.count, dtype=np.int64) * patients // max(self.count, 1)
        patient = newest - draws.skewed("patient", newest + 1)
        lost = divided(self.seed, "lost patient", self.count, [self.without_patient])
        return np.where(lost == 1, DANGLING, patient)

    @property
    def without_patient(self) -> int:
        """How many orders name a patient that does not exist."""
        return quota(self.count, p.ORDER_WITHOUT_PATIENT_SHARE, p.FEW)

    @cached_property
    def sequence(self) -> NDArray[np.int32]:
        """The number of the order among those of its patient, from 1."""
        by_patient = np.argsort(self.patient, kind="stable")
        first = np.flatnonzero(np.diff(self.patient[by_patient], prepend=np.int64(-3)))
        place = np.arange(self.count) - np.repeat(first, np.diff(np.append(first, self.count)))
        result = np.empty(self.count, dtype=np.int32)
        result[by_patient] = place + 1
        return result

    @cached_property
    def jaw_ids(self) -> Ints:
        """dispatch_jaw.id by jaw index."""
        jaws = self.population.size.jaws
        return spread_ids(self.population.draws("dispatch_jaw", 0, jaws), _JAW_ID_STRIDE)

    @cached_property
    def jaws(self) -> Ints:
        """Jaw index by (order, 0 upper / 1 lower); NONE where the order has no such jaw."""
        jaws, slots = self.population.size.jaws, 2 * self.count
        unused = divided(self.seed, "unused jaw", jaws, [quota(jaws, p.UNUSED_JAW_SHARE, p.FEW)])
        used = np.flatnonzero(unused == 0)
        taken = np.sort(shuffled(self.seed, "jaw slots", slots)[: len(used)])
        result = np.full(slots, NONE, dtype=np.int64)
        result[taken] = used[: len(taken)]
        return result.reshape(self.count, 2)

    @cached_property
    def submitted(self) -> Ints:
        """When each order was submitted, in microseconds since 1970."""
        return rising_stamps(self.draws(0, self.count), self.count)


def course_table(population: Population) -> Table:
    """Order types; the ids are those of the real source."""
    kept = list(COURSES.items())[: population.size.courses]

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        return {
            "id": pa.array([number for number, _ in kept[start:stop]], pa.int32()),
            "name": pa.array([name for _, name in kept[start:stop]], pa.string()),
        }

    return Table("dispatch_course", schema(id=pa.int32(), name=pa.string()), len(kept), rows)


def product_table(population: Population) -> Table:
    """The catalogue; no prices, for the source has none."""
    courses = set(list(COURSES)[: population.size.courses])

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        numbers = range(start, stop)
        return {
            "id": pa.array([number + 1 for number in numbers]),
            "name": pa.array([PRODUCTS[number][0] for number in numbers], pa.string()),
            "description": pa.array([None if number % 3 == 0 else "" for number in numbers], pa.string()),
            "free": pa.array([number == 3 for number in numbers], pa.bool_()),
            "deleted": pa.array([number == 6 for number in numbers], pa.bool_()),
            "customization": pa.array([("{}", "{'a'}", None)[number % 3] for number in numbers], pa.string()),
            "type": pa.array([None if number % 4 == 0 else number % 4 for number in numbers], pa.int32()),
            "substitute": pa.array([number == 7 for number in numbers], pa.bool_()),
            "course_id": pa.array(
                [PRODUCTS[number][1] if PRODUCTS[number][1] in courses else None for number in numbers],
                pa.int32(),
            ),
        }

    columns = schema(
        id=pa.int32(),
        name=pa.string(),
        description=pa.string(),
        free=pa.bool_(),
        deleted=pa.bool_(),
        customization=pa.string(),
        type=pa.int32(),
        substitute=pa.bool_(),
        course_id=pa.int32(),
    )
    return Table("dispatch_product", columns, population.size.products, rows)


def jaw_table(population: Population) -> Table:
    """Jaw specifications; a row does not know whether it is an upper or a lower jaw."""
    size, seed = population.size, population.seed
    product_ids = np.arange(size.products) + 1
    malformed = np.sort(
        shuffled(seed, "jaw text", size.jaws)[: quota(size.jaws, p.MALFORMED_JAW_SHARE, p.FEW)]
    )

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        draws = population.draws("dispatch_jaw", start, stop - start)
        bond = draws.below("bond", _TEETH_PATTERNS)
        # Rarely more than a few teeth are pulled: most bits vanish where three words agree.
        extract = (
            bond & draws.below("extract", _TEETH_PATTERNS) & draws.below("extract less", _TEETH_PATTERNS)
        )
        extract[draws.chance("no extraction", 0.7)] = 0
        here = malformed[(malformed >= start) & (malformed < stop)]
        product = draws.below("product", max(size.products, 1))
        product[draws.chance("no product", 0.1) | (size.products == 0)] = NONE
        return {
            "id": spread_ids(draws, _JAW_ID_STRIDE),
            "bond_teeth": patched(
                bit_strings(bond),
                here - start,
                [_MALFORMED_TEETH[number % len(_MALFORMED_TEETH)] for number in here],
            ),
            "extract_teeth": bit_strings(extract),
            "reason": nullable(
                1 + draws.below("reason", 3), draws.chance("no reason", p.MISSING_JAW_REASON_SHARE)
            ),
            "product_id": reference(product_ids, product),
            "labial": pa.array(draws.chance("labial", 0.4)),
        }

    columns = schema(
        id=pa.int32(),
        bond_teeth=pa.string(),
        extract_teeth=pa.string(),
        reason=pa.int32(),
        product_id=pa.int32(),
        labial=pa.bool_(),
    )
    return Table("dispatch_jaw", columns, size.jaws, rows)


def instruction_table(orders: Orders, people: People) -> Table:
    """The orders (docs/legacy-mdw.md section 1.8)."""
    population, count, seed = orders.population, orders.count, orders.seed
    pairs = list(p.MODEL_SCANNER_SHARES)
    status = _statuses(orders)
    pair = divided(seed, "model", count, quotas(count, list(p.MODEL_SCANNER_SHARES.values())[1:], 1))
    deleted = divided(seed, "order deleted", count, [quota(count, p.ORDER_DELETED_SHARE, p.FEW)]) == 1
    far = shuffled(seed, "far order", count)[: p.FAR_DATES]
    lost_ids = free_ids(population.patient_ids)

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        draws = orders.draws(start, stop - start)
        patient = orders.patient[start:stop]
        submitted = orders.submitted[start:stop]
        in_work = draws.skewed("days in work", 3 * _MEAN_DAYS_IN_WORK * MICROSECONDS_PER_DAY)
        updated = np.minimum(submitted + in_work, NOW_STAMP)
        submitted = _with_far_dates(submitted, far - start)
        not_submitted = draws.chance("not submitted", p.NULL_ORDER_SUBMITTED_SHARE)
        not_submitted[_inside(far - start, stop - start)] = False
        first, last = people.names(population.patient_user[np.maximum(patient, 0)])
        names = nullable(joined(first, last, separator=" "), patient < 0)
        return {
            "id": pa.array(orders.ids[start:stop]),
            "patient_id": reference(
                population.patient_ids, patient, lost_ids[draws.below("lost", len(lost_ids))]
            ),
            "course_id": _courses(draws, orders.sequence[start:stop] == 1, population.size.courses),
            "order": pa.array(orders.sequence[start:stop]),
            "model": chosen([model for model, _ in pairs], pair[start:stop].astype(np.int64), pa.int32()),
            "scanner": chosen(
                [scanner for _, scanner in pairs], pair[start:stop].astype(np.int64), pa.int32()
            ),
            "upper_jaw_id": reference(orders.jaw_ids, orders.jaws[start:stop, 0]),
            "lower_jaw_id": reference(orders.jaw_ids, orders.jaws[start:stop, 1]),
            "exports": json_column(draws, "exports"),
            "price": _prices(draws),
            "status": pa.array(status[start:stop]),
            **_flags(draws),
            "deleted": pa.array(deleted[start:stop]),
            "suffix": chosen(("", "A", "B", "01R", "R2"), draws.skewed("suffix", 5)),
            "submitted_at": stamps(submitted, not_submitted),
            "updated_at": stamps(updated, draws.chance("not updated", p.NULL_ORDER_UPDATED_SHARE)),
            **clinical_texts(draws, names),
        }

    return Table("dispatch_instruction", _INSTRUCTION, count, rows)


_INSTRUCTION = schema(
    id=pa.int32(),
    patient_id=pa.int32(),
    course_id=pa.int32(),
    order=pa.int32(),
    model=pa.int32(),
    scanner=pa.int32(),
    scanner_notes=pa.string(),
    upper_jaw_id=pa.int32(),
    lower_jaw_id=pa.int32(),
    notes=pa.string(),
    conditions=pa.string(),
    complaint=pa.string(),
    objective=pa.string(),
    exports=pa.string(),
    price=pa.decimal128(10, 2),
    status=pa.int32(),
    cbct=pa.bool_(),
    accept_extraction=pa.bool_(),
    comprehensive=pa.bool_(),
    deleted=pa.bool_(),
    suffix=pa.string(),
    submitted_at=STAMP,
    updated_at=STAMP,
)


def _statuses(orders: Orders) -> NDArray[np.int8]:
    """The measured split of 4, 1 and 2, and a few 0 and 3 that the measured half-year did not show."""
    _, one, two = (quota(orders.count, share, 1) for share in p.ORDER_STATUS_SHARES.values())
    few = quota(orders.count, 0, p.FEW)
    group = divided(orders.seed, "order status", orders.count, [one, two, few, few])
    return np.array([4, 1, 2, 0, 3], dtype=np.int8)[group]


def _courses(draws: Draws, first: Bools, known: int) -> pa.Array:
    codes = list(COURSES)[:known]
    weights = [
        [table.get(code, 0.0) or 1e-9 for code in codes]
        for table in (p.COURSE_WEIGHTS_FIRST, p.COURSE_WEIGHTS_LATER)
    ]
    code = np.where(first, draws.pick("course", weights[0]), draws.pick("course", weights[1]))
    return chosen(codes, code, pa.int32())


def _flags(draws: Draws) -> dict[str, pa.Array]:
    shares = {
        "cbct": p.CBCT_SHARE,
        "accept_extraction": p.ACCEPT_EXTRACTION_SHARE,
        "comprehensive": p.COMPREHENSIVE_SHARE,
    }
    return {
        name: nullable(
            draws.chance(name, share / (1 - p.NULL_FLAG_SHARE)), draws.chance(f"no {name}", p.NULL_FLAG_SHARE)
        )
        for name, share in shares.items()
    }


_PRICES = pa.array([Decimal(half) / 2 for half in range(2 * p.MAX_PRICE + 1)], pa.decimal128(10, 2))
# A flat part has the mean max / 2, a part that favours dear orders 2 / 3 max; mixed to the measured mean.
_FLAT_SHARE = (2 / 3 - p.MEAN_PRICE / p.MAX_PRICE) / (2 / 3 - 1 / 2)


def _prices(draws: Draws) -> pa.Array:
    dear = len(_PRICES) - 1 - draws.skewed("price", len(_PRICES))
    flat = draws.below("flat price", len(_PRICES))
    price = _PRICES.take(pa.array(np.where(draws.chance("flat", _FLAT_SHARE), flat, dear)))
    return nullable(price, draws.chance("no price", p.NULL_PRICE_SHARE))


def _inside(rows: Ints, count: int) -> Ints:
    return rows[(rows >= 0) & (rows < count)]


def _with_far_dates(submitted: Ints, rows: Ints) -> Ints:
    """Sets the few rows that lie in this stretch to a day far in the past or the future."""
    result = submitted.copy()
    for row, day in zip(rows, far_days(), strict=False):
        if 0 <= row < len(result):
            result[row] = day * MICROSECONDS_PER_DAY + 123_456
    return result
