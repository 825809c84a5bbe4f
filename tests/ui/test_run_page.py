"""The page about a run and the one about the state, clicked on in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import quote

import psycopg
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.ui.conftest import keep
from tests.ui.site import Site

FULL = "mdw_full_migration"
LIVE = "manual__live"
HOSTILE = '<script>document.title = "owned"</script><img src=x onerror=alert(1)>\u202edrawkcab'


def open_run(page: Page, site: Site, run: str) -> None:
    page.goto(f"{site.address}/migration/dags/{FULL}/runs/{quote(run)}/page")


def row(page: Page, table: str, head: str) -> Locator:
    return (
        page.get_by_role("table", name=table, exact=True)
        .get_by_role("row")
        .filter(has=page.get_by_role("rowheader", name=head, exact=True))
    )


@pytest.fixture
def live(site: Site) -> Iterator[psycopg.Connection]:
    """A run under way, of which the tests write the ledger themselves."""
    with psycopg.connect(site.databases.target, autocommit=True) as target:
        target.execute(
            "INSERT INTO migration.runs (run_id, dag_id, type, scope, dry_run, status, phase, parameters,"
            " mapping_version, rules_version, code_version) VALUES (%s, %s, 'full', 'everything', true,"
            """ 'running', 'loading', '{"ai_budget": 10}', 'm', 'r', 'c')""",
            [LIVE, FULL],
        )
        target.execute(
            "INSERT INTO migration.plans (run_id, entity, source_rows, selected_rows, gone_rows, partitions)"
            " VALUES (%s, 'patients', 40000, 40000, 0, '[]')",
            [LIVE],
        )
        yield target
        for table in ("checks", "batches", "plans", "runs"):
            target.execute(f"DELETE FROM migration.{table} WHERE run_id = %s".encode(), [LIVE])


@pytest.fixture
def nights(site: Site) -> Iterator[None]:
    """Five incremental runs, a day apart, before the real one; each a minute longer than the one before."""
    with psycopg.connect(site.databases.target, autocommit=True) as target:
        target.execute(
            "INSERT INTO migration.runs (run_id, dag_id, type, scope, dry_run, status, parameters, mapping_version,"
            " rules_version, code_version, started_at, ended_at) SELECT 'scheduled__' || n,"
            " 'mdw_incremental_migration', 'incremental', 'changes', false, 'completed', '{}', 'm', 'r', 'c', t,"
            " t + make_interval(mins => n)"
            " FROM (SELECT n, now() - make_interval(days => 6 - n) AS t FROM generate_series(1, 5) n) r"
        )
        target.execute(
            "INSERT INTO migration.batches (run_id, entity, phase, batch, extracted, inserted, rejected)"
            " SELECT 'scheduled__' || n, 'cases', 'loading', 'p000-b0000', 100, 100 - n, n FROM generate_series(1, 5) n"
        )
        yield
        for table in ("batches", "runs"):
            target.execute(f"DELETE FROM migration.{table} WHERE run_id LIKE 'scheduled\\_\\_%'".encode())


def loaded(target: psycopg.Connection, batch: str, rows: int) -> None:
    target.execute(
        "INSERT INTO migration.batches (run_id, entity, phase, batch, extracted, inserted, seconds)"
        " VALUES (%s, 'patients', 'loading', %s, %s, %s, 2)",
        [LIVE, batch, rows, rows],
    )


def test_shows_what_became_of_every_row(page: Page, site: Site) -> None:
    open_run(page, site, site.run_id)
    expect(page.locator("#headline")).to_contain_text("completed")
    expect(page.locator("#headline")).to_contain_text("real run")
    ((inserted, merged),) = site.databases.read(
        "SELECT sum(inserted), sum(merged) FROM migration.batches WHERE entity = 'patients' AND phase = 'loading'"
        f" AND run_id = '{site.run_id}'"
    )
    patients = row(page, "Fates of rows by entity", "patients")
    expect(patients.get_by_role("img")).to_have_attribute(
        "aria-label", f"patients: inserted {inserted}, merged {merged}"
    )
    expect(patients.get_by_role("cell").nth(2)).to_have_text(str(inserted))
    expect(row(page, "Phases of this run", "loading")).to_contain_text("100%")
    keep(page, "migration-run")


def test_lists_checks(page: Page, site: Site) -> None:
    open_run(page, site, site.run_id)
    ((checks,),) = site.databases.read(
        f"SELECT count(*) FROM migration.checks WHERE run_id = '{site.run_id}'"
    )
    page.get_by_role("button", name="Show every check").press("Enter")
    expect(page.get_by_role("table", name="Every check").get_by_role("row")).to_have_count(checks + 1)


def test_follows_a_run_under_way_until_it_ends(
    page: Page, site: Site, live: psycopg.Connection, context: BrowserContext
) -> None:
    loaded(live, "p000-b0000", 10_000)
    open_run(page, site, LIVE)
    loading = row(page, "Phases of this run", "loading")
    expect(loading).to_contain_text("10,000 of 40,000")
    expect(loading.get_by_role("progressbar")).to_have_attribute("aria-label", "loading: 25%")
    expect(page.locator("#headline")).to_contain_text(re.compile(r"Time left\s*about"))
    expect(page.get_by_role("status")).to_have_text("loading 20 percent")
    page.locator("summary", has_text="loading by entity").focus()
    keep(page, "migration-live")
    loaded(live, "p000-b0001", 30_000)
    live.execute(
        "INSERT INTO migration.checks (run_id, name, entity, level, severity, expected, found, passed, sample_keys)"
        " VALUES (%s, 'rows_as_in_source', 'patients', 1, 'fail', '40000', '39999', false, '{123}')",
        [LIVE],
    )
    expect(loading).to_contain_text("100%", timeout=10_000)
    expect(row(page, "Checks that did not pass", "rows as in source")).to_contain_text("123")
    expect(page.locator("summary:focus")).to_have_text("loading by entity")  # what has the focus keeps it
    live.execute(
        "UPDATE migration.runs SET status = 'failed', ended_at = now(), failed_steps = '{validation.counts}'"
        " WHERE run_id = %s",
        [LIVE],
    )
    expect(page.locator("#trouble")).to_contain_text("Failed: validation.counts", timeout=10_000)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(4_000)
    assert not [url for url in asked if url.endswith("/progress")]
    # Its failed tasks are cleared, and somebody looks again.
    live.execute("UPDATE migration.runs SET status = 'running', ended_at = NULL WHERE run_id = %s", [LIVE])
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#headline")).to_contain_text("running")


def test_a_run_that_is_not_open_yet_is_waited_for(page: Page, site: Site) -> None:
    open_run(page, site, "manual__unknown")
    expect(page.locator("#headline")).to_contain_text("The target knows nothing of this run")


def test_an_airflow_that_does_not_answer_is_said_and_asked_again(page: Page, site: Site) -> None:
    page.route("**/progress", lambda route: route.abort())
    open_run(page, site, site.run_id)
    expect(page.get_by_role("alert").first).to_contain_text("Airflow does not answer")
    page.unroute("**/progress")
    expect(page.locator("#headline")).to_contain_text("completed", timeout=10_000)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_quarantine_is_filtered_and_shows_values_on_request(page: Page, site: Site) -> None:
    with psycopg.connect(site.databases.target) as target:
        found = target.execute(
            "UPDATE migration.quarantine SET payload = %s WHERE id = (SELECT min(id) FROM migration.quarantine"
            " WHERE entity = 'cases' AND status = 'open') RETURNING legacy_id",
            [json.dumps({"notes": HOSTILE, "gone": None})],
        ).fetchone()
    assert found is not None
    open_run(page, site, site.run_id)
    page.get_by_role("combobox", name="Entity").select_option("cases")
    rows = page.get_by_role("table", name="Rows in quarantine", exact=True)
    expect(rows.get_by_role("rowheader", name=found[0], exact=True)).to_be_visible()
    expect(rows.locator("tbody tr", has_text="workflow")).to_have_count(0)
    button = rows.get_by_role("button", name=f"values of cases {found[0]}")
    button.press("Enter")
    dialog = page.get_by_role("dialog", name=f"cases {found[0]}")
    expect(dialog.get_by_role("row").filter(has_text="notes")).to_contain_text(HOSTILE)
    assert page.title() != "owned"
    assert dialog.locator("script, img").count() == 0
    ((by, details),) = site.databases.read(
        "SELECT details ->> 'by', details ->> 'legacy_id' FROM migration.audit_log"
        " WHERE event = 'quarantined values read' ORDER BY id DESC LIMIT 1"
    )
    assert (by, details) == ("admin", found[0])
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_text(HOSTILE)).to_have_count(0)
    expect(button).to_be_focused()


@pytest.mark.signed_in("viewer")
def test_who_may_not_edit_is_offered_no_values(page: Page, site: Site) -> None:
    open_run(page, site, site.run_id)
    expect(page.locator("#headline")).to_contain_text("completed")
    page.get_by_role("button", name="List the rows").click()
    expect(page.get_by_text("for editors").first).to_be_visible()
    expect(page.get_by_role("button", name="values of")).to_have_count(0)


@pytest.mark.parametrize("name", ["run", "state"])
def test_is_built_for_screen_readers(page: Page, site: Site, name: str) -> None:
    where = f"runs/{quote(site.run_id)}/page" if name == "run" else "state"
    page.goto(f"{site.address}/migration/dags/{FULL}/{where}")
    expect(page.get_by_role("link", name="Review duplicates")).to_be_visible()
    assert page.get_by_role("main").count() == page.locator("h1").count() == 1
    for region in page.locator("section").all():
        expect(region).to_have_accessible_name(re.compile("."))
    for table in page.locator("table").all():
        assert table.locator("caption").text_content()
        assert table.locator("thead th:not([scope=col])").count() == 0
        assert table.locator("tbody tr > :first-child:not(th[scope=row])").count() == 0
    for control in page.locator("select, button, meter, progress").all():
        expect(control).to_have_accessible_name(re.compile("."))
    page.keyboard.press("Tab")
    expect(page.locator("a.skip")).to_be_focused()


@pytest.mark.usefixtures("nights")
def test_the_state_is_shown_without_a_run(page: Page, site: Site) -> None:
    page.goto(f"{site.address}/migration/dags/{FULL}/state")
    expect(page.get_by_text("No run is migrating.")).to_be_visible()
    expect(page.get_by_text("The target follows the source up to")).to_be_visible()
    age, rejected, took = (
        page.get_by_role("img", name=name) for name in ("Age of the data", "Rows rejected", "Time")
    )
    expect(age).to_have_attribute(
        "aria-label",
        re.compile(r"last 24\.\d h, highest 24\.\d h, over 5 runs"),  # the first one had none before it
    )
    expect(rejected).to_have_attribute("aria-label", re.compile(r"last \d+, highest \d+, over 6 runs"))
    expect(took).to_have_attribute("aria-label", re.compile("highest 5 min"))
    keep(page, "migration-state")
    page.get_by_role("link", name=site.run_id).click()
    expect(page).to_have_url(re.compile(r"/runs/.*/page$"))
    expect(page.locator("#headline")).to_contain_text("completed")


def test_airflow_has_a_tab_and_an_entry_under_browse(page: Page, site: Site) -> None:
    page.set_viewport_size({"width": 1200, "height": 760})
    page.goto(f"{site.address}/dags/{FULL}/runs/{quote(site.run_id)}")
    page.get_by_role("tab", name="Migration").or_(
        page.get_by_role("link", name="Migration", exact=True)
    ).click()
    frame = page.frame_locator("iframe[title=Migration]")
    expect(frame.locator("#headline")).to_contain_text("completed", timeout=15_000)
    keep(page, "migration-tab")
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Migration state").click()
    expect(page.frame_locator("iframe").get_by_text("No run is migrating.")).to_be_visible(timeout=15_000)


def test_goes_with_the_dark(page: Page, site: Site) -> None:
    page.emulate_media(color_scheme="dark")
    open_run(page, site, site.run_id)
    expect(page.locator("#headline")).to_contain_text("completed")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
    keep(page, "migration-run-dark")
