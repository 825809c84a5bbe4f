"""Checks of the target, by the way a run would take; nothing is deployed, no run opened, no lock taken.

What the catalogue knows can be asked over a direct connection only; through the API alone those checks are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from mdw_supabase.hook import CONNECTION_ID
from psycopg import sql

from include.core.errors import MigrationError
from include.core.preflight import Outcome, failed, passed, skipped, warned
from include.core.run_estimate import measured_rates
from plugins.hooks.connect import TARGET
from plugins.hooks.run_lock import Holder, grace_seconds
from plugins.hooks.schema_files import schema_files
from plugins.hooks.session_health import HealthSession, encryption, opened, pooler
from plugins.hooks.source_memory import last_complete_run
from plugins.hooks.supabase_project import supabase_project
from plugins.hooks.target import Target, open_target
from plugins.hooks.target_postgres import PostgresTarget
from plugins.hooks.target_schema import check_platform, is_deployed, verify_schema
from plugins.hooks.tracking import TrackingHook

_OLDEST, _OLDEST_TESTED, _TESTED = 150_000, 160_000, 190_000
_SERVICE_ROLE = "service_role"
# A batch of a thousand rows is merged in a second or two; the hosted default is enough.
_LEAST_TIMEOUT_SECONDS = 8

_TABLE = re.compile(r"^CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?(\w+\.\w+)", re.MULTILINE)
_ENUM = re.compile(r"^CREATE TYPE public\.(\w+) AS ENUM \((.*?)\);", re.MULTILINE | re.DOTALL)
_EXISTING = (
    "SELECT t.name FROM unnest(%s::text[]) AS t (name) WHERE to_regclass(t.name) IS NOT NULL ORDER BY 1"
)
_ROLE = """SELECT quote_ident(current_user), quote_ident(current_database()),
  has_database_privilege(current_database(), 'CREATE'), has_schema_privilege('public', 'CREATE'),
  coalesce((SELECT pg_has_role(n.nspowner, 'USAGE') FROM pg_namespace n WHERE n.nspname = 'migration'), true)"""
_OWNER = "SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'migration';"
_TRIGGERS = """SELECT c.oid::regclass::text, quote_ident(t.tgname) FROM pg_trigger t
JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace
WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND n.nspname || '.' || c.relname = ANY (%s)
  AND f.nspname <> ALL ('{migration,migration_api,private}') ORDER BY 1, 2"""
_ENUMS = """SELECT t.typname::text, array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_type t
JOIN pg_enum e ON e.enumtypid = t.oid JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname = 'public' GROUP BY 1"""
_SETTINGS = """SELECT current_setting('default_transaction_read_only') = 'on', pg_is_in_recovery(),
  coalesce(current_setting('safeupdate.enabled', true), 'off'), pg_database_size(current_database())"""
_ROLE_TIMEOUT = """SELECT split_part(s.entry, '=', 2)
FROM pg_roles r CROSS JOIN LATERAL unnest(r.rolconfig) AS s (entry)
WHERE r.rolname = %s AND s.entry LIKE 'statement_timeout=%%'"""
_MILLISECONDS = "SELECT extract(epoch FROM %s::interval)::float8"


class TargetChecks:
    """Checks of the target.

    Args:
        target: by the way that a run would take.
        session: the direct connection beneath it, None where there is only the API.
        dimensions: of the embedding provider, None where nothing is to be embedded or nobody knows.
    """

    def __init__(self, target: Target, session: HealthSession | None, dimensions: int | None) -> None:
        self._target = target
        self.session = session
        self._dimensions = dimensions

    def checks(self) -> dict[str, Callable[[], Outcome]]:
        """Every check but that of the connection itself, by name."""
        by_catalogue = {
            "target.version": self._version,
            "target.encryption": encryption,
            "target.pooler": lambda session: pooler(session, transactional_is_fatal=True),
            "target.writable": self._writable,
            "target.platform": self._platform,
            "target.role": self._role,
            "target.schema": self._schema,
            "target.tables": self._tables,
            "target.triggers": self._triggers,
            "target.enums": self._enums,
            "target.vectors": self._vectors,
            "target.limits": self._limits,
            "target.lock": self._lock,
        }
        by_api = {
            "target.encryption": self._encryption_of_api,
            "target.role": self._role_of_api,
            "target.schema": self._schema_by_api,
            "target.vectors": self._vectors_by_api,
            "target.lock": self._lock_holder,
        }
        session = self.session
        if session is None:
            return {name: by_api.get(name, _only_directly) for name in by_catalogue}
        return {name: _bound(check, session) for name, check in by_catalogue.items()}

    @staticmethod
    def _version(session: HealthSession) -> Outcome:
        number = int(session.single("SELECT current_setting('server_version_num')"))
        release = session.single("SELECT current_setting('server_version')")
        told = f"PostgreSQL {release}."
        if number < _OLDEST:
            return failed(told, "Upgrade to PostgreSQL 15 or later: the schema needs it.", version=number)
        if not _OLDEST_TESTED <= number < _TESTED:
            return warned(f"{told} Tested are 16 to 18.", "Try a dry run first.", version=number)
        return passed(told, version=number)

    def _encryption_of_api(self) -> Outcome:
        if self._target.plaintext:
            return warned(
                "Key and rows cross the network unencrypted, which a setting allows.",
                f"Use the https address of the project in connection `{CONNECTION_ID}`.",
            )
        return passed("https, or on this machine.")

    @staticmethod
    def _writable(session: HealthSession) -> Outcome:
        ((read_only, standby, _, size),) = session.ask(_SETTINGS)
        if standby:
            return failed(
                "A standby: it takes no writes.", f"Let connection `{TARGET.conn_id}` name the primary."
            )
        if read_only:
            return failed(
                "Transactions are read-only by default; Supabase does that when the disk is full.",
                "Enlarge the disk (dashboard, Database settings), then:\n"
                "ALTER DATABASE postgres SET default_transaction_read_only = off;",
            )
        return passed("It takes writes.", database_bytes=size)

    @staticmethod
    def _platform(session: HealthSession) -> Outcome:
        with session.reading() as connection:
            check_platform(connection)
        return passed("Roles, schemas and extensions of Supabase are there.")

    def _role(self, session: HealthSession) -> Outcome:
        ((role, database, creates, in_public, owns),) = session.ask(_ROLE)
        if not owns:
            return failed(
                f"{role} does not own what is deployed.",
                f"Log in as the role that deployed it, or make {role} a member of it. It is: {_OWNER}",
            )
        fixes = [] if creates else [f"GRANT CREATE ON DATABASE {database} TO {role};"]
        fixes += [] if in_public else [f"GRANT CREATE ON SCHEMA public TO {role};"]
        if fixes and self._new_files(session):
            return failed(f"{role} may not create what is to be deployed.", "\n".join(fixes))
        return passed(f"{role} may deploy and load.")

    @staticmethod
    def _role_of_api() -> Outcome:
        role = supabase_project().role
        if role not in (None, _SERVICE_ROLE):
            return failed(
                f"The key is that of role {role}.",
                f"Put the service key (secret or service_role) into connection `{CONNECTION_ID}`.",
            )
        return passed("A service key." if role else "A key that does not tell its role; it was accepted.")

    def _recorded(self, session: HealthSession) -> dict[str, str | None]:
        """Deployed files with their hashes."""
        if session.single("SELECT to_regclass('migration.schema_versions')") is None:
            return {}
        return dict(session.ask("SELECT name, hash FROM migration.schema_versions"))

    def _new_files(self, session: HealthSession) -> list[str]:
        recorded = self._recorded(session)
        return [file.name for file in schema_files() if file.name not in recorded]

    def _schema(self, session: HealthSession) -> Outcome:
        recorded = self._recorded(session)
        files = {file.name: file.hash for file in schema_files()}
        if not recorded:
            return passed(f"Nothing is deployed yet; a run deploys {len(files)} files.", new=len(files))
        changed = sorted(name for name in files if recorded.get(name) not in (None, files[name]))
        unknown = sorted(recorded.keys() - files.keys())
        if changed:
            return failed(
                f"Deployed from other files than those here: {', '.join(changed)}.",
                "\n".join(f"git checkout -- include/sql/{name}" for name in changed)
                + "\nA released file never changes: put the change into a new one.",
            )
        if unknown:
            return failed(
                f"Deployed by a later version: {', '.join(unknown)}.",
                "Use the version that deployed the target.",
            )
        new = [name for name in files if name not in recorded]
        if new:
            return passed(f"{len(recorded)} files as deployed; a run deploys {', '.join(new)}.", new=len(new))
        return passed(f"{len(recorded)} files as deployed.", new=0)

    def _schema_by_api(self) -> Outcome:
        verify_schema(self._target, None)
        return passed(f"{len(schema_files())} files as deployed, entities and codes as registered.")

    @cached_property
    def _our_tables(self) -> list[str]:
        return [name for file in schema_files() for name in _TABLE.findall(file.sql)]

    def _tables(self, session: HealthSession) -> Outcome:
        if self._recorded(session):
            return passed("Our tables are those that were deployed.")
        existing = [name for (name,) in session.ask(_EXISTING, [self._our_tables])]
        if existing:
            return failed(
                f"Not deployed by this tool: {', '.join(existing)}.",
                "Use an empty database, or move them away:\nCREATE SCHEMA before_migration;\n"
                + "\n".join(f"ALTER TABLE {name} SET SCHEMA before_migration;" for name in existing),
            )
        return passed("No table of our names is there yet.")

    def _triggers(self, session: HealthSession) -> Outcome:
        found = session.ask(_TRIGGERS, [self._our_tables])
        if not found:
            return passed("No trigger but ours would fire.")
        told = ", ".join(f"{trigger} on {table}" for table, trigger in found)
        return warned(
            f"Would fire for every row that is loaded: {told}.",
            "\n".join(
                f"ALTER TABLE {table} DISABLE TRIGGER {trigger}; -- afterwards ENABLE"
                for table, trigger in found
            ),
        )

    def _enums(self, session: HealthSession) -> Outcome:
        declared, found = declared_enums(), dict(session.ask(_ENUMS))
        missing = [
            f"ALTER TYPE public.{name} ADD VALUE '{value}';"
            for name, values in declared.items()
            for value in values
            if name in found and value not in found[name]
        ]
        more = [
            f"{name}: {', '.join(extra)}"
            for name, values in declared.items()
            if (extra := [value for value in found.get(name, ()) if value not in values])
        ]
        if missing:
            return failed(f"{len(missing)} values are missing.", "\n".join(missing))
        if more:
            return warned(
                f"Values that this version does not know: {'; '.join(more)}.",
                "Nothing: no row is given them.",
            )
        there = [name for name in declared if name in found]
        return passed(f"{len(there)} of {len(declared)} are there, with the values that are needed.")

    def _vectors(self, session: HealthSession) -> Outcome:
        if self._dimensions is None:
            return skipped("Nothing is to be embedded, or the provider is not known.")
        with session.reading() as connection:
            deployed = is_deployed(connection)
        if not deployed:
            return passed(f"The columns are created with {self._dimensions} dimensions.")
        present = session.single("SELECT migration.vector_dimensions()")
        if present == self._dimensions:
            return passed(f"{present}, as the provider makes them.")
        tables = [name for (name,) in session.ask("SELECT vectors FROM migration.vector_tables()")]
        full = [name for name in tables if session.single(_has_rows(name))]
        if full:
            return failed(
                f"The target has {present}, the provider {self._dimensions}; there are vectors in {', '.join(full)}.",
                "Choose the provider the target was deployed for (MIGRATION_EMBEDDING_PROVIDER, "
                "MIGRATION_EMBEDDING_MODEL, MIGRATION_EMBEDDING_DIMENSIONS), or run with enable_ai=false.",
            )
        return passed(f"{present} now, and no vector yet: a run fits them to {self._dimensions}.")

    def _vectors_by_api(self) -> Outcome:
        if self._dimensions is None:
            return skipped("Nothing is to be embedded, or the provider is not known.")
        verify_schema(self._target, self._dimensions)
        return passed(f"{self._dimensions}, as the provider makes them.")

    @staticmethod
    def _limits(session: HealthSession) -> Outcome:
        ((_, _, safeupdate, _),) = session.ask(_SETTINGS)
        setting = session.single(_ROLE_TIMEOUT, [_SERVICE_ROLE]) or session.single(
            _ROLE_TIMEOUT, ["authenticator"]
        )
        seconds = _seconds(session, setting) if setting else None
        guard = "safeupdate is on, which every statement respects" if safeupdate != "off" else "no safeupdate"
        if seconds is not None and 0 < seconds < _LEAST_TIMEOUT_SECONDS:
            return warned(
                f"Statements through the API are ended after {setting}; {guard}.",
                f"ALTER ROLE {_SERVICE_ROLE} SET statement_timeout = '{_LEAST_TIMEOUT_SECONDS}s';",
            )
        return passed(f"Through the API {setting or 'no'} time limit of a role; {guard}.")

    def _lock(self, session: HealthSession) -> Outcome:
        with session.reading() as connection:
            deployed = is_deployed(connection)
        return self._lock_holder() if deployed else passed("Nobody: nothing is deployed.")

    def _lock_holder(self) -> Outcome:
        answer = self._target.call("lock_holder")
        if answer is None:
            return passed("Nobody.")
        holder = Holder(**answer)
        death = holder.death(grace_seconds())
        if death is None:
            raise holder.refusal()
        return warned(
            f"Held by run {holder.run_id}, which is dead: {death}.", "Nothing: the next run takes it over."
        )

    def rates(self) -> dict[str, float]:
        """Rows per second of the phases of the last complete run; empty where none tells."""
        try:
            complete = last_complete_run(self._target)
            facts = TrackingHook(self._target, complete.run_id).facts() if complete else None
        except MigrationError:
            return {}  # nothing is deployed, or not this version; its own checks say so
        return measured_rates(facts.batches) if facts else {}


@contextmanager
def opened_target(way: str, dimensions: int | None) -> Iterator[TargetChecks]:
    """The checks over an open target.

    Args:
        way: postgres or rest.

    Raises:
        MigrationError: of the connection, or of the first request.
    """
    if way == "postgres":
        with opened(TARGET) as session:
            yield TargetChecks(_Reading(session), session, dimensions)
        return
    with open_target(way) as target:
        try:
            target.call("lock_holder")
        except MigrationError as error:
            # An API that answers so can be reached; what is deployed is another check's affair.
            if error.code != "TARGET_SCHEMA_MISSING":
                raise
        yield TargetChecks(target, None, dimensions)


class _Reading(PostgresTarget):
    """The direct way in, with every call in a read-only transaction."""

    def __init__(self, session: HealthSession) -> None:
        super().__init__(session.connection)
        self._session = session

    def call(self, function: str, /, *, incoming: Mapping[str, Any] | None = None, **arguments: Any) -> Any:
        """See :class:`Target`."""
        with self._session.reading():
            return super().call(function, incoming=incoming, **arguments)


def declared_enums() -> dict[str, list[str]]:
    """Enum to values, as the schema files declare them."""
    return {
        name: re.findall(r"'([^']+)'", values)
        for file in schema_files()
        for name, values in _ENUM.findall(file.sql)
    }


def _bound(check: Callable[[HealthSession], Outcome], session: HealthSession) -> Callable[[], Outcome]:
    return lambda: check(session)


def _only_directly() -> Outcome:
    return skipped("Only a direct connection (`supabase_db`) can be asked.")


def _has_rows(table: str) -> Any:
    return sql.SQL("SELECT EXISTS (SELECT 1 FROM {})").format(sql.Identifier("public", table))


def _seconds(session: HealthSession, setting: str) -> float:
    """A time as a setting has it: ``8s``, ``2min``, or milliseconds."""
    text = f"{setting} milliseconds" if setting.isdigit() else setting
    return float(session.single(_MILLISECONDS, [text]))
