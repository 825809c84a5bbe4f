"""The report in the browser: behind Airflow's login, by a button of the run's last tasks, on screens and on paper."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.ui.conftest import keep
from tests.ui.site import Site

FULL = "mdw_full_migration"


def report(site: Site) -> dict[str, Any]:
    found = site.runs["real"].report
    assert found is not None
    return found


def path(site: Site, dag: str = FULL, run: str = "", file: str = "report") -> str:
    return f"/dags/{dag}/runs/{quote(run or report(site)['run_id'], safe='')}/{file}"


class TestAccess:
    @pytest.mark.parametrize("user", ["viewer", "admin"])
    def test_who_may_read_the_dag_reads_the_report(self, site: Site, user: str) -> None:
        with site.client(user) as client:
            answer = client.get(path(site))
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"].startswith(
            "default-src 'none'; style-src 'unsafe-inline'"
        )
        assert answer.headers["cache-control"] == "no-store"
        assert report(site)["headline"] in answer.text

    def test_strangers_do_not(self, site: Site) -> None:
        with site.client(None) as client:
            assert client.get(path(site)).status_code == 401

    @pytest.mark.parametrize(
        "wrong",
        [
            {"dag": "mdw_incremental_migration"},  # the run of another DAG
            {"run": "manual__never"},
            {"run": "../../../etc"},
            {"dag": "mdw_rollback"},  # which makes no report
        ],
    )
    def test_what_is_not_there_is_not_found(self, site: Site, wrong: dict[str, str]) -> None:
        with site.client("admin") as client:
            assert client.get(path(site, **wrong)).status_code == 404

    def test_machines_get_json(self, site: Site) -> None:
        with site.client("viewer") as client:
            assert client.get(path(site, file="report.json")).json() == report(site)


def test_the_button_of_the_last_tasks_leads_there(site: Site) -> None:
    run = quote(report(site)["run_id"], safe="")
    links = f"{site.address}/api/v2/dags/{FULL}/dagRuns/{run}/taskInstances/completion.close/links"
    answer = httpx.get(links, headers={"Authorization": f"Bearer {site.token('viewer')}"}, trust_env=False)
    link = answer.raise_for_status().json()["extra_links"]["Migration report"]
    assert link == f"/migration{path(site)}"


def test_it_reads_and_prints(site: Site, page: Page) -> None:
    page.goto(f"{site.address}/migration{path(site)}")
    expect(page.get_by_role("heading", level=1)).to_have_text(report(site)["headline"])
    expect(page.get_by_role("heading", name="What to do next")).to_be_visible()
    expect(
        page.get_by_role("img", name=re.compile("^Phases on a time axis: extraction from"))
    ).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^patients: inserted"))).to_be_visible()
    expect(page.get_by_role("rowheader", name="patients").first).to_be_visible()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        keep(page, f"report-{scheme}")
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_nothing_sticks_out_of_a_narrow_window(site: Site, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{site.address}/migration{path(site)}")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
