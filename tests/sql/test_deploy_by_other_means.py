"""The schema files deploy without us too, as the Supabase CLI runs them: one by one, in the order of their names."""

import psycopg

from plugins.hooks.schema_files import schema_files
from plugins.hooks.target_schema import deploy_schema, fit_dimensions, vector_dimensions


def test_files_deployed_by_other_means_are_taken_over(target_database):
    files = schema_files()
    assert [file.name for file in files] == sorted(file.name for file in files)
    with psycopg.connect(target_database, autocommit=True) as connection:
        for file in files:
            connection.execute(file.sql)
        assert deploy_schema(connection, 512) == []
        recorded = dict(connection.execute("SELECT name, hash FROM migration.schema_versions").fetchall())
        assert recorded == {file.name: file.hash for file in files}
        assert vector_dimensions(connection) == 1536
        fit_dimensions(connection, 512)
        assert vector_dimensions(connection) == 512
