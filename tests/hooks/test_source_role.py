"""The legacy role: whether it sees every row, and whether it may do more than read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from include.core.errors import MigrationError
from include.core.spec import Entity, Kind, Source, Table
from local.environment import connection_variable
from local.postgres import EmbeddedPostgres
from plugins.hooks.legacy_mdw import LegacyMdwHook
from plugins.hooks.source_role import SourceRole

# Has to be quoted in a statement.
READER = "legacy-reader"
OTHER = "legacy_owner"
TABLES = ["office", "patient", "no_such_table"]
PATIENTS = Entity("patient", Source((Table("patient", "t", {"id": Kind.INTEGER}),)), ())


@pytest.fixture
def source(server: EmbeddedPostgres, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Superuser's DSN of a source with two tables of another role, which the reader may select from."""
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    for role in (READER, OTHER):
        server.create_login(role)
    monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(server.dsn(str(name), role=READER)))
    run(
        database,
        "CREATE TABLE office (id int); CREATE TABLE patient (id int, name text); CREATE TABLE notes (id int);"
        "INSERT INTO patient SELECT generate_series(1, 3);"
        f'GRANT SELECT ON office, patient TO "{READER}"; ALTER TABLE office OWNER TO {OTHER};'
        f"ALTER TABLE patient OWNER TO {OTHER}; GRANT CREATE ON SCHEMA public TO {OTHER}",
    )
    yield database
    run(database, f'ALTER ROLE "{READER}" NOSUPERUSER NOBYPASSRLS; REVOKE {OTHER} FROM "{READER}"')


def run(dsn: str, statements: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(statements.encode())


def role() -> SourceRole:
    with LegacyMdwHook().snapshot() as snapshot:
        return snapshot.role(TABLES)


def count() -> int:
    with LegacyMdwHook().snapshot() as snapshot:
        return snapshot.count(PATIENTS)


@pytest.mark.usefixtures("source")
def test_a_role_that_only_reads_is_not_worth_a_note() -> None:
    found = role()
    found.refuse_row_security()
    assert (found.name, found.notes) == (f'"{READER}"', [])


@pytest.mark.parametrize(
    ("granted", "rights"),
    [
        ("GRANT INSERT ON patient TO {0}", "INSERT on 1 table"),
        ("GRANT UPDATE (name) ON patient TO {0}", "UPDATE on 1 table"),
        ("GRANT DELETE, TRUNCATE ON patient, office TO PUBLIC", "DELETE on 2 tables, TRUNCATE on 2 tables"),
        (
            "GRANT legacy_owner TO {0}",
            "it owns 2 tables, INSERT on 2 tables, UPDATE on 2 tables, DELETE on 2 tables, TRUNCATE on 2 tables",
        ),
        ("ALTER ROLE {0} SUPERUSER", "it is a superuser"),
    ],
)
def test_what_it_may_do_beyond_reading_is_named(source: str, granted: str, rights: str) -> None:
    run(source, granted.format(f'"{READER}"'))
    (note,) = role().notes
    assert (note.code, note.facts["rights"]) == ("source_role_writes", rights)
    assert READER in note.text


@pytest.mark.parametrize("granted", ["GRANT INSERT ON notes TO {0}", "GRANT REFERENCES ON patient TO {0}"])
def test_other_tables_and_harmless_rights_are_its_own_affair(source: str, granted: str) -> None:
    run(source, granted.format(f'"{READER}"'))
    assert role().notes == []


def test_that_it_may_create_is_only_mentioned(source: str) -> None:
    run(source, "GRANT CREATE ON SCHEMA public TO PUBLIC")
    (note,) = role().notes
    assert (note.code, note.kind.severity) == ("source_role_creates", "info")
    assert "public" in note.text


POLICY = "ALTER TABLE patient ENABLE ROW LEVEL SECURITY"


def test_a_role_under_row_security_is_refused_with_the_way_out(source: str) -> None:
    run(source, POLICY)
    with pytest.raises(MigrationError) as caught:
        role().refuse_row_security()
    assert caught.value.code == "SOURCE_ROW_SECURITY"
    tables, _, statement = caught.value.detail.partition(" The statement: ")
    assert tables == "Tables: patient."
    run(source, statement)
    role().refuse_row_security()
    assert count() == 3


@pytest.mark.parametrize(
    ("change", "hidden"),
    [
        ("GRANT legacy_owner TO {0}", ()),
        ("GRANT legacy_owner TO {0}; ALTER TABLE patient FORCE ROW LEVEL SECURITY", ("patient",)),
        ("ALTER ROLE {0} BYPASSRLS; ALTER TABLE patient FORCE ROW LEVEL SECURITY", ()),
        ("ALTER ROLE {0} SUPERUSER", ()),
        ("CREATE POLICY everything ON patient USING (true)", ("patient",)),
        (
            "ALTER TABLE patient DISABLE ROW LEVEL SECURITY; CREATE POLICY nothing ON patient USING (false)",
            (),
        ),
    ],
)
def test_who_is_under_row_security(source: str, change: str, hidden: tuple[str, ...]) -> None:
    run(source, f"{POLICY}; {change}".format(f'"{READER}"'))
    assert role().hidden == hidden
    if not hidden:
        assert count() == 3


def refused(read: Callable[[], int]) -> None:
    with pytest.raises(MigrationError) as caught:
        read()
    assert (caught.value.code, caught.value.facts["sqlstate"]) == ("SOURCE_QUERY_FAILED", "42501")


def test_rows_that_a_policy_hides_are_never_missing_in_silence(source: str) -> None:
    """Also where the look beforehand cannot know: behind a view, or switched on after it."""
    run(source, POLICY)
    with psycopg.connect(source) as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(READER)))
        assert connection.execute("SELECT count(*) FROM patient").fetchone() == (0,)
    refused(count)
    run(
        source,
        "ALTER TABLE patient RENAME TO hidden; ALTER TABLE hidden FORCE ROW LEVEL SECURITY;"
        f"CREATE VIEW patient AS SELECT * FROM hidden; ALTER VIEW patient OWNER TO {OTHER};"
        f'GRANT SELECT ON patient TO "{READER}"',
    )
    assert role().hidden == ()
    refused(count)
