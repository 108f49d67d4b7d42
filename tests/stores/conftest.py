"""The contract suite runs over every store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fiscus.treasury.store import Store
from tests.stores.places import PLACES, Place


@pytest.fixture(params=sorted(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place of each kind of store."""
    return PLACES[request.param](tmp_path)


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    """An empty ledger, open."""
    opened = place.open()
    yield opened
    opened.close()
