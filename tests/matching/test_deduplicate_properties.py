from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from include.matching.deduplicate import deduplicate
from tests.matching.people import Row, table

FIRST = [
    "Anna",
    "ANNA",
    "Ana",
    "Annna",
    "Michael",
    "Micheal",
    "Martin",
    "Marvin",
    "A",
    "Hansen",
    "翼",
    "unknown",
    None,
]
LAST = ["Hansen", "Jansen", "Hanssen", "Berg", "Anna", "佐藤", "n/a", "", None]
BORN = ["1985-03-04", "1985-04-03", "1986-03-04", "9999-12-31", "0044-03-15 BC", None]
SEX = ["male", "female", "other", None]
EMAIL = ["a@example.org", "family@example.org", None]
CHANGED = ["2024-05-01 10:00:00.123+00", "2020-01-01 00:00:00+00", None]

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "legacy_id": st.integers(-5, 10_000).map(str),
            "first_name": st.sampled_from(FIRST),
            "last_name": st.sampled_from(LAST),
            "date_of_birth": st.sampled_from(BORN),
            "gender": st.sampled_from(SEX),
            "email": st.sampled_from(EMAIL),
            "updated_at": st.sampled_from(CHANGED),
        }
    ),
    max_size=14,
    unique_by=lambda row: row["legacy_id"],
)


@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(rows: list[Row], shuffler: random.Random) -> None:
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    one, other = deduplicate(table(rows)), deduplicate(table(shuffled))
    assert one.pairs.equals(other.pairs)
    assert one.survivors.equals(other.survivors)


@given(ROWS)
def test_survivors_are_not_merged_and_hold_nothing_more_to_merge(rows: list[Row]) -> None:
    survivors = deduplicate(table(rows)).survivors.to_pylist()
    merged = {row["legacy_id"] for row in survivors}
    assert len(merged) == len(survivors)
    assert not merged & {row["survivor_id"] for row in survivors}
    kept = [row for row in rows if row["legacy_id"] not in merged]
    assert deduplicate(table(kept)).survivors.num_rows == 0


@given(ROWS)
def test_merged_records_have_one_birth_date_and_no_clash_of_sex(rows: list[Row]) -> None:
    by_id = {row["legacy_id"]: row for row in rows}
    sexes: dict[str, set[str]] = {}
    for row in deduplicate(table(rows)).survivors.to_pylist():
        merged, survivor = by_id[row["legacy_id"]], by_id[row["survivor_id"]]
        assert merged["date_of_birth"] == survivor["date_of_birth"] in BORN[:3]
        known = {person["gender"] for person in (merged, survivor) if person["gender"]}
        sexes.setdefault(row["survivor_id"], set()).update(known)
    assert all(len(known) <= 1 for known in sexes.values())


@given(ROWS)
def test_pairs_are_well_formed_and_agree_with_the_survivors(rows: list[Row]) -> None:
    result = deduplicate(table(rows))
    survivor = {row["legacy_id"]: row["survivor_id"] for row in result.survivors.to_pylist()}
    pairs = result.pairs.to_pylist()
    assert len({(pair["left_id"], pair["right_id"]) for pair in pairs}) == len(pairs)
    for pair in pairs:
        left, right = pair["left_id"], pair["right_id"]
        assert int(left) < int(right)
        assert 0 <= pair["score"] <= 1
        together = survivor.get(left, left) == survivor.get(right, right)
        assert pair["decision"] == ("auto_merged" if together else "pending")
    # Every merge is reached by pairs that the table reports as merged.
    reported = {key for p in pairs if p["decision"] == "auto_merged" for key in (p["left_id"], p["right_id"])}
    assert set(survivor) <= reported
