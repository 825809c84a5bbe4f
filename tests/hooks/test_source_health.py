"""Every check of the legacy database, provoked in a real one; and that nothing is written there."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from include.core.mapping import configuration
from include.core.preflight import Outcome, Status, run_check
from include.entities import ENTITIES
from include.synthetic.sizes import SourceSize
from local.environment import connection_variable
from local.legacy_source import fill
from local.postgres import EmbeddedPostgres
from plugins.hooks.connect import SOURCE
from plugins.hooks.session_health import HealthSession, encryption, opened
from plugins.hooks.source_data_health import CODES, JSON_TEXTS, PARENTS, SourceDataChecks, declared_columns
from plugins.hooks.source_health import SourceChecks, standby
from tests.conftest import fresh_database
from tests.hooks.test_legacy_mdw import NOT_IN_9_5, WRITES, sessions_in_log

READER = "health-reader"
OWNER = "health_owner"
# The synthetic source is so on purpose.
DIRTY = {"source.references", "source.codes", "source.text", "source.accounts"}
Check = Callable[[], Outcome]


@pytest.fixture(scope="module")
def template(server: EmbeddedPostgres) -> Iterator[str]:
    """Name of a filled source; nobody is connected to it."""
    server.create_login(READER)
    server.create_login(OWNER)
    with fresh_database(server) as name:
        fill(server.dsn(name), SourceSize.real().scaled(60), 1, lambda _: None)
        yield name


@pytest.fixture
def admin(
    server: EmbeddedPostgres, template: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[psycopg.Connection[Any]]:
    """The superuser in a source of the test's own, which connection `legacy_mdw` reads as a role with SELECT."""
    with fresh_database(server, template=template) as name:
        monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(server.dsn(name, role=READER)))
        with psycopg.connect(server.dsn(name), autocommit=True) as connection:
            connection.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{READER}"'.encode())
            yield connection
            connection.execute(f'ALTER ROLE "{READER}" NOSUPERUSER NOBYPASSRLS'.encode())


@contextmanager
def asked(**limits: float) -> Iterator[dict[str, Check]]:
    """Every check of the source, by name."""
    with opened(SOURCE, **limits) as session:
        yield checks_of(session)


def checks_of(session: HealthSession) -> dict[str, Check]:
    server, data = (kind(session, ENTITIES.values()) for kind in (SourceChecks, SourceDataChecks))
    named: dict[str, Check] = {"source.encryption": lambda: encryption(session)}
    for checks in (server, data):
        names = (name for name in vars(type(checks)) if not name.startswith("_"))
        named |= {f"source.{name}": getattr(checks, name) for name in names}
    return named


def outcome(name: str, **limits: float) -> Any:
    with asked(**limits) as checks:
        return run_check(name, checks[name])


def test_the_synthetic_source_has_nothing_that_fails(admin: psycopg.Connection[Any]) -> None:
    with asked() as checks:
        found = {name: run_check(name, check) for name, check in checks.items()}
    assert {name for name, result in found.items() if result.status is not Status.PASS} <= DIRTY
    assert {result.status for result in found.values()} == {Status.PASS, Status.WARN}
    rows = found["source.rows"].facts
    (patients,) = admin.execute("SELECT count(*) FROM dispatch_patient").fetchone() or (0,)
    assert rows["rows"]["dispatch_patient"] == patients > 0
    assert rows["bytes"]["dispatch_patient"] > 0


def test_only_selects_of_9_5_are_sent_in_read_only_transactions(
    server: EmbeddedPostgres, admin: psycopg.Connection[Any]
) -> None:
    log = server.folder / "server.log"
    name = sql.Identifier(admin.info.dbname)
    admin.execute(sql.SQL("ALTER DATABASE {} SET log_statement = 'all'").format(name))
    begin = len(log.read_text(encoding="utf-8"))
    with asked() as checks:
        for check in checks.values():
            check()
    sent = [text for statements in sessions_in_log(log, begin).values() for text in statements]
    assert len(sent) > 100
    for statement in sent:
        kind = (
            r"(SELECT|WITH open AS|SET LOCAL [^;]*(; SET LOCAL [^;]*)*$|BEGIN READ ONLY$|COMMIT$|ROLLBACK$)"
        )
        assert re.match(kind, statement), statement
        # Names of privileges come as parameters, which this server writes beside the statement.
        assert not re.search(WRITES, statement, re.IGNORECASE), statement
        for construct, pattern in NOT_IN_9_5.items():
            assert not re.search(pattern, statement, re.IGNORECASE), (construct, statement)


def test_a_session_cannot_write_whatever_its_role_may(admin: psycopg.Connection[Any]) -> None:
    admin.execute(f'ALTER ROLE "{READER}" SUPERUSER'.encode())
    with opened(SOURCE) as session:
        with pytest.raises(Exception, match="sqlstate=25006"):
            session.ask("DELETE FROM dispatch_task RETURNING id")
        assert session.single("SELECT 1") == 1


class TestServer:
    @pytest.mark.parametrize(
        ("grant", "fix"),
        [
            ("GRANT INSERT ON dispatch_task TO {0}", "REVOKE INSERT ON dispatch_task FROM {0};"),
            (
                "GRANT UPDATE (name), DELETE ON dispatch_office TO PUBLIC",
                "REVOKE DELETE, UPDATE ON dispatch_office FROM PUBLIC;",
            ),
        ],
    )
    def test_rights_to_write_are_named_with_their_revoke(
        self, admin: psycopg.Connection[Any], grant: str, fix: str
    ) -> None:
        role = f'"{READER}"'
        admin.execute(grant.format(role).encode())
        found = outcome("source.role")
        assert (found.status, found.fix) == (Status.WARN, fix.format(role))
        admin.execute(found.fix.encode())
        assert outcome("source.role").status is Status.PASS

    def test_a_superuser_and_an_owner_are_told_how_to_make_a_reader(
        self, admin: psycopg.Connection[Any]
    ) -> None:
        admin.execute(f'ALTER TABLE dispatch_jaw OWNER TO "{READER}"'.encode())
        assert "owns 1 of the tables" in outcome("source.role").why
        admin.execute(f'ALTER ROLE "{READER}" SUPERUSER'.encode())
        found = outcome("source.role")
        assert "superuser" in found.why
        assert found.fix.startswith("CREATE ROLE mdw_reader LOGIN")
        assert "GRANT SELECT ON auth_user, " in found.fix

    def test_missing_rights_are_named_with_their_grant(self, admin: psycopg.Connection[Any]) -> None:
        admin.execute(f'REVOKE SELECT ON dispatch_jaw, dispatch_task FROM "{READER}"'.encode())
        found = outcome("source.select")
        assert (found.status, found.fix) == (
            Status.FAIL,
            f'GRANT SELECT ON dispatch_jaw, dispatch_task TO "{READER}";',
        )
        admin.execute(found.fix.encode())
        assert outcome("source.select").status is Status.PASS

    def test_a_schema_out_of_sight_is_not_mistaken_for_missing_tables(
        self, admin: psycopg.Connection[Any]
    ) -> None:
        admin.execute("CREATE SCHEMA mdw")
        admin.execute("ALTER TABLE dispatch_course SET SCHEMA mdw")
        found = outcome("source.select")
        assert (found.status, "mdw.dispatch_course" in found.why) == (Status.FAIL, True)
        assert found.fix.startswith(f'GRANT USAGE ON SCHEMA mdw TO "{READER}";')

    def test_row_security_that_would_hide_rows(self, admin: psycopg.Connection[Any]) -> None:
        admin.execute("ALTER TABLE dispatch_patient ENABLE ROW LEVEL SECURITY")
        found = outcome("source.row_security")
        assert (found.status, found.fix) == (Status.FAIL, f'ALTER ROLE "{READER}" BYPASSRLS;')
        # The other checks say that they could not look, and ask the other tables.
        codes = outcome("source.codes")
        assert "Not known: gender may not be read." in codes.why
        assert "source.select names missing rights" in codes.fix
        admin.execute(found.fix.encode())
        assert outcome("source.row_security").status is Status.PASS

    def test_drift(self, admin: psycopg.Connection[Any]) -> None:
        admin.execute("ALTER TABLE dispatch_patient DROP COLUMN suffix")
        admin.execute("DROP TABLE dispatch_template_products")
        admin.execute("ALTER TABLE dispatch_office ALTER valid TYPE integer USING valid::int")
        found = outcome("source.columns")
        assert found.status is Status.FAIL
        for part in ("dispatch_patient.suffix", "table dispatch_template_products", "dispatch_office.valid"):
            assert part in found.why
        # What is gone is left out of the checks of rows.
        assert outcome("source.references").status is Status.WARN
        assert "dispatch_template_products" not in outcome("source.rows").facts["rows"]

    def test_open_transactions_are_named_with_the_statement_that_ends_them(
        self, server: EmbeddedPostgres, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with psycopg.connect(server.dsn(admin.info.dbname)) as writer:
            writer.execute("UPDATE dispatch_office SET apt = apt")
            monkeypatch.setattr(
                "plugins.hooks.source_health.read_holders.__kwdefaults__",
                {"older_than_seconds": 0, "older_than_transactions": -1, "open_since": None, "at_most": 10},
            )
            found = outcome("source.transactions")
            assert (found.status, found.fix) == (
                Status.WARN,
                f"SELECT pg_terminate_backend({writer.info.backend_pid});",
            )
            writer.rollback()

    def test_a_prepared_transaction_is_named_too(
        self, server: EmbeddedPostgres, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with psycopg.connect(server.dsn(admin.info.dbname)) as writer:
            writer.execute("UPDATE dispatch_office SET apt = apt")
            writer.execute("PREPARE TRANSACTION 'left behind'")
        monkeypatch.setattr(
            "plugins.hooks.source_health.read_holders.__kwdefaults__",
            {"older_than_seconds": 0, "older_than_transactions": -1, "open_since": None, "at_most": 10},
        )
        try:
            found = outcome("source.transactions")
        finally:
            admin.execute("ROLLBACK PREPARED 'left behind'")
        assert found.fix == "COMMIT PREPARED 'left behind'; -- or ROLLBACK PREPARED 'left behind';"

    @pytest.mark.parametrize(
        ("lag", "delay", "feedback", "status"),
        [
            (3.0, "-1", "off", Status.PASS),
            (3.0, "30s", "on", Status.PASS),
            (3.0, "30s", "off", Status.WARN),
            (600.0, "-1", "on", Status.WARN),
        ],
    )
    def test_a_standby(self, lag: float, delay: str, feedback: str, status: Status) -> None:
        assert standby(lag, delay, feedback, 3).status is status

    def test_a_real_standby(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with EmbeddedPostgres(tmp_path / "server", settings={"hot_standby": "on"}) as other:
            other.stop()
            (other.folder / "data" / "standby.signal").touch()
            other.start()
            monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(other.dsn()))
            found = outcome("source.standby")
            assert (found.status, "cancelled after 30s (0 were so far)" in found.why) == (Status.WARN, True)
            # What else a standby is asked works there too.
            assert outcome("source.transactions").status is Status.PASS


class TestData:
    def test_a_table_that_was_emptied(self, admin: psycopg.Connection[Any]) -> None:
        admin.execute("DELETE FROM dispatch_task")
        found = outcome("source.rows")
        assert (found.status, found.facts["rows"]["dispatch_task"]) == (Status.WARN, 0)
        assert "dispatch_task (" in found.why
        assert "VACUUM ANALYZE dispatch_task;" in found.fix.splitlines()
        admin.execute("VACUUM ANALYZE dispatch_task")
        assert "dispatch_task (" not in outcome("source.rows").why

    def test_a_large_table_that_was_never_analysed(self, admin: psycopg.Connection[Any]) -> None:
        admin.execute("CREATE TABLE renewed (LIKE dispatch_task INCLUDING INDEXES)")
        admin.execute("DROP TABLE dispatch_task")
        admin.execute("ALTER TABLE renewed RENAME TO dispatch_task")
        admin.execute(
            "INSERT INTO dispatch_task (id, template_id, instruction_id, checked)"
            " SELECT n, 1, 1, true FROM generate_series(1, 10000) AS n"
        )
        admin.execute(f'GRANT SELECT ON dispatch_task TO "{READER}"'.encode())
        found = outcome("source.rows")
        assert (found.status, found.fix) == (Status.WARN, "ANALYZE dispatch_task;")

    def test_ids_that_occur_twice(self, admin: psycopg.Connection[Any]) -> None:
        admin.execute("ALTER TABLE dispatch_state DROP CONSTRAINT dispatch_state_pkey")
        assert "1 of them have no index" in outcome("source.keys").why
        admin.execute("INSERT INTO dispatch_state SELECT * FROM dispatch_state ORDER BY id LIMIT 2")
        found = outcome("source.keys")
        assert (found.status, "dispatch_state (2 too many)" in found.why) == (Status.FAIL, True)
        assert len(admin.execute(found.fix.encode()).fetchall()) == 2

    def test_orphans_are_counted_for_each_reference(self, admin: psycopg.Connection[Any]) -> None:
        before = outcome("source.references").facts["orphans"]
        admin.execute(
            "UPDATE dispatch_state SET actor_id = 900000 + id WHERE id IN (SELECT id FROM dispatch_state"
            " WHERE actor_id IN (SELECT id FROM auth_user) ORDER BY id LIMIT 3)"
        )
        found = outcome("source.references")
        name = "dispatch_state.actor_id"
        assert found.facts["orphans"][name] == before.get(name, 0) + 3
        for statement in found.fix.splitlines()[1:]:
            column = re.search(r"FROM (\w+) c WHERE c\.(\w+)", statement)
            assert column is not None
            listed = admin.execute(statement.encode()).fetchall()
            assert len(listed) == found.facts["orphans"][f"{column[1]}.{column[2]}"]

    def test_every_reference_of_the_declarations_is_known(self) -> None:
        declared = declared_columns(ENTITIES.values())
        named = {column for columns in declared.values() for column in columns if column.endswith("_id")}
        # Of a payment processor; no row of ours.
        assert named - set(PARENTS) == {"sq_customer_id"} & named
        assert set(PARENTS.values()) <= set(declared) | {"auth_group", "dispatch_product"}

    def test_unknown_codes_are_shown_with_counts_and_the_lines_to_add(
        self, admin: psycopg.Connection[Any]
    ) -> None:
        admin.execute(
            "UPDATE dispatch_patient SET sex = 77 WHERE id IN (SELECT id FROM dispatch_patient LIMIT 2)"
        )
        found = outcome("source.codes")
        assert "gender: 77 (2) (dispatch_patient.sex)" in found.why
        assert '[gender.codes]: 77 = { value = "…", certainty = "sure" }' in found.fix

    def test_what_somebody_typed_is_counted_and_not_shown(self, admin: psycopg.Connection[Any]) -> None:
        admin.execute("UPDATE dispatch_office SET country = 'Zweifelstein' WHERE id = 1")
        found = outcome("source.codes")
        assert "country: 1 other texts (1)" in found.why
        assert "Zweifelstein" not in f"{found}"

    def test_every_table_of_codes_is_looked_up(self) -> None:
        assert set(CODES) == {name for name, table in configuration().items() if "codes" in table}
        declared = declared_columns(ENTITIES.values())
        for table, column in [*CODES.values(), *JSON_TEXTS]:
            assert column in declared[table]

    def test_stamps_without_zone(self, admin: psycopg.Connection[Any]) -> None:
        admin.execute("ALTER TABLE dispatch_project ALTER created_at TYPE timestamp")
        found = outcome("source.timestamps")
        assert (found.status, found.facts["columns"]) == (Status.WARN, ["dispatch_project.created_at"])
        admin.execute(found.fix.splitlines()[-1].replace("<TIME_ZONE>", "UTC").encode())
        assert outcome("source.timestamps").status is Status.PASS

    def test_json_with_a_nul(self, admin: psycopg.Connection[Any]) -> None:
        admin.execute("UPDATE dispatch_patient SET schemes = NULL")
        admin.execute("UPDATE dispatch_instruction SET exports = NULL")
        assert outcome("source.text").status is Status.PASS
        admin.execute("""UPDATE dispatch_patient SET schemes = '{"a": "\\u0000"}' WHERE id IN
            (SELECT id FROM dispatch_patient LIMIT 3)""")
        found = outcome("source.text")
        assert (found.status, "dispatch_patient.schemes (3)" in found.why) == (Status.WARN, True)
        admin.execute(found.fix.encode())
        assert outcome("source.text").status is Status.PASS

    def test_passwords_by_algorithm_and_never_themselves(self, admin: psycopg.Connection[Any]) -> None:
        admin.execute("UPDATE auth_user SET password = 'bcrypt_sha256$$2b$12$abc'")
        assert outcome("source.passwords").status is Status.PASS
        admin.execute("UPDATE auth_user SET password = 'zweifelstein$1' WHERE id % 2 = 0")
        admin.execute("UPDATE auth_user SET password = 'md5$salt$hash' WHERE id % 5 = 0")
        found = outcome("source.passwords")
        assert (found.status, set(found.facts["algorithms"])) == (
            Status.WARN,
            {"bcrypt_sha256", "md5", "other"},
        )
        assert "zweifelstein" not in f"{found}"

    def test_passwords_may_be_kept_from_the_role(self, admin: psycopg.Connection[Any]) -> None:
        admin.execute(f'REVOKE SELECT ON auth_user FROM "{READER}"'.encode())
        admin.execute(f'GRANT SELECT (id, username, email) ON auth_user TO "{READER}"'.encode())
        assert outcome("source.passwords").status is Status.SKIPPED
        assert outcome("source.accounts").status is Status.WARN

    def test_accounts_that_look_like_tests(self, admin: psycopg.Connection[Any]) -> None:
        admin.execute("UPDATE auth_user SET email = '', username = 'contestant' || id")
        assert outcome("source.accounts").status is Status.PASS
        for column, value, rows in (("username", "'test' || id", 2), ("email", "'a@example.com'", 3)):
            admin.execute(
                f"UPDATE auth_user SET {column} = {value} WHERE id IN"
                f" (SELECT id FROM auth_user ORDER BY id LIMIT {rows})".encode()
            )
        found = outcome("source.accounts")
        assert found.why == "3 accounts look like tests: 2 by user name, 3 by e-mail."
        assert len(admin.execute(found.fix.splitlines()[-1].encode()).fetchall()) == 3

    def test_texts_of_a_database_without_an_encoding(
        self, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(
                "CREATE DATABASE any_bytes ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
            )
        monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(server.dsn("any_bytes")))
        try:
            with psycopg.connect(server.dsn("any_bytes")) as admin:
                admin.execute("CREATE TABLE dispatch_course (id int PRIMARY KEY, name varchar(100))")
                good = ["plain", "é", "漢字", "🦷", "", "two\nlines"]
                bad = [
                    "caf\xe9".encode("latin-1"),
                    b"\xc3",
                    b"\xed\xa0\x80",
                    b"\xf5\x80\x80\x80",
                    b"\xc0\xaf",
                ]
                texts = [text.encode() for text in good] + bad
                for number, text in enumerate(texts):
                    admin.execute(
                        b"INSERT INTO dispatch_course VALUES (%d, convert_from('\\x%b', 'SQL_ASCII'))"
                        % (number, text.hex().encode())
                    )
            assert outcome("source.encoding").status is Status.WARN
            found = outcome("source.text")
            assert f"dispatch_course.name ({len(bad)})" in found.why
        finally:
            server.drop_database("any_bytes")


class TestLimits:
    def test_a_table_that_is_locked_is_left_out_and_named(
        self, server: EmbeddedPostgres, admin: psycopg.Connection[Any]
    ) -> None:
        with psycopg.connect(server.dsn(admin.info.dbname)) as other:
            other.execute("LOCK TABLE dispatch_jaw IN ACCESS EXCLUSIVE MODE")
            found = outcome("source.rows", statement_seconds=20)
            assert "dispatch_jaw is locked" in found.why
            assert found.facts["rows"]["dispatch_task"] > 0
            other.rollback()

    def test_what_takes_too_long_is_given_up(self, admin: psycopg.Connection[Any]) -> None:
        with opened(SOURCE, statement_seconds=0.2, total_seconds=60) as session:
            found = run_check("source.text", lambda: session.single("SELECT pg_sleep(20)"))
            assert (found.status, found.seconds < 5) == (Status.WARN, True)
            assert session.single("SELECT 1") == 1

    def test_a_lost_connection_is_no_verdict(self, admin: psycopg.Connection[Any]) -> None:
        with opened(SOURCE) as session:
            pid = session.single("SELECT pg_backend_pid()")
            killer = threading.Timer(0.3, admin.execute, ["SELECT pg_terminate_backend(%s)", [pid]])
            killer.start()
            found = run_check("source.text", lambda: session.single("SELECT pg_sleep(4)"))
            killer.join()
        assert (found.status, found.facts["code"]) == (Status.FAIL, "SOURCE_INTERRUPTED")
        assert session.connection.closed
