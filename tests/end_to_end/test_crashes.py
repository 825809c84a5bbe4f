"""A run is killed without warning, at every kind of moment; whoever takes over comes to the same end.

Each crash kills the process in which Airflow runs the DAG (`crashing`), at a batch that the seed chooses, and
compares what the next run leaves with what an uninterrupted one does (`crash_matrix`). ``make test-crash
SEEDS=20`` makes more crashes than ``make test``.
"""

from __future__ import annotations

import queue
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from local.legacy_source import fill
from local.postgres import EmbeddedPostgres
from tests.conftest import CRASH_POINT, fresh_database
from tests.end_to_end.airflow_worker import DAG_ID
from tests.end_to_end.conftest import READER, allow_reading
from tests.end_to_end.crash_matrix import SIZE, SOURCE_SEED, Killed, Matrix
from tests.end_to_end.crashing import POINTS
from tests.end_to_end.runs import Airflow, airflow_home
from tests.incremental.compare import differences

INCREMENTAL = "mdw_incremental_migration"
AT_ONCE = 2

# What happens in the source between the full run and the incremental one.
CHANGES = (
    "UPDATE auth_user SET first_name = first_name || 'a' WHERE id % 2 = 0",
    "UPDATE dispatch_patient SET updated_at = updated_at - interval '3 years' WHERE id % 3 = 0",
    "UPDATE dispatch_instruction SET notes = coalesce(notes, '') || ' Once more.' WHERE id % 3 > 0",
    "UPDATE dispatch_course SET name = name || ' II'",
    "UPDATE dispatch_project SET name = name || ' B', size = size + 1 WHERE id % 2 = 0",
    "UPDATE dispatch_state SET changed_at = changed_at + interval '1 hour' WHERE id % 2 = 0",
    "UPDATE dispatch_template SET task_name = task_name || ' again' WHERE id % 3 = 0",
    "UPDATE dispatch_task SET done_at = done_at + interval '5 minutes' WHERE id % 2 = 0",
    'INSERT INTO dispatch_state (status, "on", changed_at, actor_id, instruction_id)'
    " SELECT status, \"on\", changed_at + interval '1 day', actor_id, instruction_id FROM dispatch_state"
    " WHERE id % 3 = 0",
    "DELETE FROM dispatch_state WHERE id = (SELECT min(id) FROM dispatch_state)",
    "DELETE FROM dispatch_patient WHERE id = (SELECT min(id) FROM dispatch_patient)",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """As many crashes of each kind as the command line wants."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(metafunc.config.getoption("--crash-seeds")))


@pytest.fixture(scope="module")
def matrix(
    server: EmbeddedPostgres,
    airflow: Airflow,
    metadata_template: Path,
    target_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Matrix]:
    """Two Airflows that have run already, and the uninterrupted runs to compare with."""
    server.create_login(READER)
    with ExitStack() as stack:

        def copy(template: str | None, owner: str | None = None) -> str:
            owned = {} if owner is None else {"owner": owner}
            return stack.enter_context(fresh_database(server, template=template, **owned))

        def make_target(template: str) -> str:
            return copy(template, "postgres")

        second = stack.enter_context(airflow_home(tmp_path_factory.mktemp("second"), metadata_template))
        made = Matrix(server, make_target, tmp_path_factory.mktemp("texts"), queue.SimpleQueue())
        source = copy(None)
        fill(server.dsn(source), SIZE, SOURCE_SEED, progress=lambda _: None)
        allow_reading(server.dsn(source))
        made.scenarios.append(made.uninterrupted(airflow, DAG_ID, source, target_template))
        changing = copy(source)
        allow_reading(server.dsn(changing))
        migrated = made.migrated(airflow, changing, target_template)
        change(server.dsn(changing))
        made.scenarios.append(made.uninterrupted(second, INCREMENTAL, changing, migrated))
        for idle in (airflow, second):
            made.idle.put(idle)
        yield made


def change(source: str) -> None:
    """A day's work."""
    with psycopg.connect(source) as connection:
        for statement in CHANGES:
            assert connection.execute(statement.encode()).rowcount > 0, statement


Crashes = Callable[[str, int], Killed]


@pytest.fixture(scope="module")
def crashes(request: pytest.FixtureRequest, matrix: Matrix) -> Iterator[Crashes]:
    """What became of each crash; those that the session wants are made side by side."""
    wanted = [
        (item.callspec.params["point"], item.callspec.params["seed"])
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        made: dict[tuple[str, int], Future[Killed]] = {
            (point, seed): pool.submit(matrix.kill, point, seed) for point, seed in wanted
        }
        yield lambda point, seed: made[point, seed].result()
        for future in made.values():
            future.cancel()


@pytest.mark.parametrize("point", POINTS)
def test_survives(
    point: str, seed: int, crashes: Crashes, record_property: Callable[[str, object], None]
) -> None:
    record_property(CRASH_POINT, seed)
    killed = crashes(point, seed)
    where = f"{killed.scenario.dag_id}, {killed.crash.entity} {killed.crash.place}"
    assert (killed.outcome.state, killed.outcome.signal) == ("killed", signal.SIGKILL), (
        f"{where} was never reached: {killed.outcome.state}\n{killed.outcome.log[-4000:]}"
    )
    assert killed.in_the_middle, where
    expected = killed.scenario.expected
    assert killed.resumed
    for way, result in killed.resumed.items():
        assert result.state == "success", f"{where}, {way}\n{result.log[-4000:]}"
        different = differences(result.target, expected.target)
        assert not different, f"{where}, {way}: {len(different)} differ: {different[:3]}"
        assert result.deleted == expected.deleted, f"{where}, {way}"
        assert result.fates == expected.fates, f"{where}, {way}"
        repeated = {text for text, times in result.texts.items() if times > 1}
        # What was answered is on disk before the target gets it.
        assert not repeated, f"{where}, {way}"
        assert result.texts.keys() == expected.texts.keys(), f"{where}, {way}"


def test_the_uninterrupted_runs_have_something_to_lose(matrix: Matrix) -> None:
    """Merged patients, quarantined rows, findings, several batches and requests, and nothing sent twice."""
    for scenario in matrix.scenarios:
        assert scenario.expected.state == "success", scenario.expected.log[-4000:]
        tables = scenario.expected.target.tables
        for table in ("merges", "quarantine", "findings", "duplicate_pairs"):
            assert tables[f"migration.{table}"], (scenario.dag_id, table)
        for phase in ("extraction", "loading"):
            several = {
                entity for (known, entity), names in scenario.batches.items() if known == phase and names[1:]
            }
            assert len(several) > 4, (scenario.dag_id, phase, several)
        assert len(scenario.requests) == 3
        assert set(scenario.expected.texts.values()) == {1}
