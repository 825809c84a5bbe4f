"""The installation's own setting for the size of partitions is checked like a parameter."""

import pytest

from include.core.batches import PARTITION_ROWS
from include.core.errors import MigrationError
from plugins.operators.preflight import _partition_rows_wanted as wanted


def test_default_and_setting(monkeypatch):
    monkeypatch.delenv("MIGRATION_PARTITION_ROWS", raising=False)
    assert wanted() == PARTITION_ROWS
    monkeypatch.setenv("MIGRATION_PARTITION_ROWS", "1000")
    assert wanted() == 1000


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e6", "²", "1.5"])
def test_nonsense_is_refused_by_name(monkeypatch, text):
    monkeypatch.setenv("MIGRATION_PARTITION_ROWS", text)
    with pytest.raises(MigrationError, match="MIGRATION_PARTITION_ROWS"):
        wanted()
