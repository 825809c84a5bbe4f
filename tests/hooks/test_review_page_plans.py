"""Pages of a long review queue are read by an index: no more rows than a page shows, however many there are."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from plugins.hooks.review import ORDERS
from tests.hooks.loading import Target

PAIRS = 10_000
PAGE = 50
_TYPES = ("text", "text", "float8", "float8", "text", "float8", "text", "text", "bigint")


@pytest.fixture
def many(target: Target) -> Target:
    """A tenth is rejected, and half of those are to be looked at again."""
    target.connection.execute(
        "INSERT INTO migration.duplicate_pairs"
        " (entity, left_legacy_id, right_legacy_id, score, explanation, status, decided_at, asked_again_at)"
        " SELECT 'patients', n::text, (n + 1)::text, (n %% 997) / 997.0, '{}',"
        " CASE WHEN n %% 10 = 0 THEN 'rejected' ELSE 'pending' END, CASE WHEN n %% 10 = 0 THEN now() END,"
        " CASE WHEN n %% 20 = 0 THEN now() END FROM generate_series(1, %s) AS n",
        [PAIRS],
    )
    target.connection.execute("ANALYZE migration.duplicate_pairs")
    return target


def test_a_page_reads_what_it_shows(many: Target) -> None:
    for status, order, goes_on in product(("pending", "asked_again"), ORDERS, (False, True)):
        plan = carried_out(many, status, order, by_id=False, goes_on=goes_on)
        # There are few second looks at once: those next to one half are sorted.
        most = PAIRS / 20 if (status, order) == ("asked_again", "doubtful") else PAGE
        assert 1 <= rows_read(plan) <= most + 1, (status, order, goes_on, plan)


def test_the_pairs_of_one_row_are_found_by_its_id(many: Target) -> None:
    for status, order in product(("pending", "asked_again"), ORDERS):
        plan = carried_out(many, status, order, by_id=True, goes_on=False)
        assert 1 <= rows_read(plan) <= 4, (status, order, plan)


def carried_out(target: Target, status: str, order: str, **how: bool) -> dict[str, Any]:
    """The plan of a page with what it read."""
    arguments = [status, order, how["by_id"], how["goes_on"]]
    ((query,),) = target.all("SELECT migration.page_of_pairs(%s, %s, %s, %s)", arguments)
    values = ("patients", status, 0.0, 1.0, "5000", 0.25, "5", "6", PAGE)
    for place, (value, kind) in enumerate(zip(values, _TYPES, strict=True), 1):
        query = query.replace(f"${place}", f"'{value}'::{kind}")
    ((plan,),) = target.all(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query.replace('%', '%%')}")
    return dict(plan[0]["Plan"])


def rows_read(plan: dict[str, Any]) -> int:
    """Rows that the scans of a plan gave or passed over."""
    if "Relation Name" not in plan:
        return sum(map(rows_read, plan.get("Plans", [])))
    dropped = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    return int(plan["Actual Rows"] + sum(plan.get(name, 0) for name in dropped))
