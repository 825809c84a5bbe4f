"""dispatch_office_doctors → practice_members (docs/legacy-mdw.md section 1.6)."""

from __future__ import annotations

from include.core.ids import target_id
from include.entities import ENTITIES
from tests.entities.tables import Row, result_of

ENTITY = ENTITIES["practice_members"]

RAW: list[Row] = [
    {"legacy_id": "1", "t.id": "1", "t.office_id": "7", "t.user_id": "3", "first_id": "1"},
    {"legacy_id": "2", "t.id": "2", "t.office_id": "7", "t.user_id": "4", "first_id": "2"},
]
REPEATED: Row = {"legacy_id": "9", "t.id": "9", "t.office_id": "7", "t.user_id": "3", "first_id": "1"}


def test_every_column() -> None:
    result = result_of(ENTITY, RAW)
    assert result.clean == {
        str(link): {
            "legacy_office_doctor_id": str(link),
            "practice_id": target_id("practices", "7"),
            "profile_id": target_id("profiles", str(user)),
            "role": "doctor",
            "metadata": {},
        }
        for link, user in ((1, 3), (2, 4))
    }
    assert result.findings == result.rejects == set()


def test_a_repeated_link_is_rejected_and_the_first_one_loads() -> None:
    for batch in ([*RAW, REPEATED], [REPEATED, *RAW], [REPEATED]):
        result = result_of(ENTITY, batch)
        assert result.rejects == {("9", "link_repeated", "profile_id")}
        assert "9" not in result.clean
        assert len(result.clean) == len(batch) - 1
