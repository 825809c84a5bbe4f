"""How rare the value two people share is, in bits: the value's share of all other people, as -log2.

Sharing a rare surname says more than sharing Smith (Winkler 1989: value-specific, frequency-based weights). For
two texts that differ a little, the rarer of the two counts: a slip makes a text that nobody else has, while
Hansen and Jansen are two names.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from include.matching.frequencies import Prior, ValueCounts
from include.matching.people import People
from include.matching.texts import BoolArray, CodeArray, FloatArray

PRIORS = {
    "first_name": Prior(1 / 400, 400),
    "last_name": Prior(1 / 1_500, 1_500),
    "date_of_birth": Prior(1 / 25_000, 2_000),
    "email": Prior(1 / 20_000, 20_000),
}
_OF_OTHERS = Prior(1 / 100, 100)


@dataclass(frozen=True)
class Rarity:
    """Rarity in bits: of each code of a field, if both people of a pair hold it (``shared``) or one of them, or both
    with one birth date (``alone``); of each person's birth date, if both hold it (``of_birth``)."""

    shared: dict[str, FloatArray]
    alone: dict[str, FloatArray]
    of_birth: FloatArray

    @classmethod
    def of(cls, people: People, counts: dict[str, ValueCounts]) -> Rarity:
        """Looks the frequencies of the people's values up."""
        texts = {
            "first_name": people.names,
            "last_name": people.names,
            "email": people.email.texts,
            **{field: column.texts for field, column in people.evidence.items()},
        }
        tables = [
            {
                field: -counts[field].log_shares(vocabulary.hash, PRIORS.get(field, _OF_OTHERS), left_out)
                for field, vocabulary in texts.items()
            }
            for left_out in (2, 1)
        ]
        dates, position = np.unique(people.birth, return_inverse=True)
        birth = -counts["date_of_birth"].log_shares(dates.astype(np.uint64), PRIORS["date_of_birth"], 1)
        return cls(tables[0], tables[1], birth[position.reshape(-1)])

    def of_texts(self, field: str, one: CodeArray, other: CodeArray, one_date: BoolArray) -> FloatArray:
        """The rarity of what two people have in a field of texts; rows with one birth date were counted once."""
        alone = self.alone[field]
        rarest = np.maximum(alone[one], alone[other])
        return np.where((one == other) & ~one_date, self.shared[field][one], rarest)

    def of_crossed(self, one: CodeArray, other: CodeArray) -> FloatArray:
        """The same where one's first name meets the other's last name: the rarer use of the name counts."""
        rarest: FloatArray = np.zeros(len(one))
        for alone in (self.alone["first_name"], self.alone["last_name"]):
            rarest = np.maximum(rarest, np.maximum(alone[one], alone[other]))
        return rarest
