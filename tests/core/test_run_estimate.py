"""Estimates: rates of earlier runs where they tell something, documented ones elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from include.core.run_estimate import (
    DEFAULT_RATES,
    documents_of,
    embedding_cost,
    expect,
    measured_rates,
    phase_times,
    readable_seconds,
    staged_bytes,
    target_bytes,
)
from include.embedding.prices import Price
from include.entities import ENTITIES

START = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = {"auth_user": 1_000, "dispatch_patient": 500, "dispatch_project": 200}
PEOPLE = [ENTITIES["profiles"], ENTITIES["patients"]]


def batch(phase: str, rows: int, end: float, seconds: float | None, status: str = "done") -> dict[str, Any]:
    recorded = START + timedelta(seconds=end)
    return {"phase": phase, "status": status, "extracted": rows, "seconds": seconds, "recorded_at": recorded}


class TestRates:
    def test_a_phase_lasts_from_its_first_batch_to_its_last(self) -> None:
        batches = [batch("loading", 6_000, 10, 10), batch("loading", 6_000, 12, 8)]
        assert measured_rates(batches) == {"loading": 1_000}

    @pytest.mark.parametrize(
        "batches",
        [
            [],
            [batch("loading", 100, 10, 1)],  # too few rows to tell
            [batch("loading", 50_000, 10, 5, status="failed")],
            [batch("loading", 50_000, 10, None)],
        ],
    )
    def test_what_tells_nothing_is_left_out(self, batches: list[dict[str, Any]]) -> None:
        assert measured_rates(batches) == {}

    def test_rows_are_those_that_the_run_took_up(self) -> None:
        batches = [batch("loading", 6_000, 10, 10), batch("validation", 30_000, 20, 10)]
        assert measured_rates(batches) == {"loading": 600, "validation": 600}


class TestExpectations:
    PLANNED: Mapping[str, int] = {"profiles": 10_000, "patients": 5_000}

    def seconds(self, last: Mapping[str, Any] | None, way: str = "postgres") -> dict[str, float]:
        made = expect(PEOPLE, self.PLANNED, last, way)
        assert made["total_seconds"] == pytest.approx(
            made["other_seconds"] + sum(phase["seconds"] for phase in made["phases"])
        )
        return {phase["phase"]: phase["seconds"] for phase in made["phases"]} | {
            "other": made["other_seconds"]
        }

    def last(self, taken: int, **phases: tuple[int, float]) -> dict[str, Any]:
        lengths = {name: {"rows": rows, "seconds": seconds} for name, (rows, seconds) in phases.items()}
        return {"run_id": "before", "seconds": 60.0, "taken": taken, "phases": lengths}

    def test_what_took_long_for_many_rows_takes_longer_for_more(self) -> None:
        last = self.last(
            30_000, loading=(30_000, 10.0), validation=(150_000, 8.0), deduplication=(10_000, 2.0)
        )
        made = self.seconds(last)
        assert (made["loading"], made["validation"], made["deduplication"]) == (5.0, 4.0, 1.0)
        assert made["other"] == 40.0

    def test_what_took_its_time_for_few_rows_takes_it_again(self) -> None:
        rate = DEFAULT_RATES["loading"]
        assert self.seconds(self.last(100, loading=(100, 3.0)))["loading"] == pytest.approx(
            3 + 14_900 / rate, abs=0.01
        )

    def test_without_a_run_before_rates_are_documented_and_tasks_cost_something(self) -> None:
        direct, client = self.seconds(None), self.seconds(None, "rest")
        assert direct["loading"] == pytest.approx(0.5 + 15_000 / DEFAULT_RATES["loading"], abs=0.001)
        assert client.pop("loading") > 4 * direct.pop("loading") - 2
        assert client == direct
        assert expect(PEOPLE, self.PLANNED, None, "rest")["based_on"] is None

    def test_nothing_planned_takes_next_to_nothing(self) -> None:
        made = expect(PEOPLE, {}, None, "postgres")
        assert {phase["rows"] for phase in made["phases"]} == {0}
        assert made["total_seconds"] < 20

    def test_rows_are_those_that_the_run_took_up(self) -> None:
        batches = [batch("loading", 6_000, 10, 10), batch("validation", 30_000, 20, 10)]
        assert measured_rates(batches) == {"loading": 600, "validation": 600}


class TestTimes:
    def test_measured_rates_come_before_documented_ones(self) -> None:
        times = {t.phase: t for t in phase_times(PEOPLE, ROWS, {"loading": 300.0}, "postgres")}
        assert list(times) == list(DEFAULT_RATES)
        assert (times["loading"].seconds, times["loading"].measured) == (5.0, True)
        assert times["extraction"].seconds == 1_500 / DEFAULT_RATES["extraction"]
        assert (times["deduplication"].rows, times["deduplication"].measured) == (500, False)

    def test_the_client_is_slower_in_loading_alone(self) -> None:
        direct, client = (
            {t.phase: t.seconds for t in phase_times(PEOPLE, ROWS, {}, way)} for way in ("postgres", "rest")
        )
        assert client.pop("loading") > 4 * direct.pop("loading")
        assert client == direct

    @pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (720, "12 min"), (12_600, "3.5 h")])
    def test_times_are_readable(self, seconds: float, text: str) -> None:
        assert readable_seconds(seconds) == text


class TestRoomAndMoney:
    def test_staging_holds_every_table_an_entity_reads(self) -> None:
        alone = staged_bytes([ENTITIES["profiles"]], {"auth_user": 1_000})
        both = staged_bytes(PEOPLE, {"auth_user": 1_000, "dispatch_patient": 100})
        assert alone > 0
        # Profiles ask who is a patient, patients ask for their names.
        assert both == pytest.approx(2.2 * alone, abs=2)

    def test_vectors_and_their_index_grow_with_the_dimensions(self) -> None:
        sizes = {"auth_user": 1_000}
        without = target_bytes(PEOPLE, sizes, 0, 1536)
        assert without >= 1_000
        assert target_bytes(PEOPLE, sizes, 10, 1536) - without == 2 * (
            target_bytes(PEOPLE, sizes, 10, 768) - without
        )

    def test_documents_are_those_of_chosen_and_embedded_entities(self) -> None:
        entities = [*PEOPLE, ENTITIES["projects"]]
        assert documents_of(entities, ["projects", "cases"], ROWS) == 200
        assert documents_of(entities, ["projects", "patients"], ROWS) == 700

    def test_the_batch_api_has_its_own_price(self) -> None:
        price = Price(Decimal("0.02"), Decimal("0.01"), date(2026, 1, 1))
        assert (
            embedding_cost(1_000_000, price, batch=False)
            == 2 * embedding_cost(1_000_000, price, batch=True)
            > 0
        )
