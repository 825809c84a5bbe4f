"""The review page in a browser: by keyboard, by mouse, with hostile values, and for who may not see names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Page, expect

from tests.ui.conftest import keep
from tests.ui.site import Site

DAG = "mdw_full_migration"
BASE = f"/dags/{DAG}/review"
SCRIPT = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
TURNED = "Zo\u202eeva"
LONG = "x" * 10_000
EXPLANATION = {
    "prior": -10.5,
    "fields": {
        "last_name": {"level": "equal", "weight": 9.1, "words": "same surname, rare (+9.1)"},
        "first_name": {"level": "different", "weight": -4.1, "words": "different first name (-4.1)"},
        "gender": {"level": "missing", "weight": 0.0, "words": "sex not compared (+0.0)"},
    },
    "vetoes": ["first_name_differs"],
}
FIRST = 9_000_000
"""Legacy id of the first patient made here; the second of each pair is the one behind it."""
PEOPLE = [
    ("Ann", "Orchard", "1980-02-29", "female", "ann@example.org"),
    ("Anne", "Orchard", "1980-02-28", "female", None),
    ("Tom", "Baker", "1962-07-14", "male", "tom.baker@example.org"),
    ("Thomas", "Baker", "1962-07-14", "male", "baker@example.com"),
    ("Maria", "Silva", "1991-11-03", "female", None),
    ("Maria", "da Silva", "1991-03-11", "female", None),
    *((f"Person {number}", "Example", "1950-01-01", None, None) for number in range(136)),
    (SCRIPT, "O'Hara", "1970-01-01", None, None),
    (TURNED, "O'Hara\u0001\u200b", "1970-01-01", None, None),
    ("שלום", LONG, "1960-01-01", None, None),
    ("שלום", f"{LONG}y", "1960-01-01", None, None),
]
COLUMNS = ("key", "first_name", "last_name", "born", "sex", "email")
PAIRS = len(PEOPLE) // 2


@pytest.fixture
def queue(site: Site) -> Iterator[psycopg.Connection[Any]]:
    """Pairs that wait, likelier than any that the run found; with what was decided on them they are gone behind it."""
    people = [
        dict(zip(COLUMNS, (FIRST + number, *person), strict=True)) for number, person in enumerate(PEOPLE)
    ]
    with psycopg.connect(site.databases.target, autocommit=True) as connection:
        forget(connection)
        connection.execute(
            "WITH made AS (INSERT INTO public.patients (id, legacy_patient_id, patient_number, first_name, last_name,"
            " date_of_birth, gender, email) SELECT gen_random_uuid(), p.key, 'R' || p.key, p.first_name, p.last_name,"
            " p.born, p.sex, p.email FROM jsonb_to_recordset(%s::jsonb) AS p (key bigint, first_name text,"
            " last_name text, born date, sex public.gender_type, email text)"
            " RETURNING id, legacy_patient_id)"
            " INSERT INTO migration.id_map (entity, legacy_id, target_id, state, first_run, last_run)"
            " SELECT 'patients', legacy_patient_id::text, id, 'live', 'test', 'test' FROM made",
            [json.dumps(people)],
        )
        connection.execute(
            "INSERT INTO migration.duplicate_pairs"
            " (entity, left_legacy_id, right_legacy_id, score, explanation, status)"
            " SELECT 'patients', n::text, (n + 1)::text, 1 - (n - %s) / 2e4, %s::jsonb, 'pending'"
            " FROM generate_series(%s, %s, 2) AS n",
            [FIRST, json.dumps(EXPLANATION), FIRST, FIRST + len(PEOPLE) - 2],
        )
        yield connection
        forget(connection)


def forget(connection: psycopg.Connection[Any]) -> None:
    """What is made here, and what became of it."""
    for statement in (
        "DELETE FROM migration.former_decisions WHERE left_legacy_id::bigint >= %s",
        "DELETE FROM migration.duplicate_pairs WHERE left_legacy_id::bigint >= %s",
        "DELETE FROM migration.id_map WHERE entity = 'patients' AND legacy_id::bigint >= %s",
        "DELETE FROM public.patients WHERE legacy_patient_id >= %s",
    ):
        connection.execute(statement.encode(), [FIRST])


def ids(number: int) -> tuple[str, str]:
    """Of a pair made here."""
    return str(FIRST + 2 * number), str(FIRST + 2 * number + 1)


def kept(queue: psycopg.Connection[Any], number: int) -> tuple[Any, ...] | None:
    """Status, who decided and why, of a pair made here."""
    return queue.execute(
        "SELECT status, decided_by, decision_reason FROM migration.duplicate_pairs WHERE left_legacy_id = %s",
        [ids(number)[0]],
    ).fetchone()


def audited(queue: psycopg.Connection[Any], event: str) -> list[dict[str, Any]]:
    rows = queue.execute("SELECT details FROM migration.audit_log WHERE event LIKE %s ORDER BY id", [event])
    return [details for (details,) in rows]


def open_page(page: Page, site: Site, status: str = "pending") -> None:
    page.goto(f"{site.address}/migration{BASE}#{status}")
    expect(page.locator("#said")).not_to_be_empty()  # all is shown then


def shows(page: Page, number: int) -> None:
    left, right = ids(number)
    expect(page.locator("#pair-title")).to_have_text(f"Patients {left} and {right}")


class TestKeyboard:
    def test_confirms_rejects_skips_and_undoes(
        self, site: Site, page: Page, queue: psycopg.Connection[Any]
    ) -> None:
        open_page(page, site)
        shows(page, 0)
        page.set_viewport_size({"width": 1280, "height": 640})
        keep(page, "review")
        page.keyboard.press("c")
        shows(page, 1)
        expect(page.locator("#said")).to_contain_text(f"{ids(0)[0]} and {ids(0)[1]}: one patient.")
        expect(page.locator("#pair-title")).to_be_focused()
        assert kept(queue, 0) == ("confirmed", "admin", "compared side by side")

        page.keyboard.press("s")
        shows(page, 2)
        page.keyboard.press("r")
        shows(page, 3)
        assert kept(queue, 1) == ("pending", None, None)
        assert kept(queue, 2) == ("rejected", "admin", "compared side by side")

        for number in (2, 0):
            page.keyboard.press("u")
            shows(page, number)
            assert kept(queue, number) == ("pending", None, None)
        expect(page.locator("#undo")).to_be_disabled()
        page.keyboard.press("u")
        expect(page.locator("#said")).to_have_text("There is nothing to undo.")

    def test_walks_through_the_queue_and_beyond_its_first_page(
        self, site: Site, page: Page, queue: psycopg.Connection[Any]
    ) -> None:
        open_page(page, site)
        page.keyboard.press("j")
        shows(page, 1)
        page.keyboard.press("k")
        shows(page, 0)
        page.keyboard.press("k")
        expect(page.locator("#said")).to_have_text("This is the first pair.")
        page.get_by_role("button", name=f"{ids(49)[0]} and").click()
        shows(page, 49)
        page.keyboard.press("j")
        shows(page, 50)
        page.get_by_role("button", name=f"{ids(50)[0]} and").focus()
        page.keyboard.press("ArrowDown")
        shows(page, 51)

    def test_types_a_comment_and_a_patients_id(
        self, site: Site, page: Page, queue: psycopg.Connection[Any]
    ) -> None:
        open_page(page, site)
        page.keyboard.press("m")
        page.keyboard.type("called: moved house")
        page.keyboard.press("Escape")
        page.keyboard.press("c")
        shows(page, 1)
        assert kept(queue, 0) == ("confirmed", "admin", "called: moved house")

        page.keyboard.press("/")
        page.keyboard.type(ids(7)[1])
        page.keyboard.press("Enter")
        shows(page, 7)
        expect(page.locator("table.pairs tbody tr")).to_have_count(1)

    def test_help_lists_the_keys_and_turns_them_off(
        self, site: Site, page: Page, queue: psycopg.Connection[Any]
    ) -> None:
        open_page(page, site)
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        page.keyboard.press("c")
        page.get_by_label("Single keys are on").uncheck()
        page.keyboard.press("Escape")
        page.keyboard.press("c")
        page.reload()
        shows(page, 0)
        page.keyboard.press("c")
        page.get_by_role("button", name="Skip").click()
        shows(page, 1)
        assert kept(queue, 0) == ("pending", None, None)

    def test_tab_and_enter_are_enough(self, site: Site, page: Page, queue: psycopg.Connection[Any]) -> None:
        open_page(page, site)
        shows(page, 0)
        page.get_by_role("button", name=f"{ids(1)[0]} and").focus()
        page.keyboard.press("Enter")
        shows(page, 1)
        expect(page.locator("#pair-title")).to_be_focused()
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.dataset.act") == "c":
                break
        page.keyboard.press("Enter")
        shows(page, 2)
        assert kept(queue, 1) == ("confirmed", "admin", "compared side by side")


class TestMouse:
    def test_a_second_look_and_a_withdrawal(
        self, site: Site, page: Page, queue: psycopg.Connection[Any]
    ) -> None:
        open_page(page, site)
        page.get_by_role("button", name="twins").click()
        page.get_by_role("button", name="Two patients").click()
        shows(page, 1)
        assert kept(queue, 0) == ("rejected", "admin", "twins")
        queue.execute(
            "UPDATE migration.duplicate_pairs SET asked_again_at = now() WHERE left_legacy_id = %s",
            [ids(0)[0]],
        )

        page.get_by_role("radio", name="Second look").check()
        shows(page, 0)
        expect(page.locator("#said")).to_have_text("Second look: 1 pair.")
        expect(page.locator("#shown")).to_contain_text("the decision holds until you decide anew")
        keep(page, "review-second-look")
        page.get_by_role("button", name="Two patients").click()
        expect(page.locator("#pair-title")).to_have_text("No pair is left here")

        page.get_by_role("radio", name="Rejected").check()
        shows(page, 0)
        page.get_by_role("button", name="Withdraw").click()
        expect(page.locator("#problem")).to_contain_text("write into the comment why")
        expect(page.locator("#comment")).to_be_focused()
        page.keyboard.type("not sure")
        page.get_by_role("button", name="Withdraw").click()
        expect(page.locator("#said")).to_contain_text("decision withdrawn")
        assert kept(queue, 0) == ("pending", None, None)

    def test_undoes_a_merge_behind_a_question(
        self, site: Site, page: Page, queue: psycopg.Connection[Any]
    ) -> None:
        left, right = ids(0)
        queue.execute(
            "UPDATE public.patients p SET merged_into = s.id FROM public.patients s"
            " WHERE p.legacy_patient_id = %s AND s.legacy_patient_id = %s",
            [right, left],
        )
        queue.execute(
            "UPDATE migration.id_map m SET state = 'merged', survivor_id = p.merged_into FROM public.patients p"
            " WHERE p.id = m.target_id AND p.legacy_patient_id = %s",
            [right],
        )
        queue.execute(
            "UPDATE migration.duplicate_pairs SET status = 'auto_merged' WHERE left_legacy_id = %s", [left]
        )
        open_page(page, site, "auto_merged")
        shows(page, 0)
        page.get_by_role("button", name="Undo the chosen").click()
        expect(page.locator("#problem")).to_contain_text("Choose which")
        page.get_by_label(f"{right}: Anne Orchard").check()
        page.get_by_role("button", name="Undo the chosen").click()
        keep(page, "review-unmerge")
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Undo the chosen")).to_be_focused()
        page.get_by_role("button", name="Undo the chosen").click()
        confirm = page.locator("#unmerging").get_by_role("button", name="Undo the merge")
        confirm.click()  # without a reason the browser does not let it through
        expect(page.locator("#unmerging")).to_be_visible()
        page.get_by_label("Reason").fill("two people")
        confirm.click()
        expect(page.locator("#said")).to_have_text(f"Patient {right}: the merge is undone.")
        assert kept(queue, 0) == ("rejected", "admin", "two people")
        state = queue.execute("SELECT state FROM migration.id_map WHERE legacy_id = %s", [right]).fetchone()
        assert state == ("live",)
        assert audited(queue, "merge undone")[-1]["by"] == "admin"

    def test_what_somebody_else_decided_meanwhile_is_shown(
        self, site: Site, page: Page, queue: psycopg.Connection[Any]
    ) -> None:
        open_page(page, site)
        shows(page, 0)
        left, right = ids(0)
        queue.execute(
            "SELECT migration_api.decide_pair('patients', %s, %s, 'rejected', 'Uwe', 'father and son')",
            [left, right],
        )
        page.keyboard.press("c")
        expect(page.locator("#problem")).to_contain_text("REVIEW_PAIR_CHANGED")
        expect(page.locator("#shown")).to_contain_text("father and son")
        assert kept(queue, 0) == ("rejected", "Uwe", "father and son")

    def test_only_some_scores(self, site: Site, page: Page, queue: psycopg.Connection[Any]) -> None:
        open_page(page, site)
        page.get_by_label("Likelihood from").fill("99.985")
        page.get_by_role("button", name="Show", exact=True).click()
        expect(page.locator("table.pairs tbody tr")).to_have_count(2)
        page.get_by_label("Likelihood from").fill("")
        page.get_by_label("to (%)").fill("0")
        page.get_by_label("Order").select_option("doubtful")
        expect(page.locator("#pair-title")).to_have_text("No pair is left here")


class TestValues:
    def test_hostile_ones_are_text(self, site: Site, page: Page, queue: psycopg.Connection[Any]) -> None:
        open_page(page, site)
        page.get_by_role("button", name="Show more").click()
        page.get_by_role("button", name=f"{ids(PAIRS - 2)[0]} and").click()
        shows(page, PAIRS - 2)
        table = page.locator("table.sides")
        expect(table).to_contain_text(SCRIPT)
        expect(table).to_contain_text("Zo⟨202E⟩eva")
        expect(table).to_contain_text("O'Hara⟨0001⟩⟨200B⟩")
        page.keyboard.press("j")
        shows(page, PAIRS - 1)
        expect(table).to_contain_text(f"{LONG}y")
        assert page.title() == "Duplicate patients to review"
        assert page.locator("script").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        keep(page, "review-hostile")

    def test_what_differs_is_said_in_words(
        self, site: Site, page: Page, queue: psycopg.Connection[Any]
    ) -> None:
        open_page(page, site)
        shows(page, 0)
        rows = page.locator("table.sides tbody tr")
        verdicts = {
            row.locator("th").inner_text(): row.locator(".verdict").inner_text() for row in rows.all()[:8]
        }
        assert verdicts == {
            "First name": "≠ differs", "Surname": "= same", "Birth date": "≠ differs", "Sex": "= same",
            "E-mail": "only left", "Suffix": "both empty", "Practice": "both empty", "Doctor": "both empty",
        }  # fmt: skip
        shown = page.locator("#shown")
        expect(shown).to_contain_text("same surname, rare (+9.1)")
        expect(shown).to_contain_text("first name differs")
        expect(shown).not_to_contain_text("sex not compared")

    def test_nothing_of_them_stands_in_an_address(
        self, site: Site, page: Page, queue: psycopg.Connection[Any]
    ) -> None:
        addresses: list[str] = []
        page.on("request", lambda request: addresses.append(request.url))
        open_page(page, site)
        page.keyboard.press("c")
        shows(page, 1)
        assert addresses
        assert not [address for address in addresses if "?" in address or str(FIRST) in address]


class TestReadable:
    def test_everything_has_its_name_and_every_table_its_headers(
        self, site: Site, page: Page, queue: psycopg.Connection[Any]
    ) -> None:
        open_page(page, site)
        shows(page, 0)
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, input, select, textarea')].filter((one) =>"
            " !one.labels?.length && !one.textContent.trim()).map((one) => one.outerHTML)"
        )
        assert unnamed == []
        assert page.locator("th:not([scope])").count() == 0
        assert page.locator("table:not(:has(caption)):not(#help table)").count() == 0
        assert page.get_by_role("heading", level=1).count() == 1
        assert page.locator("[aria-live=polite]").count() == 1
        assert page.locator("[aria-current=true]").count() == 1

    def test_in_the_dark(self, site: Site, page: Page, queue: psycopg.Connection[Any]) -> None:
        page.emulate_media(color_scheme="dark")
        open_page(page, site)
        shows(page, 0)
        keep(page, "review-dark")
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) < 200


class TestAccess:
    @pytest.mark.signed_in("viewer")
    def test_who_may_not_edit_sees_no_names(
        self, site: Site, page: Page, queue: psycopg.Connection[Any]
    ) -> None:
        looks = len(audited(queue, "names read"))
        open_page(page, site)
        expect(page.locator("#rights")).to_be_visible()
        expect(page.locator("table.pairs")).to_contain_text(f"{ids(0)[0]} and {ids(0)[1]}")
        page.keyboard.press("c")
        text = page.locator("body").inner_text()
        assert not [word for word in ("Orchard", "O'Hara", "1980", "Same patient") if word in text]
        keep(page, "review-viewer")
        assert len(audited(queue, "names read")) == looks
        assert kept(queue, 0) == ("pending", None, None)

    @pytest.mark.parametrize(("user", "status"), [(None, 401), ("viewer", 403)])
    def test_nor_gets_them_by_any_route(
        self, site: Site, queue: psycopg.Connection[Any], user: str | None, status: int
    ) -> None:
        left, right = ids(0)
        pair = {"left": left, "right": right}
        decided = {**pair, "decision": "confirmed", "seen": None, "reviewed": ""}
        with site.client(user, **{"Sec-Fetch-Site": "same-origin"}) as client:
            answers = [
                client.post(f"{BASE}/named-pairs", json={}),
                client.post(f"{BASE}/pair", json=pair),
                client.put(f"{BASE}/decision", json=decided),
                client.put(f"{BASE}/undo", json=pair),
                client.put(f"{BASE}/unmerge", json={"legacy_ids": [left], "reason": "x"}),
            ]
            pages = [client.get(BASE), client.get(f"{BASE}/rights"), client.post(f"{BASE}/pairs", json={})]
        assert [answer.status_code for answer in answers] == [status] * len(answers)
        assert [answer.status_code for answer in pages] == [401 if user is None else 200] * len(pages)
        assert not [answer for answer in [*answers, *pages] if "Orchard" in answer.text]
        assert kept(queue, 0) == ("pending", None, None)

    def test_each_look_is_kept_with_the_users_name(self, site: Site, queue: psycopg.Connection[Any]) -> None:
        left, right = ids(0)
        with site.client("op", **{"Sec-Fetch-Site": "same-origin"}) as client:
            shown = client.post(f"{BASE}/pair", json={"left": left, "right": right}).raise_for_status().json()
        assert shown["rows"][0]["values"]["last_name"] == "Orchard"
        assert audited(queue, "names read")[-1] == {
            "entity": "patients", "by": "op", "pairs": 1, "ids": [f"{left} {right}"],
        }  # fmt: skip

    def test_another_sites_page_cannot_decide_and_nobody_in_anothers_name(
        self, site: Site, queue: psycopg.Connection[Any]
    ) -> None:
        left, right = ids(0)
        decided = {"left": left, "right": right, "decision": "confirmed", "seen": None, "reviewed": ""}
        for origin in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {}):
            with site.client("admin", **origin) as client:
                assert client.put(f"{BASE}/decision", json=decided).status_code == 403
        with site.client("admin", **{"Sec-Fetch-Site": "same-origin"}) as client:
            answer = client.put(
                f"{BASE}/decision", json={**decided, "decided_by": "Uwe", "reason": "Orchard"}
            )
            assert answer.status_code == 422
            assert "Orchard" not in answer.text
            for wrong in (
                {"left": "\0"},
                {"reason": "Orchard\0"},
                {"decision": "merged"},
                {"left": ["Orchard"]},
            ):
                answer = client.put(f"{BASE}/decision", json={**decided, **wrong})
                assert answer.status_code == 422
                assert "Orchard" not in answer.text
            assert client.get("/dags/example/review").status_code == 404
        assert kept(queue, 0) == ("pending", None, None)
