"""The catalogue of the preflight, what a check may come out as, and the verdict over all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from include.core.errors import MigrationError
from include.core.preflight import (
    AREAS,
    CATALOGUE,
    Result,
    Status,
    Verdict,
    failed,
    manual,
    passed,
    run_check,
    run_checks,
    skip_area,
    skipped,
    warned,
)

PAGE = Path(__file__).parents[2] / "docs" / "preflight.md"
NAME = "source.role"


def verdict(**outcomes: object) -> Verdict:
    """Everything passes but what is named."""
    given = {name.replace("__", "."): outcome for name, outcome in outcomes.items()}
    return Verdict.over(Result.of(name, given.get(name, passed("fine"))) for name in CATALOGUE)


class TestCatalogue:
    def test_areas_are_the_tasks(self) -> None:
        assert AREAS == ("settings", "source", "target", "storage", "ai", "estimate")

    @pytest.mark.parametrize("kind", CATALOGUE.values(), ids=lambda kind: kind.name)
    def test_every_check_says_what_it_asks_why_and_what_to_do(self, kind) -> None:
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", kind.name)
        assert all(len(text) > 12 for text in (kind.asks, kind.why, kind.fix))
        assert not any(text.endswith(".") or "|" in text for text in (kind.asks, kind.why, kind.fix))

    def test_the_manual_page_has_a_line_for_each_and_no_other(self) -> None:
        listed = [line for line in PAGE.read_text().splitlines() if re.match(r"\| `[a-z]+\.", line)]
        assert listed == manual()

    def test_a_result_has_a_name_of_the_catalogue(self) -> None:
        with pytest.raises(KeyError):
            Result.of("source.unheard_of", passed("fine"))


class TestChecks:
    def test_an_error_of_the_registry_is_a_failure_with_its_next_step(self) -> None:
        def check():
            raise MigrationError("SOURCE_UNREACHABLE", "No answer.", host="db")

        found = run_check(NAME, check)
        assert found.status is Status.FAIL
        assert found.why == "[SOURCE_UNREACHABLE] The legacy database did not answer. No answer. (host=db)"
        assert found.fix == "Check host, port, network and TLS of connection `legacy_mdw`."

    def test_a_statement_that_was_given_up_is_no_verdict(self) -> None:
        def check():
            raise MigrationError("SOURCE_QUERY_FAILED", "", sqlstate="57014")

        assert run_check(NAME, check).status is Status.WARN

    def test_whatever_else_it_raises_is_not_quoted_and_stops_nobody(self) -> None:
        def check():
            raise ValueError("Zweifelstein")

        first, second = run_checks({NAME: check, "source.select": lambda: passed("fine")})
        assert (first.status, second.status) == (Status.FAIL, Status.PASS)
        assert "ValueError" in first.why
        assert "Zweifelstein" not in f"{first}"

    def test_results_travel_as_json(self) -> None:
        for outcome in (passed("a", rows={"t": 1}), warned("b", "c", n=1), failed("d", "e"), skipped("f")):
            result = Result.of(NAME, outcome, 1.23456)
            assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result

    def test_an_area_is_skipped_but_for_those_that_ran(self) -> None:
        results = skip_area("ai", "off", but=["ai.price"])
        assert [(result.name, result.status) for result in results] == [("ai.provider", Status.SKIPPED)]


class TestVerdict:
    def test_failures_are_the_last_lines(self) -> None:
        lines = (
            verdict(
                source__role=warned("may write", "REVOKE …;"),
                source__version=failed("too old", "first line\nsecond line"),
                ai__price=skipped("off"),
            )
            .to_text()
            .splitlines()
        )
        words = [line.split()[0] for line in lines]
        assert words[-1] == "preflight:"
        assert words[-7:-1] == ["skipped", "warn", "fix:", "fail", "fix:", "second"]
        assert set(words[:-7]) == {"pass"}
        assert lines[-1] == f"preflight: 1 fail, 1 warn, 1 skipped, {len(CATALOGUE) - 3} pass"

    def test_a_check_without_a_result_counts_as_failed(self) -> None:
        found = Verdict.over([Result.of(NAME, passed("fine"))])
        assert [result.name for result in found.results] == list(CATALOGUE)
        assert set(found.named(Status.FAIL)) == set(CATALOGUE) - {NAME}

    def test_it_is_written_in_the_order_of_the_catalogue(self) -> None:
        written = json.loads(json.dumps(verdict().to_json()))
        assert [check["name"] for check in written["checks"]] == list(CATALOGUE)
        assert written["headline"].startswith("0 fail, 0 warn")
