"""The schema of the target: deployed from numbered files, verified, fitted, and told what the entities are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from include.core.errors import MigrationError
from include.core.findings import FINDINGS
from include.core.spec import Entity, OnMissing
from include.entities import ENTITIES
from plugins.hooks.schema_files import SchemaFile, schema_files
from plugins.hooks.target import Target

_PLATFORM = """SELECT needed FROM (VALUES ('role', 'anon'), ('role', 'authenticated'), ('role', 'service_role'),
    ('schema', 'auth'), ('schema', 'extensions'), ('extension', 'vector')) AS n (kind, needed)
WHERE NOT CASE kind WHEN 'role' THEN EXISTS (SELECT 1 FROM pg_roles WHERE rolname = needed)
  WHEN 'schema' THEN EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = needed)
  ELSE EXISTS (SELECT 1 FROM pg_extension WHERE extname = needed) END"""
_DUPLICATES = (
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateObject,
    psycopg.errors.DuplicateFunction,
    psycopg.errors.DuplicateSchema,
)
_DEPLOY_LOCK = 4_021_977_001  # any number, as long as it is ours alone


def check_platform(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Refuse a database that lacks what Supabase provides.

    Raises:
        MigrationError: TARGET_PLATFORM_MISSING.
    """
    missing = [row[0] for row in connection.execute(_PLATFORM)]
    if missing:
        raise MigrationError("TARGET_PLATFORM_MISSING", f"Missing: {', '.join(missing)}.")


def is_deployed(connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
    """Whether the functions that runs call are there."""
    row = connection.execute("SELECT to_regprocedure('migration_api.lock_holder()') IS NOT NULL").fetchone()
    return row is not None and bool(row[0])


def deploy_schema(connection: psycopg.Connection[tuple[Any, ...]], dimensions: int | None) -> list[str]:
    """Deploy what is not deployed yet, in one transaction; returns the names of the files deployed.

    Args:
        dimensions: of the vector columns, if they are created now.

    Raises:
        MigrationError: TARGET_SCHEMA_CHANGED or TARGET_SCHEMA_FOREIGN.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_DEPLOY_LOCK])
        recorded = _recorded(connection)
        files = schema_files()
        _refuse_changed(files, recorded)
        if not recorded:
            _refuse_foreign(connection)
        if dimensions is not None:
            connection.execute("SELECT set_config('mdw.dimensions', %s, true)", [str(dimensions)])
        missing = [file for file in files if file.name not in recorded]
        for file in missing:
            _run_file(connection, file)
        _record_hashes(connection, files)
    return [file.name for file in missing]


def _run_file(connection: psycopg.Connection[tuple[Any, ...]], file: SchemaFile) -> None:
    try:
        connection.execute(file.sql)
        connection.execute(
            "INSERT INTO migration.schema_versions (name) VALUES (%s) ON CONFLICT DO NOTHING", [file.name]
        )
    except _DUPLICATES as error:
        # A type, function, index … of the same name; the server's words name it and quote no row.
        detail = f"{file.name}: {error.diag.message_primary}."
        raise MigrationError("TARGET_SCHEMA_FOREIGN", detail) from None


def _record_hashes(connection: psycopg.Connection[tuple[Any, ...]], files: Sequence[SchemaFile]) -> None:
    """Files register their names themselves; one deployed by other means gets the hash of the file as it is now."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE migration.schema_versions SET hash = %s WHERE name = %s AND hash IS NULL",
            [(file.hash, file.name) for file in files],
        )


def _recorded(connection: psycopg.Connection[tuple[Any, ...]]) -> dict[str, str | None]:
    row = connection.execute("SELECT to_regclass('migration.schema_versions')").fetchone()
    if row is None or row[0] is None:
        return {}
    return dict(connection.execute("SELECT name, hash FROM migration.schema_versions").fetchall())


def _refuse_changed(files: Sequence[SchemaFile], recorded: dict[str, str | None]) -> None:
    changed = [file.name for file in files if recorded.get(file.name) not in (None, file.hash)]
    unknown = sorted(set(recorded) - {file.name for file in files})
    if changed or unknown:
        raise MigrationError(
            "TARGET_SCHEMA_CHANGED", f"Changed: {changed}; deployed but unknown here: {unknown}."
        )


def _refuse_foreign(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    ours = [name for file in schema_files() for name in _created_tables(file.sql)]
    rows = connection.execute(
        "SELECT t.name FROM unnest(%s::text[]) AS t (name) WHERE to_regclass(t.name) IS NOT NULL", [ours]
    )
    existing = [row[0] for row in rows]
    if existing:
        raise MigrationError("TARGET_SCHEMA_FOREIGN", f"Existing: {', '.join(existing)}.")


def _created_tables(text: str) -> list[str]:
    return [line.split()[2] for line in text.splitlines() if line.startswith("CREATE TABLE ")]


def vector_dimensions(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
    """Dimensions of the deployed vector columns."""
    row = connection.execute("SELECT migration.vector_dimensions()").fetchone()
    if row is None or row[0] is None:
        raise MigrationError("TARGET_SCHEMA_CHANGED", "public.project_embeddings has no column embedding.")
    return int(row[0])


def fit_dimensions(connection: psycopg.Connection[tuple[Any, ...]], dimensions: int) -> None:
    """Give the vector columns, and the searches, the provider's dimensions: free as long as there are no vectors.

    Raises:
        MigrationError: TARGET_DIMENSIONS, there are vectors of another size.
    """
    deployed = vector_dimensions(connection)
    if deployed == dimensions:
        return
    tables = connection.execute("SELECT vectors FROM migration.vector_tables()").fetchall()
    for (table,) in tables:
        filled = sql.SQL("SELECT EXISTS (SELECT 1 FROM {})").format(sql.Identifier("public", table))
        if connection.execute(filled).fetchone() == (True,):
            raise MigrationError(
                "TARGET_DIMENSIONS", f"The target has {deployed}, the provider {dimensions}."
            )
    connection.execute("SELECT migration.fit_vectors(%s)", [dimensions])


def deploy(connection: psycopg.Connection[tuple[Any, ...]], dimensions: int | None) -> list[str]:
    """Bring a target wholly up to date: files, vector columns, registration; returns the names of new files.

    Args:
        dimensions: of the provider's vectors, if any are to be stored.

    Raises:
        MigrationError: as :func:`deploy_schema` and :func:`fit_dimensions` do.
    """
    before = _schema_before(connection)
    deployed = deploy_schema(connection, dimensions)
    if dimensions is not None:
        fit_dimensions(connection, dimensions)
    register(connection, ENTITIES.values(), before)
    return deployed


def register(
    connection: psycopg.Connection[tuple[Any, ...]], entities: Collection[Entity], before: Any = None
) -> None:
    """Tell the target what its functions need to know of entities and codes, as their files declare it now.

    Behind new files the schema is recorded, for validation to compare with.

    Args:
        before: what ``migration.schema_before`` gave before the files were run, to keep drift apart from them.
    """
    connection.execute("SELECT migration.register(%s)", [Jsonb(registration(entities))])
    connection.execute("SELECT migration.record_deployment(%s)", [None if before is None else Jsonb(before)])


def _schema_before(connection: psycopg.Connection[tuple[Any, ...]]) -> Any:
    """The schema as it is; None where new files are not to be told from anything, or there are none."""
    known = connection.execute("SELECT to_regprocedure('migration.schema_before()')").fetchone()
    if known in (None, (None,)) or {file.name for file in schema_files()} <= _recorded(connection).keys():
        return None
    row = connection.execute("SELECT migration.schema_before()").fetchone()
    return row and row[0]


def registration(entities: Collection[Entity]) -> dict[str, Any]:
    """What the target is told once it is deployed, as JSON: the argument of ``migration.register``."""
    return {
        "entities": {entity.name: _declared(entity) for entity in entities},
        "finding_kinds": {
            kind.code: {"reason": kind.reason, "how_to_fix": kind.how_to_fix} for kind in FINDINGS.values()
        },
    }


def verify_schema(target: Target, dimensions: int | None) -> None:
    """Refuse a target whose schema or registration is not that of this version, however it was deployed.

    Args:
        dimensions: of the provider's vectors, if any are to be stored.

    Raises:
        MigrationError: TARGET_SCHEMA_MISSING or TARGET_DIMENSIONS.
    """
    deployed = target.call("deployed")
    differences = _differences(deployed, registration(ENTITIES.values()))
    if differences:
        raise MigrationError("TARGET_SCHEMA_MISSING", f"{'; '.join(differences)}.")
    if dimensions is not None and deployed["dimensions"] != dimensions:
        raise MigrationError(
            "TARGET_DIMENSIONS", f"The target has {deployed['dimensions']}, the provider {dimensions}."
        )


def _differences(deployed: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """What is missing or different, for a person; what only the target knows is no difference but a newer file."""
    files = {file.name: file.hash for file in schema_files()}
    recorded = deployed["schema_versions"] or {}
    named = {
        "not deployed": files.keys() - recorded.keys(),
        "deployed from other files": {
            name for name in files.keys() & recorded if recorded[name] != files[name]
        },
        "deployed but unknown here": recorded.keys() - files.keys(),
    }
    for part, what in (("entities", "entities"), ("finding_kinds", "codes")):
        known = deployed[part]
        named[f"{what} registered otherwise"] = {
            name for name, facts in expected[part].items() if known.get(name) != facts
        }
    return [f"{what}: {', '.join(sorted(names))}" for what, names in named.items() if names]


def _declared(entity: Entity) -> dict[str, Any]:
    """The columns of migration.entities but its name."""
    return {
        "columns": [column.name for column in entity.columns],
        "refs": [
            {"name": name, "entity": ref.entity, "required": ref.on_missing is OnMissing.REJECT}
            for name, ref in entity.references.items()
        ],
        "enums": [{"name": c.name, "type": c.enum} for c in entity.columns if c.enum is not None],
        "checks": [
            {"name": check.name, "sql": check.sql, "severity": check.severity} for check in entity.checks
        ],
        "vectors": _vectors(entity),
        "merge_rules": {name: rule.value for name, rule in entity.merge_rules.items()},
    }


def _vectors(entity: Entity) -> dict[str, str | None] | None:
    embeddings = entity.embeddings
    if embeddings is None:
        return None
    document = embeddings.document
    return {
        "table": embeddings.table,
        "owner": embeddings.owner,
        "content_type": document.content_type,
        "documents": document.select_sql(),
        "documents_with_free_text": document.select_sql(free_text=True) if document.free_text else None,
    }
