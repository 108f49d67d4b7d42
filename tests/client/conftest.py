from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fiscus.api import create_app
from fiscus.client import RemoteTreasury
from fiscus.client.backoff import Backoff
from fiscus.treasury.local import LocalTreasury
from tests.api.service import ledger, serving
from tests.client.proxy import Proxy, proxied

QUICKLY = Backoff(first_s=0.01, delay_s_max=0.05)


@pytest.fixture
async def local() -> AsyncIterator[LocalTreasury]:
    """The ledger behind the service, asked directly."""
    async with ledger() as treasury:
        yield treasury


@pytest.fixture
async def url(local: LocalTreasury) -> AsyncIterator[str]:
    """A real server over it."""
    async with serving(create_app(local)) as address:
        yield address


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """A proxy before the server."""
    async with proxied(url) as proxy:
        yield proxy


@pytest.fixture
async def remote(proxy: Proxy) -> AsyncIterator[RemoteTreasury]:
    """The client, through the proxy."""
    treasury = RemoteTreasury(proxy.url, timeout_s=5, attempt_s_max=2, backoff=QUICKLY)
    yield treasury
    await treasury.close()
