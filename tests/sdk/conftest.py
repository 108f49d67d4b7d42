from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import fiscus
from fiscus.api import create_app
from fiscus.client import RemoteTreasury
from fiscus.client.backoff import Backoff
from fiscus.sdk import Treasury
from fiscus.spool.spool import Spool
from fiscus.treasury.local import LocalTreasury
from tests.api.service import ledger, serving
from tests.client.conftest import QUICKLY
from tests.client.proxy import Proxy, proxied


@pytest.fixture(params=["in_process", "remote"])
async def treasury(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Treasury]:
    """The same interface twice: over a ledger in this process, and over a real server."""
    if request.param == "in_process":
        async with fiscus.open(f"sqlite:///{tmp_path}/fiscus.db") as treasury:
            yield treasury
    else:
        async with (
            ledger() as served,
            serving(create_app(served)) as url,
            fiscus.connect(url, "", spool_directory=tmp_path) as treasury,
        ):
            yield treasury


@pytest.fixture
async def local() -> AsyncIterator[LocalTreasury]:
    """The ledger behind the service, asked directly."""
    async with ledger() as served:
        yield served


@pytest.fixture
async def proxy(local: LocalTreasury) -> AsyncIterator[Proxy]:
    """A proxy before a real server over ``local``."""
    async with serving(create_app(local)) as url, proxied(url) as proxy:
        yield proxy


@pytest.fixture
async def distant(proxy: Proxy, tmp_path: Path) -> AsyncIterator[Treasury]:
    """A remote treasury through the proxy, which gives up after a few attempts."""
    async with patient(proxy.url, tmp_path / "spool") as treasury:
        yield treasury


def patient(url: str, directory: Path, redelivery: Backoff = QUICKLY) -> Treasury:
    """A remote treasury that gives up after three attempts, and asks again for what it has spooled soon."""
    remote = RemoteTreasury(url, timeout_s=2, attempt_s_max=0.5, attempts_max=3, backoff=QUICKLY)
    return Treasury(remote, Spool(directory, "service"), redelivery=redelivery)
