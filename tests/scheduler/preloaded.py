"""``python -m tests.scheduler.preloaded ARGUMENTS…``: an Airflow command that has imported the project's modules.

Tasks are forked from the scheduler. What it has imported before, none of them imports again: without this,
each task would spend three seconds on imports and a tenth of one on its work.
"""

from __future__ import annotations

import sys

from airflow.__main__ import main

import plugins.phases  # noqa: F401 - imported for the tasks

if __name__ == "__main__":
    sys.argv[0] = "airflow"
    main()
