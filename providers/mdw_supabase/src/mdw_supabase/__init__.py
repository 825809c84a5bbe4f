"""Airflow provider: the connection type `supabase`."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """What Airflow shows of the connection type; read without importing the hook."""
    return {
        "package-name": "mdw-supabase",
        "name": "Supabase",
        "description": "Supabase projects by URL and service role key.",
        "connection-types": [
            {
                "connection-type": "supabase",
                "hook-class-name": "mdw_supabase.hook.SupabaseHook",
                "hook-name": "Supabase",
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "port", "schema"],
                    "relabeling": {"host": "Project URL", "password": "Service role key"},
                    "placeholders": {
                        "host": "https://<project>.supabase.co",
                        "password": "sb_secret_… (dashboard: Project Settings, API Keys)",
                    },
                },
                "conn-fields": {
                    "allow_plaintext": {
                        "label": "Allow plaintext",
                        "description": "Send the key and patients' data unencrypted (http://) to another machine.",
                        "schema": {"type": ["boolean", "null"], "default": False},
                    },
                },
            }
        ],
    }
