"""Synthetic sources of two sizes, made once for all tests here."""

from __future__ import annotations

import pytest

from include.synthetic.sizes import SourceSize
from tests.synthetic.sources import Source, make_source


@pytest.fixture(scope="session")
def real() -> Source:
    return make_source(SourceSize.real())


@pytest.fixture(scope="session")
def tenth_size() -> SourceSize:
    return SourceSize.real().scaled(785)


@pytest.fixture(scope="session")
def tenth(tenth_size: SourceSize) -> Source:
    return make_source(tenth_size)
