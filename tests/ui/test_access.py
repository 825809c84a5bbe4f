"""Who is let in: every route over a real API server, with its sessions and roles."""

from __future__ import annotations

import httpx
import psycopg
import pytest
from fastapi.routing import APIRoute

from plugins.ui.app import app
from tests.ui.site import ROLES, Site

FULL = "mdw_full_migration"
SAME = {"Sec-Fetch-Site": "same-origin"}
ROUTES = [
    (method, route.path) for route in app.routes if isinstance(route, APIRoute) for method in route.methods
]


def filled(path: str, dag_id: str = FULL) -> str:
    return path.format_map({"dag_id": dag_id, "run_id": "r", "name": "page.js", "entity": "patients"})


def values_of(site: Site, client: httpx.Client, **headers: str) -> httpx.Response:
    row = client.post(f"/dags/{FULL}/quarantine", json={}).json()["rows"][0]["id"]
    return client.post(f"/dags/{FULL}/quarantine/values", json={"id": row}, headers=headers)


def looks(site: Site) -> list[tuple[str, ...]]:
    return site.databases.read(
        "SELECT details ->> 'by' FROM migration.audit_log WHERE event = 'quarantined values read' ORDER BY id"
    )


def test_there_are_routes() -> None:
    assert len(ROUTES) > 8


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nobody_gets_in_without_a_session(site: Site, method: str, path: str) -> None:
    with site.client(None, **SAME) as client:
        assert client.request(method, filled(path), json={}).status_code == httpx.codes.UNAUTHORIZED


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if "{dag_id}" in route[1]])
def test_a_dag_that_is_none_of_ours_has_no_pages(site: Site, method: str, path: str) -> None:
    with site.client("admin", **SAME) as client:
        answer = client.request(method, filled(path, "other"), json={})
        assert answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.UNPROCESSABLE_ENTITY)


@pytest.mark.parametrize("role", ROLES)
def test_whoever_may_read_the_dag_sees_the_run(site: Site, role: str) -> None:
    with site.client(role) as client:
        found = client.get(f"/dags/{FULL}/runs/{site.run_id}/progress").raise_for_status().json()
        assert found["run"]["status"] == "completed"
        assert found["may_edit"] == (role != "viewer")
        assert client.get(f"/dags/{FULL}/now").json()["may_edit"] == (role != "viewer")


def test_a_run_belongs_to_its_dag(site: Site) -> None:
    with site.client("admin") as client:
        answer = client.get(f"/dags/mdw_incremental_migration/runs/{site.run_id}/progress")
        assert answer.status_code == httpx.codes.NOT_FOUND


def test_values_are_for_editors_and_each_look_is_kept(site: Site) -> None:
    before = looks(site)
    with site.client("viewer") as client:
        assert values_of(site, client, **SAME).status_code == httpx.codes.FORBIDDEN
    assert looks(site) == before
    with site.client("user") as client:
        assert values_of(site, client, **SAME).raise_for_status().json()["values"]
    assert looks(site) == [*before, ("user",)]


@pytest.mark.parametrize(
    "headers",
    [{}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"},
     {"Origin": "https://elsewhere.example"}, {"Origin": "null"}],
)  # fmt: skip
def test_a_page_of_others_cannot_use_the_session(site: Site, headers: dict[str, str]) -> None:
    before = looks(site)
    with site.client("admin") as client:
        assert values_of(site, client, **headers).status_code == httpx.codes.FORBIDDEN
    assert looks(site) == before


def test_a_page_of_ours_or_a_token_may(site: Site) -> None:
    with site.client("admin") as client:
        assert values_of(site, client, Origin=site.address).is_success
    with site.client(None, Authorization=f"Bearer {site.token('op')}") as client:
        assert values_of(site, client).is_success
    assert looks(site)[-2:] == [("admin",), ("op",)]


def test_answers_cannot_be_framed_by_others_nor_kept(site: Site) -> None:
    with site.client("viewer") as client:
        for path in (f"/dags/{FULL}/now", f"/dags/{FULL}/state"):
            headers = client.get(path).raise_for_status().headers
            assert headers["Cache-Control"] == "no-store"
            assert "default-src 'self'" in headers["Content-Security-Policy"]
            assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]
        assert client.get("/static/../app.py").status_code == httpx.codes.NOT_FOUND
        assert client.get("/static/%2e%2e%2fapp.py").status_code == httpx.codes.NOT_FOUND


def test_what_is_not_understood_is_not_repeated(site: Site) -> None:
    with site.client("admin", **SAME) as client:
        answer = client.post(f"/dags/{FULL}/quarantine/values", json={"id": "O'Hara", "name": "Zoe"})
    assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    assert "Hara" not in answer.text
    assert "Zoe" not in answer.text


def test_a_target_that_waits_is_said_with_what_to_do(site: Site) -> None:
    with psycopg.connect(site.databases.target) as blocking, site.client("viewer") as client:
        blocking.execute("LOCK migration.runs")
        answer = client.get(f"/dags/{FULL}/now")
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert answer.json()["code"] == "TARGET_INTERRUPTED"
    assert answer.json()["next_step"]
