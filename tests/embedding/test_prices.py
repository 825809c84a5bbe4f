from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest

from include.embedding.prices import FREE, Price, cost, price_of


@pytest.mark.parametrize(
    ("model", "direct", "batch"),
    [
        ("text-embedding-3-small", "0.02", "0.01"),
        ("text-embedding-3-large", "0.13", "0.065"),
        ("text-embedding-ada-002", "0.10", "0.05"),
    ],
)
def test_listed_prices_are_exact_and_dated(model: str, direct: str, batch: str) -> None:
    price = price_of(model)
    assert price is not None
    assert (price.per_million, price.batch_per_million) == (Decimal(direct), Decimal(batch))
    assert type(price.as_of) is dt.date
    assert dt.date(2026, 1, 1) <= price.as_of <= dt.datetime.now(tz=dt.UTC).date()


@pytest.mark.parametrize("model", ["", "text-embedding-4", "openai/text-embedding-3-small", "as_of"])
def test_nobody_knows_the_price_of_other_models(model: str) -> None:
    assert price_of(model) is None


def test_a_cost_is_not_rounded() -> None:
    price = Price(Decimal("0.02"), Decimal("0.01"), dt.date(2026, 1, 1))
    assert cost(1, price, batch=False) == Decimal("0.00000002")
    assert cost(150_000_001, price, batch=False) == Decimal("3.00000002")
    assert cost(150_000_001, price, batch=True) == Decimal("1.50000001")
    assert cost(0, price, batch=False) == 0
    assert sum((cost(1, price, batch=False) for _ in range(1_000)), Decimal(0)) == cost(
        1_000, price, batch=False
    )


def test_what_is_free_costs_nothing() -> None:
    assert cost(10**12, FREE, batch=False) == cost(10**12, FREE, batch=True) == 0
