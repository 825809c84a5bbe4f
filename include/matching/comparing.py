"""Compares the candidate pairs of a table, in this process or shared between several."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import current_process, get_context

import numpy as np

from include.core.errors import MigrationError
from include.matching.blocking import Share, candidate_pairs, usable_keys
from include.matching.model import MatchModel
from include.matching.people import People
from include.matching.scoring import Scored, Scorer, join_scored
from include.matching.texts import BoolArray

Told = Callable[[int], None]
"""Told how many pairs were compared since, now and then; of several processes only this one tells."""


@dataclass(frozen=True)
class Job:
    """A share of the candidate pairs of some people, and the lowest score of interest."""

    people: People
    model: MatchModel
    review_at: float
    share: Share
    changed: BoolArray | None


def run(job: Job, told: Told | None = None) -> Scored:
    """Compares one share; the pairs come in no particular order."""
    scorer = Scorer(job.people, job.model)
    keys = usable_keys(job.people, job.model.common)
    nobody = np.zeros(0, dtype=np.int64)
    parts = [scorer.compare(nobody, nobody)]
    for left, right in candidate_pairs(keys, job.share, job.changed):
        if len(left):
            parts.append(scorer.compare_from(left, right, job.review_at))
            if told is not None:
                told(len(left))
    return join_scored(parts)


def run_shared(job: Job, workers: int, told: Told | None = None) -> Scored:
    """Compares a share by several processes.

    They are spawned, not forked: a task of the scheduler has threads, which a fork would leave half alive. A
    process that may have no children (a daemon, as some task queues run) does all by itself.

    Raises:
        MigrationError: MATCH_WORKER_ENDED, a process was killed.
    """
    if current_process().daemon:
        return run(job, told)
    number, shares = job.share
    parts = [replace(job, share=(number + shares * worker, shares * workers)) for worker in range(workers)]
    with ProcessPoolExecutor(workers - 1, mp_context=get_context("spawn")) as pool:
        others = [pool.submit(run, part) for part in parts[1:]]
        mine = run(parts[0], told)
        try:
            return join_scored([mine, *(other.result() for other in others)])
        except BrokenProcessPool as error:
            raise MigrationError(
                "MATCH_WORKER_ENDED", "A process that compares people was killed."
            ) from error
