"""Transactions that are open while the migration reads: their rows must not be forgotten when they commit.

Each runs in a session of its own beside the one of `default`, over as many nights as it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.db import connections, transaction

from tests.incremental.scenarios import Steps, arrives, scenario, stays
from tests.incremental.source import START, Office, Patient, Project, State
from tests.incremental.world import World

_BEFORE, _AFTER = ("00BB", 0), ("late", 1)


@contextmanager
def _session(name: str) -> Iterator[str]:
    """An alias of another session in the same database."""
    connections.settings[name] = {**connections["default"].settings_dict}
    try:
        yield name
    finally:
        connections[name].close()
        del connections[name], connections.settings[name]


def _write(session: str, place: int) -> None:
    """One insert, one update."""
    State.objects.using(session).create(status=11, on=True, changed_at=START, instruction_id=place)
    Patient.objects.using(session).filter(pk=place).update(suffix="late")


def _seen(place: int) -> str:
    """What the target has of them."""
    return (
        f"SELECT (SELECT suffix FROM public.patients WHERE legacy_patient_id = {place}),"
        f" (SELECT count(*) FROM public.instruction_states WHERE legacy_instruction_id = {place})"
    )


def _others_write() -> None:
    """Another session commits while ours is open: its transaction is younger and ends earlier."""
    Office.objects.filter(pk=5).update(city=f"City {Office.objects.get(pk=5).city}"[-50:])


@scenario
def commit_behind_the_run(world: World) -> Steps:
    with _session("behind") as session:
        with transaction.atomic(session):
            _write(session, 23)
            _others_write()
            yield stays(_seen(23), _BEFORE, compared=False)
        yield arrives(_seen(23), _AFTER)


@scenario
def commit_two_runs_later(world: World) -> Steps:
    with _session("long") as session:
        with transaction.atomic(session):
            _write(session, 24)
            _others_write()
            yield stays(_seen(24), _BEFORE, compared=False)
            _others_write()
            yield stays(_seen(24), _BEFORE, compared=False)
        _others_write()
        yield arrives(_seen(24), _AFTER)


@scenario
def savepoint_released(world: World) -> Steps:
    """Rows written within a savepoint carry a transaction id of their own, younger than the transaction's."""
    with _session("released") as session:
        with transaction.atomic(session):
            Office.objects.using(session).filter(pk=2).update(city="Lima")
            with transaction.atomic(session):
                _others_write()
                _write(session, 25)
            yield stays(_seen(25), _BEFORE, compared=False)
        yield arrives(
            f"{_seen(25)}, (SELECT address ->> 'city' FROM public.practices WHERE legacy_office_id = 2)",
            (*_AFTER, "Lima"),
        )


@scenario
def savepoint_rolled_back(world: World) -> Steps:
    with _session("back") as session:
        with transaction.atomic(session):
            Office.objects.using(session).filter(pk=3).update(city="Quito")
            inner = transaction.savepoint(session)
            _write(session, 26)
            yield stays(_seen(26), _BEFORE, compared=False)
            transaction.savepoint_rollback(inner, session)
            Project.objects.using(session).filter(pk=5).update(size=5)
        yield arrives(
            f"{_seen(26)}, (SELECT address ->> 'city' FROM public.practices WHERE legacy_office_id = 3),"
            " (SELECT file_size FROM public.projects WHERE legacy_project_id = 5)",
            (*_BEFORE, "Quito", 5),
        )


@scenario
def rolled_back(world: World) -> Steps:
    """Updates, deletes and locks of a transaction that comes to nothing."""
    with _session("nothing") as session:
        transaction.set_autocommit(False, session)
        _write(session, 27)
        State.objects.using(session).filter(pk=1).delete()
        yield stays(_seen(27), _BEFORE, compared=False)
        transaction.rollback(session)
        Patient.objects.filter(pk=41).update(suffix="fast")
        yield arrives("SELECT suffix FROM public.patients WHERE legacy_patient_id = 41", ("fast",))
        assert world.read(_seen(27)) == [_BEFORE]


@scenario
def rows_locked_during_the_run(world: World) -> Steps:
    """A locked row is read as it is; the locker's id is not the writer's."""
    with _session("locks") as session, transaction.atomic(session):
        Project.objects.filter(pk=6).update(size=6)
        list(Project.objects.using(session).select_for_update().filter(pk__in=(6, 7)))
        yield arrives(
            "SELECT file_size FROM public.projects WHERE legacy_project_id = 6", (6,), compared=False
        )


@scenario
def deleted_in_an_open_transaction(world: World) -> Steps:
    query = "SELECT state FROM migration.id_map WHERE entity = 'instruction_states' AND legacy_id = '7'"
    with _session("deletes") as session:
        with transaction.atomic(session):
            State.objects.using(session).filter(pk=7).delete()
            yield stays(query, ("live",), compared=False)
        yield arrives(query, ("deleted",))


@scenario
def many_savepoints(world: World) -> Steps:
    """More subtransactions than a session keeps in shared memory (64)."""
    query = "SELECT count(*) FROM public.instruction_states WHERE legacy_instruction_id = 28"
    with _session("many") as session:
        with transaction.atomic(session):
            for number in range(70):
                with transaction.atomic(session):
                    State.objects.using(session).create(
                        status=11, on=True, changed_at=START + timedelta(minutes=number), instruction_id=28
                    )
            yield stays(query, (0,), compared=False)
        yield arrives(query, (70,))


@scenario
def written_twice_by_open_transactions(world: World) -> Steps:
    """The row was changed before, by a transaction that ended; the open one overwrites it."""
    query = "SELECT suffix FROM public.patients WHERE legacy_patient_id = 29"
    with _session("twice") as session:
        Patient.objects.filter(pk=29).update(suffix="one")
        with transaction.atomic(session):
            Patient.objects.using(session).filter(pk=29).update(suffix="two")
            yield arrives(query, ("one",), compared=False)
        yield arrives(query, ("two",))
