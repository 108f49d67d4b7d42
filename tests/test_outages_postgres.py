"""The service over a real PostgreSQL that is stopped, paused and cut off under load: over HTTP, as processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import pytest

from tests.cli.processes import Service, service
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.spool.fleet import Fleet, ask, ready, wait_until

pytestmark = pytest.mark.slow

AWAY_S = 4.0
ALL = ("immediate stop", "paused", "cut off", "fast stop", "unheard")
FAULTS = ALL if os.environ.get("FISCUS_OUTAGES") == "all" else ALL[:3]
"""A sample, unless all are asked for: each takes about ten seconds."""

ANSWER_S_MAX = 5.0
RECOVERY_S_MAX = 15.0
PEPPER = "the pepper of all nodes"


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """One that only these tests mistreat."""
    server = PostgresServer(durable=True)
    yield server
    for process in _tree(server):
        process.resume()
    server.stop()


def _tree(server: PostgresServer) -> list[psutil.Process]:
    try:
        main = psutil.Process(server.pid)
        return [main, *main.children(recursive=True)]
    except (psutil.NoSuchProcess, AssertionError):
        return []


def pause(server: PostgresServer) -> None:
    """Stand still: connections stay open, and nothing is answered."""
    for process in _tree(server):
        process.suspend()


def resume(server: PostgresServer) -> None:
    for process in _tree(server):
        process.resume()


class Place:
    """A ledger in the server, and the service over it."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        self.folder = folder
        self.server = server
        self.proxy = Proxy(server.port)
        self.direct_url = server.migrated_database()
        self.url = self.direct_url.replace(f":{server.port}/", f":{self.proxy.port}/")
        with self.service() as running:
            change(running, "PUT", "/v1/accounts/agent:x", {})
            change(running, "PUT", "/v1/accounts/agent:x/budgets/main", {"unit": "tokens", "limit": 10**9})

    @staticmethod
    def settings(url: str) -> dict[str, str]:
        return {"DATABASE_URL": url, "FISCUS_KEY_PEPPER": PEPPER}

    @contextmanager
    def service(self, **settings: str) -> Iterator[Service]:
        with service(self.folder, **self.settings(self.url), **settings) as running:
            yield running

    def entries(self) -> list[dict[str, Any]]:
        """The journal, once nothing waits in the spool."""
        entries: list[dict[str, Any]] = []
        after: int | None = 0
        with self.service() as running:
            wait_until(lambda: ready(running)["spooled"] == 0)
            while after is not None:
                page = ask(f"{running.url}/v1/journal?after={after}&limit=1000")[1]
                entries += page["entries"]
                after = page["next"]
        return entries


def change(running: Service, method: str, path: str, body: object) -> None:
    status, answer = ask(running.url + path, body, method)
    assert status < 300, answer


@pytest.fixture
def place(tmp_path: Path, postgres: PostgresServer) -> Iterator[Place]:
    place = Place(tmp_path, postgres)
    yield place
    place.proxy.close()


@asynccontextmanager
async def stopped(place: Place, how: signal.Signals) -> AsyncIterator[None]:
    await asyncio.to_thread(place.server.end, how)
    yield
    await asyncio.to_thread(place.server.start)


@asynccontextmanager
async def away(place: Place, fault: str) -> AsyncIterator[None]:
    """The database is away for as long as this lasts."""
    if fault == "immediate stop":
        async with stopped(place, signal.SIGQUIT):
            yield
    elif fault == "fast stop":
        async with stopped(place, signal.SIGINT):
            yield
    elif fault == "paused":
        pause(place.server)
        yield
        resume(place.server)
    elif fault == "cut off":
        place.proxy.refuse(True)
        yield
        place.proxy.refuse(False)
    else:
        assert fault == "unheard"
        place.proxy.pause("up", "down")
        yield
        place.proxy.resume()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_database_that_is_away_under_load_costs_nothing_that_was_acknowledged_and_nobody_waits(
    place, fault, record_property
):
    # covers R53, E11, E7, E14
    with place.service() as running:
        fleet = Fleet(running.url)
        recovery_s = 0.0

        async def meanwhile() -> None:
            nonlocal recovery_s
            await asyncio.sleep(1.0)
            async with away(place, fault):
                await asyncio.sleep(AWAY_S)
                assert (await asyncio.to_thread(ask, f"{running.url}/health"))[0] == 200
                status, said = await asyncio.to_thread(ask, f"{running.url}/ready")
                assert status == 503
                assert "store_unavailable" in said["reasons"]
                assert said["spooled"] > 0
            began = monotonic()
            await asyncio.to_thread(wait_until, lambda: bool(ready(running)["ready"]), RECOVERY_S_MAX)
            recovery_s = monotonic() - began
            await asyncio.sleep(1.0)

        await fleet.run(meanwhile)
        assert not fleet.unanswered
        delivery_s = await asyncio.to_thread(wait_until, lambda: ready(running)["spooled"] == 0)
        assert running.stop() == 0
    found = fleet.check(await asyncio.to_thread(place.entries))
    figures = {
        **found,
        "slowest_s": {what: round(time_s, 2) for what, time_s in fleet.slowest_s.items()},
        "statuses": fleet.statuses,
        "recovery_s": round(recovery_s, 2),
        "delivery_s": round(delivery_s, 2),
    }
    print(fault, figures)
    record_property("figures", figures)
    assert (found["lost"], found["doubled"]) == (0, 0)
    assert found["acknowledged"] > 100
    assert max(fleet.slowest_s.values()) < ANSWER_S_MAX
    assert fleet.statuses["usage"][202] > 10


@pytest.mark.parametrize("fault", ALL[:2])
async def test_a_service_that_is_told_to_stop_while_its_database_is_away_stops_in_time(place, fault):
    # covers E11
    with place.service(FISCUS_DRAIN_S_MAX="8") as running:
        fleet = Fleet(running.url)

        async def meanwhile() -> None:
            await asyncio.sleep(1.0)
            async with away(place, fault):
                await asyncio.sleep(1.0)
                began = monotonic()
                running.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(running.process.wait, 30) == 0
                took_s = monotonic() - began
            print(fault, "stopped after", round(took_s, 2))
            assert took_s < 8

        await fleet.run(meanwhile)
    found = fleet.check(await asyncio.to_thread(place.entries))
    print(fault, found, fleet.statuses, fleet.slowest_s)
    assert (found["lost"], found["doubled"]) == (0, 0)
    assert found["acknowledged"] > 50


async def test_a_service_killed_while_its_database_is_away_books_at_its_next_start(place):
    # covers R53, E11
    with place.service() as running:
        fleet = Fleet(running.url)

        async def meanwhile() -> None:
            await asyncio.sleep(1.0)
            async with away(place, "immediate stop"):
                await asyncio.sleep(1.0)
                running.process.send_signal(signal.SIGKILL)
                await asyncio.to_thread(running.process.wait)

        await fleet.run(meanwhile)
    found = fleet.check(await asyncio.to_thread(place.entries))
    print(found, fleet.statuses)
    assert (found["lost"], found["doubled"]) == (0, 0)
    assert fleet.statuses["usage"][202] > 5
