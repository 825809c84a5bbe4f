"""After whatever happened to the source, a nightly run leaves what a fresh full migration would.

Scenarios that keep to rows of their own share nights, which saves minutes. With MIGRATION_SCENARIOS=alone each
has its own: that tells which one of a group leads to a difference.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import pytest

from tests.incremental.conftest import MakeWorld
from tests.incremental.scenarios import (
    SCENARIOS,
    Expected,
    Steps,
    deletes,
    derived,
    links,
    maintenance,
    merges,
    quarantine,
    transactions,
    writes,
)
from tests.incremental.world import World

SHOWN = 40
MODULES = (writes, transactions, deletes, links, derived, merges, quarantine, maintenance)
_NAMES_OF = {module: [name for name in SCENARIOS if name in vars(module)] for module in MODULES}

GROUPS: tuple[Sequence[str], ...] = (
    (
        "save",
        "save_update_fields",
        "queryset_update",
        "queryset_update_with_an_expression",
        "bulk_update",
        "only_a_first_name",
        "row_without_a_stamp",
        "stamp_becomes_null",
        "back_dated_update",
        "raw_sql",
        "state_inserted_into_a_history",
        "state_moved_within_its_history",
        "state_loses_its_order",
        "first_bottleneck_seen",
        "task_done_at_another_time",
        "task_added_and_moved",
        "order_submitted_earlier",
        "category_moved_in_the_tree",
        "merged_row_deleted",
        "merged_row_changes_otherwise",
        "order_moves_to_a_merged_patient",
        "office_deleted_leaving_patients",
        "template_deleted",
        "category_of_a_template_emptied",
        "missing_patient_arrives",
        "missing_order_arrives",
        "missing_template_arrives",
        "new_rows_go_to_quarantine",
        "plan_leads_to_nowhere",
    ),
    (
        "bulk_create",
        "back_dated_insert",
        "there_and_back",
        "malformed_json_is_repaired",
        "office_of_a_patient_changed",
        "states_of_an_order_moved_to_another",
        "user_becomes_staff_and_gets_an_address",
        "group_renamed_changes_nothing",
        "merge_dissolves_by_the_merged_row",
        "merge_arises_by_an_edit",
        "merge_arises_by_an_insert",
        "survivor_changes_by_a_stamp",
        "one_of_three_leaves",
        "course_renamed",
        "jaw_changed",
        "order_moved_to_another_patient",
        "office_doctor_added",
        "office_doctor_removed",
        "first_of_two_equal_links_removed",
        "groups_and_products_of_a_template",
        "predecessor_added",
        "predecessor_removed",
        "groups_of_a_user",
    ),
    (
        "leaf_deleted",
        "parent_deleted_with_its_children",
        "parent_deleted_without_its_children",
        "survivor_of_a_merge_deleted",
        "survivor_of_a_deleted_order_changes",
        "key_used_again_at_once",
        "key_used_again_later",
        "plan_deleted",
        "quarantined_row_changes",
        "role_renamed",
        "category_renamed",
    ),
    (
        "user_deleted_with_everything",
        "grandparent_deleted_alone",
        "survivor_of_three_deleted",
        "deleted_row_comes_back",
        "last_task_of_a_workflow_deleted",
        "quarantined_rows_deleted",
        "merge_dissolves_by_the_survivor",
        "percentile_moves",
        "last_task_of_another_workflow_deleted",
    ),
    (
        "survivor_deleted_leaving_orders",
        "parent_comes_back_alone",
        "plans_change",
        "office_deleted",
        "category_deleted",
        "merge_arises_and_dissolves_again",
        "survivor_of_three_leaves",
        "office_doctors_set_anew",
        "cycle_of_predecessors",
    ),
    (
        "merged_row_deleted_leaving_orders",
        "row_repaired",
        "row_damaged_and_repaired",
        "damaged_row_of_a_survivor",
        "missing_user_arrives",
        "missing_office_arrives_and_goes",
        "project_of_a_damaged_order",
        "category_arrives_with_its_children",
        "template_moved_to_another_category",
        "soft_delete",
        "pair_to_review_arises",
        "roles_of_a_template",
    ),
    (*_NAMES_OF[transactions], "survivor_changes_by_an_address"),
    (
        *_NAMES_OF[maintenance],
        "new_order_of_a_merged_patient",
        "link_repeated_by_a_lower_key",
        "unique_value_of_a_deleted_row_used_again",
        "unique_values_exchanged",
    ),
)


@dataclass
class Nights:
    """What came of the nights of a group.

    Attributes:
        problems: scenario → what was not as it expected.
        differences: between the target and a fresh full migration, after any night.
        broken: the error that ended the nights.
    """

    names: Sequence[str]
    problems: dict[str, list[str]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    broken: str = ""

    def run(self, world: World) -> None:
        """Night after night, until every scenario has ended."""
        with ExitStack() as stack:
            under_way = {name: stack.enter_context(closing(SCENARIOS[name](world))) for name in self.names}
            while expected := self._next(under_way):
                for name, step in expected.items():
                    if (world.read(step.query) == step.rows) != step.already:
                        self._note(name, f"before its night: {step.query}")
                night = world.night().raise_errors()
                world.assert_incremental(night)
                for name, step in expected.items():
                    if (found := world.read(step.query)) != step.rows:
                        self._note(name, f"{found} instead of {step.rows}: {step.query}")
                if any(step.compared for step in expected.values()):
                    self.differences += world.differences()

    def _next(self, under_way: dict[str, Steps]) -> dict[str, Expected]:
        found = {}
        for name, steps in list(under_way.items()):
            try:
                found[name] = next(steps)
            except StopIteration:
                del under_way[name]
            except AssertionError as failed:
                del under_way[name]
                self._note(name, f"after its night: {failed}")
        return found

    def _note(self, name: str, problem: str) -> None:
        self.problems.setdefault(name, []).append(problem)


@pytest.fixture(scope="module")
def nights_of(make_world: MakeWorld) -> Callable[[str], Nights]:
    """The nights that a scenario takes part in, run once."""
    done: dict[str, Nights] = {}

    def nights(name: str) -> Nights:
        if name not in done:
            group = next((group for group in GROUPS if name in group), (name,))
            made = Nights((name,) if os.environ.get("MIGRATION_SCENARIOS") == "alone" else group)
            done.update(dict.fromkeys(made.names, made))
            try:
                with make_world() as world:
                    made.run(world)
            except Exception:  # noqa: BLE001 - it concerns every scenario of the group, not the first one alone
                made.broken = traceback.format_exc()
        return done[name]

    return nights


@pytest.mark.parametrize("name", SCENARIOS)
def test_target_is_as_after_a_fresh_full_migration(name: str, nights_of: Callable[[str], Nights]) -> None:
    nights = nights_of(name)
    assert not nights.broken, nights.broken
    assert nights.problems.get(name, []) == []
    assert nights.differences == [], "\n".join([*nights.differences[:SHOWN], f"of the group {nights.names}"])


def test_every_scenario_runs_once() -> None:
    """A generator without the decorator would never run; a name in two groups would hide the second."""
    grouped = [name for group in GROUPS for name in group]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) <= set(SCENARIOS)
    generators = [
        value
        for module in MODULES
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__annotations__", {}).get("return") == "Steps"
    ]
    assert {s.__name__ for s in generators if s.__module__.startswith(__package__)} - {"scenario"} == set(
        SCENARIOS
    )
