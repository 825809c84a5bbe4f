"""What the databases hold, asked in SQL of the tests' own, never through the code under test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.end_to_end.runs import Databases

EMBEDDINGS = {
    "project_embeddings": ("project_id", "projects"),
    "case_embeddings": ("case_id", "cases"),
    "workflow_template_embeddings": ("workflow_template_task_id", "workflow_template_tasks"),
}
# The rows of the legacy database that each entity must account for (docs/target-schema.md, column "From").
SOURCE_KEYS = {
    "practices": "SELECT id::text FROM dispatch_office",
    "profiles": "SELECT id::text FROM auth_user",
    "practice_members": "SELECT id::text FROM dispatch_office_doctors",
    "patients": "SELECT id::text FROM dispatch_patient",
    "cases": "SELECT id::text FROM dispatch_instruction",
    "projects": "SELECT id::text FROM dispatch_project",
    "instruction_states": "SELECT id::text FROM dispatch_state",
    "state_analytics": "SELECT id::text FROM dispatch_state",
    "workflow_templates": "SELECT id::text FROM dispatch_category UNION ALL SELECT '0'",
    "workflow_template_tasks": "SELECT id::text FROM dispatch_template",
    # One row per workflow and order that has tasks.
    "workflow_performance": "SELECT DISTINCT coalesce(d.category_id, 0) || ':' || t.instruction_id"
    " FROM dispatch_task t LEFT JOIN dispatch_template d ON d.id = t.template_id",
}
# Where each target table keeps the legacy key.
STORED_KEYS = {
    "practices": "legacy_office_id::text",
    "profiles": "legacy_user_id::text",
    "practice_members": "legacy_office_doctor_id::text",
    "patients": "legacy_patient_id::text",
    "cases": "legacy_instruction_id::text",
    "projects": "legacy_project_id::text",
    "instruction_states": "legacy_state_id::text",
    "state_analytics": "legacy_state_id::text",
    "workflow_templates": "legacy_category_id::text",
    "workflow_template_tasks": "legacy_template_id::text",
    "workflow_performance": "legacy_category_id || ':' || legacy_instruction_id",
}
_DECISIONS = ("id_map", "quarantine", "findings", "merges", "duplicate_pairs", "planned_ids", "watermarks")


@dataclass(frozen=True)
class Content:
    """A target at one moment.

    Attributes:
        rows: business table → number of rows.
        digests: business table → MD5 of all rows as text, by id; of vectors without their time of making.
        versions: business table → id → transaction that wrote the row last.
        decisions: migration table → number of rows.
    """

    rows: Mapping[str, int]
    digests: Mapping[str, str]
    versions: Mapping[str, Mapping[str, str]]
    decisions: Mapping[str, int]


def content(databases: Databases) -> Content:
    """Everything in the business tables now."""
    tables = [
        row[0]
        for row in databases.read(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        )
    ]
    versions = {
        table: {
            str(key): str(xmin) for key, xmin in databases.read(f"SELECT id, xmin::text FROM public.{table}")
        }
        for table in tables
    }
    return Content(
        rows={table: len(rows) for table, rows in versions.items()},
        digests={table: _digest(databases, table) for table in tables},
        versions=versions,
        decisions={
            table: databases.read(f"SELECT count(*) FROM migration.{table}")[0][0] for table in _DECISIONS
        },
    )


def _digest(databases: Databases, table: str) -> str:
    text = "(to_jsonb(t) - 'created_at')::text" if table in EMBEDDINGS else "t::text"
    query = f"SELECT md5(coalesce(string_agg({text}, E'\\n' ORDER BY id), '')) FROM public.{table} t"
    return str(databases.read(query)[0][0])


def source_keys(databases: Databases, entity: str) -> list[str]:
    """Legacy keys that the entity must account for."""
    return [row[0] for row in databases.read(SOURCE_KEYS[entity], source=True)]


def accounted(databases: Databases, entity: str) -> dict[str, set[str]]:
    """Fate → legacy keys: live, merged, quarantined."""
    mapped = databases.read(f"SELECT state, legacy_id FROM migration.id_map WHERE entity = '{entity}'")
    waiting = databases.read(
        f"SELECT legacy_id FROM migration.quarantine WHERE entity = '{entity}' AND status = 'open'"
    )
    return {
        "live": {key for state, key in mapped if state == "live"},
        "merged": {key for state, key in mapped if state == "merged"},
        "quarantined": {row[0] for row in waiting},
    }


def assert_all_accounted(databases: Databases, entity: str) -> None:
    """Every source key has exactly one fate, and what lives or was merged is a row of the target."""
    keys = source_keys(databases, entity)
    fates = accounted(databases, entity)
    assert len(keys) == len(set(keys))
    assert fates["live"] | fates["merged"] | fates["quarantined"] == set(keys)
    assert sum(map(len, fates.values())) == len(keys)
    stored = databases.read(f"SELECT {STORED_KEYS[entity]} FROM public.{entity} WHERE deleted_at IS NULL")
    assert sorted(row[0] for row in stored) == sorted(fates["live"] | fates["merged"])
