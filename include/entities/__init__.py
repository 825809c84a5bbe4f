"""Every entity, parents before children. A new legacy table is one more file here, one import and one line."""

from collections.abc import Mapping
from graphlib import TopologicalSorter

from include.core.spec import Entity
from include.embedding.documents import refuse_health_columns
from include.entities import (
    cases,
    instruction_states,
    patients,
    practice_members,
    practices,
    profiles,
    projects,
    state_analytics,
    workflow_performance,
    workflow_template_tasks,
    workflow_templates,
)

_DECLARED = {
    module.ENTITY.name: module.ENTITY
    for module in (
        practices,
        profiles,
        practice_members,
        patients,
        cases,
        projects,
        instruction_states,
        state_analytics,
        workflow_templates,
        workflow_template_tasks,
        workflow_performance,
    )
}


def check_documents(entities: Mapping[str, Entity]) -> None:
    """Refuse documents that read what is not there, or health data of whichever entity.

    Raises:
        ValueError: names the entity and the columns.
    """
    health_columns = {name: entity.health_columns for name, entity in entities.items()}
    for entity in entities.values():
        if entity.embeddings is None:
            continue
        document = entity.embeddings.document
        if document.entity != entity.name:
            raise ValueError(f"{entity.name}: the document is that of {document.entity}")
        for referring, by, referred in document.references():
            reference = entities[referring].references.get(by)
            if reference is None or reference.entity != referred:
                raise ValueError(
                    f"the document of {entity.name}: {referring}.{by} is no reference to {referred}"
                )
        for table, columns in document.columns_read().items():
            unknown = sorted(set(columns) - {column.name for column in entities[table].columns})
            if unknown:
                raise ValueError(f"the document of {entity.name}: {table} has no {', '.join(unknown)}")
        for person in document.people:
            if entities[person.entity].deduplicate and not person.merged_by:
                raise ValueError(
                    f"the document of {entity.name} knows {person.entity} by one of their rows only"
                )
        refuse_health_columns(document, health_columns)


check_documents(_DECLARED)

ENTITIES: dict[str, Entity] = {
    name: _DECLARED[name]
    for name in TopologicalSorter({e.name: e.parents for e in _DECLARED.values()}).static_order()
}

EMBEDDED: dict[str, bool] = {
    name: entity.embeddings.default for name, entity in ENTITIES.items() if entity.embeddings is not None
}
"""Entities that have documents, and whether these are embedded unless a run says otherwise."""
