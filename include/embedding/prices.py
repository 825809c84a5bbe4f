"""What embedding costs: a table of prices with its date (prices.toml), and exact sums."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path

_TABLE = Path(__file__).with_name("prices.toml")
_MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens.

    Attributes:
        per_million: of texts sent at once.
        batch_per_million: of texts sent through the Batch API.
        as_of: when this was the price.
    """

    per_million: Decimal
    batch_per_million: Decimal
    as_of: date

    def rate(self, *, batch: bool) -> Decimal:
        """Per million tokens, the one way or the other."""
        return self.batch_per_million if batch else self.per_million


FREE = Price(Decimal(0), Decimal(0), date.min)
"""What costs nothing, and never did."""


def price_of(model: str) -> Price | None:
    """The listed price of OpenAI's model; None: nobody knows."""
    return _prices().get(model)


@cache
def _prices() -> dict[str, Price]:
    table = tomllib.loads(_TABLE.read_text(encoding="utf-8"), parse_float=Decimal)
    return {
        model: Price(Decimal(price["direct"]), Decimal(price["batch"]), table["as_of"])
        for model, price in table["models"].items()
    }


def cost(tokens: int, price: Price, *, batch: bool) -> Decimal:
    """US dollars for so many tokens, not rounded."""
    return tokens * price.rate(batch=batch) / _MILLION
