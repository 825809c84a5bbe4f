"""Deploys the target's schema over a direct connection, as the Supabase CLI would before the client's way in."""

from __future__ import annotations

import psycopg

from plugins.hooks import target_schema
from plugins.hooks.embeddings import LocalProvider


def deploy(dsn: str) -> list[str]:
    """Deploy what is not deployed yet, with vectors for the embeddings that are made here; says what was done."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        deployed = target_schema.deploy(connection, LocalProvider.dimensions)
    return [f"deployed {len(deployed)} schema files"] if deployed else ["schema as deployed"]
