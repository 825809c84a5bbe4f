"""When DAGs start by themselves."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction, Timetable

NIGHTLY = "mdw_incremental_migration"
SCHEDULES = {NIGHTLY: "MIGRATION_SCHEDULE", "mdw_validation": "MIGRATION_VALIDATION_SCHEDULE"}


def parsed(monkeypatch: pytest.MonkeyPatch, dag_id: str, text: str | None) -> DagBag:
    """The file of a DAG, read with a schedule."""
    if text is None:
        monkeypatch.delenv(SCHEDULES[dag_id], raising=False)
    else:
        monkeypatch.setenv(SCHEDULES[dag_id], text)
    return DagBag(Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / f"{dag_id}.py")


def timetable(bag: DagBag, dag_id: str) -> Timetable:
    """As the scheduler gets it."""
    assert bag.import_errors == {}
    found = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags[dag_id]))
    return found.timetable


def test_nights_begin_at_two_and_validation_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    nightly = timetable(parsed(monkeypatch, NIGHTLY, None), NIGHTLY)
    assert (nightly.summary, nightly.can_be_scheduled) == ("0 2 * * *", True)
    alone = timetable(parsed(monkeypatch, "mdw_validation", None), "mdw_validation")
    assert alone.can_be_scheduled is False


@pytest.mark.parametrize("dag_id", SCHEDULES)
def test_none_means_never(monkeypatch: pytest.MonkeyPatch, dag_id: str) -> None:
    assert timetable(parsed(monkeypatch, dag_id, "None "), dag_id).can_be_scheduled is False


@pytest.mark.parametrize("dag_id", SCHEDULES)
def test_a_wrong_one_is_an_import_error(monkeypatch: pytest.MonkeyPatch, dag_id: str) -> None:
    assert parsed(monkeypatch, dag_id, "at night").import_errors != {}


@pytest.mark.parametrize("dag_id", SCHEDULES)
def test_a_dag_that_is_unpaused_waits_for_the_next_time(monkeypatch: pytest.MonkeyPatch, dag_id: str) -> None:
    """Also when the last one is but minutes past: a run by hand would meet a run that nobody wanted."""
    now = datetime.now(UTC)
    past = now - timedelta(minutes=2)
    schedule = timetable(parsed(monkeypatch, dag_id, f"{past:%M %H} * * *"), dag_id)
    first = schedule.next_dagrun_info(
        last_automated_data_interval=None,
        restriction=TimeRestriction(earliest=None, latest=None, catchup=False),
    )
    assert first is not None
    assert first.run_after > now
