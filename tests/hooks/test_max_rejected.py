"""`max_rejected`: of what a share of rejected rows is a share."""

from __future__ import annotations

import pytest

from include.core.batches import Partition
from include.core.errors import MigrationError
from include.entities import ENTITIES
from plugins.hooks.plans import PlansHook
from plugins.operators.load import LoadOperator
from tests.hooks.loading import Target

RUN = "run-1"


def flooded(target: Target, rejected: int, *, source_rows: int, selected: int | None) -> bool:
    """Whether a run that rejected so many rows of practices stops, 10 % being allowed."""
    tracking = target.tracking(RUN)
    PlansHook(target.api, RUN).record(
        "practices", [], source_rows=source_rows, selected=selected or source_rows, gone=0
    )
    rejects = [(str(key), "name_empty", "name", "{}") for key in range(rejected)]
    target.load("practices", [], run=RUN, rejects=rejects)
    partition = {**Partition("practices", 0, None, None, selected).to_json(), "label": ""}
    load = LoadOperator(task_id="practices", entity="practices", partition=partition)
    try:
        load._refuse_flood(tracking, PlansHook(target.api, RUN), ENTITIES["practices"], 0.1)
    except MigrationError as error:
        return error.code == "TOO_MANY_REJECTED"
    return False


@pytest.mark.parametrize(
    ("rejected", "source_rows", "selected", "stops"),
    [
        (60, 1_000, 65, False),  # nearly all that is read, but few of all: quarantine is retried every night
        (60, 500, 65, True),
        (60, 1_000, None, True),  # all rows read so far were rejected
        (40, 40, 40, False),  # a share of so few rows says nothing
        (0, 1_000, None, False),
    ],
)
def test_the_share_is_one_of_what_there_is(
    target: Target, rejected: int, source_rows: int, selected: int | None, stops: bool
) -> None:
    assert flooded(target, rejected, source_rows=source_rows, selected=selected) is stops
