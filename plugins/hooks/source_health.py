"""Checks of the legacy database's server: release, encoding, role, rights, drift, open transactions, standby.

Everything is SELECT and works on PostgreSQL 9.5.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from include.core.drift import Drift, compare
from include.core.preflight import Outcome, failed, passed, warned
from include.core.spec import Entity
from plugins.hooks.legacy_mdw import Snapshot
from plugins.hooks.session_health import HealthSession
from plugins.hooks.source_identity import read_holders
from plugins.hooks.source_role import SourceRole, read_role

_OLDEST, _TESTED = 90_500, 190_000
_LONGEST_LAG_SECONDS = 60

_RIGHTS = """SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC'
    ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END,
  a.privilege_type, c.oid::regclass::text
FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_attribute t
  ON t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped AND t.attacl IS NOT NULL
CROSS JOIN LATERAL (SELECT (pg_catalog.aclexplode(c.relacl)).* UNION SELECT (pg_catalog.aclexplode(t.attacl)).*) a
WHERE pg_catalog.pg_table_is_visible(c.oid) AND c.relname = ANY (%s) AND a.privilege_type = ANY (%s)
  AND a.grantee <> c.relowner AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE'))
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""
# Sent as parameters: no statement to the source holds such a word.
_WRITES = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
# A table of another schema, or of one that the role may not use, is as good as missing.
_ELSEWHERE = """SELECT DISTINCT c.relname::text, n.nspname::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND c.relname = ANY (%s) AND NOT pg_catalog.pg_table_is_visible(c.oid)
  AND n.nspname NOT LIKE 'pg_%%' ORDER BY 2, 1"""
_ENCODINGS = (
    """SELECT pg_catalog.current_setting('server_encoding'), pg_catalog.current_setting('client_encoding')"""
)
_LAG = """SELECT coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()),
    0)::float8,
  pg_catalog.current_setting('max_standby_streaming_delay'), pg_catalog.current_setting('hot_standby_feedback'),
  (SELECT confl_snapshot + confl_lock + confl_bufferpin FROM pg_catalog.pg_stat_database_conflicts
   WHERE datname = pg_catalog.current_database())"""
_PREPARED = "SELECT pg_catalog.quote_literal(gid) FROM pg_catalog.pg_prepared_xacts ORDER BY prepared"


class SourceChecks:
    """Checks of the server that holds the legacy database.

    Args:
        entities: those that a run would migrate.
    """

    def __init__(self, session: HealthSession, entities: Collection[Entity]) -> None:
        self._session = session
        self._entities = entities
        self._tables = sorted({table.name for entity in entities for table in entity.source.all_tables()})

    def version(self) -> Outcome:
        """The release."""
        number = int(self._session.single("SELECT pg_catalog.current_setting('server_version_num')"))
        release = self._session.single("SELECT pg_catalog.current_setting('server_version')")
        if number < _OLDEST:
            return failed(
                f"PostgreSQL {release}.", "Read from a server of release 9.5 or later.", version=number
            )
        if number >= _TESTED:
            return warned(
                f"PostgreSQL {release} is newer than any that was tried.",
                "Try a dry run first.",
                version=number,
            )
        return passed(f"PostgreSQL {release}.", version=number)

    def encoding(self) -> Outcome:
        """How the database keeps texts, and how they come."""
        ((server, client),) = self._session.ask(_ENCODINGS)
        if server == "UTF8":
            return passed(f"Kept as UTF8, read as {client}.", server_encoding=server)
        if server == "SQL_ASCII":
            return warned(
                "SQL_ASCII: the server takes any bytes for text and converts nothing.",
                "Nothing, where source.text finds every text to be valid UTF-8; else repair those it counts.",
                server_encoding=server,
            )
        return passed(f"Kept as {server}, converted to {client} by the server.", server_encoding=server)

    def role(self) -> Outcome:
        """Rights beyond reading, with the statements that end them."""
        role = self._role()
        if role.superuser:
            return warned(f"{role.name} is a superuser: every statement is open to it.", self._reader(role))
        if role.owned:
            return warned(
                f"{role.name} owns {role.owned} of the tables, so it may change them.", self._reader(role)
            )
        rights = self._session.ask(_RIGHTS, [self._tables, list(_WRITES)])
        if rights:
            held = ", ".join(f"{right} on {count}" for right, count in role.writes.items())
            return warned(f"{role.name} may write: {held} tables.", _revoke(rights), writes=dict(role.writes))
        return passed(f"{role.name} may only read.")

    def select(self) -> Outcome:
        """Tables that may not be read, with the statements that allow it."""
        role, drift = self._role(), self._drift()
        missing = [text.removeprefix("table ") for text in drift.missing if text.startswith("table ")]
        elsewhere = self._session.ask(_ELSEWHERE, [missing])
        fixes = []
        if drift.forbidden:
            fixes.append(f"GRANT SELECT ON {', '.join(sorted(drift.forbidden))} TO {role.name};")
        for schema in sorted({schema for _, schema in elsewhere}):
            fixes.append(f"GRANT USAGE ON SCHEMA {schema} TO {role.name};")
            fixes.append(f"ALTER ROLE {role.name} SET search_path = {schema};")
        if not fixes:
            return passed(f"{len(self._tables) - len(missing)} of {len(self._tables)} tables may be read.")
        hidden = [*sorted(drift.forbidden), *(f"{schema}.{table}" for table, schema in elsewhere)]
        return failed(f"Not readable by {role.name}: {', '.join(hidden)}.", "\n".join(fixes))

    def row_security(self) -> Outcome:
        """Policies that would hide rows."""
        role = self._role()
        if role.hidden:
            return failed(
                f"Policies apply to {role.name} on {', '.join(role.hidden)}.",
                f"ALTER ROLE {role.name} BYPASSRLS;",
            )
        return passed("No policy hides a row from the role.")

    def columns(self) -> Outcome:
        """Drift."""
        drift = self._drift()
        if drift.missing:
            return failed(
                f"Missing: {'; '.join(drift.missing)}.",
                "If a column was renamed, change it in its entity's file under include/entities; if a table is gone, "
                "leave its entities out of `entities`.",
            )
        absent = [note for note in drift.notes if "does not exist" in note]
        return passed(
            f"{len(self._tables)} tables have what is needed; {len(absent)} optional columns are absent.",
            notes=drift.notes,
        )

    def transactions(self) -> Outcome:
        """Sessions that hold the horizon back."""
        holders = read_holders(self._session.ask)
        if not holders:
            return passed("No transaction that has written is older than a minute.")
        pids = [holder.pid for holder in holders if holder.pid is not None]
        prepared = [gid for (gid,) in self._session.ask(_PREPARED)] if len(pids) < len(holders) else []
        fixes = [f"SELECT pg_terminate_backend({pid});" for pid in pids]
        fixes += [f"COMMIT PREPARED {gid}; -- or ROLLBACK PREPARED {gid};" for gid in prepared]
        told = "; ".join(
            f"{'prepared' if holder.pid is None else f'pid {holder.pid}'} of {holder.user or 'unknown'},"
            f" {_age(holder.seconds)}, {holder.transactions:,} transactions"
            for holder in holders
        )
        return warned(f"Open for long: {told}.", "\n".join(fixes), holders=len(holders))

    def standby(self) -> Outcome:
        """Lag and cancelled reads, where the server replays another one's log."""
        if not self._session.single("SELECT pg_catalog.pg_is_in_recovery()"):
            return passed("A primary.")
        return standby(*self._session.ask(_LAG)[0])

    def _role(self) -> SourceRole:
        return read_role(self._session.ask, self._tables)

    def _drift(self) -> Drift:
        with self._session.reading() as connection:
            return compare(self._entities, Snapshot(connection).columns(self._tables))

    def _reader(self, role: SourceRole) -> str:
        """Statements that make a role that reads and nothing else."""
        schemas = [row[0] for row in self._session.ask(_SCHEMAS, [self._tables])]
        reader = "mdw_reader" if role.name != "mdw_reader" else "mdw_only_reads"
        lines = [f"CREATE ROLE {reader} LOGIN PASSWORD '…';"]
        lines += [f"GRANT USAGE ON SCHEMA {schema} TO {reader};" for schema in schemas]
        lines.append(f"GRANT SELECT ON {', '.join(self._tables)} TO {reader};")
        return "\n".join(lines)


_SCHEMAS = """SELECT DISTINCT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE pg_catalog.pg_table_is_visible(c.oid) AND c.relname = ANY (%s) ORDER BY 1"""


def standby(lag_seconds: float, delay: str, feedback: str, conflicts: int) -> Outcome:
    """What a standby's settings mean for long reads.

    Args:
        delay: max_standby_streaming_delay.
        feedback: hot_standby_feedback.
        conflicts: reads that were cancelled so far.
    """
    problems, fixes = [], []
    if lag_seconds > _LONGEST_LAG_SECONDS:
        problems.append(f"it is {lag_seconds:.0f} s behind its primary")
        fixes.append("Wait until it has caught up, or read from the primary.")
    if delay != "-1" and feedback != "on":
        problems.append(
            f"reads that are in the way of what is replayed are cancelled after {delay} ({conflicts:,} were so far)"
        )
        fixes.append(
            "ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();"
            " -- or max_standby_streaming_delay = '1h'"
        )
    if problems:
        return warned(f"A standby: {'; '.join(problems)}.", "\n".join(fixes), lag_seconds=round(lag_seconds))
    return passed(f"A standby, {lag_seconds:.0f} s behind, which does not cancel reads.")


def _revoke(rights: Sequence[tuple[Any, ...]]) -> str:
    """One REVOKE for each grantee and set of tables."""
    by_grantee: dict[tuple[str, str], list[str]] = {}
    for grantee, privilege, table in rights:
        by_grantee.setdefault((grantee, table), []).append(privilege)
    grouped: dict[tuple[str, str], list[str]] = {}
    for (grantee, table), privileges in by_grantee.items():
        grouped.setdefault((grantee, ", ".join(privileges)), []).append(table)
    return "\n".join(
        f"REVOKE {privileges} ON {', '.join(tables)} FROM {grantee};"
        for (grantee, privileges), tables in grouped.items()
    )


def _age(seconds: float | None) -> str:
    return "since an unknown time" if seconds is None else f"for {seconds:,.0f} s"
