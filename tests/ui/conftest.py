"""What the tests of the pages share: one real API server over one migrated target, and one browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from local.environment import PROJECT
from tests.conftest import NOT_TESTED
from tests.end_to_end.conftest import MakeDatabases, make_databases, metadata_template, source_template
from tests.end_to_end.runs import airflow_home
from tests.ui.site import CHROMIUM, Site, await_pages, serving_pages

__all__ = ["make_databases", "metadata_template", "source_template"]

SCREENSHOTS = PROJECT / ".state" / "screenshots"


def pytest_configure(config: pytest.Config) -> None:
    """Who is signed in is a mark of a test."""
    config.addinivalue_line("markers", "signed_in(user): whose session the browser has; admin's without it")


@pytest.fixture(scope="session")
def site(
    tmp_path_factory: pytest.TempPathFactory, metadata_template: Path, make_databases: MakeDatabases
) -> Iterator[Site]:
    """Airflow's pages over a target into which a real run migrated (``site.runs["real"]``)."""
    databases = make_databases()
    with (
        airflow_home(tmp_path_factory.mktemp("site"), metadata_template) as airflow,
        serving_pages(airflow.state, airflow.environment, databases) as site,
    ):
        site.runs = {"real": airflow.run(databases, dry_run=False)}
        airflow.close()
        await_pages(site, airflow.state)
        yield site


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    program = shutil.which("chromium")
    if program is None:
        # Where a browser has been installed on purpose, its absence is a fault.
        outcome = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip
        outcome(f"{NOT_TESTED}the pages in a browser: there is no chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*CHROMIUM])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, site: Site, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """A browser of its own for the user ``admin``, or the one that a mark ``signed_in("viewer")`` names."""
    mark = request.node.get_closest_marker("signed_in")
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    context.add_cookies(
        [{"name": "_token", "value": site.token(mark.args[0] if mark else "admin"), "url": site.address}]
    )
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page on which no script may fail and nothing may be blocked by the content security policy."""
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if _is_problem(said.text) else None)
    yield page
    assert problems == []


def _is_problem(said: str) -> bool:
    return "Content Security Policy" in said or "Uncaught" in said


def keep(page: Page, name: str) -> None:
    """A screenshot in a folder that git ignores; where ``DOCS_IMAGES`` is set, also over the one that the docs have."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    image = PROJECT / "docs" / "images" / f"{name}.png"
    if os.environ.get("DOCS_IMAGES") and image.exists():
        page.screenshot(path=image)
