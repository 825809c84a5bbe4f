"""Every entity, parents before children. A new legacy table is one more file here, one import and one line."""

from graphlib import TopologicalSorter

from include.core.spec import Entity
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

ENTITIES: dict[str, Entity] = {
    name: _DECLARED[name]
    for name in TopologicalSorter({e.name: e.parents for e in _DECLARED.values()}).static_order()
}
