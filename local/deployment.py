"""Deploys the target's schema over a direct connection, as the Supabase CLI would before the client's way in."""

from __future__ import annotations

import psycopg

from include.entities import ENTITIES
from plugins.hooks.embeddings import LocalProvider
from plugins.hooks.target_schema import deploy_schema, fit_dimensions, register


def deploy(dsn: str) -> list[str]:
    """Deploy what is not deployed yet, with vectors for the embeddings that are made here; says what was done."""
    tables = [entity.embeddings.table for entity in ENTITIES.values() if entity.embeddings is not None]
    with psycopg.connect(dsn, autocommit=True) as connection:
        deployed = deploy_schema(connection, LocalProvider.dimensions)
        fit_dimensions(connection, tables, LocalProvider.dimensions)
        register(connection, ENTITIES.values())
    return [f"deployed {len(deployed)} schema files"] if deployed else ["schema as deployed"]
