"""What the role that reads the legacy database may do there: it should be able to read every row, and no more.

Everything here is SELECT and works on PostgreSQL 9.5, which brought row security.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from include.core.errors import MigrationError
from include.core.notes import Note
from plugins.hooks.source_identity import Read

_ROLE = """SELECT pg_catalog.quote_ident(rolname), rolsuper FROM pg_catalog.pg_roles
WHERE rolname = current_user"""
_TABLES = """SELECT c.relname, n.nspname, pg_catalog.pg_has_role(c.relowner, 'USAGE'),
  pg_catalog.row_security_active(c.oid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND pg_catalog.pg_table_is_visible(c.oid) AND c.relname = ANY (%s)
ORDER BY c.relname"""
_RIGHTS = """SELECT p.name, count(*)
FROM pg_catalog.unnest(%s::text[]) WITH ORDINALITY AS p (name, place) CROSS JOIN pg_catalog.pg_class c
WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND pg_catalog.pg_table_is_visible(c.oid) AND c.relname = ANY (%s)
  AND CASE WHEN p.name = ANY (%s) THEN pg_catalog.has_any_column_privilege(c.oid, p.name)
    ELSE pg_catalog.has_table_privilege(c.oid, p.name) END
GROUP BY p.name, p.place ORDER BY p.place"""
_CREATES = """SELECT nspname FROM pg_catalog.pg_namespace
WHERE nspname = ANY (%s) AND pg_catalog.has_schema_privilege(oid, %s) ORDER BY nspname"""
# Sent as parameters: no statement to the source holds such a word.
_WRITES = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
_BY_COLUMN = ("INSERT", "UPDATE")
_CREATE = "CREATE"


@dataclass(frozen=True)
class SourceRole:
    """A role and its rights on the tables that the migration reads.

    Attributes:
        name: quoted for use in a statement.
        owned: number of tables that it owns, itself or through a role it is a member of.
        writes: privilege to the number of tables it holds for; a superuser's are all.
        creates: schemas of the tables that it may create objects in.
        hidden: tables that it would read under row security, sorted.
    """

    name: str
    superuser: bool
    owned: int
    writes: Mapping[str, int]
    creates: tuple[str, ...]
    hidden: tuple[str, ...]

    def refuse_row_security(self) -> None:
        """Rows that a policy hides would look like deleted ones.

        Raises:
            MigrationError: SOURCE_ROW_SECURITY.
        """
        if self.hidden:
            raise MigrationError(
                "SOURCE_ROW_SECURITY",
                f"Tables: {', '.join(self.hidden)}. The statement: ALTER ROLE {self.name} BYPASSRLS;",
            )

    @property
    def notes(self) -> list[Note]:
        """What the report should say of the role."""
        rights = ["it is a superuser"] if self.superuser else self._rights()
        if rights:
            return [Note("source_role_writes", {"role": self.name, "rights": ", ".join(rights)})]
        if self.creates:
            return [Note("source_role_creates", {"role": self.name, "schemas": ", ".join(self.creates)})]
        return []

    def _rights(self) -> list[str]:
        owned = [f"it owns {_tables(self.owned)}"] if self.owned else []
        return owned + [f"{privilege} on {_tables(count)}" for privilege, count in self.writes.items()]


def read_role(read: Read, tables: Collection[str]) -> SourceRole:
    """The connected role.

    Args:
        tables: those that the migration reads; the ones that do not exist are left out.
    """
    ((name, superuser),) = read(_ROLE, [])
    names = sorted(tables)
    found = read(_TABLES, [names])
    schemas = sorted({schema for _, schema, _, _ in found})
    return SourceRole(
        name,
        superuser,
        owned=sum(owns for _, _, owns, _ in found),
        writes=dict(read(_RIGHTS, [list(_WRITES), names, list(_BY_COLUMN)])),
        creates=tuple(schema for (schema,) in read(_CREATES, [schemas, _CREATE])),
        hidden=tuple(table for table, _, _, hidden in found if hidden),
    )


def _tables(count: int) -> str:
    return "1 table" if count == 1 else f"{count} tables"
