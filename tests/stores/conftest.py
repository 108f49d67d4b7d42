"""The contract suite runs over every store; a test asks for ``exclusive_place`` or ``shared_place`` if it matters."""

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


@pytest.fixture
def exclusive_place(place: Place) -> Place:
    """An empty place that one process at a time has open."""
    if not place.is_exclusive:
        pytest.skip("several nodes may have this one open")
    return place


@pytest.fixture
def shared_place(place: Place) -> Place:
    """An empty place that several nodes have open."""
    if place.is_exclusive:
        pytest.skip("one process at a time has this one open")
    return place
