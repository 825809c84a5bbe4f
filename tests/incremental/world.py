"""A source, a target that was migrated from it before, and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from django.db import connections
from psycopg.types.json import Jsonb

from local.postgres import EmbeddedPostgres
from tests.end_to_end.conftest import READER
from tests.end_to_end.runs import Databases
from tests.incremental.compare import Target, differences, read, without
from tests.incremental.runner import FULL, INCREMENTAL, Outcome, dag_exists, run, run_in_child

NIGHTLY = INCREMENTAL if dag_exists(INCREMENTAL) else FULL
# In a small source a few orphans are a large share.
CONF: Mapping[str, Any] = {"dry_run": False, "max_rejected": 1.0}


@dataclass
class World:
    """The two databases of a test.

    Attributes:
        empty: makes an empty target, gives its name.
        deployed: the same with tables.
        copy: makes a copy of a target, gives its name.
    """

    source_name: str
    target_name: str
    empty: Callable[[], str]
    deployed: Callable[[], str]
    copy: Callable[[str], str]
    server: EmbeddedPostgres
    folder: Path

    @property
    def databases(self) -> Databases:
        """As the migration knows them."""
        return self._with_target(self.target_name)

    def night(self, environment: Mapping[str, str] | None = None, **conf: Any) -> Outcome:
        """A nightly run."""
        return run(NIGHTLY, self.databases, self.folder, environment=environment, **{**CONF, **conf})

    def nights_elsewhere(self, environment: Mapping[str, str]) -> list[str]:
        """A night in a process with other variables, and its differences from a fresh migration made there."""
        fresh = self._with_target(self.empty())
        orders = [
            {"dag_id": dag, "databases": asdict(databases), "folder": str(self.folder), **CONF}
            for dag, databases in ((NIGHTLY, self.databases), (FULL, fresh))
        ]
        run_in_child(environment, orders)
        return [str(found) for found in differences(read(self.databases.target), read(fresh.target))]

    def full(self, environment: Mapping[str, str] | None = None, **conf: Any) -> Outcome:
        """A full run into the same target."""
        return run(FULL, self.databases, self.folder, environment=environment, **{**CONF, **conf})

    def differences(self, expected: Target | None = None) -> list[str]:
        """How the target differs from what is expected: a fresh full migration of the source as it is now.

        Args:
            expected: what a fresh migration of another copy of the same source has, changed in the same way;
                only transaction ids differ, and row versions with them.
        """
        found = read(self.databases.target)
        if expected is not None:
            found = without(found, "source_version")
        return [str(difference) for difference in differences(found, expected or self.fresh())]

    def fresh(self) -> Target:
        """A full migration into an empty target. What it validates says nothing here: it is left out.

        It compares patients by the model that the target's runs have learnt, and knows what people decided: both are
        given to a run, and made by none anew.
        """
        fresh = self._with_target(self.deployed())
        with psycopg.connect(self.databases.target) as known, psycopg.connect(fresh.target) as empty:
            for table, chosen in (("match_models", "true"), ("duplicate_pairs", "t.decided_at IS NOT NULL")):
                rows = known.execute(f"SELECT to_jsonb(t) FROM migration.{table} t WHERE {chosen}".encode())
                copy = f"INSERT INTO migration.{table} SELECT * FROM jsonb_populate_record(NULL::migration.{table}, %s)"
                empty.cursor().executemany(copy.encode(), [[Jsonb(row)] for (row,) in rows])
        run(FULL, fresh, self.folder, without="validation", **CONF).raise_errors()
        return read(fresh.target)

    def assert_incremental(self, night: Outcome) -> None:
        """The run trusted row versions, and took up a part of the rows only; open transactions it may name."""
        if NIGHTLY == FULL:
            return
        source, selected = self.selected(night)
        assert set(self.notes(night)) <= {"horizon_held"}
        assert selected < source, "all rows were taken up"

    def selected(self, night: Outcome) -> tuple[int, int]:
        """Rows of the source, and rows that the run took up, of all entities."""
        ((source, selected),) = self.read(
            "SELECT sum(source_rows)::integer, sum(selected_rows)::integer FROM migration.plans"
            f" WHERE run_id = '{night.run_id}'"
        )
        return source, selected

    def notes(self, night: Outcome) -> list[str]:
        """Codes of what is to be known about a run, but for what every run says of files and duplicates."""
        query = (
            f"SELECT code FROM migration.run_notes WHERE run_id = '{night.run_id}'"
            " AND code NOT LIKE 'files\\_%' AND code NOT LIKE 'duplicates\\_%' ORDER BY 1"
        )
        return [code for (code,) in self.read(query)]

    def take_source_for_the_original(self) -> None:
        """Let the target remember this copy of the source instead of the database it was migrated from."""
        if NIGHTLY == FULL:
            return
        ((oid,),) = self.databases.read(
            "SELECT oid::bigint FROM pg_database WHERE datname = current_database()", source=True
        )
        with psycopg.connect(self.databases.target) as connection:
            connection.execute(
                "UPDATE migration.runs SET source_identity = source_identity || %s",
                [Jsonb({"database_oid": oid})],
            )

    def with_copied_target(self) -> World:
        """The same source, and a target of its own."""
        return replace(self, target_name=self.copy(self.target_name))

    def forget_target(self) -> None:
        """Go on with an empty target."""
        self.target_name = self.empty()

    def read(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the target."""
        return self.databases.read(query)

    def source_sql(self, *statements: str) -> None:
        """Statements that Django would not write, each in a transaction of its own (or in none: VACUUM)."""
        with psycopg.connect(self.databases.source_admin, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def target_sql(self, *statements: str) -> None:
        """Statements in the target, in one transaction.

        Raises:
            AssertionError: one touched no row.
        """
        with psycopg.connect(self.databases.target) as connection:
            for statement in statements:
                assert connection.execute(statement.encode()).rowcount, statement

    def move_source(self, name: str) -> None:
        """Go on with another database as the source."""
        connections["default"].close()
        connections["default"].settings_dict["NAME"] = name
        self.source_name = name

    def _with_target(self, name: str) -> Databases:
        return Databases(
            source=self.server.dsn(self.source_name, role=READER),
            target=self.server.dsn(name, role="postgres"),
            source_admin=self.server.dsn(self.source_name),
        )
