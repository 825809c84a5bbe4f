"""How many examples a property is tried with."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def examples(count: int) -> settings:
    """The same ``count`` examples each time; HYPOTHESIS_FACTOR=20 looks twenty times further, at random.

    No deadline, for the machine may be busy; no health checks, for some examples hold a hundred texts.
    """
    factor = int(os.environ.get("HYPOTHESIS_FACTOR", "1"))
    return settings(
        max_examples=count * factor,
        derandomize=factor == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
