"""A source whose tables Django itself made and filled, with people of a published data set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

import pytest

from local.environment import PROJECT
from local.postgres import EmbeddedPostgres
from tests.end_to_end.conftest import MakeDatabases
from tests.end_to_end.content import EMBEDDINGS, SOURCE_KEYS, assert_all_accounted, content
from tests.end_to_end.legacy_django.febrl import people
from tests.end_to_end.runs import Airflow, Databases, Outcome


@dataclass(frozen=True)
class Migrated:
    databases: Databases
    outcome: Outcome


@pytest.fixture(scope="module")
def migrated(server: EmbeddedPostgres, make_databases: MakeDatabases, airflow: Airflow) -> Migrated:
    """One full migration, everything on."""
    name = "django_source"
    dsn = server.create_database(name)
    done = subprocess.run(  # noqa: S603 - a fixed command
        [sys.executable, "-m", "tests.end_to_end.legacy_django.fill", dsn],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    databases = make_databases(name)
    # Half of these people are duplicates on purpose.
    return Migrated(databases, airflow.run(databases, dry_run=False, approve_merged_above=1.0))


def test_the_run_succeeds_with_every_check(migrated: Migrated) -> None:
    assert migrated.outcome.state == "success", migrated.outcome.log[-6000:]
    assert migrated.outcome.report is not None
    assert migrated.outcome.report["checks"]["not_passed"] == []


@pytest.mark.parametrize("entity", sorted(SOURCE_KEYS))
def test_every_source_key_is_accounted_for(migrated: Migrated, entity: str) -> None:
    assert_all_accounted(migrated.databases, entity)
    assert migrated.outcome.fates()[entity]["inserted"] > 0


def test_django_keeps_its_references_so_nothing_is_quarantined(migrated: Migrated) -> None:
    assert migrated.databases.read("SELECT entity, code FROM migration.quarantine") == []


def test_names_and_birth_dates_are_those_of_the_file(migrated: Migrated) -> None:
    stored = migrated.databases.read(
        "SELECT u.username, p.first_name, p.last_name, p.date_of_birth, u.first_name, u.last_name"
        " FROM public.patients p JOIN public.profiles u ON u.id = p.profile_id"
    )
    file = people()
    assert len(file) == 1_000
    assert Counter(person.birth_date is None for person in file)[True] > 10
    assert sorted(stored) == sorted(
        (p.record, p.first_name, p.last_name, p.birth_date, p.first_name, p.last_name) for p in file
    )


def test_merged_people_are_the_same_person_in_truth(migrated: Migrated) -> None:
    """The record ids say who is who: rec-122-org and rec-122-dup-0 are one person. Half need no review."""
    merged = migrated.databases.read(
        "SELECT a.username, b.username FROM public.patients p JOIN public.patients s ON s.id = p.merged_into"
        " JOIN public.profiles a ON a.id = p.profile_id JOIN public.profiles b ON b.id = s.profile_id"
    )
    assert len(merged) > 250
    assert [pair for pair in merged if pair[0].split("-")[1] != pair[1].split("-")[1]] == []


def test_what_django_calls_its_columns_is_what_is_read(migrated: Migrated) -> None:
    """Links that Django names itself: doctors of an office, roles, groups and predecessors of a template."""
    read = migrated.databases.read
    assert read("SELECT count(*) FROM public.practice_members") == [(9,)]
    last = read(
        "SELECT required_roles, metadata -> 'view_group_ids', cardinality(predecessor_tasks), extensions"
        " FROM public.workflow_template_tasks WHERE task_name = 'Step 11'"
    )
    assert last == [(["Designer", "Technician"], [2], 1, [".stl", ".ply"])]
    assert read("SELECT role, count(*) FROM public.profiles GROUP BY role ORDER BY role") == [
        ("doctor", 9),
        ("patient", 1_000),
    ]


def test_instants_are_kept_though_the_project_runs_in_another_zone(migrated: Migrated) -> None:
    query = "SELECT {id}, {stamp} FROM {table} ORDER BY 1"
    legacy = migrated.databases.read(
        query.format(id="id", stamp="changed_at", table="dispatch_state"), source=True
    )
    assert legacy[0][1].microsecond == 123456
    assert legacy == migrated.databases.read(
        query.format(id="legacy_state_id", stamp="changed_at", table="public.instruction_states")
    )


def test_every_document_has_a_vector(migrated: Migrated) -> None:
    rows = content(migrated.databases).rows
    assert [rows[table] for table in EMBEDDINGS] == [300, 400, 12]
