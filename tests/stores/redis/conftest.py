"""Each test runs on Valkey 9, and on Redis 7 where it is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from fiscus.stores import open_store
from tests.servers.valkey import PROGRAMS, Server, running
from tests.stores.redis.live import Live
from tests.treasury.clock import ManualClock
from tests.treasury.desk import Desk


@pytest.fixture(scope="module", params=sorted(PROGRAMS))
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests of a module that leave it running."""
    with running(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture
def client(shared: Server) -> Iterator[redis.Redis]:
    """Any other program's client of an empty server."""
    with shared.client() as opened:
        opened.flushall()
        yield opened


@pytest.fixture
def live(shared: Server, client: redis.Redis) -> Iterator[Live]:
    """An empty ledger that is projected to an empty server."""
    clock = ManualClock()
    desk = Desk(open_store("memory:"), clock)
    node = Live(desk, clock, shared)
    yield node
    node.close()
    desk.engine.close()
