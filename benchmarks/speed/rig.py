"""The databases of the speed benchmarks: a synthetic source and a target that has its patients still to come."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from benchmarks.incremental import Progress, make_source, make_target
from benchmarks.speed.pipeline import opened, workers
from local.databases import LEGACY, OWNER, READER, TARGET, legacy_dsn, target_dsn
from local.deployment import deploy
from local.environment import State, airflow_settings, connection_variable
from local.postgres import EmbeddedPostgres

SERVER_SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    # A vacuum in the middle of one measurement and not of the other would say nothing of either.
    "autovacuum": "off",
}
PREPARED = "prepared"
"""A target with all that patients refer to; every measurement begins with a copy of it."""
_PARENTS = ("practices", "profiles")
# What peers carry: the rows that patients are made of, joined.
_JOIN = """CREATE VIEW patient_join AS
SELECT t.id, t.user_id, t.doctor_id, t.office_id, t.birthdate, t.sex, t.status, t.archived, t.suspended, t.schemes,
  t.suffix, t.submitted_at, t.updated_at, u.first_name, u.last_name, u.email
FROM dispatch_patient t LEFT JOIN auth_user u ON u.id = t.user_id;
GRANT SELECT ON patient_join TO {}"""


@dataclass(frozen=True)
class Rig:
    """A running server with both databases, known to this process and its children by the environment.

    Attributes:
        rows: patients of the source.
    """

    server: EmbeddedPostgres
    state: State
    rows: int

    def fresh_target(self, template: str = PREPARED) -> str:
        """A new copy of the target, all of it on disk; returns its address."""
        self.server.drop_database(TARGET)
        self.server.create_database(TARGET, template, owner=OWNER)
        shutil.rmtree(self.state.staging, ignore_errors=True)
        self.state.create()
        self.settle()
        return target_dsn(self.server)

    def settle(self) -> None:
        """Have what was written so far on disk: what comes next is not to pay for it."""
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            connection.execute("CHECKPOINT")

    @property
    def source(self) -> str:
        """Address of the source as the migration knows it."""
        return legacy_dsn(self.server)

    def admin(self, database: str = TARGET) -> str:
        """Address of a database for the cluster's superuser."""
        return self.server.dsn(database)


@contextmanager
def rig(state: State, rows: int, progress: Progress) -> Iterator[Rig]:
    """A server with so many users and as many patients, and the prepared target; stopped behind the block."""
    state.create()
    # What the steps say of their progress is not what is measured.
    logging.getLogger("mdw_migration").setLevel(logging.ERROR)
    os.environ.update({**airflow_settings(state), "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"})
    with EmbeddedPostgres(state.postgres, settings=SERVER_SETTINGS) as server:
        for login in (READER, OWNER):
            server.create_login(login)
        made = Rig(server, state, rows)
        os.environ["AIRFLOW_CONN_LEGACY_MDW"] = connection_variable(legacy_dsn(server))
        os.environ["AIRFLOW_CONN_SUPABASE_DB"] = connection_variable(target_dsn(server))
        make_source(server, rows)
        with psycopg.connect(server.dsn(LEGACY)) as connection:
            connection.execute(_JOIN.format(READER).encode())
        progress(f"source: {rows:,} users and as many patients")
        _prepare(made)
        progress("target: all that patients refer to is loaded")
        yield made


def _prepare(made: Rig) -> None:
    """Load the parents, and keep the target as it is then."""
    make_target(made.server)
    deploy(target_dsn(made.server))
    with opened("parents"), workers(1) as one:
        for entity in _PARENTS:
            one.migrate("parents", entity, {})
    with psycopg.connect(made.admin(), autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
    made.server.drop_database(PREPARED)
    made.server.create_database(PREPARED, TARGET, owner=OWNER)
