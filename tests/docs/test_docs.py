"""The documentation agrees with the code: generated pages, links, names of files, commands, params and tasks."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import airflow
import psycopg
import pytest
from airflow.dag_processing.dagbag import DagBag

from include.core.approval import APPROVE, REJECT
from include.core.errors import REGISTRY
from include.core.findings import FINDINGS
from include.core.run_progress import PHASES
from include.core.settings import params
from include.entities import EMBEDDED, ENTITIES
from local.docs import PAGES
from local.environment import PROJECT
from plugins.hooks.target_schema import deploy_schema

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
# Names files and tasks that are still to be made; they are tried in a test of their own.
_EXAMPLE = "adding-an-entity.md"
_FOLDERS = ("dags", "plugins", "include", "local", "tests", "docs", ".ci")


def pages() -> list[Path]:
    return sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])


def described() -> list[Path]:
    """The pages that speak of what is there."""
    return [page for page in pages() if page.name != _EXAMPLE]


def names(page: Path) -> list[str]:
    """What a page sets in code style."""
    return _CODE.findall(_FENCED.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def dags():
    return DagBag(PROJECT / "dags").dags


@pytest.fixture(scope="module")
def readme() -> str:
    return (PROJECT / "README.md").read_text()


@pytest.mark.parametrize("path", PAGES)
def test_generated_pages_are_up_to_date(path):
    assert (PROJECT / path).read_text() == PAGES[path](), "run python -m local.docs"


def test_the_runbook_has_a_section_for_every_code():
    sections = set(_HEADING.findall((PROJECT / "docs" / "runbook.md").read_text()))

    assert {*REGISTRY, *FINDINGS} <= sections


def test_the_field_mapping_names_every_column():
    text = (PROJECT / "docs" / "field-mapping.md").read_text()

    for entity in ENTITIES.values():
        section = text.split(f"\n## {entity.name}\n")[1].split("\n## ")[0]
        assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [c.name for c in entity.columns]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page):
    for link in _LINK.findall(_FENCED.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", described(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_files_that_pages_name_exist(page):
    for name in names(page):
        if name.startswith(tuple(f"{folder}/" for folder in _FOLDERS)):
            assert any(PROJECT.glob(name.rstrip("/"))), name


def test_commands_of_the_readme_exist(readme):
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"\bmake ([a-z]+)\b(?= |`|\n)", "\n".join(_commands(readme)))) <= targets
    for module in re.findall(r"python -m ([\w.]+)", readme):
        place = PROJECT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module


def _commands(text: str) -> list[str]:
    """Lines of code blocks, and inline code."""
    return [line + "\n" for block in _FENCED.findall(text) for line in block.splitlines()] + [
        f"{code}`" for code in _CODE.findall(_FENCED.sub("", text))
    ]


def test_the_readme_lists_the_params_with_their_defaults(readme):
    table = readme.split("## Parameters")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \| `([^`]+)`", table, re.MULTILINE)
    declared = params(ENTITIES, kind="incremental", environment={}, embedded=EMBEDDED)
    # The table of all, then those that only nightly runs have; dry_run is on for full ones.
    declared = [replace(p, default=True) if p.name == "dry_run" else p for p in declared]

    assert [(name, json.loads(default)) for name, default in listed] == [
        (p.name, p.default) for p in declared
    ]
    assert {p.variable for p in declared if p.variable} == set(re.findall(r"MIGRATION_\w+", table))


def test_dags_tasks_and_phases_of_the_pages_exist(readme, dags):
    table = readme.split("## Phases")[1].split("\n## ")[0]
    dag, other = dags["mdw_full_migration"], dags["mdw_incremental_migration"]
    groups = dag.task_group.get_task_group_dict()

    assert dag.task_ids == other.task_ids
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [*PHASES]
    assert set(PHASES) == set(dag.task_group.children)
    assert set(
        re.findall(r"\bmdw_(?:\w+_migration|undo_merge|preflight|rollback|validation)\b", readme)
    ) == set(dags)
    for page in described():
        for written in names(page):
            name = written.replace("<entity>", "cases")
            phase = name.split(".")[0]
            if phase in dag.task_group.children and "." in name:
                assert name in dag.task_ids or name in groups, f"{page.name}: {name}"


def test_each_manual_names_every_param_of_its_dag(dags):
    for name, dag in dags.items():
        assert set(dag.params) <= set(re.findall(r"`(\w+)`", dag.doc_md)), name


def test_params_of_the_manuals_are_grouped_like_the_form(dags):
    for name in ("mdw_full_migration", "mdw_incremental_migration", "mdw_preflight", "mdw_validation"):
        dag = dags[name]
        listed = dag.doc_md.split("**Params**")[1]
        section, found = None, []
        for title, param in re.findall(r"^\*([A-Z][^*]*)\*$|^\* `(\w+)` \(", listed, re.MULTILINE):
            section = title or section
            found += [(section, param)] if param else []
        assert found == [
            (dag.params.get_param(param).schema.get("section", "Essential"), param) for param in dag.params
        ]


def test_each_manual_says_what_to_do_before_and_when_a_task_is_red(dags):
    for name, dag in dags.items():
        for heading in ("**Before you start", "**Params", "red"):
            assert heading in dag.doc_md, name


def _buttons() -> set[str]:
    """What Airflow's pages write on buttons, tabs and choices."""
    folder = Path(airflow.__file__).parent / "ui" / "dist" / "i18n" / "locales" / "en"
    told = {page: json.loads((folder / f"{page}.json").read_text()) for page in ("common", "dags", "hitl")}
    actions, common = told["dags"]["runAndTaskActions"], told["common"]
    clear = actions["clear"]["button"]
    return {
        *(clear.replace("{{type}}", common[kind]) for kind in ("dagRun_one", "taskInstance_one")),
        *actions["options"].values(),
        told["hitl"]["requiredAction_other"],
        json.loads((folder / "components.json").read_text())["triggerDag"]["button"],
    }


def test_buttons_that_the_manuals_name_exist(dags):
    buttons = _buttons() | {APPROVE, REJECT, "Migration"}
    named = {
        button
        for dag in dags.values()
        for button in re.findall(
            r"(?<!\*)\*((?!The |A session)[A-Z][A-Za-z ]+)\*(?!\*)",
            " ".join(dag.doc_md.split("**Params**")[0].split()),
        )
    }
    assert {"Clear Dag Run", "Clear Task Instance", "Clear only failed tasks", "Trigger"} <= named
    assert named <= buttons


def test_codes_and_tasks_that_the_manuals_name_exist(dags):
    tasks = {task for dag in dags.values() for task in dag.task_ids}
    for name, dag in dags.items():
        assert set(re.findall(r"`?\[([A-Z_]+)\]", dag.doc_md)) <= set(REGISTRY), name
        for phase, task in re.findall(r"`([a-z_]+)\.([a-z_0-9]+)`", dag.doc_md):
            if phase in PHASES:
                assert f"{phase}.{task}" in tasks, name


def test_variables_of_the_pages_are_read_by_the_code(readme):
    code = (
        "\n".join(
            path.read_text()
            for folder in ("dags", "plugins", "include", "providers")
            for path in (PROJECT / folder).rglob("*.py")
        )
        + (PROJECT / "docker-compose.yaml").read_text()
    )
    example = (PROJECT / ".env.example").read_text()
    offered = set(re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", example, re.MULTILINE))
    assert {name for name in offered if name not in code and not name.startswith("AIRFLOW_CONN_")} == set()
    assert set(re.findall(r"`(?:LEGACY|MIGRATION|OPENAI)_[A-Z_]+(?<!_)`", readme)) <= {
        f"`{n}`" for n in offered
    }


def test_sections_that_the_code_names_exist():
    text = (PROJECT / "docs" / "legacy-mdw.md").read_text()
    known = set(re.findall(r"^#{2,3} (\d+[a-z]?(?:\.\d+)?)\.? ", text, re.MULTILINE))
    named: set[str] = set()
    for folder in ("include", "plugins", "local", "tests"):
        for path in (PROJECT / folder).rglob("*.*"):
            if path.suffix in (".py", ".sql", ".toml"):
                for numbers in re.findall(r"legacy-mdw\.md (?:sections? )?([\d., to]+\d)", path.read_text()):
                    named |= set(re.findall(r"\d+(?:\.\d+)?", numbers))

    assert named
    assert named <= known


def test_the_version_is_in_the_changelog():
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]

    assert f"## {version}" in (PROJECT / "CHANGELOG.md").read_text()


def test_statements_of_the_runbook_run_on_a_deployed_target(target_database):
    (block,) = re.findall(r"^```sql\n(.*?)^```$", PAGES["docs/runbook.md"](), re.MULTILINE | re.DOTALL)
    with psycopg.connect(target_database, autocommit=True) as connection:
        deploy_schema(connection, 8)
        for statement in block.split(";")[:-1]:
            assert connection.execute(statement).fetchall() == []
