from __future__ import annotations

import json

import pytest

from benchmarks.people import legacy
from include.core.errors import MigrationError
from include.matching import model as models
from include.matching.deduplicate import MatchModel, MatchSettings, compare, learn
from tests.matching.people import person, table

PEOPLE = table([person(n, f"Anna{n % 7} Zwackhals{n % 5}", f"19{n % 50 + 40}-03-04") for n in range(300)])


def test_a_model_survives_its_text() -> None:
    model = learn(PEOPLE)
    again = MatchModel.from_json(model.to_json())
    assert again.people == 300
    assert again.to_json() == model.to_json()
    assert compare(PEOPLE, again).equals(compare(PEOPLE, model))


def test_the_text_holds_no_name() -> None:
    text = learn(PEOPLE).to_json().casefold()
    assert "zwackhals" not in text
    assert "anna" not in text


def test_the_text_stays_small() -> None:
    people = legacy(8_500).table
    assert len(learn(people).to_json()) < 400_000


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", json.dumps({"version": "1999.1"})])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(MigrationError) as caught:
        MatchModel.from_json(text)
    assert caught.value.code == "MATCH_MODEL_OUTDATED"


def test_a_model_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = learn(PEOPLE).to_json()
    monkeypatch.setattr(models, "MATCHING_VERSION", "2999.1")
    with pytest.raises(MigrationError, match=r"2999\.1") as caught:
        MatchModel.from_json(text)
    assert caught.value.code == "MATCH_MODEL_OUTDATED"


def test_a_model_of_other_columns_is_refused() -> None:
    with pytest.raises(MigrationError) as caught:
        compare(PEOPLE, learn(PEOPLE), MatchSettings(evidence=("phone",)))
    assert caught.value.code == "MATCH_MODEL_OUTDATED"


def test_a_doctor_who_has_one_office_makes_the_office_no_news() -> None:
    rows = [
        person(
            n,
            f"Anna{n} Holm{n}",
            f"19{n % 60 + 20}-01-02",
            primary_doctor_id=str(n % 40),
            practice_id=str(n % 4),
        )
        for n in range(600)
    ]
    assert learn(table(rows)).implied == {"practice_id": ("primary_doctor_id",)}


@pytest.mark.parametrize("share", [(1, 1), (-1, 2), (0, 0)])
def test_a_share_that_is_none_is_refused(share: tuple[int, int]) -> None:
    with pytest.raises(MigrationError) as caught:
        compare(PEOPLE, learn(PEOPLE), share=share)
    assert caught.value.code == "PARAM_INVALID"
