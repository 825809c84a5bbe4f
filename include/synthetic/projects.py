"""dispatch_project, dispatch_plan and dispatch_state (docs/legacy-mdw.md sections 1.10 to 1.12)."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.synthetic import proportions as p
from include.synthetic.columns import (
    NOW_STAMP,
    STAMP,
    Table,
    chosen,
    joined,
    nullable,
    reference,
    rising_stamps,
    schema,
    stamps,
    uuid_texts,
)
from include.synthetic.documents import PLAN_NOTES, sparse_phrases
from include.synthetic.draws import Bools, Draws, Ints, divided, free_ids, quota, quotas, shuffled, spread_ids
from include.synthetic.orders import Orders
from include.synthetic.population import DANGLING, NONE, Population, UserKind

_PLAN_ID_STRIDE = 2
_NEIGHBOURS = 4
_NAMES = ("Upper scan", "lower", "Setup 1", "Setup 1 (copy)", "final ", "試作", "test;drop", "a\tb")


class Projects:
    """Projects and the plans that tie them to orders."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.population = orders.population
        self.seed = orders.seed
        self.count = self.population.size.projects
        self.plans = self.population.size.plans

    @cached_property
    def ids(self) -> Ints:
        """dispatch_project.id by project index."""
        return spread_ids(self.population.draws("dispatch_project", 0, self.count), p.PROJECT_ID_STRIDE)

    @cached_property
    def plan_ids(self) -> Ints:
        """dispatch_plan.id by plan index."""
        return spread_ids(self.population.draws("dispatch_plan", 0, self.plans), _PLAN_ID_STRIDE)

    @cached_property
    def plan_project(self) -> NDArray[np.int32]:
        """Project index by plan index: most projects once, some several times, some never."""
        order = shuffled(self.seed, "planned", self.count)
        planned = order[: min(self.count - quota(self.count, p.PROJECT_WITHOUT_PLAN_SHARE, 1), self.plans)]
        extra = self.population.draws("dispatch_plan", 0, self.plans - len(planned)).below(
            "again", len(planned)
        )
        return np.sort(np.concatenate([planned, planned[extra]])).astype(np.int32)

    @cached_property
    def plan_first(self) -> Bools:
        """Whether a plan is the first one of its project: its original."""
        first: Bools = np.diff(self.plan_project, prepend=-1) != 0
        return first

    @cached_property
    def plan_order(self) -> NDArray[np.int32]:
        """Order index by plan index (DANGLING for a few): projects are planned for orders of their time."""
        draws = self.population.draws("dispatch_plan", 0, self.plans)
        orders = self.orders.count
        centre = self.plan_project.astype(np.int64) * orders // self.count
        order = (centre + draws.below("order", _NEIGHBOURS)) % orders
        lost = divided(
            self.seed, "plan order", self.plans, [quota(self.plans, p.PLAN_WITHOUT_ORDER_SHARE, p.FEW)]
        )
        return np.where(lost == 1, DANGLING, order).astype(np.int32)

    @cached_property
    def plan_number(self) -> NDArray[np.int32]:
        """The number of a plan among those of its order, from 1."""
        by_order = np.argsort(self.plan_order, kind="stable")
        first = np.flatnonzero(np.diff(self.plan_order[by_order], prepend=-3))
        place = np.arange(self.plans) - np.repeat(first, np.diff(np.append(first, self.plans)))
        result = np.empty(self.plans, dtype=np.int32)
        result[by_order] = place + 1
        return result

    @cached_property
    def first_plan(self) -> NDArray[np.int32]:
        """The index of the first plan by order index, NONE for an order without plan."""
        result = np.full(self.orders.count, NONE, dtype=np.int32)
        known = np.flatnonzero(self.plan_order >= 0)[::-1]
        result[self.plan_order[known]] = known
        return result


def project_table(projects: Projects) -> Table:
    """3-D data sets; the real storage key is the uid."""
    population, count, seed = projects.population, projects.count, projects.seed
    types = [*quotas(count, list(p.PROJECT_TYPE_SHARES.values()), 1), quota(count, 0, p.FEW)]
    type_ = np.array([3, *p.PROJECT_TYPE_SHARES, p.UNKNOWN_PROJECT_TYPE])[
        divided(seed, "project type", count, types)
    ]
    done = divided(seed, "project status", count, [quota(count, p.PROJECT_STATUS_2_SHARE, p.FEW)])
    shares = [p.NULL_CREATOR_SHARE, p.DANGLING_CREATOR_SHARE]
    gap = divided(seed, "creator", count, quotas(count, shares, p.FEW))
    creators = np.flatnonzero(population.kinds != UserKind.PATIENT)
    lost_ids = free_ids(population.user_ids)

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        draws = population.draws("dispatch_project", start, stop - start)
        creator = creators[draws.skewed("creator", len(creators))]
        creator = np.select([gap[start:stop] == 1, gap[start:stop] == 2], [NONE, DANGLING], creator)
        return {
            "id": pa.array(projects.ids[start:stop]),
            "uid": uuid_texts(draws.words("uid high"), draws.words("uid low")),
            "name": _names(draws),
            "size": pa.array(_sizes(draws)),
            "type": pa.array(type_[start:stop]),
            "status": pa.array(done[start:stop] * 2),
            "creator_id": reference(
                population.user_ids, creator, lost_ids[draws.below("lost", len(lost_ids))]
            ),
            "created_at": stamps(rising_stamps(draws, count)),
            "public": pa.array(draws.chance("public", p.PUBLIC_PROJECT_SHARE)),
        }

    columns = schema(
        id=pa.int32(),
        uid=pa.string(),
        name=pa.string(),
        size=pa.int64(),
        type=pa.int32(),
        status=pa.int32(),
        creator_id=pa.int32(),
        created_at=STAMP,
        public=pa.bool_(),
    )
    return Table("dispatch_project", columns, count, rows)


def _names(draws: Draws) -> pa.Array:
    kind = draws.uniform("name kind")
    numeric = p.EMPTY_PROJECT_NAME_SHARE + (1 - p.EMPTY_PROJECT_NAME_SHARE) * p.NUMERIC_PROJECT_NAME_SHARE
    numbers = pa.array(1 + draws.skewed("number", 30)).cast(pa.string())
    named = pc.if_else(pa.array(kind < numeric), numbers, chosen(_NAMES, draws.below("name", len(_NAMES))))
    return pc.if_else(pa.array(kind < p.EMPTY_PROJECT_NAME_SHARE), pa.scalar(""), named)


def _sizes(draws: Draws) -> Ints:
    """Bytes, from none to some above the 32-bit limit, each order of magnitude about as often."""
    bits = draws.below("magnitude", 22).astype(np.uint64) + np.uint64(12)
    size = (draws.words("size") >> (np.uint64(64) - bits)).astype(np.int64)
    return np.where(draws.chance("no bytes", 0.001), 0, size)


def plan_table(projects: Projects) -> Table:
    """Treatment plans: the only way from a project to an order."""
    population, orders = projects.population, projects.orders
    lost_ids = free_ids(orders.ids) if orders.count else np.zeros(0, dtype=np.int64)

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        draws = population.draws("dispatch_plan", start, stop - start)
        number = projects.plan_number[start:stop]
        named = joined("Plan ", pa.array(number).cast(pa.string()))
        return {
            "id": pa.array(projects.plan_ids[start:stop]),
            "instruction_id": reference(
                orders.ids, projects.plan_order[start:stop], lost_ids[draws.below("lost", len(lost_ids))]
            ),
            "project_id": pa.array(projects.ids[projects.plan_project[start:stop]]),
            "notes": sparse_phrases(draws, "notes", PLAN_NOTES, 0.6),
            "number": nullable(number, draws.chance("no number", p.NULL_PLAN_NUMBER_SHARE)),
            "name": nullable(named, draws.chance("no name", 0.6)),
            "original": pa.array(projects.plan_first[start:stop] & draws.chance("original", 0.98)),
        }

    columns = schema(
        id=pa.int32(),
        instruction_id=pa.int32(),
        project_id=pa.int32(),
        notes=pa.string(),
        number=pa.int32(),
        name=pa.string(),
        original=pa.bool_(),
    )
    return Table("dispatch_plan", columns, projects.plans, rows)


def state_table(orders: Orders) -> Table:
    """Flag toggles on orders; ids do not rise with time (docs/legacy-mdw.md section 1.12)."""
    population, count, seed = orders.population, orders.population.size.states, orders.seed
    order = _state_orders(orders, count)
    changed = _state_stamps(population, count)
    eleven = divided(seed, "state code", count, [round(count * p.STATE_11_SHARE)]) == 1
    shares = [p.NULL_ACTOR_SHARE, p.DANGLING_ACTOR_SHARE]
    gap = divided(seed, "actor", count, quotas(count, shares, p.FEW))
    actors = np.flatnonzero(population.kinds != UserKind.PATIENT)
    lost_users = free_ids(population.user_ids)
    lost_orders = free_ids(orders.ids) if orders.count else np.zeros(0, dtype=np.int64)

    def rows(start: int, stop: int) -> dict[str, pa.Array]:
        draws = population.draws("dispatch_state", start, stop - start)
        actor = actors[draws.skewed("actor", len(actors))]
        actor = np.select([gap[start:stop] == 1, gap[start:stop] == 2], [NONE, DANGLING], actor)
        return {
            "id": spread_ids(draws, 2),
            "status": pa.array(np.where(eleven[start:stop], 11, 12)),
            "on": pa.array(draws.chance("on", p.STATE_ON_SHARE)),
            "changed_at": stamps(changed[start:stop]),
            "actor_id": reference(
                population.user_ids, actor, lost_users[draws.below("lost user", len(lost_users))]
            ),
            "instruction_id": reference(
                orders.ids, order[start:stop], lost_orders[draws.below("lost order", len(lost_orders))]
            ),
        }

    columns = schema(
        id=pa.int32(),
        status=pa.int32(),
        on=pa.bool_(),
        changed_at=STAMP,
        actor_id=pa.int32(),
        instruction_id=pa.int32(),
    )
    return Table("dispatch_state", columns, count, rows)


def _state_orders(orders: Orders, count: int) -> Ints:
    """Order index by state index, DANGLING for about 4 %.

    The known facts do not fit together: 4,751 rows cannot leave only 60 % of 23,272 orders without one. The
    number of rows and the measured transitions (about two rows per order that has any) win; the 60 % hold
    for the newest orders, those of the time in which states were kept.
    """
    lost = quota(count, p.STATE_WITHOUT_ORDER_SHARE, p.FEW)
    draws = orders.population.draws("order of states", 0, count)
    repeats = 1 + draws.pick("repeats", p.STATES_PER_ORDER_WEIGHTS)
    bearing = int(np.searchsorted(np.cumsum(repeats), count - lost)) + 1 if count > lost else 0
    window = min(round(bearing / (1 - p.ORDERS_WITHOUT_STATE_SHARE)), orders.count)
    chosen_orders = orders.count - 1 - shuffled(orders.seed, "states kept", window)[:bearing]
    order = np.repeat(chosen_orders, repeats[: len(chosen_orders)])[: count - lost]
    order = np.concatenate([order, np.full(count - len(order), DANGLING)])
    return order[shuffled(orders.seed, "order of states", count)]


def _state_stamps(population: Population, count: int) -> Ints:
    """Microseconds since 1970: the measured rows per year, rising except for a share that is shuffled."""
    draws = population.draws("dispatch_state", 0, count)
    year = draws.pick("year", list(p.STATE_YEAR_ROWS.values()))
    starts = np.array([f"{number}-01-01" for number in p.STATE_YEAR_ROWS], dtype="datetime64[us]").astype(
        np.int64
    )
    ends = np.append(starts[1:], NOW_STAMP)
    moment = np.sort(starts[year] + (draws.uniform("moment") * (ends - starts)[year]).astype(np.int64))
    stray = np.flatnonzero(draws.chance("out of time", p.STATE_OUT_OF_TIME_SHARE))
    moment[stray] = moment[stray[shuffled(population.seed, "out of time", len(stray))]]
    return moment
