"""Target ids are what uuid.uuid5 gives, everywhere, for ever."""

from __future__ import annotations

import uuid

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.core.ids import NAMESPACE, target_id, target_ids
from tests.core.examples import examples

NUMBER = st.integers(-(2**63), 2**63).map(str)
LEGACY_ID = st.lists(NUMBER, min_size=1, max_size=3).map(":".join)


@examples(100)
@given(st.sampled_from(["patients", "workflow_performance"]), st.lists(st.none() | LEGACY_ID))
def test_ids_are_uuid5_and_null_stays_null(entity: str, legacy_ids: list[str | None]) -> None:
    made = target_ids(entity, pa.array(legacy_ids, pa.string()))
    expected = [None if key is None else str(uuid.uuid5(NAMESPACE, f"{entity}:{key}")) for key in legacy_ids]
    assert made.type == pa.string()
    assert made.to_pylist() == expected
    assert [None if key is None else target_id(entity, key) for key in legacy_ids] == expected


@pytest.mark.parametrize(
    "wrong",
    [
        "131.0",
        "1e3",
        "",
        " 1",
        "1 ",
        "1\n",
        "nan",
        "None",
        "1:",
        ":1",
        "1::2",
        "+1",
        "--1",
        "١٣",
        "1,2",
        "0x1",
    ],
)
def test_anything_but_whole_numbers_is_refused_without_naming_it(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"of patients is not a whole number$"):
        target_ids("patients", pa.array(["1", wrong]))


@examples(100)
@given(st.text())
def test_no_text_but_whole_numbers_gets_an_id(text: str) -> None:
    whole = all(
        part.removeprefix("-").isascii() and part.removeprefix("-").isdigit() for part in text.split(":")
    )
    if whole:
        assert target_ids("cases", pa.array([text])).to_pylist() == [target_id("cases", text)]
    else:
        with pytest.raises(ValueError, match="not a whole number"):
            target_ids("cases", pa.array([text]))


@pytest.mark.parametrize("values", [[], [None], [None, None]])
def test_columns_without_a_value_keep_their_length(values: list[None]) -> None:
    assert target_ids("cases", pa.array(values, pa.string())).to_pylist() == values


def test_slices_and_combined_chunks_are_read_from_their_own_offset() -> None:
    whole = pa.array(["1", "2", "3", "2"])
    ids = target_ids("cases", whole).to_pylist()
    assert target_ids("cases", whole.slice(1, 2)).to_pylist() == ids[1:3]
    chunked = pa.chunked_array([whole.slice(0, 1), whole.slice(0, 0), whole.slice(1)])
    assert target_ids("cases", chunked.combine_chunks()).to_pylist() == ids


def test_entities_do_not_share_ids() -> None:
    assert target_id("cases", "1") != target_id("projects", "1")


def test_ids_never_change_between_releases() -> None:
    """Loaded targets hold these; another namespace or name would load every row a second time."""
    assert target_id("patients", "42") == "6fac4658-2743-5536-883f-d4650dd040f7"
    assert target_id("workflow_performance", "0:7") == "0aa9723c-a7f8-59c0-8a9a-2951ea45fbb8"
