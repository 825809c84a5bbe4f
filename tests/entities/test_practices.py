"""dispatch_office → practices (docs/legacy-mdw.md section 1.5)."""

from __future__ import annotations

import pytest

from include.entities import ENTITIES
from tests.entities.tables import Row, result_of

ENTITY = ENTITIES["practices"]

RAW: list[Row] = [
    {
        "legacy_id": "7",
        "t.id": "7",
        "t.name": "Smile & Co",
        "t.address": '1 "Main" St',
        "t.apt": "",
        "t.city": "大阪",
        "t.state": "OS",
        "t.zip": "01234",
        "t.country": "Japan",
        "t.phone": "+81 6 1234",
        "t.tax_rate": "0.0825",
        "t.valid": "t",
        "t.sq_customer_id": "SQ1",
        "t.emails": "t",
        "t.doctor_id": "31",
    },
    {"legacy_id": "8", "t.id": "8", "t.name": "", "t.country": "Utopia", "t.tax_rate": "0", "t.valid": "f"},
]
CLEAN = {
    "7": {
        "legacy_office_id": "7",
        "name": "Smile & Co",
        "address": {
            "line1": '1 "Main" St',
            "apt": "",
            "city": "大阪",
            "state": "OS",
            "zip": "01234",
            "country": "Japan",
            "country_iso": "JP",
        },
        "phone": "+81 6 1234",
        "tax_rate": "0.0825",
        "square_customer_id": "SQ1",
        "email_notifications": "t",
        "is_active": "t",
        "settings": "{}",
        "metadata": {"doctor_id": 31, "emails": True},
    },
    "8": {
        "legacy_office_id": "8",
        "name": "",
        "address": dict.fromkeys(("line1", "apt", "city", "state", "zip", "country_iso"))
        | {"country": "Utopia"},
        "phone": None,
        "tax_rate": "0",
        "square_customer_id": None,
        "email_notifications": None,
        "is_active": "f",
        "settings": "{}",
        "metadata": {},
    },
}


def test_every_column_of_every_office_valid_or_not() -> None:
    result = result_of(ENTITY, RAW)
    assert result.clean == CLEAN
    assert result.findings == {("8", "name_empty", "name"), ("8", "code_unmapped", "address.country_iso")}
    assert result.rejects == set()


@pytest.mark.parametrize(
    ("country", "iso"),
    [("USA", "US"), ("India", "IN"), ("Thailand", "TH"), ("New Zealand", "NZ"), ("usa", None), (None, None)],
)
def test_a_country_is_kept_as_found_with_its_iso_code_beside_it(country: str | None, iso: str | None) -> None:
    result = result_of(ENTITY, [{"legacy_id": "1", "t.id": "1", "t.name": "A", "t.country": country}])
    assert result.clean["1"]["address"]["country"] == country
    assert result.clean["1"]["address"]["country_iso"] == iso
    unmapped = {("1", "code_unmapped", "address.country_iso")} if country and not iso else set()
    assert result.findings == unmapped
