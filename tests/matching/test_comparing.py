from __future__ import annotations

import os
from dataclasses import replace
from multiprocessing import current_process

import numpy as np
import pytest

from benchmarks.people import legacy
from include.core.errors import MigrationError
from include.matching.comparing import Job, run, run_shared
from include.matching.deduplicate import MatchSettings
from include.matching.learning import learn_model
from include.matching.people import encode


def _job() -> Job:
    people = encode(legacy(400).table, MatchSettings().evidence)
    return Job(people, learn_model(people, MatchSettings()), 0.05, (0, 1), None)


def _pairs(job: Job, workers: int) -> list[tuple[int, int, float]]:
    scored = run_shared(job, workers)
    return sorted(
        zip(scored.pairs.left.tolist(), scored.pairs.right.tolist(), scored.score.tolist(), strict=True)
    )


def test_a_process_without_children_compares_all_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    job = _job()
    monkeypatch.setitem(current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    monkeypatch.setattr("include.matching.comparing.ProcessPoolExecutor", None)
    assert len(_pairs(job, 3)) == len(run(job).pairs) > 0


class _Killer(np.ndarray):
    """A mask that ends the process it is sent to."""

    def __reduce__(self) -> tuple[object, tuple[int]]:  # type: ignore[override]
        return os._exit, (9,)


def test_a_killed_process_is_an_error_of_its_own() -> None:
    job = _job()
    with pytest.raises(MigrationError) as caught:
        run_shared(replace(job, changed=np.zeros(len(job.people), dtype=bool).view(_Killer)), 2)
    assert caught.value.code == "MATCH_WORKER_ENDED"
