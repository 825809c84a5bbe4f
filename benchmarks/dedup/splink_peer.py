"""Splink with a model of people, run by the Python of the peers' own environment (it imports nothing of the project).

    PEERS/bin/python benchmarks/dedup/splink_peer.py PEOPLE PAIRS [--rounds 3]

Reads the people's Parquet file, writes ``left_id``, ``right_id`` and ``score`` of all predicted pairs, and prints
the seconds. The columns decide what is compared. The model follows Splink's guide for people: u by random
sampling, m by expectation maximisation in two passes (blocked on the birth date, then on the names), Jaro-Winkler
levels and term frequencies for names, Damerau-Levenshtein levels for birth dates.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb  # type: ignore[import-not-found]
import splink  # type: ignore[import-not-found]
import splink.comparison_level_library as levels  # type: ignore[import-not-found]
import splink.comparison_library as comparisons  # type: ignore[import-not-found]
from splink import DuckDBAPI, Linker, SettingsCreator, block_on

LOWEST_SCORE = 0.0001
LONG = 20.0
LARGE = 20_000
"""Records from which on the widest blocking rules would take hours."""

_COLUMNS = ("first_name", "last_name", "date_of_birth")
_PASSED_OVER = (*_COLUMNS, "legacy_id", "updated_at", "practice_id", "primary_doctor_id")
"""Office and doctor are left out for Splink's good: relatives share them, and with them it merges families."""
_TEXTS = ("address_1", "address_2", "suburb")
_NUMBERS = ("postcode", "soc_sec_id")


def prepared(connection: Any, people: Path) -> list[str]:
    """Makes the table ``people``, lower case, placeholders NULL; returns the columns beside name and birth."""
    source = connection.read_parquet(str(people))
    more = [column for column in source.columns if column not in _PASSED_OVER]
    cleaned = [f"nullif(lower(trim({column})), '') AS {column}" for column in (*_COLUMNS[:2], *more)]
    connection.execute(
        f"""CREATE OR REPLACE TABLE people AS SELECT legacy_id::BIGINT AS unique_id, {", ".join(cleaned)},
            CASE WHEN date_of_birth NOT IN ('1900-01-01', '1970-01-01') THEN date_of_birth END AS born
            FROM read_parquet('{people}')"""  # noqa: S608 - columns of the benchmark's own file
    )
    return more


def _name(column: str, other: str) -> Any:
    return comparisons.CustomComparison(
        output_column_name=column,
        comparison_levels=[
            levels.NullLevel(column),
            levels.ExactMatchLevel(column).configure(tf_adjustment_column=column, tf_minimum_u_value=0.0001),
            levels.JaroWinklerLevel(column, 0.95),
            levels.JaroWinklerLevel(column, 0.88),
            levels.CustomLevel(f"{column}_l = {other}_r", label_for_charts="swapped"),
            levels.JaroWinklerLevel(column, 0.7),
            levels.ElseLevel(),
        ],
    )


def _birth_date() -> Any:
    year, month, day = ("1, 4", "6, 2", "9, 2")
    swapped = " AND ".join(
        f"substr(born_l, {left}) = substr(born_r, {right})"
        for left, right in ((year, year), (month, day), (day, month))
    )
    return comparisons.CustomComparison(
        output_column_name="born",
        comparison_levels=[
            levels.NullLevel("born"),
            levels.ExactMatchLevel("born"),
            levels.CustomLevel(swapped, label_for_charts="day and month swapped"),
            levels.DamerauLevenshteinLevel("born", 1),
            levels.DamerauLevenshteinLevel("born", 2),
            levels.CustomLevel(
                f"substr(born_l, {year}) = substr(born_r, {year})", label_for_charts="same year"
            ),
            levels.ElseLevel(),
        ],
    )


def _further(column: str) -> Any:
    if column == "email":
        return comparisons.EmailComparison(column)
    if column in _TEXTS:
        return comparisons.JaroWinklerAtThresholds(column, [0.9, 0.8]).configure(
            term_frequency_adjustments=True
        )
    if column in _NUMBERS:
        return comparisons.DamerauLevenshteinAtThresholds(column, [1, 2])
    return comparisons.ExactMatch(column).configure(term_frequency_adjustments=True)


def _blocking(more: Sequence[str], large: bool) -> list[Any]:
    year, day = "substr(born, 1, 4)", "substr(born, 6, 5)"
    rules: list[Any] = [
        block_on("first_name", "last_name"),
        block_on("born"),
        block_on("last_name", year),
        block_on("last_name", day),
        block_on("first_name", day),
        "l.first_name = r.last_name AND l.last_name = r.first_name",
    ]
    if large:
        rules += [
            block_on("first_name", year, "substr(last_name, 1, 1)"),
            block_on("substr(first_name, 1, 3)", "substr(last_name, 1, 3)", year),
        ]
    else:
        rules += [
            block_on("first_name", year),
            block_on("substr(first_name, 1, 3)", "substr(last_name, 1, 3)"),
            block_on("last_name", "substr(first_name, 1, 1)"),
            block_on("first_name", "substr(last_name, 1, 1)"),
            block_on("substr(last_name, 1, 3)", "substr(born, 6, 2)", "substr(first_name, 1, 1)"),
        ]
    return rules + [block_on(column) for column in ("email", "soc_sec_id") if column in more]


def predicted(connection: Any, people: Path) -> Any:
    """Trains the model and scores all pairs that blocking finds, as a DuckDB relation."""
    more = prepared(connection, people)
    count = connection.execute("SELECT count(*) FROM people").fetchall()[0][0]
    large = count > LARGE
    settings = SettingsCreator(
        link_type="dedupe_only",
        comparisons=[
            _name("first_name", "last_name"),
            _name("last_name", "first_name"),
            _birth_date(),
            *map(_further, more),
        ],
        blocking_rules_to_generate_predictions=_blocking(more, large),
        retain_matching_columns=False,
        max_iterations=50,
    )
    linker = Linker(DuckDBAPI(connection).register("people"), settings, log_level=40)
    exact = [
        block_on(*columns)
        for columns in (("first_name", "last_name", "born"), ("first_name", "born"), ("last_name", "born"))
    ]
    linker.training.estimate_probability_two_random_records_match(exact, recall=0.8)
    linker.training.estimate_u_using_random_sampling(max_pairs=1e7 if large else 1e6, seed=1)
    for rule in (block_on("born"), block_on("first_name", "last_name")):
        linker.training.estimate_parameters_using_expectation_maximisation(rule)
    pairs = linker.inference.predict(threshold_match_probability=LOWEST_SCORE)
    return connection.sql(
        f"""SELECT least(unique_id_l, unique_id_r)::VARCHAR AS left_id,
            greatest(unique_id_l, unique_id_r)::VARCHAR AS right_id, match_probability AS score
            FROM {pairs.physical_name}"""  # noqa: S608 - a name of Splink's own
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("people", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    seconds: list[float] = []
    while len(seconds) < arguments.rounds and not (seconds and seconds[0] > LONG):
        with duckdb.connect(config={"threads": arguments.threads}) as connection:
            begun = time.perf_counter()
            predicted(connection, arguments.people).write_parquet(str(arguments.pairs))
            seconds.append(time.perf_counter() - begun)
    sys.stdout.write(json.dumps({"name": f"Splink {splink.__version__}", "seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
