"""dispatch_category → workflow_templates (docs/legacy-mdw.md sections 1.13, 1.14).

A legacy template is a task definition; its category is the workflow. Legacy id 0 stands for the one
workflow that holds all tasks without a category. Categories form a tree, so the table is never cut.
"""

from include.core.rules import copy, metadata, named, refers
from include.core.spec import Column, Entity, Kind, OnMissing, Source, Table

ENTITY = Entity(
    name="workflow_templates",
    group="phase_2c_templates",
    source=Source(
        tables=(
            Table(
                "dispatch_category",
                "t",
                columns={"id": Kind.INTEGER, "name": Kind.TEXT, "parent_id": Kind.INTEGER},
                sql="(SELECT c.id, c.name, c.parent_id FROM dispatch_category c"
                " UNION ALL SELECT 0, 'Tasks without category', NULL)",
            ),
        ),
        whole=True,
    ),
    columns=(
        Column("legacy_category_id", copy("t.id")),
        Column("name", named("t.name", "name")),
        refers("parent_id", "workflow_templates", "t.parent_id", OnMissing.CLEAR),
        metadata(parent_id=copy("t.parent_id")),
    ),
)
