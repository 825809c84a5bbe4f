"""How many rows each table of the synthetic source has."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

# Registries describe the workflow, not the business: they stay as they are when a practice grows.
REGISTRIES = frozenset(
    {
        "groups",
        "courses",
        "products",
        "categories",
        "roles",
        "templates",
        "template_edit_roles",
        "template_view_roles",
        "template_view_groups",
        "template_products",
        "template_predecessors",
    }
)
# Below this the dirt would leave no clean row to tell it from.
SMALLEST_PATIENTS = 40
SPARE_USERS = 10
SMALLEST_TABLE = 4


@dataclass(frozen=True)
class SourceSize:
    """Rows per table, named like the tables without ``dispatch_`` and ``auth_``.

    The defaults are the real installation (docs/legacy-mdw.md section 5.2; where that section gives no
    figure: 1.1, 1.9 and 1.14). Tables below ``patients`` may be 0; a table that refers to an empty one
    must be empty too, or ``ValueError`` is raised.
    """

    users: int = 9_100
    groups: int = 10
    user_groups: int = 9_300
    offices: int = 850
    office_doctors: int = 440
    patients: int = 7_850
    courses: int = 6
    products: int = 10
    jaws: int = 40_000
    instructions: int = 23_300
    projects: int = 66_900
    plans: int = 60_000
    states: int = 4_750
    categories: int = 44
    roles: int = 46
    templates: int = 152
    template_edit_roles: int = 603
    template_view_roles: int = 1_036
    template_view_groups: int = 183
    template_products: int = 166
    template_predecessors: int = 191
    tasks: int = 769_000

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ValueError(problem)

    @classmethod
    def real(cls) -> SourceSize:
        """The real installation, as of summer 2025."""
        return cls()

    def scaled(self, patients: int, **overrides: int) -> SourceSize:
        """The same installation with another number of patients and everything else in proportion.

        Registries keep their size. ``overrides`` sets single tables by field name
        (``tasks=0`` for a source without tasks).
        """
        factor = patients / self.patients
        counts = {
            field.name: max(round(getattr(self, field.name) * factor), SMALLEST_TABLE)
            for field in fields(self)
            if field.name not in REGISTRIES
        }
        counts["patients"] = patients
        counts["users"] = max(counts["users"], patients + SPARE_USERS)
        counts["user_groups"] = max(counts["user_groups"], counts["users"])
        return replace(self, **{**counts, **overrides})

    def _problems(self) -> list[str]:
        problems = [f"{field.name} is negative" for field in fields(self) if getattr(self, field.name) < 0]
        if self.patients < SMALLEST_PATIENTS:
            problems.append(f"at least {SMALLEST_PATIENTS} patients are needed")
        if self.users < self.patients + SPARE_USERS:
            problems.append(f"users must exceed patients by {SPARE_USERS}: doctors and staff are users too")
        if self.offices < SMALLEST_TABLE:
            problems.append(f"at least {SMALLEST_TABLE} offices are needed")
        for child, parents in _NEEDS.items():
            problems += [
                f"{child} needs {parent}"
                for parent in parents
                if getattr(self, child) and not getattr(self, parent)
            ]
        for table, capacity in self._capacities().items():
            if getattr(self, table) > capacity:
                problems.append(f"{table} can have at most {capacity} rows")
        return problems

    def _capacities(self) -> dict[str, int]:
        return {
            "groups": 10,
            "courses": 6,
            "products": 10,
            "user_groups": 2 * self.users * 9 // 10,
            "office_doctors": self.offices * (self.users - self.patients) // 4,
            "jaws": max(2 * self.instructions, 0),
            "states": self.instructions,
            "template_edit_roles": self.templates * self.roles // 2,
            "template_view_roles": self.templates * self.roles // 2,
            "template_view_groups": self.templates * self.groups // 2,
            "template_products": self.templates * self.products // 2,
            "template_predecessors": self.templates * (self.templates - 1) // 4,
        }


_NEEDS = {
    "user_groups": ("groups",),
    "instructions": ("courses",),
    "plans": ("projects", "instructions"),
    "states": ("instructions",),
    "tasks": ("instructions", "templates"),
    "template_edit_roles": ("templates", "roles"),
    "template_view_roles": ("templates", "roles"),
    "template_view_groups": ("templates", "groups"),
    "template_products": ("templates", "products"),
    "template_predecessors": ("templates",),
}
