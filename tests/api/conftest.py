"""One ledger and one API per test."""

from collections.abc import AsyncIterator

import pytest

from fiscus.api import ApiOptions, store_first_key
from tests.api.service import FIRST_SECRET, PEPPER, Api, ledger


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """Without keys."""
    async with ledger() as treasury:
        yield Api(treasury)


@pytest.fixture
async def keyed() -> AsyncIterator[Api]:
    """With keys; ``FIRST_SECRET`` is the administrator's."""
    async with ledger() as treasury:
        await store_first_key(treasury, FIRST_SECRET, PEPPER)
        yield Api(treasury, ApiOptions(key_pepper=PEPPER, keys_required=True))
