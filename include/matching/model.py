"""What is learnt once about a population and then kept: weights, value frequencies, keys and values to leave out.

A score is a pure function of two rows and a model, so that pairs compared today and pairs kept from an earlier
run agree.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from include.core.errors import MigrationError
from include.matching.frequencies import ValueCounts
from include.matching.texts import FloatArray, HashArray

MATCHING_VERSION = "2026.1"
"""Raised whenever scores change; a model of another version is not read."""


@dataclass(frozen=True)
class FieldWeights:
    """How often each level of a field is met, by kind of pair.

    ``match``: pairs that are one person; two rows, for women and for all others (women's surnames change with
    marriage). ``family``: different people of one family. ``unrelated``: strangers; for levels below EQUAL the
    expectation that makes rarer texts weigh more (see learning.py).
    """

    match: FloatArray
    family: FloatArray
    unrelated: FloatArray


@dataclass(frozen=True)
class MatchModel:
    """Everything a score depends on but the two rows.

    Attributes:
        people: the number of rows it was learnt from.
        evidence: the further columns it knows.
        prior_match, prior_family: share of all pairs that are one person, or one family.
        weights: by field.
        counts: value frequencies by column, as hashes.
        common: keys too common for a blocking pass, by pass, as hashes.
        placeholders: values that stand for "not known", by column, as hashes.
        implied: columns that say nothing new where one of the listed columns agrees.
    """

    people: int
    evidence: tuple[str, ...]
    prior_match: float
    prior_family: float
    weights: dict[str, FieldWeights]
    counts: dict[str, ValueCounts]
    common: dict[str, HashArray]
    placeholders: dict[str, HashArray]
    implied: dict[str, tuple[str, ...]]

    def to_json(self) -> str:
        """The model as one text, without any value in clear."""
        return json.dumps(
            {
                "version": MATCHING_VERSION,
                "people": self.people,
                "evidence": self.evidence,
                "prior_match": self.prior_match,
                "prior_family": self.prior_family,
                "weights": {
                    field: {kind: values.tolist() for kind, values in vars(weights).items()}
                    for field, weights in self.weights.items()
                },
                "counts": {
                    column: {
                        "rows": counts.rows,
                        "hashes": _packed(counts.hashes),
                        "counts": _packed(counts.counts.astype(np.uint32)),
                    }
                    for column, counts in self.counts.items()
                },
                "common": {name: _packed(values) for name, values in self.common.items()},
                "placeholders": {name: _packed(values) for name, values in self.placeholders.items()},
                "implied": self.implied,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> MatchModel:
        """Reads what :meth:`to_json` wrote.

        Raises:
            MigrationError: MATCH_MODEL_OUTDATED if the text is no model of this version.
        """
        try:
            stored = json.loads(text)
            version = stored["version"]
        except (ValueError, TypeError, KeyError) as error:
            raise MigrationError("MATCH_MODEL_OUTDATED", "The text is no matching model.") from error
        if version != MATCHING_VERSION:
            raise MigrationError(
                "MATCH_MODEL_OUTDATED", f"The model is of version {version}, the code of {MATCHING_VERSION}."
            )
        return cls(
            people=stored["people"],
            evidence=tuple(stored["evidence"]),
            prior_match=stored["prior_match"],
            prior_family=stored["prior_family"],
            weights={
                field: FieldWeights(**{kind: np.array(values) for kind, values in weights.items()})
                for field, weights in stored["weights"].items()
            },
            counts={column: _counts(values) for column, values in stored["counts"].items()},
            common={name: _unpacked(values) for name, values in stored["common"].items()},
            placeholders={name: _unpacked(values) for name, values in stored["placeholders"].items()},
            implied={name: tuple(columns) for name, columns in stored["implied"].items()},
        )


def _counts(stored: dict[str, Any]) -> ValueCounts:
    counts = _unpacked(stored["counts"], "<u4").astype(np.int64)
    return ValueCounts(_unpacked(stored["hashes"]), counts, stored["rows"])


def _packed(values: np.ndarray[Any, Any]) -> str:
    little = values.astype(values.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(little.tobytes())).decode()


def _unpacked(text: str, kind: str = "<u8") -> Any:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=kind).astype(kind[1:])
