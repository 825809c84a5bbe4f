"""When a DAG starts by itself."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import CronTriggerTimetable

_NEVER = "none"


def schedule(variable: str, default: str = _NEVER) -> CronTriggerTimetable | None:
    """The installation's schedule: cron in UTC, from an environment variable; None for `none`.

    Airflow refuses a wrong one when the file is parsed. A DAG that is unpaused waits for the next time: without
    run_immediately, Airflow would also start the last one if it is not long past (a tenth of the interval), so that
    whoever triggers a new DAG by hand in the early morning would find the target locked by a run nobody wanted.
    """
    text = (os.environ.get(variable) or default).strip()
    if text.lower() == _NEVER:
        return None
    return CronTriggerTimetable(text, timezone="UTC", run_immediately=timedelta(0))
