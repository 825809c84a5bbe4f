from __future__ import annotations

import random
import unicodedata

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.people import legacy
from include.matching.deduplicate import MatchSettings, compare, decide, deduplicate, learn
from tests.matching.people import Row, decided, table

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
    "René",
    "Bill",
    "William",
]
LAST = ["Hansen", "Jansen", "Hanssen", "Berg", "Anna", "佐藤", "n/a", "Müller", "Mueller", "", None]
BORN = ["1985-03-04", "1985-04-03", "1986-03-04", "9999-12-31", "0044-03-15 BC", None]
SEX = ["male", "female", "other", None]
EMAIL = ["sunny77@example.org", "suny77@example.org", "family@example.org", None]
CHANGED = ["2024-05-01 10:00:00.123+00", "2020-01-01 00:00:00+00", None]

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "legacy_id": st.integers(-5, 10_000).map(str),
            "first_name": st.sampled_from([*FIRST, None]),
            "last_name": st.sampled_from(LAST),
            "date_of_birth": st.sampled_from(BORN),
            "gender": st.sampled_from(SEX),
            "email": st.sampled_from(EMAIL),
            "primary_doctor_id": st.sampled_from(["1", "2", None]),
            "updated_at": st.sampled_from(CHANGED),
        }
    ),
    max_size=14,
    unique_by=lambda row: row["legacy_id"],
)
LEGACY = legacy(1_500).table
LOW = MatchSettings(review_at=0.001)


@settings(deadline=None, max_examples=40)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(rows: list[Row], shuffler: random.Random) -> None:
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    one, other = deduplicate(table(rows)), deduplicate(table(shuffled))
    assert one.pairs.equals(other.pairs)
    assert one.survivors.equals(other.survivors)


@settings(deadline=None, max_examples=40)
@given(ROWS)
def test_case_blanks_and_the_composition_of_accents_change_nothing(rows: list[Row]) -> None:
    changed = []
    for row in rows:
        texts = {name: row[name] for name in ("first_name", "last_name")}
        texts = {
            name: text and f"  {unicodedata.normalize('NFD', text).upper()} " for name, text in texts.items()
        }
        changed.append(row | texts)
    assert deduplicate(table(rows)).pairs.equals(deduplicate(table(changed)).pairs)


@settings(deadline=None, max_examples=60)
@given(ROWS, st.data())
def test_pairs_are_well_formed_and_agree_with_survivors_and_decisions(
    rows: list[Row], data: st.DataObject
) -> None:
    ids = [str(row["legacy_id"]) for row in rows]
    some = st.tuples(st.sampled_from(ids), st.sampled_from(ids)).filter(lambda pair: pair[0] != pair[1])
    said = {}
    if len(ids) > 1:
        words = st.sampled_from(["confirmed", "rejected"])
        said = {
            tuple(sorted(pair, key=int)): word
            for pair, word in data.draw(st.dictionaries(some, words, max_size=6)).items()
        }
    result = deduplicate(table(rows), decisions=decided(said))
    survivor = {row["legacy_id"]: row["survivor_id"] for row in result.survivors.to_pylist()}
    assert not set(survivor) & set(survivor.values())
    pairs = {(row["left_id"], row["right_id"]): row for row in result.pairs.to_pylist()}
    assert len(pairs) == result.pairs.num_rows
    assert set(said) <= set(pairs)
    unapplied = {(row["left_id"], row["right_id"]) for row in result.contradictions.to_pylist()}
    for (left, right), row in pairs.items():
        assert int(left) < int(right)
        assert 0 <= row["score"] <= 1
        together = survivor.get(left, left) == survivor.get(right, right)
        word = said.get((left, right))
        assert row["decision"] == (word or ("auto_merged" if together else "pending"))
        if word == "rejected":
            assert not together
        elif word == "confirmed":
            assert together == ((left, right) not in unapplied)


def test_the_shares_are_together_the_whole() -> None:
    model = learn(LEGACY)
    whole = compare(LEGACY, model, LOW)
    shares = [compare(LEGACY, model, LOW, (share, 4)) for share in range(4)]
    assert all(share.num_rows > whole.num_rows / 12 for share in shares)
    assert _sorted(pa.concat_tables(shares)).equals(_sorted(whole))


def test_comparing_what_changed_gives_the_pairs_of_a_full_comparison() -> None:
    model = learn(LEGACY)
    generator = random.Random(11)
    rows = LEGACY.to_pylist()
    ids = {row["legacy_id"] for row in generator.sample(rows, 100)}
    before = [row | {"first_name": "Somebody"} if row["legacy_id"] in ids else row for row in rows]
    kept = compare(pa.Table.from_pylist(before, schema=LEGACY.schema), model, LOW)
    changed = pa.array(sorted(ids), pa.string())
    untouched = pc.invert(
        pc.or_(pc.is_in(kept["left_id"], value_set=changed), pc.is_in(kept["right_id"], value_set=changed))
    )
    now = compare(LEGACY, model, LOW, changed=changed)
    whole = compare(LEGACY, model, LOW)
    together = pa.concat_tables([kept.filter(untouched), now])
    assert 0 < now.num_rows < whole.num_rows / 2
    assert _sorted(together).equals(_sorted(whole))
    one, other = (decide(LEGACY, model, MatchSettings(), pairs) for pairs in (together, whole))
    assert one.survivors.equals(other.survivors)
    assert one.pairs.equals(other.pairs)


def test_nothing_changed_needs_no_comparison() -> None:
    assert compare(LEGACY, learn(LEGACY), LOW, changed=pa.array([], pa.string())).num_rows == 0


def test_several_processes_find_what_one_finds() -> None:
    model = learn(LEGACY)
    one = compare(LEGACY, model, MatchSettings(review_at=0.001, workers=1))
    several = compare(LEGACY, model, MatchSettings(review_at=0.001, workers=3, parallel_from=0))
    assert several.equals(one)


def _sorted(pairs: pa.Table) -> pa.Table:
    return pairs.sort_by([("left_id", "ascending"), ("right_id", "ascending")]).combine_chunks()
