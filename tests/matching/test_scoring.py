from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.people import legacy
from include.matching.blocking import candidate_pairs, usable_keys
from include.matching.deduplicate import MatchSettings
from include.matching.learning import learn_model
from include.matching.people import encode, without_placeholders
from include.matching.scoring import Scorer, posterior

BITS = st.floats(-2_000, 2_000)


@given(BITS, BITS)
def test_probabilities_stay_probabilities_however_large_the_odds(match: float, family: float) -> None:
    (one,), (kin,) = posterior(np.array([match]), np.array([family]))
    assert 0 <= one <= 1
    assert 0 <= kin <= 1
    assert one + kin <= 1 + 1e-12


@pytest.mark.parametrize("lowest", [0.001, 0.05, 0.9, 1.0])
def test_hopeless_pairs_are_left_early_but_no_others(lowest: float) -> None:
    settings = MatchSettings()
    people = encode(legacy(1_000).table, settings.evidence)
    model = learn_model(people, settings)
    people = without_placeholders(people, model.placeholders)
    scorer, found = Scorer(people, model), 0
    for left, right in candidate_pairs(usable_keys(people, model.common)):
        every, some = scorer.compare(left, right), scorer.compare_from(left, right, lowest)
        kept = every.score >= lowest
        assert some.pairs.left.tolist() == left[kept].tolist()
        assert some.pairs.right.tolist() == right[kept].tolist()
        assert some.score.tolist() == every.score[kept].tolist()
        found += len(some.pairs)
    assert found > 0 or lowest == 1.0
