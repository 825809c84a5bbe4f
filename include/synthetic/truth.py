"""What is known about the people of a synthetic source, to judge a deduplication by."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from include.synthetic.draws import Bools
from include.synthetic.population import Population, Relation
from include.synthetic.sizes import SourceSize

_PERSON_KINDS = [relation for relation in Relation if relation.same_person]


def duplicate_pairs(size: SourceSize, seed: int) -> pa.Table:
    """Patient rows that are one person.

    Columns ``original_patient_id``, ``duplicate_patient_id`` (int32, dispatch_patient.id) and ``kind``
    (a key of ``proportions.DUPLICATE_KIND_SHARES``). A person with three rows has two lines with the same
    original; the pair of its two duplicates follows from them and has no line. "Original" is the row whose
    name is unchanged, not always the older one.
    """
    population = Population(size, seed)
    return _pairs(
        population,
        np.isin(population.relation, _PERSON_KINDS),
        ("original_patient_id", "duplicate_patient_id"),
    )


def lookalike_pairs(size: SourceSize, seed: int) -> pa.Table:
    """Patient rows that resemble each other and are two people: never to be merged.

    Columns ``patient_id``, ``lookalike_patient_id`` (int32) and ``kind`` (a key of
    ``proportions.LOOKALIKE_SHARES``). Strangers who share a name and a birth date by chance, as in any large
    register, are not listed.
    """
    population = Population(size, seed)
    return _pairs(population, population.relation >= Relation.TWIN, ("patient_id", "lookalike_patient_id"))


def _pairs(population: Population, wanted: Bools, names: tuple[str, str]) -> pa.Table:
    rows = np.flatnonzero(wanted)
    ids = population.patient_ids
    kinds = pa.array([Relation(number).kind for number in population.relation[rows]], pa.string())
    return pa.table(
        {
            names[0]: pa.array(ids[population.family.base[rows]], pa.int32()),
            names[1]: pa.array(ids[rows], pa.int32()),
            "kind": kinds,
        }
    )
