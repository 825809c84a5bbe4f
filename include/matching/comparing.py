"""Compares the candidate pairs of a table, in this process or shared between several."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from include.core.errors import MigrationError
from include.matching.blocking import Share, candidate_pairs, usable_keys
from include.matching.model import MatchModel
from include.matching.people import People
from include.matching.scoring import Scored, Scorer, join_scored
from include.matching.texts import BoolArray

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    """A share of the candidate pairs of some people, and the lowest score of interest."""

    people: People
    model: MatchModel
    review_at: float
    share: Share
    changed: BoolArray | None


def run(job: Job) -> Scored:
    """Compares one share; the pairs come in no particular order."""
    scorer = Scorer(job.people, job.model)
    keys = usable_keys(job.people, job.model.common)
    nobody = np.zeros(0, dtype=np.int64)
    parts = [scorer.compare(nobody, nobody)]
    parts += [
        scorer.compare_from(left, right, job.review_at)
        for left, right in candidate_pairs(keys, job.share, job.changed)
        if len(left)
    ]
    return join_scored(parts)


def run_shared(job: Job, workers: int) -> Scored:
    """Compares a share by several processes.

    They are started afresh, not forked: a task of the scheduler has threads and may be a daemon, which rules
    forks and the pools of the standard library out. Rows go through pipes, never to disk.

    Raises:
        MigrationError: MATCH_WORKER_ENDED, a process failed; its own message is on standard error.
    """
    number, shares = job.share
    parts = [
        Job(job.people, job.model, job.review_at, (number + shares * worker, shares * workers), job.changed)
        for worker in range(workers)
    ]
    with _Workers(parts[1:]) as helpers:
        mine = run(parts[0])
        return join_scored([mine, *helpers.results()])


class _Workers:
    """Processes at work on jobs; leaving the block ends those still running."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> _Workers:
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        for job in self._jobs:
            process = subprocess.Popen(
                [sys.executable, "-m", "include.matching.comparing"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            )
            self._running.append(process)
            with cast("IO[bytes]", process.stdin) as pipe:
                pickle.dump(job, pipe, protocol=pickle.HIGHEST_PROTOCOL)
        return self

    def results(self) -> list[Scored]:
        found = []
        for process in self._running:
            answer = cast("IO[bytes]", process.stdout).read()
            if process.wait() != 0:
                raise MigrationError(
                    "MATCH_WORKER_ENDED", f"A process that compares people ended with code {process.returncode}."
                )
            found.append(pickle.loads(answer))  # noqa: S301 - written by our own process
        return found

    def __exit__(self, *_error: object) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
                process.wait()
            cast("IO[bytes]", process.stdout).close()


def _serve() -> None:
    job = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by our own process
    pickle.dump(run(job), sys.stdout.buffer, protocol=pickle.HIGHEST_PROTOCOL)


if __name__ == "__main__":
    _serve()
