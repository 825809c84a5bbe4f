"""What a batch costs depends on its rows, whatever the statistics say of tables that others fill meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from include.files.manifest import Outcome, Status, outcome_table
from tests.hooks.loading import Row, Target, patient, practice, profile, project

_ROWS = 2_000
# Each of some twenty statements looks at the batch once or twice; a nested loop would look at it 2,000 times.
_MOST_READ_PER_ROW = 100
_READ = """SELECT coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)::bigint
FROM pg_stat_xact_all_tables WHERE schemaname = 'public' OR schemaname = 'migration' OR schemaname LIKE 'pg_temp%'"""


def rows(first: int = 1) -> list[Row]:
    return [
        patient(key, first_name="Ada", source_version=f"{key:032x}") for key in range(first, first + _ROWS)
    ]


def read_by(target: Target, work: Callable[[], object]) -> int:
    """Rows of tables that are read by calls over the target's connection."""
    with target.connection.transaction():
        before = target.connection.execute(_READ).fetchall()
        work()
        after = target.connection.execute(_READ).fetchall()
    return int(after[0][0]) - int(before[0][0])


def read_per_row(target: Target, batch: list[Row], *, run: str) -> float:
    """Rows of tables that are read to load a batch, for each row of it."""
    target.tracking(run)
    return read_by(target, lambda: target.load("patients", batch, run=run, batch="p001-b0000")) / _ROWS


def with_statistics_of_an_empty_entity(target: Target) -> None:
    """The id map has rows of another entity only, as the planner knows it."""
    target.load("profiles", [profile(key) for key in range(1, 501)], run="run-0")
    target.connection.execute(
        "ANALYZE migration.id_map, public.patients, migration.findings, migration.quarantine"
    )


@pytest.mark.parametrize("again", [False, True], ids=["new rows", "rows that are there"])
def test_no_batch_is_compared_with_each_of_its_rows(target: Target, again: bool) -> None:
    with_statistics_of_an_empty_entity(target)
    target.load("patients", rows(), run="run-1")
    second = rows() if again else rows(first=_ROWS + 1)
    assert read_per_row(target, second, run="run-2") < _MOST_READ_PER_ROW


_WHOLE = """SELECT relname, seq_scan::bigint FROM pg_stat_xact_all_tables
WHERE schemaname IN ('public', 'migration') AND seq_scan >= %s ORDER BY relname"""


def test_tables_that_were_vacuumed_empty_are_not_read_whole_for_each_row(target: Target) -> None:
    """The planner takes reading such a table for free; another worker may fill it meanwhile."""
    target.connection.execute("VACUUM (ANALYZE)")
    target.tracking("run-1")
    with target.connection.transaction():
        target.load("patients", rows(), run="run-1", batch="p001-b0000")
        assert target.connection.execute(_WHOLE, [_ROWS // 10]).fetchall() == []


_TOGETHER = 50


def test_what_is_recorded_of_some_files_does_not_cost_more_the_more_there_are(target: Target) -> None:
    target.connection.execute(
        "INSERT INTO migration.finding_kinds VALUES ('file_missing', '', '') ON CONFLICT DO NOTHING"
    )
    keys = range(1, _ROWS + 1)
    target.load(
        "projects", [project(key, legacy_uid=uid(key), storage_path=f"{key}/{uid(key)}") for key in keys]
    )
    target.api.call("plan_files", run="run-1", entity="projects")

    def missing(first: int) -> int:
        outcomes = [
            Outcome(str(key), f"{key}/{uid(key)}", Status.MISSING, finding="file_missing")
            for key in range(first, first + _TOGETHER)
        ]
        incoming = {"files": outcome_table(outcomes)}
        return read_by(
            target,
            lambda: target.api.call("record_files", incoming=incoming, run="run-1", entity="projects"),
        )

    read = [missing(first) for first in range(1, _ROWS, _TOGETHER)]
    assert max(read) < _TOGETHER * _MOST_READ_PER_ROW, read


def uid(number: int) -> str:
    return f"0d6e3f0a-6f0b-4c53-8f4e-{number:012d}"


# Refuses every row, and notes how many locks are held by then: a sequence remembers what is rolled back.
_REFUSE = """CREATE SEQUENCE public.most_locks MINVALUE 0 START 0;
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM setval('public.most_locks', greatest((SELECT last_value FROM public.most_locks), (SELECT count(*)
    FROM pg_catalog.pg_locks WHERE pid = pg_backend_pid())));
  RAISE check_violation;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON public.practices FOR EACH ROW EXECUTE FUNCTION public.refuse()"""


def test_the_locks_of_a_batch_do_not_grow_with_the_rows_that_are_refused(target: Target) -> None:
    """The server has room for some thousand; each table that is made holds some until the transaction ends."""
    target.connection.execute(_REFUSE)
    held = []
    for run, refused in (("run-1", 4), ("run-2", 64)):
        target.load("practices", [practice(key) for key in range(1, refused + 1)], run=run)
        assert len(target.quarantine("practices")) == refused
        held += target.all("SELECT last_value FROM public.most_locks")
    assert held[1][0] < 1.5 * held[0][0], held
